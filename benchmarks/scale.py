"""How time and memory grow with the number of rows: synthetic rows of 50 features.

Every cell draws rows of a mixture of 20 Gaussians bent by a sine, in float32, as an array in memory
("array") or as a file of h5py, whose rows stay there ("hdf5"), and goes over them once, or as often
as makes 200,000 rows, in batches of 512; default arguments otherwise. *us a row* is the whole fit
divided by rows and epochs, *over input* the peak of resident memory above what was resident with
the rows, before the fit. ``transform`` is timed on 100,000 rows.

Run as::

    OMP_NUM_THREADS=1 python benchmarks/scale.py
"""

import math
import sys
import tempfile
from pathlib import Path

import numpy as np
from _common import first_use_seconds, timed
from _harness import benchmark_parser, parse, peak_rss_mib, report, rss_mib, run_cells

METHODS = ("array 10000", "array 100000", "array 1000000", "hdf5 1000000")
N_FEATURES, N_BLOCK, N_TRAINED, N_TRANSFORMED = 50, 10_000, 200_000, 100_000
COLUMNS = {
    "fit_seconds": ("fit s", ".1f"),
    "us_a_row": ("us a row", ".1f"),
    "transform_us_a_row": ("transform us a row", ".2f"),
    "over_input_mib": ("over input MiB", ".0f"),
    "input_mib": ("input MiB", ".0f"),
}


def blocks(n_rows, seed):
    """Yield rows, a block at a time."""
    rng = np.random.default_rng(seed)
    centers, mixing = 3.0 * rng.normal(size=(20, 5)), rng.normal(size=(5, N_FEATURES))
    for start in range(0, n_rows, N_BLOCK):
        z = centers[rng.integers(20, size=min(N_BLOCK, n_rows - start))]
        z = z + rng.normal(size=z.shape)
        x = np.sin(z @ mixing / 4.0) + 0.1 * rng.normal(size=(len(z), N_FEATURES))
        yield start, x.astype(np.float32)


def fill(rows, n_rows, seed):
    """Write the rows into an array or a data set and return it."""
    for start, block in blocks(n_rows, seed):
        rows[start : start + len(block)] = block
    return rows


def cell(method, seed, settings):
    kind, n_rows = method.split()
    n_rows = min(int(n_rows), settings["n_most"])
    first_use_seconds("ddvae", None)
    shape = n_rows, N_FEATURES
    if kind == "array":
        return measure(fill(np.empty(shape, dtype=np.float32), n_rows, seed), seed, settings)
    import h5py

    with tempfile.TemporaryDirectory() as folder, h5py.File(Path(folder) / "rows.h5", "w") as file:
        X = file.create_dataset("X", shape, dtype="float32", chunks=(1000, N_FEATURES))
        return measure(fill(X, n_rows, seed), seed, settings)


def measure(X, seed, settings):
    """Return the figures of one fit."""
    from skddvi import DDVAETransformer

    n_rows = X.shape[0]
    epochs = settings["max_iter"] or math.ceil(N_TRAINED / n_rows)
    model = DDVAETransformer(batch_size=512, max_iter=epochs, random_state=seed)
    before = rss_mib()
    _, fit_seconds = timed(model.fit, X)
    over_input = peak_rss_mib() - before
    few = X[:N_TRANSFORMED]
    _, transform_seconds = timed(model.transform, few)
    return {
        "fit_seconds": fit_seconds,
        "us_a_row": 1e6 * fit_seconds / (n_rows * epochs),
        "transform_us_a_row": 1e6 * transform_seconds / len(few),
        "over_input_mib": over_input,
        "input_mib": 4 * n_rows * N_FEATURES / 2**20,
    }


def main(argv=None):
    parser = benchmark_parser(__doc__, methods=METHODS, seeds=3)
    args = parse(parser, "scale", argv)
    settings = {"n_most": 2000 if args.quick else 10**9, "max_iter": args.max_iter}
    cells = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    record = run_cells(cell, cells, settings, args.out)
    return report(record, COLUMNS, args.methods)


if __name__ == "__main__":
    sys.exit(main())
