"""The diffusion posterior whose denoiser never sees the row."""

import torch
from torch import nn

from .networks import linear
from .posteriors import LOG_VARIANCE_BOUNDS, DiffusionPosterior, _init_log_variance


class UnconditionalDiffusionPosterior(DiffusionPosterior):
    """A chain of which the row decides only where it starts: q(y_T|x) prod q(y_{t-1}|y_t).

    The posterior of latent diffusion models, and of the first version of DDVI: the denoiser is that
    of the prior, as the latent sleep term teaches it, and all that is known of the row is in y_T.
    From y_T the chain follows the prior with no observation of the row, m = 0 and v at its bound.
    The spreads of the steps are the chain's times a learned factor for each step and dimension,
    since a step that spreads as the noising process does forgets the row.

    Parameters
    ----------
    As for :class:`DiffusionPosterior`.
    """

    def __init__(self, n_inputs, **options):
        super().__init__(n_inputs, **options)
        d = self.n_components
        # In place of the larger one, whose other outputs would have nothing to do.
        self.head = linear(self.head.in_features, 2 * d, options["generator"])
        _init_log_variance(self.head, d)
        self.log_spread = nn.Parameter(torch.zeros(self.n_steps + 1, d))

    def _condition(self, statistics, part):
        """Return q(y_T|x), and what the chain makes of a row when it is told nothing of it."""
        mean, log_variance = statistics.chunk(2, dim=-1)
        log_terminal_std = 0.5 * log_variance.clamp(*LOG_VARIANCE_BOUNDS)
        return mean, log_terminal_std, *self._no_observation(mean)

    def _at_steps(self, steps, condition):
        spread = self.log_spread.clamp(-8.0, 4.0).exp()[steps]
        step = super()._at_steps(steps, condition)
        if step.moments.std is not None:
            return step._replace(moments=step.moments.spread_by(spread))
        return step._replace(spread=spread)
