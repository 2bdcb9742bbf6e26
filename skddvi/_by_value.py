"""Modules that are pickled by value.

A pickled tensor holds the address of its memory, so that two equal ones differ and ``joblib.hash``,
by which a cached pipeline knows what it has computed, never finds a result again. Here tensors are
pickled as arrays, which also open on machines without the device that they were on.
"""

import copy

import torch
from torch import nn


class ByValueModule(nn.Module):
    """Module whose own tensors are pickled as numpy arrays and copied as tensors."""

    def __getstate__(self):
        """Return the state with its tensors marked."""
        return _mapped(self.__dict__, torch.Tensor, _Value)

    def __setstate__(self, state):
        """Take over a state; the marks are still there when it was copied and not pickled."""
        super().__setstate__(_mapped(state, _Value, lambda value: value.tensor))


class _Value:
    """Mark of a tensor in a state."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __deepcopy__(self, memo):
        return _Value(copy.deepcopy(self.tensor, memo))

    def __reduce__(self):
        tensor = self.tensor.detach().cpu()
        array = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # numpy has none
        kind = type(self.tensor), self.tensor.requires_grad, tensor.dtype
        return _from_array, (array.numpy(), *kind)


def _from_array(array, kind, requires_grad, dtype):
    """Return the tensor that was pickled; it shares no memory with a mapped file."""
    tensor = torch.tensor(array, dtype=dtype)
    if issubclass(kind, nn.Parameter):
        return nn.Parameter(tensor, requires_grad=requires_grad)
    return tensor.requires_grad_(requires_grad)


def _mapped(value, kind, function):
    """Return ``value`` with a function applied to what is of a kind in nested containers."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, dict):
        return type(value)((key, _mapped(item, kind, function)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(_mapped(item, kind, function) for item in value)
    return value
