"""Every benchmark with ``--quick``, one after another: do they all still run?

The tables printed are of few rows and epochs and say nothing of the methods. A benchmark that needs
a file is left out where ``--data`` has none of that name; ``posteriors.py``, ``reference.py`` and
``sensitivity.py`` always take the digits that come with scikit-learn. The exit status is 1 when any
fails. It takes the packages of the extras ``compare`` and ``ecosystem``. Run as::

    OMP_NUM_THREADS=1 python benchmarks/reduced.py
    ... --data folder/with/files
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
COMPONENTS, GENOTYPES = "pcs_1000g_phase3.npz", "genotypes_1000g_phase1.npz"
NEURONS, BLOOD = "single_cell_worm_neuron.npz", "single_cell_pbmc68k_reduced.npz"
MNIST = "mnist.npz"
# Script with options, and the file it needs.
RUNS = (
    ("digits.py", None),
    ("posteriors.py", None),
    ("reference.py", None),
    ("sensitivity.py", None),
    ("scale.py", None),
    ("mnist.py", MNIST),
    ("diffusion_steps.py --coverage off,on", MNIST),
    ("iteration.py", MNIST),
    ("few_labels.py --task mnist", MNIST),
    ("few_labels.py --task ancestry", COMPONENTS),
    ("clustering.py --dataset mnist", MNIST),
    ("clustering.py --dataset genomes", COMPONENTS),
    ("clustering.py --dataset neurons", NEURONS),
    ("ancestry.py", COMPONENTS),
    ("ancestry.py --kind genotypes", GENOTYPES),
    ("single_cell.py", NEURONS),
    ("single_cell.py", BLOOD),
    ("new_rows.py", COMPONENTS),
    ("new_rows.py --kind genotypes", GENOTYPES),
    ("new_rows.py --kind cells", BLOOD),
)


def run(command, data, out):
    """Run one benchmark, which prints its table; return its exit status."""
    script, *options = command.split()
    files = [] if data is None else ["--data", str(data)]
    arguments = [str(HERE / script), *options, "--quick", *files, "--out", str(out)]
    return subprocess.run([sys.executable, *arguments], check=False).returncode


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the data files are")
    args = parser.parse_args(argv)
    start, failed = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as results:
        for number, (command, file) in enumerate(RUNS):
            name = command if file is None else f"{command} on {file}"
            if file is not None and not (args.data and (args.data / file).is_file()):
                print(f"\n{name}: left out, no such file", flush=True)
                continue
            print(f"\n{name}, {time.perf_counter() - start:.0f} s since the start", flush=True)
            data = None if file is None else args.data / file
            if run(command, data, Path(results) / f"{number}.json"):
                failed.append(name)
    print(f"\n{time.perf_counter() - start:.0f} s; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
