"""How many threads a training step is worth, and work that is given to one of them."""

from functools import cache, partial

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


def begun(pool, function, *args):
    """Return what waits for a function's result, which a thread of a pool computes, if it can.

    Parameters
    ----------
    pool : concurrent.futures.ThreadPoolExecutor or None
        None leaves it to the calling thread, when the result is asked for.
    function : callable
    *args
        What it is called with.
    """
    if pool is not None:
        try:
            return pool.submit(function, *args).result
        except RuntimeError:
            pass  # Python is ending, and starts no thread any more
    return partial(function, *args)


@cache
def _openmp():
    return ThreadpoolController().select(user_api="openmp")
