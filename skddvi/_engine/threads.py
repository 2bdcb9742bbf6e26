"""How many threads a training step is worth."""

from functools import cache

import torch
from threadpoolctl import ThreadpoolController

# Multiplications of a pass through all layers that are worth a thread. Threads that wait for one
# another between small products gain nothing, and where other processes run they wait for long.
WORK_OF_A_THREAD = 100_000_000


def limited_threads(model, batch_size, n_spared=0):
    """Return a context in which a pass uses no more threads than it is worth.

    The limit holds for the calling thread alone, and ends with the context.

    Parameters
    ----------
    model : torch.nn.Module
    batch_size : int
        Rows of a pass.
    n_spared : int
        How many threads others use at the same time.
    """
    work = batch_size * sum(parameter.numel() for parameter in model.parameters())
    return limit_threads(max(1, min(torch.get_num_threads() - n_spared, work // WORK_OF_A_THREAD)))


def limit_threads(n_threads):
    """Limit torch's threads for the calling thread; return a context that ends with the limit."""
    torch.get_num_threads()  # a thread in which torch was never used would forget the limit
    return _openmp().limit(limits=n_threads)


@cache
def _openmp():
    return ThreadpoolController().select(user_api="openmp")
