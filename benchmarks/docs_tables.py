"""Write the tables of the documentation's benchmark page from the results of the benchmarks.

Every ``results/<benchmark>.json`` beside this script becomes ``doc/tables/<benchmark>.txt``: the
table that the benchmark printed, and what it ran on. A file is of the benchmark whose name its own
begins with. Run as::

    python benchmarks/docs_tables.py

``--check`` writes nothing and exits with status 1 where a table is not that of its results.
"""

import argparse
import importlib
import json
import sys
import textwrap
from pathlib import Path

from _harness import format_table

HERE = Path(__file__).parent
RESULTS, TABLES = HERE / "results", HERE.parent / "doc" / "tables"
LINE_WIDTH = 165  # of what fits the page


def table(path):
    """Return the text for the results in a JSON file, named as the script that wrote it."""
    record = json.loads(path.read_text(encoding="utf-8"))
    benchmark = max(
        (script.stem for script in HERE.glob("*.py") if path.stem.startswith(script.stem)), key=len
    )
    columns = importlib.import_module(benchmark).COLUMNS
    entries = list(record["cells"].values())
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    dates = sorted({entry["date"][:10] for entry in entries})
    loads = sorted(entry["load_average"] for entry in entries)
    threads = sorted({str(entry["omp_num_threads"]) for entry in entries})
    settings = ", ".join(
        f"{name}={value}"
        for name, value in record["settings"].items()
        if name != "data" and value not in (None, {})
    )
    several = len({entry["seed"] for entry in entries}) > 1
    shown = "mean ± standard deviation over seeds" if several else "one seed"
    return "\n".join(
        [
            format_table(record, columns),
            "",
            textwrap.fill(f"{shown}; {settings}" if settings else shown, LINE_WIDTH),
            f"{record['machine']['machine']}, {record['machine']['cpu_count']} cores, "
            f"OMP_NUM_THREADS={' and '.join(threads)}, load average {loads[0]:.1f} to "
            f"{loads[-1]:.1f} when cells began, {', '.join(dates)}",
            versions,
            "",
        ]
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args(argv)
    stale = []
    for path in sorted(RESULTS.glob("*.json")):
        target, text = TABLES / f"{path.stem}.txt", table(path)
        if not args.check:
            target.parent.mkdir(exist_ok=True)
            target.write_text(text, encoding="utf-8")
        elif not target.is_file() or target.read_text(encoding="utf-8") != text:
            stale.append(str(target))
    if stale:
        print(f"not the tables of the results: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
