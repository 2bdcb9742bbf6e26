"""The one place where memory that runs out becomes an error with sizes and a remedy."""

import functools
import math

# What torch and numpy say of a size that this machine has not, or none has.
_PHRASES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Storage size calculation overflowed",
    "Overflow when unpacking",
    "array is too big",
)


class OutOfMemory(MemoryError):
    """Memory ran out; the message says for what, and what can be done."""


def tells_of_memory(doing, remedy):
    """Return a decorator of methods ``f(self, X, ...)`` that need memory.

    Parameters
    ----------
    doing : str
        What the method does, for the message.
    remedy : str
        What the user can do.
    """

    def decorate(method):
        @functools.wraps(method)
        def told(self, X, *args, **kwargs):
            try:
                return method(self, X, *args, **kwargs)
            except OutOfMemory:
                raise
            except Exception as error:
                said = str(error).partition("\n")[0]
                if not (isinstance(error, MemoryError) or any(p in said for p in _PHRASES)):
                    raise
                raise OutOfMemory(
                    f"Memory ran out while {doing} {_size(X)} ({said or 'MemoryError'}); {remedy}."
                ) from error

        return told

    return decorate


def _size(X):
    """Return what the message says of rows, or of their number."""
    if isinstance(X, int):
        return f"{X} rows"
    shape = getattr(X, "shape", None) or (len(X),)
    size = f"X of shape {tuple(shape)}"
    if hasattr(getattr(X, "dtype", None), "itemsize"):
        size += f", {math.prod(shape) * X.dtype.itemsize / 2**20:.3g} MiB as {X.dtype}"
    return size
