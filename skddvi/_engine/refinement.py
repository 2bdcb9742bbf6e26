"""Refinement: the encoder's guess of a row's latents, corrected by what the decoder says there.

An encoder has learned once how rows map to latents, and is right only on average. Where it points,
the decoder tells how p(x|z) rises and bends around that place, for this very row; and a small
network has learned what to make of it: iterative amortised inference (Marino et al. 2018). Whatever
it makes of it is a posterior, so the bound stays one.
"""

import torch
from torch import nn

from .networks import ContextNetwork, linear

# How much of its precision the encoder's own guess keeps beside the row, in the proposed step.
DAMPING = 0.3
# How steps of a climb are damped at first, and by what factors after success and failure.
CLIMB_DAMPING, CLIMB_FACTORS = 0.1, (0.25, 8.0)
# Standardised latents over which the gradient of log p(z) is compared.
PRIOR_DIFFERENCE = 1e-3
# Numbers of a block of rows' tangents held at once.
TANGENT_NUMBERS = 2**21


class Refiner(nn.Module):
    """A correction of the posterior's statistics, which is none before it is trained.

    Parameters
    ----------
    n_components : int
        d, the dimension of the latents.
    n_statistics : int
        How many numbers the encoder's last layer gives for each row.
    width : int
        Width of the hidden layers.
    generator : torch.Generator
    """

    def __init__(self, n_components, n_statistics, width, generator):
        super().__init__()
        d = n_components
        self.context = linear(n_statistics, 2 * width, generator)
        n_inputs = 4 * d + d * (d + 1) // 2
        self.network = ContextNetwork(n_inputs, n_statistics, width, generator)

    def is_trained(self):
        """Return whether there is a correction at all."""
        return bool(self.network.output.weight.any())

    def forward(self, statistics, evidence):
        """Return corrected statistics (n, n_statistics) given the :func:`evidence` of the rows.

        Gradients reach what came before through the sum alone.
        """
        std, features = evidence
        first, second = self.context(statistics.detach()).chunk(2, dim=-1)
        correction = self.network(features, first, second).to(statistics.dtype)
        d = std.shape[-1]
        return statistics + torch.cat([std * correction[..., :d], correction[..., d:]], dim=-1)


def evidence(posterior, decoder, likelihood, statistics, rows):
    """Return what p(x|z) is like where a posterior points, for a :class:`Refiner`.

    Parameters
    ----------
    posterior : Posterior
    decoder : torch.nn.Module
    likelihood : Likelihood
    statistics : (n, n_statistics) tensor
    rows : (n, p) tensor
        The rows x.

    Returns
    -------
    std : (n, d) tensor
        The posterior's standard deviations, in standardised latents.
    features : (n, 4 d + d (d + 1) / 2) tensor
        The place, the log-variance, and in units of std: the damped step of the Gauss-Newton method
        from the encoder's mean to where p(x|z) is largest, the gradient of log p(x|z), and its
        curvature. Numbers that may be large as their inverse hyperbolic sine.
    """
    # Slopes are differences of large numbers, which mixed precision would blur.
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        place, mean, log_variance = posterior.guess(statistics.detach())
        std = (0.5 * log_variance).exp()
        gradient, curvature = slopes(posterior, decoder, likelihood, place, std, rows)
        off = ((place - mean) / std).unsqueeze(-1)
        damped = curvature + DAMPING * torch.eye(place.shape[1]).to(curvature)
        step, _ = torch.linalg.solve_ex(damped, curvature @ off + gradient.unsqueeze(-1))
        upper = torch.triu_indices(*curvature.shape[1:], device=curvature.device)
        large = [step.squeeze(-1), gradient, curvature[:, upper[0], upper[1]]]
        large = torch.cat(large, dim=-1).nan_to_num().asinh()
        return std, torch.cat([place, log_variance / 3.0, large], dim=-1)


@torch.no_grad()
def climb(model, z, rows, n_steps):
    """Return latents (n, d) at which log p(x, z) is no lower than at z but for rounding.

    By steps of the Gauss-Newton method, damped where they have failed (Levenberg and Marquardt).
    """
    posterior, likelihood = model.posterior, model.likelihood

    def log_joint(place):
        z = posterior._unstandardise(place)
        return likelihood.log_prob(rows, model.decoder(z)) + model.prior.log_prob(z)

    place = posterior._standardise(z)
    best, damping = log_joint(place), torch.full_like(place[:, :1], CLIMB_DAMPING)
    for _ in range(n_steps):
        ones = torch.ones_like(place)
        gradient, curvature = slopes(posterior, model.decoder, likelihood, place, ones, rows)
        of_prior, curvature_of_prior = _prior_slopes(model, place)
        gradient, curvature = gradient + of_prior, curvature + curvature_of_prior
        # Where nothing bends, a step stays within the reach of the latents, which have unit scale.
        diagonal = torch.diagonal(curvature, dim1=-2, dim2=-1).abs().clamp(min=1.0)
        curvature = curvature + torch.diag_embed(damping * diagonal)
        step, _ = torch.linalg.solve_ex(curvature, gradient.unsqueeze(-1))
        tried = place + step.squeeze(-1)
        reached = log_joint(tried)
        # Not "higher": at the top that is decided by rounding, and rounding by the batch.
        slack = torch.finfo(best.dtype).eps ** (2 / 3) * (1.0 + best.abs())
        is_better = (reached > best - slack).unsqueeze(-1)
        place = torch.where(is_better, tried, place)
        best = torch.where(is_better.squeeze(-1), reached, best)
        damping = damping * torch.where(is_better, *CLIMB_FACTORS)
    return posterior._unstandardise(place)


def _prior_slopes(model, place):
    """Return what :func:`slopes` does of log p(z), by differences, since not all can be derived."""
    d = place.shape[1]
    moved = PRIOR_DIFFERENCE * torch.eye(d).to(place)
    with torch.enable_grad():
        places = torch.cat([place, *(place + each for each in moved)]).requires_grad_()
        value = model.prior.log_prob(model.posterior._unstandardise(places)).sum()
        if value.requires_grad:
            gradient, *others = torch.autograd.grad(value, places)[0].chunk(d + 1)
        else:  # that of a user's prior may be the same everywhere
            gradient, *others = torch.zeros_like(places).chunk(d + 1)
    curvature = torch.stack([(gradient - other) / PRIOR_DIFFERENCE for other in others], dim=-1)
    return gradient, 0.5 * (curvature + curvature.mT)


def slopes(posterior, decoder, likelihood, place, std, rows):
    """Return the gradient (n, d) of log p(x|z) at a place and its negative Hessian (n, d, d).

    In units of std; the latter is that of a decoder which is linear there, as Gauss and Newton do.

    Parameters
    ----------
    posterior : Posterior
    decoder : torch.nn.Module
    likelihood : Likelihood
    place, std : (n, d) tensor
        In standardised latents.
    rows : (n, p) tensor
    """
    block = max(1, TANGENT_NUMBERS // (rows.shape[1] * (place.shape[1] + 1)))
    parts = zip(*(each.split(block) for each in (place, std, rows)), strict=True)
    parts = [_slopes(posterior, decoder, likelihood, *part) for part in parts]
    gradient, curvature = (torch.cat(each) for each in zip(*parts, strict=True))
    return gradient, curvature


def _slopes(posterior, decoder, likelihood, place, std, rows):
    output, tangents = decoder.linearised(posterior._unstandardise(place), std)
    with torch.enable_grad():
        output = output.detach().requires_grad_()
        value = likelihood.log_prob(rows, output).sum()
        (score,) = torch.autograd.grad(value, output, create_graph=True)
        bends = [_bend(score, tangent, output) for tangent in tangents]
    gradient = (tangents * score.detach()).sum(-1).T
    curvature = torch.stack([-(tangents * bend).sum(-1) for bend in bends], dim=-1)
    return gradient, curvature.transpose(0, 1)


def _bend(score, tangent, output):
    """Return how the score (n, p) at an output changes along a tangent."""
    if not score.requires_grad:  # that of a user's likelihood may be the same everywhere
        return torch.zeros_like(score)
    return torch.autograd.grad((score * tangent).sum(), output, retain_graph=True)[0]
