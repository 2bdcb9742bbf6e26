"""The one place where a device name becomes a device."""

from contextlib import contextmanager

import torch


def available_devices():
    """Return the names of the devices that a model can be put on here."""
    return ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]


def resolve_device(name):
    """Return the device of that name.

    Parameters
    ----------
    name : str
        "cpu", "cuda", "cuda:1", or "auto" for the first GPU or else the CPU.

    Returns
    -------
    device : torch.device

    Raises
    ------
    TypeError
        When it is no name.
    RuntimeError
        When the device is not there or has no float64, or CUDA is asked for in a forked process.
    """
    if not isinstance(name, str):
        raise TypeError(f"device must be the name of one, such as 'cpu', found {name!r}.")
    if name == "cpu":
        return torch.device("cpu")
    available = available_devices()
    if name == "auto":
        return torch.device(available[1] if len(available) > 1 else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    known = device is not None and (
        str(device) in available or (device.index is None and f"{device}:0" in available)
    )
    if not known:
        # Draws, and all that is asked of a model with float64 rows, are computed in float64.
        reason = "MPS has no float64. " if name.startswith("mps") else ""
        raise RuntimeError(
            f"device={name!r} is not available; the devices here are {', '.join(available)}. "
            f"{reason}Use device='cpu', or device='auto' for the best one there is."
        )
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise RuntimeError(
            f"device={name!r} cannot be used in a forked process; start workers with joblib's "
            "loky backend, or use device='cpu'."
        )
    return device


@contextmanager
def with_gradients():
    """Return a context, or decorator, that trains whatever the user has switched off.

    Tensors made in inference mode could never be trained.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


def has_fast_bfloat16(name):
    """Return whether the device of that name multiplies matrices of bfloat16 in hardware."""
    device = resolve_device(name)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
