"""Run a function per method and seed, keep what is done in a JSON file, print a table.

A benchmark is a function ``cell(method, seed, settings)`` that returns a dict of numbers, and a
list of (method, seed) pairs. `run_cells` calls it for every pair that the file does not hold yet,
each in a fresh process, so that the peak memory belongs to that cell alone and no cell profits
from what another has compiled or cached. The file is replaced as a whole after each cell, so a run
that is stopped goes on where it was.

Threads: set ``OMP_NUM_THREADS`` (and ``OMP_WAIT_POLICY=PASSIVE`` on a machine that does other work
too) before the start; the file records both, and the load average next to every cell.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import json
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("numpy", "scipy", "torch", "scikit-learn", "umap-learn", "numba")
MIB = 2**20


# ------------------------------------------------------------------------------------------------
# The shell


def benchmark_parser(description, *, methods=(), seeds=5, data=None, data_required=True):
    """Return an argument parser with the options that every benchmark has.

    `data` is the help of --data; None for a benchmark that needs no file. Without `methods` there
    is no --methods.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if data is not None:
        parser.add_argument(
            "--data", required=data_required, type=_existing_file, metavar="PATH", help=data
        )
    parser.add_argument(
        "--seeds", type=int, default=None, metavar="N", help=f"seeds 0..N-1 (default: {seeds})"
    )
    parser.add_argument(
        "--out", type=Path, metavar="JSON", help="results (default: results/<benchmark>.json)"
    )
    if methods:
        parser.add_argument(
            "--methods",
            metavar="LIST",
            help=f"some of {','.join(methods)} (default: all that are installed)",
        )
    parser.add_argument("--max-iter", type=int, metavar="N", help="max_iter of the DD-VAE")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, little data, few epochs: does it run?"
    )
    parser.set_defaults(all_methods=tuple(methods), default_seeds=seeds)
    return parser


def parse(parser, name, argv=None):
    """Parse the command line and fill in what depends on other options."""
    args = parser.parse_args(argv)
    if args.seeds is None:
        args.seeds = 1 if args.quick else args.default_seeds
    if args.seeds < 1:
        parser.error(f"--seeds: found {args.seeds}, expected a number >= 1")
    if args.max_iter is None and args.quick:
        args.max_iter = 2
    if args.out is None:
        args.out = Path("results") / f"{name}{'_quick' if args.quick else ''}.json"
    if args.all_methods:
        args.methods = parse_list(parser, "--methods", args.methods, args.all_methods)
        if "umap" in args.methods and find_spec("umap") is None:
            print("UMAP left out: pip install umap-learn", file=sys.stderr)
            args.methods.remove("umap")
    return args


def parse_list(parser, option, text, known):
    """Return the names in a comma-separated option; all that are known for None."""
    if text is None:
        return list(known)
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"{option}: found {unknown[0]!r}, expected some of {','.join(known)}")
    return names


def _existing_file(text):
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"no file {text!r}")
    return str(Path(text).resolve())


# ------------------------------------------------------------------------------------------------
# Cells


def run_cells(function, cells, settings, out, *, isolate=True, log=None):
    """Run what is missing, and return every cell of the file.

    Parameters
    ----------
    function : callable
        ``function(method, seed, settings) -> dict`` of finite numbers (or None); defined at the
        top level of a module when `isolate` is true. A cell that raises, or returns NaN, is
        recorded as an error and tried again by the next run.
    cells : list of (str, int)
        Method and seed.
    settings : dict
        Whatever changes the figures, such as sizes; JSON types. Of a path ``data`` the file keeps
        the last part. A file with other settings is an error, never mixed in.
    out : path-like
        The JSON file; its folder is made.
    isolate : bool, default=True
        Each cell in a fresh process; else in this one, without peak memory.
    log : callable, default=print to standard error
        Gets one line per cell.

    Returns
    -------
    dict
        The content of the file.

    Raises
    ------
    ValueError
        If the file belongs to other settings.
    """
    log = log or (lambda line: print(line, file=sys.stderr, flush=True))
    out = Path(out)
    record = _load_record(out, settings)
    for number, (method, seed) in enumerate(cells, start=1):
        key = f"{method}/{seed}"
        where = f"[{number}/{len(cells)}] {key}"
        if "values" in record["cells"].get(key, {}):
            log(f"{where}: done before")
            continue
        entry = {"method": method, "seed": seed, **_conditions()}
        start = time.perf_counter()
        try:
            returned = _call(function, method, seed, settings, isolate)
            entry.update(returned, values=_finite(returned["values"]))
            outcome = ""
        except Exception as error:
            entry["error"] = "".join(traceback.format_exception_only(error)).strip()
            outcome = f": FAILED: {entry['error'].splitlines()[0]}"
        entry["cell_seconds"] = time.perf_counter() - start
        record["cells"][key] = entry
        record["versions"] = _versions()
        write_json(record, out)
        log(f"{where}: {entry['cell_seconds']:.1f} s{outcome}")
    return record


def _finite(values):
    for name, value in values.items():
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} is {value}; expected a finite number")
    return {name: None if value is None else float(value) for name, value in values.items()}


def _load_record(out, settings):
    settings = json.loads(json.dumps(settings))  # as it would come back from the file
    if settings.get("data") is not None:
        settings["data"] = Path(settings["data"]).name  # where it lies is the machine's business
    if not out.exists():
        return {"settings": settings, "machine": _machine(), "versions": {}, "cells": {}}
    record = json.loads(out.read_text(encoding="utf-8"))
    if record["settings"] != settings:
        changed = sorted(
            key
            for key in record["settings"].keys() | settings.keys()
            if record["settings"].get(key) != settings.get(key)
        )
        there, here = ({key: s.get(key) for key in changed} for s in (record["settings"], settings))
        raise ValueError(
            f"{out} holds results for {there}, now asked for {here}; name another --out"
        )
    return record


def _call(function, method, seed, settings, isolate):
    if not isolate:
        return {"values": function(method, seed, settings)}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_isolated, function, method, seed, settings).result()


def _isolated(function, method, seed, settings):
    values = function(method, seed, settings)
    torch, skddvi = sys.modules.get("torch"), sys.modules.get("skddvi")
    return {
        "values": {**values, "peak_rss_mib": peak_rss_mib()},
        "torch_threads": None if torch is None else torch.get_num_threads(),
        "skddvi": None if skddvi is None else skddvi.__version__,
    }


def peak_rss_mib():
    """Greatest resident memory of this process so far, in MiB.

    Linux counts ``ru_maxrss`` over fork and exec, so a child would start with its parent's peak;
    VmHWM starts anew.
    """
    peak = _status_mib("VmHWM")
    if peak is not None:
        return peak
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def rss_mib():
    """Resident memory of this process now, in MiB; None where it cannot be read."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB
    return None


def data_mib():
    """Private writable memory of this process now, in MiB; None where it cannot be read.

    It is what Linux holds against RLIMIT_DATA: heap, anonymous mappings and stacks of threads,
    touched or not, but no file that is mapped for reading.
    """
    return _status_mib("VmData")


def _status_mib(name):
    """Return a size that Linux tells of this process, in MiB; None elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return None


def write_json(record, path):
    """Write a file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1, allow_nan=False)
            file.write("\n")
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _conditions():
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_average": load,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }


def _machine():
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
    }


def _versions():
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


# ------------------------------------------------------------------------------------------------
# The table


def aggregate(record):
    """Mean and standard deviation over seeds.

    Returns
    -------
    dict
        ``{method: {name: (mean, sd, n)}}`` in the order of the cells; sd (n - 1 in the
        denominator) is None for one seed. None values and failed cells are left out.
    """
    values = {}
    for entry in record["cells"].values():
        per_name = values.setdefault(entry["method"], {})
        for name, value in entry.get("values", {}).items():
            if value is not None:
                per_name.setdefault(name, []).append(float(value))
    return {
        method: {name: _mean_sd(numbers) for name, numbers in per_name.items()}
        for method, per_name in values.items()
    }


def _mean_sd(numbers):
    n = len(numbers)
    mean = math.fsum(numbers) / n
    if n == 1:
        return mean, None, n
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (n - 1)), n


def format_table(record, columns, methods=None):
    """Return a plain-text table, one method a row, mean ± sd over seeds in each cell.

    Parameters
    ----------
    record : dict
        As `run_cells` returns it.
    columns : dict of str to (str, str)
        Name of a value to its header and its format.
    methods : sequence of str or None, default=None
        Rows, in this order; None: all that the record holds.
    """
    means = aggregate(record)
    rows = [["method", "seeds", *(header for header, _ in columns.values())]]
    for method in methods or means:
        per_name = means.get(method, {})
        seeds = max((n for _, _, n in per_name.values()), default=0)
        cells = [_mean_cell(per_name.get(name), spec) for name, (_, spec) in columns.items()]
        rows.append([method, str(seeds), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *rest = (
            cell.rjust(width) if j else cell.ljust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]))
    return "\n".join(lines)


def _mean_cell(statistics, spec):
    if statistics is None:
        return "-"
    mean, sd, _ = statistics
    return f"{mean:{spec}}" if sd is None else f"{mean:{spec}} ± {sd:{spec}}"


def report(record, columns, methods=None):
    """Print the table and the failures; return the exit status of the benchmark."""
    print(format_table(record, columns, methods))
    failed = [entry for entry in record["cells"].values() if "error" in entry]
    for entry in failed:
        print(f"{entry['method']}/{entry['seed']} failed: {entry['error']}", file=sys.stderr)
    return 1 if failed else 0
