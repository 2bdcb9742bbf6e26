"""Values as JSON and arrays, and back.

JSON's own types stand for themselves. Everything else is an object with a "type": tuples,
dictionaries, numpy's scalars and arrays, tensors, random states, and the building blocks of a fixed
table of classes, by their constructor's arguments and, where they are modules, their tensors. An
object that occurs twice is one object again. Nothing is looked up by a name that stands in a file,
except in that table.
"""

import inspect
import math
import os

import numpy as np
import torch
from torch import nn

# What both numpy and safetensors know.
_DTYPES = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
}


class Encoder:
    """Writes values.

    Parameters
    ----------
    classes : dict of str to type
        The building blocks.

    Attributes
    ----------
    arrays : dict of str to ndarray
        The arrays met so far, by the names of their places.
    objects : list of dict
        The building blocks met so far, each after those that it holds.
    """

    def __init__(self, classes):
        self.names = {cls: name for name, cls in classes.items()}
        self.arrays = {}
        self.objects = []
        self.seen = {}

    def encode(self, value, place):
        """Return what stands for a value in JSON; ``place`` names it in errors and arrays.

        Raises
        ------
        TypeError
            When the value is of a type that cannot be saved.
        """
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return str(value) if isinstance(value, str) else value
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if type(value) is float:
            return value if math.isfinite(value) else {"type": "float", "value": str(value)}
        if isinstance(value, list):
            return self._items(value, place)
        if isinstance(value, tuple):
            return {"type": "tuple", "items": self._items(value, place)}
        if isinstance(value, dict):
            pairs = [
                [self.encode(key, place), self.encode(item, f"{place}.{key}")]
                for key, item in value.items()
            ]
            return {"type": "dict", "items": pairs}
        if type(value) in self.names:
            return {"type": "object", "index": self._object(value, place)}
        if isinstance(value, np.generic) and value.dtype.name in _DTYPES:
            number = self.encode(value.item(), place)
            return {"type": "scalar", "dtype": value.dtype.name, "value": number}
        if isinstance(value, np.ndarray):
            return self._array(value, place)
        if torch.is_tensor(value) and value.layout == torch.strided:
            array = value.detach().cpu()
            if str(array.dtype).removeprefix("torch.") in _DTYPES:
                return {"type": "tensor", "array": self._array(array.numpy(), place)}
        if isinstance(value, np.random.RandomState):
            state = value.get_state(legacy=False)
            if state["bit_generator"] == "MT19937":
                return {"type": "random_state", "state": self.encode(state, place)}
        if hasattr(value, "__array__") and not torch.is_tensor(value):
            return self.encode(np.asarray(value), place)  # a data frame
        raise TypeError(f"{place}={type(value).__name__} is no type of value that can be saved")

    def _items(self, values, place):
        return [self.encode(item, f"{place}.{i}") for i, item in enumerate(values)]

    def _array(self, value, place):
        if value.dtype.kind in "OU":
            dtype = "object" if value.dtype.kind == "O" else "str"
            items = self._items(value.ravel().tolist(), place)
            return {"type": "items", "dtype": dtype, "shape": list(value.shape), "items": items}
        if value.dtype.name not in _DTYPES:
            raise TypeError(f"{place} is an array of {value.dtype}, which cannot be saved")
        name = place
        while name in self.arrays:
            name += "_"
        self.arrays[name] = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        return {"type": "array", "name": name}

    def _object(self, value, place):
        if id(value) not in self.seen:
            names = list(inspect.signature(type(value)).parameters)
            arguments = {
                name: self.encode(getattr(value, name), f"{place}.{name}") for name in names
            }
            entry = {"class": self.names[type(value)], "arguments": arguments}
            if isinstance(value, nn.Module):
                tensors = dict(value.state_dict())
                entry["tensors"] = self.encode(tensors, f"{place}.tensors")
                entry["fixed"] = [n for n, p in value.named_parameters() if not p.requires_grad]
            self.objects.append(entry)
            # The object is kept, so that its address is not given to another.
            self.seen[id(value)] = len(self.objects) - 1, value
        return self.seen[id(value)][0]


class Decoder:
    """Reads what an `Encoder` wrote; anything else is an error of whatever kind.

    Parameters
    ----------
    classes : dict of str to type
        The building blocks.
    objects : list of dict
    arrays : dict of str to ndarray
    """

    def __init__(self, classes, objects, arrays):
        self.classes = classes
        self.arrays = arrays
        # A prior of many parts has as many entries in its arrays: no small file makes a huge one.
        self.largest = max(10_000, sum(array.size for array in arrays.values()))
        self.objects = []
        for entry in objects:
            self.objects.append(self._object(entry))

    def decode(self, value):
        """Return the value that JSON stands for."""
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        value = dict(value)
        return getattr(self, f"_{_TYPES[value.pop('type')]}")(**value)

    def _float(self, value):
        return float(value)

    def _tuple(self, items):
        return tuple(self.decode(items))

    def _dict(self, items):
        return {self.decode(key): self.decode(item) for key, item in items}

    def _scalar(self, dtype, value):
        if dtype not in _DTYPES:
            raise ValueError(f"{dtype!r} is no dtype of a scalar")
        return np.dtype(dtype).type(self.decode(value))

    def _array(self, name):
        return np.array(self.arrays[name])

    def _items(self, dtype, shape, items):
        array = np.empty(len(items), dtype=object)
        array[:] = self.decode(items)
        return array.reshape(shape).astype({"object": object, "str": str}[dtype])

    def _tensor(self, array):
        return torch.from_numpy(self.decode(array))

    def _random_state(self, state):
        random_state = np.random.RandomState(0)
        random_state.set_state(self.decode(state))
        return random_state

    def _reference(self, index):
        if not 0 <= index < len(self.objects):
            raise IndexError(f"there is no object {index}")
        return self.objects[index]

    def _object(self, entry):
        cls = self.classes[entry["class"]]
        arguments = {key: self.decode(value) for key, value in entry["arguments"].items()}
        # Only modules make arrays as large as their arguments say.
        sizes = arguments if issubclass(cls, nn.Module) else {}
        for key, value in sizes.items():
            if type(value) is int and value > self.largest:
                raise ValueError(f"{key}={value} is more than the file has entries")
        made = cls(**arguments)
        if isinstance(made, nn.Module):
            made.load_state_dict(self.decode(entry["tensors"]))
            for name in entry["fixed"]:
                made.get_parameter(name).requires_grad_(False)
        return made


_TYPES = {
    name: name for name in ("float", "tuple", "dict", "scalar", "array", "items", "tensor")
} | {"random_state": "random_state", "object": "reference"}
