"""The latent-variable model: prior, likelihood, decoder and posterior held together."""

import torch
from torch import nn

from .adversarial import PointPosterior
from .flows import FlowPosterior
from .hierarchical import HierarchicalPosterior
from .networks import linear, multilayer_perceptron
from .posteriors import DiffusionPosterior, GaussianPosterior
from .unconditional import UnconditionalDiffusionPosterior

POSTERIORS = {
    "gaussian": GaussianPosterior,
    "diffusion": DiffusionPosterior,
    "unconditional_diffusion": UnconditionalDiffusionPosterior,
    "flow": FlowPosterior,
    "hierarchical": HierarchicalPosterior,
    "point": PointPosterior,
}

# Draws from the prior that its mean and standard deviation are estimated from.
N_PRIOR_DRAWS = 20_000


class LatentVariableModel(nn.Module):
    """p(z) p(x|z) with a posterior q(z|x); equations (1) and (3).

    Parameters
    ----------
    prior : Prior
    likelihood : Likelihood
        Fitted to the training rows.
    decoder : torch.nn.Module
        Maps latents (..., n, d) to the likelihood's output (..., n, p).
    posterior : Posterior
    """

    def __init__(self, prior, likelihood, decoder, posterior):
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.decoder = decoder
        self.posterior = posterior


def build_model(
    prior,
    likelihood,
    noise_schedule,
    *,
    hidden_layer_sizes,
    denoiser_width,
    activation,
    generator,
    posterior=None,
):
    """Return an untrained model; every weight is drawn from ``generator``.

    Parameters
    ----------
    prior : Prior
    likelihood : Likelihood
        Fitted to the training rows.
    noise_schedule : tuple of arrays or None
        ``(alpha, sigma, (mean_y, mean_z, std))`` of the noising process, each (T + 1,). None for a
        posterior without a chain.
    hidden_layer_sizes : sequence of int
        The encoder's; the decoder has them in reverse order.
    denoiser_width : int
    activation : str
    generator : torch.Generator
    posterior : (str, dict) or None
        A key of ``POSTERIORS`` and the arguments that are its own. None is the diffusion posterior,
        or without a noise schedule the Gaussian one.

    Returns
    -------
    model : LatentVariableModel
    """
    draws = prior.sample(N_PRIOR_DRAWS, generator).double()
    loc, scale = draws.mean(0).float(), draws.std(0).clamp(min=1e-12).float()
    n_features = len(likelihood.initial_output())
    name, options = posterior or ("gaussian" if noise_schedule is None else "diffusion", {})
    if noise_schedule is not None:
        alpha, sigma, transitions = noise_schedule
        chain = {"alpha": alpha, "sigma": sigma, "transitions": transitions}
        options = options | chain | {"denoiser_width": denoiser_width}
    posterior = POSTERIORS[name](
        n_features,
        loc,
        scale,
        hidden_layer_sizes=hidden_layer_sizes,
        activation=activation,
        generator=generator,
        **options,
    )
    body, width = multilayer_perceptron(
        prior.n_components, hidden_layer_sizes[::-1], activation, generator
    )
    output = linear(width, n_features, generator, 0.1)
    with torch.no_grad():
        output.bias.copy_(likelihood.initial_output())
    return LatentVariableModel(prior, likelihood, nn.Sequential(body, output), posterior)
