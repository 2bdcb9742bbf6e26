"""The latent-variable model: prior, likelihood, decoder and posterior held together."""

from contextlib import contextmanager

import torch
from torch import nn

from .adversarial import PointPosterior
from .flows import FlowPosterior
from .hierarchical import HierarchicalPosterior
from .networks import Decoder, Projection
from .posteriors import DiffusionPosterior, GaussianPosterior
from .refinement import Refiner, climb, evidence
from .unconditional import UnconditionalDiffusionPosterior
from .user_networks import UserDecoder, UserNetwork

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
    refiners : sequence of Refiner
        Corrections of what the encoder says, one after the other.
    n_map_steps : int
        Steps of a :func:`climb` from a row's noise-free latents to its place.

    Attributes
    ----------
    refines : bool
        Whether the corrections are made. Training begins without them.
    """

    def __init__(self, prior, likelihood, decoder, posterior, refiners=(), n_map_steps=0):
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.decoder = decoder
        self.posterior = posterior
        self.refiners = nn.ModuleList(refiners)
        self.n_map_steps = n_map_steps
        self.refines = True

    @contextmanager
    def in_training(self):
        """Leave out corrections, until training turns them on or is over."""
        self.refines = False
        try:
            yield
        finally:
            self.refines = True

    def sample_prior(self, n_samples, generator):
        """Return draws from p(z), (n_samples, d)."""
        return self.prior.sample(n_samples, generator)

    def embed(self, x, masked=None):
        """Return the noise-free latents of rows x, (n, d); ``masked`` features are at the mean."""
        inputs = self.likelihood.encode(x)
        if masked is not None:
            inputs, x = inputs.masked_fill(masked, 0.0), None  # nothing that tells of all features
        return self.posterior.mode(self.condition_on(inputs, x))

    def place(self, x):
        """Return where rows x are shown, (n, d): at their noise-free latents or up from there."""
        z = self.embed(x)
        return climb(self, z, x, self.n_map_steps) if self.n_map_steps > 0 else z

    def infer(self, *rows):
        """Return what the posterior keeps of rows, a tuple of (n, ...) tensors.

        The rows (n_i, p) of several tensors share one pass through the encoder.
        """
        inputs = [self.likelihood.encode(x) for x in rows]
        corrects = self.refiners and self.refines
        return self.condition_on(torch.cat(inputs), torch.cat(rows) if corrects else None)

    def condition_on(self, inputs, rows):
        """Return what the posterior keeps of rows (n, p) that the encoder gets as ``inputs``.

        Nothing is corrected where the rows are None.
        """
        statistics = self.posterior.statistics(inputs)
        if self.refines and rows is not None:
            for refiner in self.refiners:
                seen = evidence(self.posterior, self.decoder, self.likelihood, statistics, rows)
                statistics = refiner(statistics, seen)
        return self.posterior.condition_on(statistics)


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
    n_input_components=None,
    encoder=None,
    decoder=None,
    n_refinements=0,
    n_map_steps=0,
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
    generator : torch.Generator or None
        None leaves the weights of the networks without values, for :func:`load_weights`.
    posterior : (str, dict) or None
        A key of ``POSTERIORS`` and the arguments that are its own. None is the diffusion posterior,
        or without a noise schedule the Gaussian one.
    n_input_components : int or None
        How many numbers a :class:`Projection` leaves of a row for the encoder, the first of its
        layers; its weights are zero. None for an encoder that sees all features.
    encoder, decoder : callable or None
        Factories of networks in place of the perceptrons, see :class:`UserNetwork`. The encoder's
        has the width of the last hidden layer, on which the posterior's own layers are put.
    n_refinements : int
        How many corrections are made of what the encoder says, see :class:`Refiner`.
    n_map_steps : int
        See :class:`LatentVariableModel`.

    Returns
    -------
    model : LatentVariableModel
    """
    loc, scale = _standardisation(prior, generator)
    n_features = len(likelihood.initial_output())
    n_inputs = n_features if n_input_components is None else n_input_components
    name, options = posterior or ("gaussian" if noise_schedule is None else "diffusion", {})
    if noise_schedule is not None:
        alpha, sigma, transitions = noise_schedule
        chain = {"prior": prior, "alpha": alpha, "sigma": sigma, "transitions": transitions}
        options = options | chain | {"denoiser_width": denoiser_width}
    posterior = POSTERIORS[name](
        n_inputs,
        loc=loc,
        scale=scale,
        hidden_layer_sizes=hidden_layer_sizes,
        activation=activation,
        generator=generator,
        **options,
    )
    if encoder is not None:
        width = hidden_layer_sizes[-1] if hidden_layer_sizes else n_inputs
        posterior.body = UserNetwork("encoder", encoder, n_inputs, width, generator)
    if n_input_components is not None:
        posterior.body = nn.Sequential(Projection(n_features, n_inputs), posterior.body)
    output = likelihood.initial_output()
    if decoder is not None:
        decoder = UserDecoder(loc, scale, decoder, output, generator)
    else:
        decoder = Decoder(loc, scale, hidden_layer_sizes[::-1], activation, output, generator)
    sizes = len(loc), posterior.head.out_features, denoiser_width
    refiners = [Refiner(*sizes, generator) for _ in range(n_refinements)]
    return LatentVariableModel(prior, likelihood, decoder, posterior, refiners, n_map_steps)


def _standardisation(prior, generator):
    """Return the prior's mean and standard deviation, (d,) each, estimated from draws."""
    if generator is None:
        return tuple(torch.empty(2, prior.n_components, device="meta"))
    draws = prior.sample(N_PRIOR_DRAWS, generator).double()
    return draws.mean(0).float(), draws.std(0).clamp(min=1e-12).float()


def network_weights(model):
    """Return the weights that a prior and a likelihood do not hold themselves, by name."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(("prior.", "likelihood."))
    }


def load_weights(model, weights):
    """Give a model that was built without values its weights.

    Nothing is allocated for a model that the weights do not fit, if it was built on torch's "meta"
    device.

    Parameters
    ----------
    model : LatentVariableModel
    weights : dict of str to tensor
        Those of :func:`network_weights`.

    Returns
    -------
    model : LatentVariableModel
        The same.

    Raises
    ------
    KeyError, TypeError, RuntimeError
        When names, dtypes or shapes of the weights are not those of the model.
    """
    model.to(torch.float32)
    own = network_weights(model)
    for name, tensor in weights.items():
        if tensor.dtype != own[name].dtype:
            raise TypeError(f"weight {name} must be {own[name].dtype}, found {tensor.dtype}")
    held = {name: value for name, value in model.state_dict().items() if name not in own}
    model.load_state_dict(held | weights, assign=True)
    return model
