"""What goes wrong around a model: memory, divergence, disks, threads, processes, damaged files."""

import hashlib
import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from _models import ASK, ESTIMATORS, X, fit, small, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import skddvi
from skddvi._engine.rows import Rows
from skddvi._engine.trainer import Loop

ROOT = Path(__file__).parents[2]


# ------------------------------------------------------------------------------ memory


EXHAUSTION = [
    MemoryError(),
    MemoryError("Unable to allocate 8.00 GiB for an array with shape (1073741824,)"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes."),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB."),
]


@pytest.mark.parametrize("error", EXHAUSTION, ids=lambda error: f"{type(error).__name__} {error}")
def test_ask_memory_that_runs_out_is_told_with_sizes_and_a_remedy(each, error, monkeypatch):
    def exhausted(rows, indices):
        raise error

    model = type(each)(**each.get_params())
    monkeypatch.setattr(Rows, "batch", exhausted)
    with pytest.raises(
        MemoryError, match=r"while training on X of shape \(80, 6\), .* MiB"
    ) as told:
        fit(model, X)
    assert "lower batch_size, hidden_layer_sizes" in str(told.value)
    assert str(error) in str(told.value)
    assert not hasattr(model, "_engine")
    asks = {**ASK, "inverse_transform": lambda model, rows: model.inverse_transform(rows[:, :2])}
    if hasattr(each, "classes_"):
        del asks["score"]  # wants labels
    for ask in asks.values():
        with pytest.raises(MemoryError, match=r"with X of shape \(5, \d\).*fewer rows at a time"):
            ask(each, X[:5])


def test_ask_memory_other_errors_are_passed_on_as_they_are(fitted, monkeypatch):
    error = RuntimeError("another trouble")

    def broken(rows, indices):
        raise error

    monkeypatch.setattr(Rows, "batch", broken)
    for ask in (fitted.transform, small().fit):
        with pytest.raises(RuntimeError, match=r"^another trouble$") as caught:
            ask(X)
        assert caught.value is error


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize(
    "name", ["n_components", "hidden_layer_sizes", "denoiser_width", "n_diffusion_steps"]
)
def test_ask_memory_of_models_that_no_machine_holds(kind, name):
    with pytest.raises(MemoryError, match=f"while training on X of .*lower .*{name}"):
        fit(tiny(kind, **{name: 2**62}), X)


def test_ask_memory_of_draws_that_no_machine_holds(each):
    for ask in (
        lambda n: each.sample(n),
        lambda n: each.sample_posterior(X, n),
        lambda n: each.score_samples(X, n),
    ):
        with pytest.raises(MemoryError, match=r"Memory ran out while .* (fewer|lower)"):
            ask(2**60)


# ------------------------------------------------------------------------------ divergence


@settings(max_examples=9, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(ESTIMATORS)),
    step=st.integers(0, 11),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_ask_no_nan_after_a_divergence_at_any_step(kind, step, value):
    n_steps = [0]
    own = {"pretraining": 0.0} if kind == "clusterer" else {}
    model = tiny(kind, batch_size=20, max_iter=3, **own)  # four steps an epoch
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for cls in {Loop, *Loop.__subclasses__()}:
            patch.setattr(cls, "losses", _counted(cls.losses, n_steps, step, value))
        fit(model, X)
    told = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert len(told) == 1
    assert f"was not finite in epoch {step // 4 + 1}" in told[0]
    assert model.n_iter_ == 3
    assert all(np.isfinite(values).all() for values in model.history_.values())
    for result in (model.transform(X), model.score_samples(X), model.sample(3, random_state=0)):
        assert np.isfinite(result).all()


def _counted(losses, n_steps, step, value):
    """Return the method with one of its losses spoilt."""

    def spoilt(loop, *args):
        loss, figures, z = losses(loop, *args)
        n_steps[0] += 1
        return (loss * value if n_steps[0] == step + 1 else loss), figures, z

    return spoilt


# ------------------------------------------------------------------------------ disks


def test_promise_14_a_working_directory_that_cannot_be_written(each, tmp_path, monkeypatch):
    tmp_path.chmod(0o555)
    folder = tmp_path
    if os.access(folder, os.W_OK):  # the superuser may write everywhere but where nothing can be
        folder = Path("/proc")
        if not folder.is_dir():
            pytest.skip("every folder can be written here")
    monkeypatch.chdir(folder)
    model = fit(type(each)(**each.get_params()), X)
    np.testing.assert_array_equal(model.transform(X), each.transform(X))
    with pytest.raises(OSError):
        skddvi.save(model, "model.safetensors")


# ------------------------------------------------------------------------------ threads, processes


def test_ask_seeds_hold_for_fits_in_threads():
    kinds = [*ESTIMATORS, "transformer"]

    def results(kind):
        model = fit(small(kind, early_stopping=True), X)
        return model.transform(X), model.score_samples(X), model.sample(3, random_state=0)

    alone = [results(kind) for kind in kinds]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(results, kinds))
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def digest():
    """Return a checksum of what fits of every kind give."""
    checksum = hashlib.sha256()
    for kind in ESTIMATORS:
        model = fit(small(kind, early_stopping=True), X)
        for result in (model.transform(X), model.score_samples(X), model.sample(3, random_state=0)):
            checksum.update(result.tobytes())
    return checksum.hexdigest()


@pytest.mark.slow
def test_ask_seeds_hold_in_a_process_of_another_hash_seed():
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    code = "import test_attack; print(test_attack.digest())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    assert found.stdout.strip() == digest()


# ------------------------------------------------------------------------------ damaged files


@pytest.fixture(scope="module", params=["clusterer", "classifier"])
def saved(request, tmp_path_factory):
    """Return the file of a small model; that of a transformer is in test_persistence.py."""
    path = tmp_path_factory.mktemp("saved") / "model"
    skddvi.save(fit(tiny(request.param), X), path)
    return path


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_ask_saved_models_of_every_kind_that_are_damaged(saved, data):
    content = bytearray(saved.read_bytes())
    cut = data.draw(st.integers(0, len(content)), label="cut")
    place = data.draw(st.integers(0, cut), label="place")
    content = content[:cut]
    if place < cut:
        content[place] ^= data.draw(st.integers(1, 255), label="flip")
    damaged = saved.with_name("damaged")
    damaged.write_bytes(content)
    if bytes(content) == saved.read_bytes():
        return
    with pytest.raises(ValueError, match=r"is not a model saved|cut off or altered") as caught:
        skddvi.load(damaged)
    assert str(damaged) in str(caught.value)


ODD = [None, True, 0, -1, 3, 10**12, 2**70, 0.5, "", "x", [], {}, [[]], {"type": "array"}]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(data=st.data())
def test_ask_saved_models_of_every_kind_with_an_edited_header(saved, data):
    """With a checksum that is right again: an error that names the file, or a model that works."""
    with safetensors.safe_open(saved, framework="numpy") as file:
        header = json.loads(file.metadata()["skddvi"].partition(" ")[2])
    place = header
    key = data.draw(st.sampled_from(sorted(header)))
    while data.draw(st.booleans()) and isinstance(place[key], dict | list) and place[key]:
        place = place[key]
        key = data.draw(
            st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))
        )
    place[key] = data.draw(st.sampled_from(ODD))
    text = f"sha256:{'0' * 64} {json.dumps(header)}"
    content = safetensors.numpy.save(safetensors.numpy.load_file(saved), metadata={"skddvi": text})
    edited = saved.with_name("edited")
    digest = hashlib.sha256(content).hexdigest().encode()
    edited.write_bytes(content.replace(b"0" * 64, digest, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a device that is not there
        try:
            model = skddvi.load(edited)
        except ValueError as error:
            assert str(edited) in str(error)
            return
    assert type(model) in (cls for cls, _ in ESTIMATORS.values())
