"""Parts of the loss whose gradients a second thread computes beside the rest.

A training step is hundreds of small operations. torch divides each of them among its threads, which
then wait for one another; two threads with operations of their own need not.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from .threads import begun, limit_threads


class RowPenalty:
    """Base class of regularisers whose penalty knows the batch by the numbers of its rows alone.

    It can be computed beside the rest. What they remember of the batch's latents they are told
    after that.
    """

    def __call__(self, z, rows):
        """Return the penalty of a mini-batch, a scalar tensor."""
        penalty = self.penalty_of_rows(rows)
        self.remember(z, rows)
        return penalty

    def penalty_of_rows(self, rows):
        """Return the penalty of rows by their numbers, a (m,) tensor of int64: a scalar tensor."""
        raise NotImplementedError

    def remember(self, z, rows):
        """Take note of the latents z (m, d) of rows."""
        raise NotImplementedError


def may_run_beside(regularizer):
    """Return whether a regulariser is what :class:`RowPenalty` makes of its parts."""
    # A subclass that calls it in a way of its own is asked for that.
    kind = type(regularizer)
    return issubclass(kind, RowPenalty) and kind.__call__ is RowPenalty.__call__


class Beside:
    """Computes gradients in a thread of its own, or in the calling one when they are asked for.

    Both ways give the same numbers.

    Parameters
    ----------
    parameters : list of torch.nn.Parameter
        What gradients are of.
    parallel : bool
        Whether there is a thread to spare, and nothing in the model that must not be used by two.
    """

    def __init__(self, parameters, parallel):
        self.parameters = parameters
        self.n_threads = 1 if parallel else 0
        self.pool = None
        if parallel:
            self.pool = ThreadPoolExecutor(1, initializer=limit_threads, initargs=(1,))

    @contextmanager
    def running(self, parts):
        """Return functions that wait for the parts' values and gradients; see :meth:`gradient`.

        Parameters
        ----------
        parts : list of callable
            Each returns a scalar tensor. They are called one after the other.
        """
        results = [begun(self.pool, self.gradient, part) for part in parts]
        try:
            yield results
        finally:
            # After an interruption too nothing may go on to use the weights.
            if self.pool is not None and parts:
                begun(self.pool, int)()  # behind all of them

    def gradient(self, part):
        """Return the value of a part, a scalar tensor, and its gradients or None for each."""
        value = part()
        learned = [p for p in self.parameters if p.requires_grad]
        if not value.requires_grad:
            return value, [None] * len(self.parameters)
        found = iter(torch.autograd.grad(value, learned, allow_unused=True))
        return value.detach(), [next(found) if p.requires_grad else None for p in self.parameters]

    def close(self):
        """End the thread."""
        if self.pool is not None:
            self.pool.shutdown()
