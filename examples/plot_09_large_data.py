"""
====================
Data larger than RAM
====================

Training reads one batch of rows at a time, so rows may stay in a file that numpy maps into
memory, or in a sparse matrix. This page shows both, measures what is held in memory, and says
what is *not* supported.
"""

# %%
# A memory-mapped file
# --------------------
#
# A file of float32 values in C order, written a block at a time. A real one would be larger than
# this.

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from scipy import sparse

from skddvi import DDVAETransformer

N_ROWS, N_FEATURES, BLOCK = 30_000, 400, 5_000
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "rows.npy"
rng = np.random.default_rng(0)
mixing = rng.normal(size=(5, N_FEATURES))
file = open_memmap(path, mode="w+", dtype=np.float32, shape=(N_ROWS, N_FEATURES))
for start in range(0, N_ROWS, BLOCK):
    block = np.tanh(rng.normal(size=(BLOCK, 5)) @ mixing)
    file[start : start + BLOCK] = block + rng.normal(0, 0.3, block.shape)
file.flush()
del file

# %%
# ``mode="r"`` maps the file without reading it. The held-out rows are given as ``X_val``, a slice
# of the same file: with ``early_stopping=True`` and no ``X_val`` the estimator would split the
# rows itself, which copies them. Statistics of the rows are taken in blocks of a fixed size, so
# what is held does not grow with the file: with a third of the rows it is the same. (A batch and
# the networks are torch's, which is not counted here; they do not grow with the rows either.)


def fit_and_measure(model, X, **others):
    """Fit and return the largest memory that numpy held, in MiB."""
    tracemalloc.start()
    model.fit(X, **others)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held / 2**20


X = np.load(path, mmap_mode="r")
X_val = X[-BLOCK:]
model = DDVAETransformer(
    n_components=5, hidden_layer_sizes=(64,), batch_size=512, max_iter=1, random_state=0
)
for rows in (X[:8_000], X[:-BLOCK]):
    held = fit_and_measure(model, rows, X_val=X_val)
    print(f"rows of {rows.nbytes / 2**20:.0f} MiB, numpy held at most {held:.0f} MiB")
print(f"bound of held-out rows {model.validation_scores_[-1]:.1f} nats a row")

# %%
# ``transform`` also goes through the rows in chunks, and returns latents, which are small.
# ``inverse_transform`` and ``sample`` return whole rows: call them on as many as you have room
# for, and write them away.

latents = model.transform(X)
print("latents", latents.shape, latents.dtype)
decoded = open_memmap(
    Path(folder.name) / "decoded.npy", mode="w+", dtype=np.float32, shape=(N_ROWS, N_FEATURES)
)
for start in range(0, N_ROWS, BLOCK):
    decoded[start : start + BLOCK] = model.inverse_transform(latents[start : start + BLOCK])

# %%
# A sparse matrix
# ---------------
#
# Rows of a sparse matrix are made dense one batch at a time. CSR is read as it is; CSC, COO and
# others are converted to CSR, which holds both for a moment. Again what is held is the same for
# few rows and for many, some blocks of a fixed size. They are more than so small a matrix would
# be if it were dense; one of a million rows would take 4 GiB.

counts = sparse.random_array(
    (10_000, 1_000),
    density=0.02,
    format="csr",
    dtype=np.float32,
    rng=0,
    data_sampler=lambda size: rng.integers(1, 6, size).astype(np.float32),
)
model = DDVAETransformer(
    likelihood="poisson", hidden_layer_sizes=(32,), batch_size=256, max_iter=1, random_state=0
)
for rows in (counts[:4_000], counts):
    held = fit_and_measure(model, rows)
    dense = rows.shape[0] * rows.shape[1] * 4 / 2**20
    print(f"dense it would be {dense:.0f} MiB, numpy held at most {held:.0f} MiB")

# %%
# What is not supported
# ---------------------
#
# - There is no ``partial_fit``: ``fit`` needs all rows as one array or matrix, mapped or not.
#   ``warm_start=True`` and another ``fit`` go on with other rows, but the statistics that rows
#   are scaled by stay those of the first, and the learning rate goes through its rise and fall
#   again.
# - An array in memory of integers, booleans or float16 is converted to float64 as a whole, eight
#   bytes a value, and one in Fortran order is copied; a mapped file is read a block at a time.
# - A pandas or polars table is copied into one array.
# - :class:`~skddvi.DDVAEClusterer` takes no sparse matrix. While it fits it holds the latents of
#   all training rows, and the graph of their neighbours.
# - :class:`~skddvi.regularizers.NeighborhoodPreservation` searches the neighbours of all rows.
# - A scaler before the estimator in a pipeline returns a copy of the rows. It is not needed: the
#   likelihoods scale inside.
# - Rows of a mapped file of float32 or float64 are gathered one by one and at random, so a file on
#   a slow disk that does not fit into the system's cache is slow to train on. Rows in HDF5 or Zarr
#   are read by blocks (:ref:`ecosystem-stores`).

del X, X_val, rows, decoded
folder.cleanup()
