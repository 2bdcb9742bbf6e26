"""A linear-Gaussian model, whose evidence and posterior are known in closed form.

In the units of its standardised rows x' = (x - center) / scale the model is

    z ~ p(z),    x' = W z + b + sqrt(variance) eps,

with the engine's own modules: a decoder without hidden layers and a Gaussian likelihood. Everything
is float64, so that laws can be checked to rounding.
"""

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from skddvi._engine.model import build_model
from skddvi._engine.objective import bound_terms
from skddvi._engine.posteriors import DiffusionPosterior
from skddvi.likelihoods import GaussianLikelihood
from skddvi.noising import posterior_coefficients, resolve_noising
from skddvi.priors import NormalPrior

N_FEATURES = 5
# How the names of the networks begin that posteriors have beside the encoder.
OWN_NETWORKS = ("denoiser", "blocks", "down", "reverse")


def noise_schedule(noising, n_steps):
    """Return what ``build_model`` wants of a noising process, None for no step."""
    if n_steps == 0:
        return None
    alpha, sigma = resolve_noising(noising, n_steps).coefficients(n_steps)
    transitions = [np.append(0.0, values) for values in posterior_coefficients(alpha, sigma)]
    return alpha, sigma, transitions


def make_model(
    prior=None,
    n_steps=8,
    noising="cosine",
    *,
    variance=0.4,
    gain=0.6,
    orthogonal=False,
    hidden_layer_sizes=(),
    posterior=None,
    n_refinements=0,
    seed=0,
):
    """Return a float64 model with a hand-set linear decoder and features of many units.

    ``variance`` is that of the likelihood on the standardised scale, or "learned"; ``gain`` scales
    W, whose columns are orthogonal (so that the exact posterior is a product) if asked for.
    """
    prior = NormalPrior(2) if prior is None else prior
    rng = np.random.default_rng(seed)
    rows = 10.0 ** rng.uniform(-2, 2, N_FEATURES) * (rng.normal(size=(50, N_FEATURES)) + 3.0)
    model = build_model(
        prior,
        GaussianLikelihood(variance).fit(rows),
        noise_schedule(noising, n_steps),
        hidden_layer_sizes=hidden_layer_sizes,
        denoiser_width=6,
        activation="tanh",
        generator=torch.Generator().manual_seed(seed),
        posterior=posterior,
        n_refinements=n_refinements,
    ).double()
    weight = rng.normal(size=(N_FEATURES, prior.n_components))
    if orthogonal:
        weight = np.linalg.qr(weight)[0] * np.sqrt(N_FEATURES) * rng.uniform(0.7, 1.3, 2)
    with torch.no_grad():
        if not hidden_layer_sizes:
            model.decoder.output.weight.copy_(torch.from_numpy(gain * weight))
        model.decoder.output.bias.copy_(torch.from_numpy(rng.normal(size=N_FEATURES)))
    return model


def parts(model):
    """Return W, b, the variances, centre and scale of a linear model as float64 arrays."""
    likelihood, decoder = model.likelihood, model.decoder
    weight = decoder.output.weight / decoder.scale
    tensors = (
        weight,
        decoder.output.bias - weight @ decoder.loc,
        likelihood._bounded_log_variance().double().exp(),
        likelihood.center.double() + likelihood.center_tail.double(),
        likelihood.scale,
    )
    return [tensor.detach().double().numpy() for tensor in tensors]


def draw_rows(model, n_rows, seed=1):
    """Return rows drawn from the model, (n, p) float64 tensor."""
    generator = torch.Generator().manual_seed(seed)
    z = model.prior.sample(n_rows, generator)
    return model.likelihood.sample(model.decoder(z), generator).detach()


def evidence(model, x):
    """Return log p(x) under the standard normal prior, (n,): x ~ N(b, W W' + Psi) in x's units."""
    weight, bias, variance, center, scale = parts(model)
    weight = scale[:, None] * weight
    covariance = weight @ weight.T + np.diag(scale**2 * variance)
    return multivariate_normal(center + scale * bias, covariance).logpdf(np.asarray(x))


def exact_posterior(model, x):
    """Return mean (n, d) and covariance (d, d) of p(z|x) under the standard normal prior."""
    weight, bias, variance, center, scale = parts(model)
    standardised = (np.asarray(x, dtype=np.float64) - center) / scale
    precision = np.eye(weight.shape[1]) + (weight.T / variance) @ weight
    covariance = np.linalg.inv(precision)
    return ((standardised - bias) / variance) @ weight @ covariance, covariance


def evidence_by_quadrature(model, x, half_width=4.5, step=0.04):
    """Return log p(x) under any prior in one or two dimensions, (n,).

    The trapezoidal rule on a grid of half the smallest scale of a Gaussian-smoothed density is
    exact to rounding.
    """
    axis = torch.arange(-half_width, half_width + step, step, dtype=torch.float64)
    d = model.prior.n_components
    grid = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
    with torch.no_grad():
        output, log_prior = model.decoder(grid), model.prior.log_prob(grid)
        joint = [model.likelihood.log_prob(row, output) + log_prior for row in x]
    return logsumexp(torch.stack(joint).numpy(), axis=1) + d * np.log(step)


def set_posterior(model, inflation=1.0, loc=(0.3, -0.2), scale=(1.7, 2.3)):
    """Make the encoder say the exact posterior, its variances times ``inflation``.

    A chain wants it as evidence: the mean m and the variance v of the observation of z from which
    the posterior N(mu, S) follows by Bayes' rule with the standard normal prior, 1 / v = 1 / S - 1
    and m = mu (1 + v). The standardisation of the latents is set to an arbitrary one, of which
    nothing may depend.
    """
    weight, bias, variance, _, _ = parts(model)
    d = weight.shape[1]
    posterior, head = model.posterior, model.posterior.head
    loc, scale = np.array(loc)[:d], np.array(scale)[:d]
    covariance = np.linalg.inv(np.eye(d) + (weight.T / variance) @ weight)
    regression = covariance @ (weight.T / variance)
    of_z = inflation * np.diag(covariance)
    if isinstance(posterior, DiffusionPosterior):
        assert (of_z < 1).all(), "no evidence makes a posterior as wide as its prior"
        regression = regression / (1 - of_z)[:, None]
        of_z = of_z / (1 - of_z)
    with torch.no_grad():
        posterior.loc.copy_(torch.from_numpy(loc))
        posterior.scale.copy_(torch.from_numpy(scale))
        head.weight.zero_()
        head.bias.zero_()
        head.weight[:d] = torch.from_numpy(regression / scale[:, None])
        head.bias[:d] = torch.from_numpy((-regression @ bias - loc) / scale)
        head.bias[d : 2 * d] = torch.from_numpy(np.log(of_z / scale**2))


@torch.no_grad()
def gaussian_of(posterior, condition):
    """Return mean and variance (n, d) of z, standardised, given an encoder's evidence.

    They are those of a standard normal prior and one observation of mean m and variance v.
    """
    loc, scale = posterior.loc.numpy(), posterior.scale.numpy()
    mean, variance = (value.numpy() for value in condition[2:4])
    of_z = 1 / (1 + 1 / (scale**2 * variance))
    mean_of_z = of_z * (loc + scale * mean) / (scale**2 * variance)
    return (mean_of_z - loc) / scale, of_z / scale**2


def perturb(model, encoder, denoiser, seed=0):
    """Add normal noise to the weights of the encoder and of the denoiser, its last layer too.

    "Denoiser" stands for the posterior's own networks, whatever they are.

    ``encoder`` and ``denoiser`` are the standard deviations of the sum over a layer's inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.posterior.named_parameters():
            size = denoiser if name.startswith(OWN_NETWORKS) else encoder
            fan_in = parameter.shape[1] if parameter.ndim == 2 else 1
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(size * fan_in**-0.5 * noise)


def unknown(schedule, t, variance):
    """Return the variance of z given y_t where it is ``variance`` without y_t."""
    alpha, sigma, _ = schedule
    return 1 / (1 / variance + (alpha[t] / sigma[t]) ** 2)


def step_std(schedule, t, variance):
    """Return the standard deviation of q(y_{t-1} | y_t, x), t >= 2, for a posterior's variance.

    It is that of r(y_{t-1} | y_t, z), and besides what y_t leaves unknown of z.
    """
    _, _, (_, mean_z, std) = schedule
    return (std[t] ** 2 + mean_z[t] ** 2 * unknown(schedule, t, variance)) ** 0.5


def predict(posterior, y, t, condition):
    """Return the chain's prediction of z at one step t, (..., n, d), standardised."""
    return posterior.predict(y, posterior._chain(condition)[t], condition)[0]


@torch.no_grad()
def log_weights(model, x, n_draws, seed=0):
    """Return log w of equation (7), (n_draws, n) float64 array, for independent draws."""
    generator = torch.Generator().manual_seed(seed)
    condition = model.infer(x)
    results = []
    for start in range(0, n_draws, 10_000):
        shape = min(10_000, n_draws - start), len(x), model.posterior.noise_size
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        results.append(bound_terms(model, x, condition, noise).log_weight)
    return torch.cat(results).numpy()
