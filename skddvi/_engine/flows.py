"""The inverse autoregressive flow posterior."""

from torch import nn

from .networks import MaskedNetwork
from .posteriors import (
    LOG_VARIANCE_BOUNDS,
    Draw,
    Posterior,
    _init_log_variance,
    gaussian_log_density,
)

# A block may stretch or shrink a latent by the exponential of this.
MAX_LOG_STRETCH = 3.0


class FlowPosterior(Posterior):
    """q(z|x) by an inverse autoregressive flow (Kingma et al. 2016).

    A Gaussian draw, whose mean and variance the encoder gives, goes through blocks u <- m(u, c) +
    exp(s(u, c)) u (their equation 10). In each, m and s of a latent see only the latents before it,
    so the Jacobian is triangular and log q(z|x) is that of the Gaussian minus the sum of all s. The
    order of the latents is reversed from block to block. Each block has a context c of its own from
    the encoder. An untrained flow is exactly the Gaussian posterior.

    Parameters
    ----------
    n_blocks : int
    flow_width : int
        Width of the two hidden layers of each block.
    """

    def __init__(
        self,
        n_inputs,
        loc,
        scale,
        *,
        n_blocks,
        flow_width,
        hidden_layer_sizes,
        activation,
        generator,
    ):
        d = len(loc)
        n_statistics = 2 * d + n_blocks * 2 * flow_width
        super().__init__(
            n_inputs, loc, scale, n_statistics, hidden_layer_sizes, activation, generator
        )
        self.noise_size = d
        self.blocks = nn.ModuleList(
            MaskedNetwork(d, flow_width, generator, backward=index % 2 == 1)
            for index in range(n_blocks)
        )
        _init_log_variance(self.head, d)

    def _condition(self, statistics, part):
        """Return mean and log-std of the Gaussian, and the context of each block."""
        d = self.n_components
        mean, log_variance, contexts = statistics.tensor_split([d, 2 * d], dim=-1)
        log_std = 0.5 * log_variance.clamp(*LOG_VARIANCE_BOUNDS)
        return mean, log_std, *contexts.chunk(len(self.blocks), dim=-1)

    def draw(self, condition, noise):
        mean, log_std, *contexts = condition
        u, log_scale = mean + log_std.exp() * noise, log_std
        for block, context in zip(self.blocks, contexts, strict=True):
            shift, log_stretch = block(u, context)
            log_stretch = MAX_LOG_STRETCH * (log_stretch / MAX_LOG_STRETCH).tanh()
            u = shift + log_stretch.exp() * u
            log_scale = log_scale + log_stretch
        log_q = gaussian_log_density(noise, log_scale + self.scale.log())
        return Draw(self._unstandardise(u), {"posterior_entropy": -log_q})

    def mode(self, condition):
        """Return where the flow takes the mean of the Gaussian, (n, d)."""
        return self.draw(condition, condition[0].new_zeros(condition[0].shape)).z
