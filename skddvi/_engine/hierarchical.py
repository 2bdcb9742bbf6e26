"""The hierarchical posterior, with an auxiliary variable."""

import torch

from .networks import ContextNetwork
from .posteriors import (
    LOG_VARIANCE_BOUNDS,
    Draw,
    Posterior,
    _init_log_variance,
    gaussian_log_density,
)


class HierarchicalPosterior(Posterior):
    """q(z|x) = integral of q(a|x) q(z|a,x) over an auxiliary variable a of the size of z.

    Both factors are diagonal Gaussians. The mixture has no density in closed form; the bound makes
    do with a learned reverse model r(a|z,x), a diagonal Gaussian too (Ranganath et al. 2016, Maaloe
    et al. 2016): log_ratio = log r(a|z,x) - log q(a|x) - log q(z|a,x). Untrained, z does not depend
    on a and r is q(a|x), so that it is exactly the Gaussian posterior.

    Parameters
    ----------
    auxiliary_width : int
        Width of the two hidden layers of the networks of q(z|a,x) and of r(a|z,x).
    """

    def __init__(
        self,
        n_inputs,
        loc,
        scale,
        *,
        auxiliary_width,
        hidden_layer_sizes,
        activation,
        generator,
    ):
        d = len(loc)
        n_statistics = 4 * d + 4 * auxiliary_width
        super().__init__(
            n_inputs, loc, scale, n_statistics, hidden_layer_sizes, activation, generator
        )
        self.noise_size = 2 * d
        self.down = ContextNetwork(d, 2 * d, auxiliary_width, generator)
        self.reverse = ContextNetwork(2 * d, 2 * d, auxiliary_width, generator)
        _init_log_variance(self.head, d)

    def _condition(self, statistics, part):
        """Return mean and log-std of z and of a, and the contexts of the two networks."""
        d = self.n_components
        mean, log_variance, mean_a, log_std_a = statistics[..., : 4 * d].chunk(4, dim=-1)
        log_std = 0.5 * log_variance.clamp(*LOG_VARIANCE_BOUNDS)
        down, reverse = statistics[..., 4 * d :].chunk(2, dim=-1)
        return mean, log_std, mean_a, log_std_a.clamp(-4.0, 4.0), down, reverse

    def draw(self, condition, noise):
        mean, log_std, mean_a, log_std_a, down, reverse = condition
        noise_a, noise_z = noise.chunk(2, dim=-1)
        a = mean_a + log_std_a.exp() * noise_a
        shift, log_stretch = self.down(a, *down.chunk(2, dim=-1)).chunk(2, dim=-1)
        log_stretch = log_stretch.clamp(-4.0, 4.0)
        std, log_std = log_std.exp(), log_std + log_stretch
        # The shift is in units of the spread, which the network thus need not learn.
        standardised = shift + log_stretch.exp() * noise_z
        u = mean + std * standardised
        seen = self.reverse(torch.cat([standardised, u], dim=-1), *reverse.chunk(2, dim=-1))
        shift_r, log_stretch_r = seen.chunk(2, dim=-1)
        log_stretch_r = log_stretch_r.clamp(-4.0, 4.0)
        from_z = (noise_a - shift_r) * (-log_stretch_r).exp()
        log_r = gaussian_log_density(from_z, log_std_a + log_stretch_r)
        terms = {
            "auxiliary": log_r - gaussian_log_density(noise_a, log_std_a),
            "conditional_entropy": -gaussian_log_density(noise_z, log_std + self.scale.log()),
        }
        return Draw(self._unstandardise(u), terms)

    def mode(self, condition):
        """Return z at the mean of q(z|a,x) at the mean of q(a|x), (n, d)."""
        size = *condition[0].shape[:-1], self.noise_size
        return self.draw(condition, condition[0].new_zeros(size)).z
