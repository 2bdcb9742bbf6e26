"""Posteriors: the seam between inference and the objective.

A posterior draws, for the rows that it was conditioned on and for given standard normal noise,
latents z and the terms of ``log_ratio``. Whatever the posterior, the evidence lower bound is then
the mean of log p(x|z) + log p(z) + log_ratio, and nothing in the objective knows which one it was.

The latents of the chain are standardised, u = (z - loc) / scale with the prior's mean and standard
deviation, so that one noise schedule serves a prior of any scale.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..priors import NormalPrior
from .chain import Step, step_back, walk
from .moments import damped, moments_at
from .networks import Denoiser, linear, multilayer_perceptron

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
# Bounds of the log-variance of a standardised latent: standard deviations from 1e-4 to 20.
LOG_VARIANCE_BOUNDS = (-18.5, 6.0)


@dataclass
class Draw:
    """Latents drawn from a posterior, and what they cost.

    Attributes
    ----------
    z : (..., n, d) tensor
        Latents in the prior's units.
    terms : dict of str to (..., n, d) tensor
        The brackets of equation (4) that belong to the posterior, one dimension each, in nats.
    """

    z: torch.Tensor
    terms: dict

    @property
    def log_ratio(self):
        """log r(y_1..T | z) - log q(y_0..T | x), (..., n), in nats."""
        return sum(self.terms.values()).sum(-1)


def gaussian_log_density(standardised, log_scale):
    """Return log N of a value whose standardised form is given, elementwise, in nats."""
    return -0.5 * standardised.square() - log_scale - HALF_LOG_2PI


class Posterior(nn.Module):
    """Base of the posteriors: the encoder and the standardisation of the latents.

    Parameters
    ----------
    n_inputs : int
        Width of the encoder's input.
    loc, scale : (d,) tensor
        Mean and standard deviation of the prior.
    n_statistics : int
        How many numbers the encoder's last layer gives for each row.
    hidden_layer_sizes, activation, generator
        See :func:`multilayer_perceptron`.
    """

    def __init__(
        self, n_inputs, loc, scale, n_statistics, hidden_layer_sizes, activation, generator
    ):
        super().__init__()
        # A network that tells latents of rows from draws of the prior, where training has one.
        self.critic = None
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        self.n_components = loc.shape[0]
        self.body, width = multilayer_perceptron(
            n_inputs, hidden_layer_sizes, activation, generator
        )
        self.head = linear(width, n_statistics, generator)

    def statistics(self, inputs):
        """Return what the encoder's last layer says of the rows, (n, n_statistics)."""
        return self.head(self.body(inputs))

    def guess(self, statistics):
        """Return where the encoder points, each (n, d) in standardised latents.

        The most likely place of a row's latents, the mean that the encoder gives, and the
        log-variance.
        """
        mean, log_variance = _full(statistics)[..., : 2 * self.n_components].chunk(2, dim=-1)
        return mean, mean, log_variance.clamp(*LOG_VARIANCE_BOUNDS)

    def condition_on(self, statistics, part=None):
        """Return what the posterior keeps of the encoder's last layer (n, n_statistics).

        ``part`` (n,) is the part of the prior that each row's latent is known to be in. Mixed
        precision ends here: a density must be that of the very numbers that are drawn with.
        """
        return self._condition(_full(statistics), part)

    def _condition(self, statistics, part):
        raise NotImplementedError

    def draw(self, condition, noise):
        """Return a :class:`Draw` for standard normal ``noise`` of shape (..., n, noise_size)."""
        raise NotImplementedError

    def mode(self, condition):
        """Return the noise-free latents, (n, d)."""
        raise NotImplementedError

    def path(self, condition, noise):
        """Return y_T, ..., y_1, z in the prior's units, (T + 1, ..., n, d), for noise of a draw."""
        return self.draw(condition, noise).z[None]

    def sleep_loss(self, condition, z, generator):
        """Return the conditional sleep term (5) of dreams with latents z, (n,), in nats.

        It is -log q(y_0..T | dream) up to a constant, or an unbiased estimate of that.
        """
        raise NotImplementedError

    def latent_sleep_loss(self, z, generator):
        """Return the latent sleep term of z, (n,), in nats: zero where there is no chain."""
        return z.new_zeros(len(z))

    def _standardise(self, z):
        return (z - self.loc) / self.scale

    def _unstandardise(self, u):
        return torch.addcmul(self.loc, self.scale, u)


class GaussianPosterior(Posterior):
    """q(z|x) = N(mean(x), diag variance(x)): the posterior of the variational autoencoder.

    It is what ``n_diffusion_steps=0`` selects (Kingma and Welling 2014).
    """

    def __init__(self, n_inputs, loc, scale, hidden_layer_sizes, activation, generator):
        super().__init__(
            n_inputs, loc, scale, 2 * len(loc), hidden_layer_sizes, activation, generator
        )
        self.noise_size = self.n_components
        _init_log_variance(self.head, self.n_components)

    def _condition(self, statistics, part):
        mean, log_variance = statistics.chunk(2, dim=-1)
        return mean, 0.5 * log_variance.clamp(*LOG_VARIANCE_BOUNDS)

    def draw(self, condition, noise):
        mean, log_std = condition
        u = mean + log_std.exp() * noise
        log_q = gaussian_log_density(noise, log_std + self.scale.log())
        return Draw(self._unstandardise(u), {"posterior_entropy": -log_q})

    def mode(self, condition):
        return self._unstandardise(condition[0])

    def sleep_loss(self, condition, z, generator):
        mean, log_std = condition
        standardised = (self._standardise(z) - mean) * (-log_std).exp()
        return -gaussian_log_density(standardised, log_std).sum(-1)


class DiffusionPosterior(Posterior):
    """q(y_0..T | x), a chain from y_T to z = y_0 conditioned on the row; equation (3).

    The encoder says where a row points, m, and how vaguely, v, as an observation m ~ N(z, v) of z
    would. With y_t it makes an observation of z with mean m + g_t (y_t - alpha_t m) and variance
    v_t = v sigma_t^2 / (sigma_t^2 + alpha_t^2 v), where g_t = v_t alpha_t / sigma_t^2. What the
    prior says of z given that observation is known, :meth:`Prior.denoise`, and is the prediction
    zhat that a step starts from, with the variance that is left of z. A step back has the mean of
    r(y_{t-1} | y_t, zhat) and the variance C_t^2 + B_t^2 times what is left. The denoiser learns
    what is missing from the prediction. So an untrained chain follows the prior wherever a row
    points: it draws from p(z) N(m; z, v), exactly so in however few steps under a normal prior.

    Parameters
    ----------
    alpha, sigma : sequence of T + 1 float
        Coefficients of r(y_t | z) = N(alpha_t z, sigma_t^2 I); equation (2).
    transitions : three sequences of T + 1 float
        A_t, B_t, C_t of r(y_{t-1} | y_t, z) = N(A_t y_t + B_t z, C_t^2 I); entries 0 are not used.
    denoiser_width : int
    """

    def __init__(
        self,
        n_inputs,
        prior,
        loc,
        scale,
        alpha,
        sigma,
        transitions,
        denoiser_width,
        hidden_layer_sizes,
        activation,
        generator,
    ):
        d = len(loc)
        super().__init__(
            n_inputs,
            loc,
            scale,
            4 * d + 2 * denoiser_width,
            hidden_layer_sizes,
            activation,
            generator,
        )
        # The model's own, so not a module of this one as well.
        object.__setattr__(self, "prior", prior)
        # A prior that is learned gets its gradients whole, also while its parameters are frozen;
        # those of a normal prior are never cut.
        self.damps = next(prior.parameters(), None) is None and type(prior) is not NormalPrior
        self.alpha, self.sigma = [float(a) for a in alpha], [float(s) for s in sigma]
        mean_y, mean_z, std = transitions
        total = np.hypot(alpha, sigma)
        # No buffer, which a model in float32 would round: rows of all the steps' numbers in the
        # order of :class:`Step`.
        self.coefficients = torch.from_numpy(
            np.stack([mean_y, mean_z, std, alpha, sigma, 1.0 / total, sigma / total])
        )
        self.n_steps = len(self.alpha) - 1
        self.noise_size = d * (self.n_steps + 1)
        self.denoiser = Denoiser(d, self.n_steps, denoiser_width, generator)
        # What the denoiser is told in the latent sleep term, where there is no row.
        self.no_context = nn.Parameter(torch.zeros(2 * denoiser_width))
        _init_log_variance(self.head, d)
        with torch.no_grad():
            self.head.weight[2 * d : 4 * d] = 0.0

    def _condition(self, statistics, part):
        """Return what the chain of each row starts from.

        Mean and log-std of y_T, m, v, the log of the factor of the last step's spread, the context,
        and the part of the prior that the row's latent is in, where one is given.
        """
        d = self.n_components
        mean, log_variance, log_first, log_last = statistics[..., : 4 * d].chunk(4, dim=-1)
        variance = log_variance.clamp(*LOG_VARIANCE_BOUNDS).exp()
        start, left = self._denoise(mean, variance, part)
        terminal = self.sigma[-1] ** 2 + self.alpha[-1] ** 2 * left
        log_terminal_std = 0.5 * terminal.log() + log_first.clamp(-4.0, 4.0)
        context = statistics[..., 4 * d :]
        return (
            self.alpha[-1] * start,
            log_terminal_std,
            mean,
            variance,
            log_last.clamp(-4.0, 4.0),
            context,
            *(() if part is None else (part,)),
        )

    def guess(self, statistics):
        """See :meth:`Posterior.guess`; the most likely place is the prior's say on the mean."""
        _, mean, log_variance = super().guess(statistics)
        place, _ = self._denoise(mean, log_variance.exp())
        return place, mean, log_variance

    def _denoise(self, u, variance, part=None, tape=None):
        """Return mean and variance of standardised latents seen through noise, under the prior.

        On a ``tape``, a list, is put what :meth:`_denoise_backward` asks for.
        """
        y, noise = self._unstandardise(u), variance * self.scale.square()
        with torch.set_grad_enabled(tape is not None or torch.is_grad_enabled()):
            if tape is not None:
                y, noise = y.detach().requires_grad_(), noise.detach().requires_grad_()
            moments = self.prior.denoise(y, noise, part)
            if moments is None:  # as a normal prior of the same mean and variance
                shrinkage = 1.0 / (1.0 + noise / self.scale.square())
                moments = torch.addcmul(self.loc, y - self.loc, shrinkage), noise * shrinkage
            mean, left = moments
            left = left.expand_as(y)
        if tape is not None:
            tape += y, noise, mean, left
        elif self.damps and torch.is_grad_enabled():
            factor = self._damping(noise, left)
            mean, left = damped(mean, factor), damped(left, factor)
        return self._standardise(mean), left / self.scale.square()

    def _damping(self, noise, left):
        return (noise.detach() / left.detach()).clamp(max=1.0)

    def _denoise_backward(self, of_mean, of_left, tape, parameters):
        """Return the gradients of u, of the variance and of the prior's parameters.

        They are those of :meth:`_denoise` given the gradients of its results. The prior's moments
        have a graph of their own, since a prior may be of any kind.
        """
        y, noise, *moments = tape
        square = self.scale.square()
        grads = of_mean / self.scale, of_left / square
        if self.damps:
            factor = self._damping(noise, moments[1])
            grads = [grad * factor for grad in grads]
        # The moments of a user's prior may be constants.
        pairs = zip(moments, grads, strict=True)
        pairs = [(moment, grad) for moment, grad in pairs if moment.requires_grad]
        inputs = y, noise, *parameters
        if not pairs:
            return [torch.zeros_like(x) for x in inputs]
        # The graph is kept, since another gradient may be asked for.
        outputs, grads = zip(*pairs, strict=True)
        of_y, of_noise, *of_parameters = torch.autograd.grad(
            outputs, inputs, grads, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return of_y * self.scale, of_noise * square, *of_parameters

    def predict(self, y, step, condition):
        """Return zhat(y_t, t, c(x)) and the std of the step back from y_t, each (..., n, d).

        Those of equation (3), in standardised units; ``step`` is a :class:`Step`.
        """
        (predicted,), (std,) = walk(self, y, [step], condition)
        return predicted, std

    def _chain(self, condition):
        """Return each of the steps T..1 by its number, computed in one go."""
        numbers = range(self.n_steps, 0, -1)
        steps = torch.tensor(numbers, device=condition[3].device)
        steps = self._at_steps(steps[:, None], condition).unbind()
        return dict(zip(numbers, steps, strict=True))

    def _walk(self, y, condition, noises=()):
        """Run the chain from y_T; return its steps T..1 and their :func:`walk`."""
        steps = list(self._chain(condition).values())
        return steps, *walk(self, y, steps, condition, noises)

    def _at_steps(self, steps, condition):
        """Return the steps of rows, ``steps`` of shape (..., n), or (..., 1) for all of them."""
        _, _, _, variance, _, context, *part = condition
        numbers = self.coefficients.to(variance)[:, steps].unsqueeze(-1).unbind()
        alpha, sigma = numbers[3:5]
        # Of the residual. Nothing is divided by alpha_t, which may be as good as zero.
        of_mean, noise = alpha * variance, sigma.square()
        scale = torch.addcmul(noise, alpha, of_mean).reciprocal()
        first, second = context.split(self.denoiser.width, dim=-1)
        return Step(
            *numbers,
            gain=of_mean * scale,
            whitening=scale.sqrt(),
            first=first + self.denoiser.step_bias[steps],
            second=second,
            moments=moments_at(self, noise * variance * scale, *numbers[1:3], *(part or [None])),
        )

    def draw(self, condition, noise):
        """Run the chain and return z with the terms of equation (4) along the drawn path."""
        terminal_mean, log_terminal_std, _, _, log_last = condition[:5]
        noise = noise.unflatten(-1, (self.n_steps + 1, self.n_components))
        terminal_noise, *noises, last_noise = noise.flip(-2).unbind(-2)
        terminal = terminal_mean + log_terminal_std.exp() * terminal_noise
        _, predictions, spreads = self._walk(terminal, condition, noises)
        predicted, spread = predictions[-1], spreads[-1]
        log_last_std = spread.log() + log_last
        u = predicted + log_last_std.exp() * last_noise

        terms = {}
        log_r = gaussian_log_density(
            (terminal - self.alpha[-1] * u) / self.sigma[-1], math.log(self.sigma[-1])
        )
        terms["terminal"] = log_r - gaussian_log_density(terminal_noise, log_terminal_std)
        if self.n_steps > 1:
            # With y_{t-1} = A_t y_t + B_t zhat + S_t eps, along the drawn path: z depends on eps.
            predicted, spread = torch.stack(predictions[:-1]), torch.stack(spreads[:-1])
            eps = torch.stack(noises)
            mean_z, std = (
                self.coefficients.to(u)[1:3, 2:].flip(-1).unflatten(-1, (-1, *[1] * u.ndim))
            )
            from_z = (mean_z * (predicted - u) + spread * eps) / std
            log_ratios = gaussian_log_density(from_z, std.log())
            log_ratios = log_ratios - gaussian_log_density(eps, spread.log())
            terms["chain"] = log_ratios.sum(0)
        terms["last_step"] = -gaussian_log_density(last_noise, log_last_std + self.scale.log())
        return Draw(self._unstandardise(u), terms)

    def mode(self, condition):
        """Return the end of the noise-free reverse path, (n, d)."""
        _, predictions, _ = self._walk(condition[0], condition)
        return self._unstandardise(predictions[-1])

    def path(self, condition, noise):
        """Return y_T, ..., y_1, z in the prior's units, (T + 1, ..., n, d), for noise of a draw."""
        terminal_mean, log_terminal_std, _, _, log_last = condition[:5]
        noise = noise.unflatten(-1, (self.n_steps + 1, self.n_components))
        terminal_noise, *noises, last_noise = noise.flip(-2).unbind(-2)
        path = [terminal_mean + log_terminal_std.exp() * terminal_noise]
        steps, predictions, spreads = self._walk(path[0], condition, noises)
        for each in zip(steps[:-1], predictions[:-1], spreads[:-1], noises, strict=True):
            path.append(step_back(path[-1], *each))
        path.append(predictions[-1] + (spreads[-1].log() + log_last).exp() * last_noise)
        return self._unstandardise(torch.stack(path))

    def sleep_loss(self, condition, z, generator):
        """Return an unbiased estimate of the conditional sleep term (5), one step t a row."""
        terminal_mean, log_terminal_std, _, _, log_last = condition[:5]
        u = self._standardise(z)
        terminal = self.alpha[-1] * u + self.sigma[-1] * _normal_like(u, generator)
        loss = -gaussian_log_density(
            (terminal - terminal_mean) * (-log_terminal_std).exp(), log_terminal_std
        )
        steps = torch.ones((1, len(u)), dtype=torch.int64, device=u.device)
        if self.n_steps > 1:
            steps = torch.cat([steps, self._random_steps(u, generator)[None]])
        step, predicted, spread = self._predict_noised(u, steps, condition, generator)
        log_last_std = spread[0].log() + log_last
        last = (u - predicted[0]) * (-log_last_std).exp()
        loss = loss - gaussian_log_density(last, log_last_std)
        if self.n_steps > 1:
            loss = loss + self._path_divergence(
                u, step.mean_z[1], step.std[1], predicted[1], spread[1]
            )
        return loss.sum(-1)

    def latent_sleep_loss(self, z, generator):
        """Return the path part of the sleep term with a denoiser that sees no row.

        An approximation of (5): it teaches the denoiser the shape of the prior, and costs neither
        a pass through the decoder nor one through the encoder.
        """
        u = self._standardise(z)
        if self.n_steps < 2:
            return super().latent_sleep_loss(z, generator)
        condition = None, None, *self._no_observation(u)
        return self._path_loss(condition, u, generator).sum(-1)

    def _no_observation(self, like):
        """Return what follows y_T in the condition of rows (n, d) that nothing is known of."""
        nowhere = torch.full_like(like, math.exp(LOG_VARIANCE_BOUNDS[1]))
        context = self.no_context.expand(len(like), -1)
        return torch.zeros_like(like), nowhere, torch.zeros_like(like), context

    def _path_loss(self, condition, u, generator):
        """Return :meth:`_path_divergence` (n, d) at one uniform step t >= 2 a row."""
        steps = self._random_steps(u, generator)
        step, predicted, spread = self._predict_noised(u, steps, condition, generator)
        return self._path_divergence(u, step.mean_z, step.std, predicted, spread)

    def _random_steps(self, u, generator):
        """Return a uniform step t >= 2 for each of the latents, (n,)."""
        return torch.randint(2, self.n_steps + 1, u.shape[:1], generator=generator, device=u.device)

    def _predict_noised(self, u, steps, condition, generator):
        """Return the steps (..., n) of latents u, and what is predicted of u noised to them."""
        step = self._at_steps(steps, condition)
        noise = torch.randn(
            (*steps.shape, u.shape[-1]), generator=generator, device=u.device, dtype=u.dtype
        )
        y = step.alpha * u + step.sigma * noise
        return step, *self.predict(y, step, condition)

    def _path_divergence(self, u, mean_z, std, predicted, spread):
        """(T - 1) KL(r(y_{t-1} | y_t, z) || q(y_{t-1} | y_t, x)) at the steps of latents (n, d).

        Here the path comes from r given z, so the closed form holds.
        """
        squares = (std.square() + (mean_z * (predicted - u)).square()) / spread.square()
        divergence = 0.5 * (squares - 1.0) + (spread / std).log()
        return (self.n_steps - 1) * divergence


def _full(statistics):
    """Return numbers in single precision at least."""
    return statistics.float() if statistics.dtype == torch.bfloat16 else statistics


def _init_log_variance(head, d, value=-3.0):
    """Start the posterior narrow: one as wide as the prior says nothing, and may stay so."""
    with torch.no_grad():
        head.weight[d : 2 * d] *= 0.1
        head.bias[d : 2 * d] = value


def _normal_like(tensor, generator):
    return torch.randn(tensor.shape, generator=generator, device=tensor.device, dtype=tensor.dtype)
