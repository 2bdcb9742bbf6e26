"""Fixtures for every test."""

import os
import random

# Two processes run the tests: each with one thread, or threads of both wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import sklearn.linear_model  # noqa: F401 - its first import, not ours, draws from `random`
import torch


def _global_state():
    """Return {name: value} of the process-wide settings that skddvi must leave alone."""
    return {
        "torch default dtype": torch.get_default_dtype(),
        "torch default device": str(torch.get_default_device()),
        "torch number of threads": torch.get_num_threads(),
        "torch number of inter-op threads": torch.get_num_interop_threads(),
        "torch random state": torch.get_rng_state().numpy().tobytes(),
        "torch deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch deterministic algorithms, warn only": (
            torch.is_deterministic_algorithms_warn_only_enabled()
        ),
        "torch cudnn.deterministic": torch.backends.cudnn.deterministic,
        "torch cudnn.benchmark": torch.backends.cudnn.benchmark,
        "torch float32 matmul precision": torch.get_float32_matmul_precision(),
        "torch gradient mode": torch.is_grad_enabled(),
        "torch anomaly mode": torch.is_anomaly_enabled(),
        "numpy random state": repr(_numpy_random_state()),
        "numpy floating-point errors": np.geterr(),
        "random state": random.getstate(),
    }


def _numpy_random_state():
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global state is the subject
    return name, keys.tobytes(), *rest


@pytest.fixture(autouse=True)
def no_change_of_global_state():
    """Fail a test that leaves torch's, numpy's or Python's global state other than it found it."""
    before = _global_state()
    # Kept as objects too, so that one leaking test does not make all later ones depend on it.
    torch_rng, numpy_rng = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    yield
    after = _global_state()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        torch.set_default_dtype(before["torch default dtype"])
        torch.set_num_threads(before["torch number of threads"])
        torch.set_rng_state(torch_rng)
        torch.use_deterministic_algorithms(
            before["torch deterministic algorithms"],
            warn_only=before["torch deterministic algorithms, warn only"],
        )
        torch.set_grad_enabled(before["torch gradient mode"])
        np.random.set_state(numpy_rng)  # noqa: NPY002
        random.setstate(before["random state"])
        np.seterr(**before["numpy floating-point errors"])
        pytest.fail("the test changed global state: " + ", ".join(changed))
