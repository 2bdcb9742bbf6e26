"""How time and memory grow with the number of rows: synthetic rows of 50 features.

Every cell draws rows of a mixture of 20 Gaussians bent by a sine, in float32, as an array in memory
("array") or as a file of h5py, whose rows stay there ("hdf5"), and goes over them once, or as often
as makes 200,000 rows, in batches of 512; default arguments otherwise. *us a row* is the whole fit
divided by rows and epochs, *over input* the peak of resident memory above what was resident with
the rows, before the fit. ``transform`` is timed on 100,000 rows.

"memmap" is more than the memory that is allowed: a file of 1000 features that numpy maps, and a
process whose memory is limited to half of the file's size, everything included that it held before,
such as the libraries' own. What is limited (RLIMIT_DATA, on Linux only) is private memory: heap,
anonymous mappings and stacks of threads, but not what the system caches of the file. *peak* is the
most of it that was seen, every 10 ms, in fit and transform. Reading the whole file has to fail, or
the cell does. All rows are trained on once and transformed; with ``--quick`` only the first of the
same file, the rest of which is a hole. More threads take more memory: use one.

Run as::

    OMP_NUM_THREADS=1 python benchmarks/scale.py
"""

import contextlib
import math
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from _common import first_use_seconds, timed
from _harness import (
    MIB,
    benchmark_parser,
    data_mib,
    parse,
    peak_rss_mib,
    report,
    rss_mib,
    run_cells,
)

METHODS = ("array 10000", "array 100000", "array 1000000", "hdf5 1000000", "memmap 600000")
N_FEATURES, N_BLOCK, N_TRAINED, N_TRANSFORMED = 50, 10_000, 200_000, 100_000
# Features of the file that is larger than the memory allowed, and what a fit has to be left.
N_MAPPED_FEATURES, ROOM_MIB = 1000, 400
COLUMNS = {
    "fit_seconds": ("fit s", ".1f"),
    "us_a_row": ("us a row", ".1f"),
    "transform_us_a_row": ("transform us a row", ".2f"),
    "over_input_mib": ("over input MiB", ".0f"),
    "input_mib": ("input MiB", ".0f"),
    "allowed_mib": ("allowed MiB", ".0f"),
    "peak_data_mib": ("peak MiB", ".0f"),
}


def blocks(n_rows, n_features, seed):
    """Yield rows, a block at a time."""
    rng = np.random.default_rng(seed)
    centers, mixing = 3.0 * rng.normal(size=(20, 5)), rng.normal(size=(5, n_features))
    for start in range(0, n_rows, N_BLOCK):
        z = centers[rng.integers(20, size=min(N_BLOCK, n_rows - start))]
        z = z + rng.normal(size=z.shape)
        x = np.sin(z @ mixing / 4.0) + 0.1 * rng.normal(size=(len(z), n_features))
        yield start, x.astype(np.float32)


def fill(rows, n_rows, seed):
    """Write the rows into an array or a data set and return it."""
    for start, block in blocks(n_rows, rows.shape[1], seed):
        rows[start : start + len(block)] = block
    return rows


def cell(method, seed, settings):
    kind, n_all = method.split()
    n_all = int(n_all)
    n_rows = min(n_all, settings["n_most"])
    first_use_seconds("ddvae", None)
    if kind == "memmap":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.npy"
            shape = n_all, N_MAPPED_FEATURES
            file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            fill(file, n_rows, seed)
            del file
            return measure_limited(np.load(path, mmap_mode="r"), n_rows, seed)
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


def measure_limited(X, n_rows, seed):
    """Return the figures of one fit to the first rows of a mapped file, and its half as memory."""
    from skddvi import DDVAETransformer

    file_mib = X.nbytes / MIB
    allowed, before = file_mib / 2, data_mib()
    # OpenBLAS does not raise where it gets no memory, but asks again, for ever.
    if allowed - before < ROOM_MIB:
        raise RuntimeError(
            f"{before:.0f} MiB are in use of {allowed:.0f}, which leaves too little for a fit; "
            "OMP_NUM_THREADS=1 takes less"
        )
    model = DDVAETransformer(batch_size=512, max_iter=1, random_state=seed)
    with data_peak() as peak, data_limit(allowed):
        _, fit_seconds = timed(model.fit, X[:n_rows])
        _, transform_seconds = timed(model.transform, X[:n_rows])
        # Last, since malloc takes memory in another way from where it has failed once.
        try:
            np.array(X)
        except MemoryError:
            pass
        else:
            raise RuntimeError(f"{file_mib:.0f} MiB could be read where {allowed:.0f} are allowed")
    return {
        "fit_seconds": fit_seconds,
        "us_a_row": 1e6 * fit_seconds / n_rows,
        "transform_us_a_row": 1e6 * transform_seconds / n_rows,
        "input_mib": file_mib,
        "allowed_mib": allowed,
        "peak_data_mib": peak[0],
        "data_before_mib": before,
        "whole_read_failed": 1,
    }


@contextlib.contextmanager
def data_limit(mib):
    """Refuse this process more private memory than that, until the end of the block."""
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(mib * MIB), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextlib.contextmanager
def data_peak():
    """Give a list of one number, the most that `data_mib` is, until the end of the block."""
    seen, done = [data_mib()], threading.Event()

    def watch():
        while not done.wait(0.01):
            seen[:] = [max(seen[0], data_mib())]

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def main(argv=None):
    parser = benchmark_parser(__doc__, methods=METHODS, seeds=3)
    args = parse(parser, "scale", argv)
    if sys.platform != "linux" and "memmap 600000" in args.methods:
        print("memmap left out: memory can be limited on Linux only", file=sys.stderr)
        args.methods.remove("memmap 600000")
    settings = {"n_most": 2000 if args.quick else 10**9, "max_iter": args.max_iter}
    cells = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    record = run_cells(cell, cells, settings, args.out)
    return report(record, COLUMNS, args.methods)


if __name__ == "__main__":
    sys.exit(main())
