"""What the priors share beside their base class: checks of arguments, small helpers."""

import math
from numbers import Integral, Real

import numpy as np
import torch

LOG_2PI = math.log(2.0 * math.pi)


def randn(shape, generator):
    """Return standard normal float64 draws on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)


def brief(value):
    """Return the repr of a number or None, the shape of anything larger."""
    if value is None or np.ndim(value) == 0:
        return repr(value)
    return f"array{tuple(np.shape(value))}"


def check_count(name, value):
    """Return ``value`` as an int of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, found {value!r}.")
    return int(value)


def check_number(name, value, low, high):
    """Raise unless ``value`` is a number within ``low`` and ``high``."""
    ok = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high
    if not ok:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, found {value!r}.")


def as_float64(name, value):
    """Return ``value`` as a finite float64 tensor that shares no memory with it."""
    if torch.is_tensor(value):
        value = value.detach().cpu().numpy()
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers, found {type(value).__name__}.") from error
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise ValueError(f"{name} must be finite, found {count} NaN or infinite entries.")
    return torch.from_numpy(array)


def as_matrix(name, value):
    """Return ``value`` as a finite float64 matrix that shares no memory with it."""
    matrix = as_float64(name, value)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"{name} must be a matrix with at least one row and one column, found shape "
            f"{tuple(matrix.shape)}."
        )
    return matrix
