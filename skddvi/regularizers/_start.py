"""Where a training starts from: a layout of the neighbourhoods of the rows."""

import dataclasses

import numpy as np
import torch

from .._engine.stored import StoredRows
from .._engine.trainer import CHUNK_ROWS, Term
from .._neighbors import transported
from ._neighborhood import FEATURES_A_NAT, LARGEST_WEIGHT, NeighborhoodPreservation

# Over this share of the steps the weight falls to zero.
START_SHARE = 0.15
# Rows, at most, whose neighbours are looked for, and entries of them that are kept of a store.
N_START_ROWS, N_START_ENTRIES = 10_000, 2**24
# Rows, at most, that a step looks at: a large batch needs no more, and each has many strangers.
N_STEP_ROWS = 512


class NeighborStart(NeighborhoodPreservation):
    """The penalty of `NeighborhoodPreservation` for a start, over a sample of the rows.

    Whatever the batch, it looks at as many rows of the sample, at most 512, and remembers those of
    the batch that are in it.
    """

    name = "start"

    # Whether the prior has a shape that the layout is to take.
    has_shape_ = True

    def fit(self, X):
        """Settle the weight and the size of the sample; X is an array, matrix or store."""
        n_rows, n_features = X.shape
        self._is_stored = isinstance(X, StoredRows)
        self.n_sampled_ = min(n_rows, N_START_ROWS)
        if self._is_stored:
            self.n_sampled_ = min(self.n_sampled_, max(2, N_START_ENTRIES // n_features))
        self._settle_weight(n_features, FEATURES_A_NAT, LARGEST_WEIGHT)
        return self

    def term(self):
        """Return what the training loop is given."""
        return Term(self.name, self.weight_, self, START_SHARE, 'set init="random"')

    def attach(self, view):
        """Draw the sample and find its layout."""
        generator = torch.Generator().manual_seed(view.seed)
        sample = torch.randperm(view.n_rows, generator=generator)[: self.n_sampled_]
        kept = None
        if self._is_stored:  # read once
            kept = torch.cat([view.rows(part).float() for part in sample.split(CHUNK_ROWS)])

        def rows(indices):
            return view.rows(sample[indices]) if kept is None else kept[indices]

        self._position = torch.full((view.n_rows,), -1)
        self._position[sample] = torch.arange(len(sample))
        super().attach(dataclasses.replace(view, n_rows=len(sample), rows=rows))
        if self.has_shape_:
            self._memory = self._shaped(self._memory)

    def _shaped(self, places):
        """Return places (n, d) of the layout moved to where the prior's mass is.

        Groups roughly keep their places among the others. Else rows would find their arms, their
        turns of a roll, as from random weights.
        """
        view, n_rows = self._view, len(places)
        generator = torch.Generator(view.loc.device).manual_seed(view.seed)
        draws = self._standardised(view.sample_prior(n_rows, generator))
        rng = np.random.default_rng(0)
        moved = transported(places.double().cpu().numpy(), draws.double().cpu().numpy(), rng)
        return torch.from_numpy(moved).to(places)

    def penalty_of_rows(self, rows):
        """Return the penalty of as many rows of the sample, or fewer, a scalar tensor in nats."""
        n_sampled, draw = self._view.n_rows, {"generator": self._generator}
        n_rows = min(len(rows), N_STEP_ROWS)
        return super().penalty_of_rows(torch.randint(n_sampled, (n_rows,), **draw))

    def remember(self, z, rows):
        """Take note of the latents z (m, d) of rows, where they are in the sample."""
        position = self._position[rows]
        super().remember(z[position >= 0], position[position >= 0])
