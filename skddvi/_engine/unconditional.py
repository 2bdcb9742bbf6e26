"""The diffusion posterior whose denoiser never sees the row."""

import torch
from torch import nn

from .networks import linear
from .posteriors import LOG_VARIANCE_BOUNDS, DiffusionPosterior, _init_log_variance


class UnconditionalDiffusionPosterior(DiffusionPosterior):
    """A chain of which the row decides only where it starts: q(y_T|x) prod q(y_{t-1}|y_t).

    The posterior of latent diffusion models, and of the first version of DDVI: the denoiser is that
    of the prior, as the latent sleep term teaches it, and all that is known of the row is in y_T.
    The spreads of the steps are the chain's times a learned factor for each step and dimension,
    since a step that spreads as the noising process does forgets the row.

    Parameters
    ----------
    As for :class:`DiffusionPosterior`.
    """

    def __init__(self, n_inputs, loc, scale, **options):
        super().__init__(n_inputs, loc, scale, **options)
        d = self.n_components
        # In place of the larger one, whose other outputs would have nothing to do.
        self.head = linear(self.head.in_features, 2 * d, options["generator"])
        _init_log_variance(self.head, d)
        self.log_spread = nn.Parameter(torch.zeros(self.n_steps + 1, d))

    def condition(self, inputs):
        """Return what the chain makes of a row when it is told nothing of it, and q(y_T|x)."""
        mean, log_variance = self.head(self.body(inputs)).chunk(2, dim=-1)
        log_terminal_std = 0.5 * log_variance.clamp(*LOG_VARIANCE_BOUNDS)
        of_prior = torch.zeros_like(mean), torch.ones_like(mean)
        last = 0.5 * torch.ones_like(mean).div(1.0 + self.snr[1]).log() + self._log_spread()[1]
        context = self.no_context.expand(len(mean), -1)
        return *of_prior, log_terminal_std, last, context, mean

    def _terminal_mean(self, condition):
        return condition[5]

    def _log_spread(self):
        return self.log_spread.clamp(-8.0, 4.0)

    def _step_parts(self, index, steps, condition):
        gain, whitening, std, bias = super()._step_parts(index, steps, condition)
        spread = self._log_spread()[steps].exp()
        return gain, whitening, std * (spread.unsqueeze(1) if index.ndim == 3 else spread), bias
