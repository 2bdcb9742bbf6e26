"""Regularisers: interpretable terms on the latents beside the bound.

A regulariser is any callable ``regularizer(z, rows)`` of the latents of a mini-batch, a tensor of
shape (n, d), and the indices of its rows in the training data, an int64 tensor of shape (n,). It
returns a scalar tensor, which training adds to its loss times ``regularizer.weight`` (1 if there is
none) and which appears in ``history_`` as ``regularizer.name`` (or ``__name__``). If it has a
method ``fit(X)``, that is called with the training rows first, and may set ``weight_``, which then
counts in place of ``weight``. One that looks at more than a batch's latents has a method
``attach(view)``, called before the first step: ``view.rows(indices)`` are training rows,
``view.embed(x)`` the noise-free latents of any rows, and :class:`TrainingView` lists the rest. One
that remembers something from batch to batch has, for a checkpoint to keep and for a training that
diverged to go back to, the methods ``state_dict()`` and ``load_state_dict(state)`` of a
:class:`torch.nn.Module`.
"""

from .._engine.trainer import TrainingView
from ._coverage import PriorCoverage
from ._neighborhood import NeighborhoodPreservation

__all__ = ["NeighborhoodPreservation", "PriorCoverage", "TrainingView"]
