"""Rows that stay in a store: h5py, Zarr, Dask and files of integers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from scipy import sparse

import skddvi
from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer
from skddvi._engine import stored
from skddvi._engine.engine import CHUNK_ROWS
from skddvi._engine.stored import StoredRows, is_stored

X = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
SMALL = {"hidden_layer_sizes": (16,), "n_diffusion_steps": 2, "denoiser_width": 8, "max_iter": 3}


class Store:
    """What h5py and Zarr have in common, and a record of what was asked of it."""

    def __init__(self, X, chunks=(50, 4)):
        self.X, self.shape, self.dtype, self.chunks = X, X.shape, X.dtype, chunks
        self.asked = []

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        assert rows.step is None
        part = self.X[rows]
        self.asked.append(len(part))
        return part


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of ten rows, two of which are mixed."""
    monkeypatch.setattr(stored, "BLOCK_BYTES", 10 * X.itemsize * X.shape[1])
    monkeypatch.setattr(stored, "N_MIXED_BLOCKS", 2)
    monkeypatch.setattr(stored, "N_KEPT_BLOCKS", 4)


def in_h5py(X, folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "rows.h5", "w") as file:
        file.create_dataset("X", data=X, chunks=(50, X.shape[1]))
    return h5py.File(folder / "rows.h5")["X"]


def in_zarr(X, folder):
    zarr = pytest.importorskip("zarr")
    return zarr.create_array(store=folder / "rows.zarr", data=X, chunks=(50, X.shape[1]))


def in_dask(X, folder):
    return pytest.importorskip("dask.array").from_array(X, chunks=(50, X.shape[1]))


def in_a_mapped_file(X, folder):
    np.save(folder / "rows.npy", X)
    return np.load(folder / "rows.npy", mmap_mode="r")


# ------------------------------------------------------------------------------ the rows


@pytest.mark.parametrize("index", [None, np.array([3, 4, 5, 77, 150, 151, 299])])
def test_rows_are_those_of_the_store(small_blocks, index):
    rows, expected = StoredRows(Store(X), index), X if index is None else X[index]
    assert rows.shape == expected.shape
    assert len(rows) == len(expected)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[:], expected)
    np.testing.assert_array_equal(rows[2:5], expected[2:5])
    np.testing.assert_array_equal(np.asarray(rows), expected)
    np.testing.assert_array_equal(np.concatenate(list(rows.blocks())), expected)
    positions = np.array([5, 0, 5, 3])
    np.testing.assert_array_equal(rows.take(positions), expected[positions])
    np.testing.assert_array_equal(rows.subset(np.array([4, 1]))[:], expected[[1, 4]])


@pytest.mark.parametrize("index", [None, np.flatnonzero(np.arange(300) % 7)])
def test_each_row_comes_once_and_each_block_is_read_once_an_epoch(small_blocks, index):
    store = Store(X)
    rows = StoredRows(store, index)
    generator = torch.Generator().manual_seed(0)
    first, second = rows.order(generator), rows.order(generator)
    assert not torch.equal(first, second)
    for order in (first, second):
        torch.testing.assert_close(order.sort().values, torch.arange(len(rows)))
        store.asked.clear()
        for batch in order.split(8):
            rows.take(batch.numpy())
        assert len(store.asked) <= 30
    # Rows are mixed with those of another block, and not only within their own.
    numbers = (first if index is None else torch.from_numpy(index)[first])[:16] // 10
    assert len(set(numbers.tolist())) == 2


def test_no_more_blocks_are_kept_than_said(small_blocks):
    rows = StoredRows(Store(X))
    rows.take(np.arange(300))
    assert sum(len(block) for block in rows._blocks.values()) == 40


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float64"])
def test_other_dtypes_become_float64(dtype):
    rows = StoredRows(Store((10 * np.abs(X)).astype(dtype)))
    assert rows.dtype == rows[:2].dtype == rows.take([0]).dtype == np.float64


# ------------------------------------------------------------------------------ the estimators


@pytest.mark.parametrize("where", [in_h5py, in_zarr, in_dask, in_a_mapped_file])
def test_what_is_stored(where, tmp_path):
    counts = np.random.default_rng(0).poisson(3.0, size=(120, 4))
    store = where(counts, tmp_path)
    assert is_stored(store)
    model = DDVAETransformer(likelihood="poisson", random_state=0, **SMALL).fit(store)
    assert model.n_features_in_ == 4
    for method in ("transform", "score_samples"):
        ours, expected = (getattr(model, method)(rows) for rows in (store, counts))
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
    # One mixture of blocks holds all of so few rows: the same fit, but for their order.
    assert model.score(counts) == pytest.approx(
        DDVAETransformer(likelihood="poisson", random_state=0, **SMALL).fit(counts).score(counts),
        abs=0.2,
    )


def test_what_is_not():
    pandas = pytest.importorskip("pandas")
    rows = X, X.tolist(), torch.tensor(X), sparse.csr_matrix(X), pandas.DataFrame(X)
    assert not any(is_stored(each) for each in rows)


def test_a_float_file_is_mapped_as_before(tmp_path):
    assert not is_stored(in_a_mapped_file(X, tmp_path))


def test_what_joblib_maps_for_its_workers_is_the_users_array():
    rows = np.asfortranarray(X)
    calls = [delayed(type)(rows), delayed(is_stored)(rows)] * 2
    assert Parallel(n_jobs=2, max_nbytes=1)(calls) == [np.memmap, False] * 2


def test_a_file_in_fortran_order_is_read_by_blocks(small_blocks, tmp_path):
    mapped = in_a_mapped_file(np.asfortranarray(X), tmp_path)
    assert is_stored(mapped)
    model = DDVAETransformer(random_state=0, batch_size=64, **SMALL).fit(mapped)
    np.testing.assert_allclose(model.transform(mapped), model.transform(X), rtol=0, atol=1e-6)


# What is private and writable is limited, not the pages of a file that is mapped for reading. The
# first fit, of some rows, leaves loaded what every fit takes however few its rows are.
UNDER_A_LIMIT = """
import resource
import sys
import numpy as np
from skddvi import DDVAETransformer

X = np.load(sys.argv[1], mmap_mode="r")
options = {"hidden_layer_sizes": 16, "n_diffusion_steps": 2, "denoiser_width": 8, "max_iter": 1}
model = DDVAETransformer(batch_size=4096, random_state=0, **options)
model.fit(np.array(X[:10_000])).transform(X[:10_000])
with open("/proc/self/status") as file:
    used = next(int(line.split()[1]) for line in file if line.startswith("VmData:"))
limit = 1024 * used + X.nbytes // 2
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(model.fit(X).transform(X).shape)
try:
    np.array(X)
except MemoryError:
    print("copy refused")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory cannot be limited so elsewhere")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_twice_the_memory_allowed_is_trained_on(dtype, tmp_path):
    n_bytes, n_features = 2**27, 256
    path = tmp_path / "rows.npy"
    shape = n_bytes // (np.dtype(dtype).itemsize * n_features), n_features
    file = np.lib.format.open_memmap(path, "w+", dtype, shape)
    rng = np.random.default_rng(0)
    for start in range(0, len(file), 2**12):
        file[start : start + 2**12] = rng.random((2**12, n_features), dtype=np.float32)
    del file
    root = str(Path(skddvi.__file__).parents[1])
    python_path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT, str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"({shape[0]}, 2)", "copy refused"]


@pytest.mark.parametrize("early_stopping", [False, True])
def test_all_rows_are_never_asked_for_at_once(small_blocks, monkeypatch, early_stopping):
    monkeypatch.setattr("skddvi.likelihoods._statistics._BLOCK_ENTRIES", 10 * X.shape[1])
    store = Store(np.tile(X, (17, 1)))
    model = DDVAETransformer(
        early_stopping=early_stopping, random_state=0, batch_size=256, **SMALL
    ).fit(store)
    assert max(store.asked) == 10
    model.transform(store)
    model.score(store)
    assert max(store.asked) <= CHUNK_ROWS < len(store.X)


def test_rows_are_held_out_and_a_seed_gives_the_same_bits(small_blocks):
    model = DDVAETransformer(early_stopping=True, random_state=0, **SMALL)
    one, two = (model.fit(Store(X)).transform(X) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert len(model.validation_scores_) == 3


def test_clusterer_keeps_the_rows_in_their_store():
    model = DDVAEClusterer(2, random_state=0, **SMALL)
    labels = model.fit_predict(Store(X))
    np.testing.assert_array_equal(labels, model.predict(X))


def test_classifier_reads_them(tmp_path):
    store = in_h5py(X, tmp_path)
    y = np.where(X[:, 0] > 0, 1, 0)
    model = DDVAEClassifier(random_state=0, **SMALL).fit(store, y)
    assert model.predict(store).shape == (300,)


def test_checkpoint_knows_the_rows(tmp_path):
    from skddvi._checkpoint import _rows_text

    assert _rows_text(StoredRows(Store(X))) == _rows_text(X)
    assert _rows_text(StoredRows(Store(X + 1))) != _rows_text(X)


@pytest.mark.parametrize(
    ("store", "message"),
    [
        (Store(X[:, 0], chunks=(50,)), "Expected 2D array, got 1D array"),
        (Store(X[:1]), r"1 sample\(s\)"),
        (Store(X.astype(str)), "dtype='numeric'|could not convert|numbers"),
        (Store(np.where(X[150, 1] == X, np.nan, X)), "found 1 NaN or inf values"),
    ],
)
def test_bad_rows_are_refused(store, message):
    with pytest.raises(ValueError, match=message):
        DDVAETransformer(**SMALL).fit(store)


def test_another_number_of_features_is_refused():
    model = DDVAETransformer(random_state=0, **SMALL).fit(Store(X))
    with pytest.raises(ValueError, match="3 features, but DDVAETransformer is expecting 4"):
        model.transform(Store(X[:, :3]))
