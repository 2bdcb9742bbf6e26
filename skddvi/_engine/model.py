"""The latent-variable model: prior, likelihood, decoder and posterior held together."""

from torch import nn

from .networks import Decoder
from .posteriors import DiffusionPosterior, GaussianPosterior

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
):
    """Return an untrained model; every weight is drawn from ``generator``.

    Parameters
    ----------
    prior : Prior
    likelihood : Likelihood
        Fitted to the training rows.
    noise_schedule : tuple of arrays or None
        ``(alpha, sigma, (mean_y, mean_z, std))`` of the noising process, each (T + 1,). None gives
        the Gaussian posterior of a variational autoencoder.
    hidden_layer_sizes : sequence of int
        The encoder's; the decoder has them in reverse order.
    denoiser_width : int
    activation : str
    generator : torch.Generator

    Returns
    -------
    model : LatentVariableModel
    """
    draws = prior.sample(N_PRIOR_DRAWS, generator).double()
    loc, scale = draws.mean(0).float(), draws.std(0).clamp(min=1e-12).float()
    n_features = len(likelihood.initial_output())
    if noise_schedule is None:
        posterior = GaussianPosterior(
            n_features, loc, scale, hidden_layer_sizes, activation, generator
        )
    else:
        alpha, sigma, transitions = noise_schedule
        posterior = DiffusionPosterior(
            n_features,
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
        )
    decoder = Decoder(
        loc,
        scale,
        hidden_layer_sizes[::-1],
        activation,
        likelihood.initial_output(),
        generator,
    )
    return LatentVariableModel(prior, likelihood, decoder, posterior)
