"""The shell command ``python -m skddvi``: compare the DD-VAE with its peers on a table of numbers.

``python -m skddvi compare digits`` fits `skddvi.DDVAETransformer`, PCA, t-SNE and, if it is
installed, UMAP, prints one table and writes one picture. Bad input ends with one line on standard
error and exit status 2, a fit that fails with 1, Ctrl-C with 130.
"""

import argparse
import json
import logging
import os
import platform
import signal
import sys
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from skddvi import __version__

EPILOG = """\
examples:
  python -m skddvi compare digits
  python -m skddvi compare cells.csv --label cell_type --likelihood negative_binomial
  python -m skddvi compare mnist.npz --divide-by 255 --likelihood bernoulli --json mnist.json
  python -m skddvi compare table.tsv --label -1 --methods pca,ddvae --no-plot
"""
DEFAULT_MAX_ROWS = 10_000


class _Interrupted(BaseException):
    """Ctrl-C. Not a KeyboardInterrupt, which the estimator catches to keep what it has learned."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message):
        self.exit(2, f"error: {message}\n")


def _parser():
    parser = _Parser(
        prog="python -m skddvi",
        description="Latent-variable models with diffusion posteriors, from the shell.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"skddvi {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    compare = commands.add_parser(
        "compare",
        help="fit the DD-VAE, PCA, t-SNE and UMAP on the same rows; print a table, draw a picture",
        description="Fit DDVAETransformer and its peers on the same rows, measure them on the\n"
        "same held-out rows (a fifth), print one table and write one picture.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    compare.set_defaults(run=_compare)

    data = compare.add_argument_group("data")
    data.add_argument(
        "data",
        metavar="DATA",
        help="'digits' (shipped with scikit-learn), or a .csv, .tsv, .txt, .npz or .npy file; "
        "tables with or without a header line",
    )
    data.add_argument(
        "--label",
        metavar="COLUMN",
        help="where the class labels are: a column's name or index (from 0, negative from the "
        "end), or the key of an array in a .npz file (default there: y, y_train, target, ...)",
    )
    data.add_argument(
        "--data-key",
        metavar="KEY",
        help="key of the rows in a .npz file (default: X, X_train, x, x_train or data)",
    )
    data.add_argument(
        "--divide-by",
        type=_positive_float,
        metavar="NUMBER",
        help="divide the rows by this first, as in 255 for grey levels",
    )
    data.add_argument(
        "--max-rows",
        type=_row_limit,
        default=DEFAULT_MAX_ROWS,
        metavar="N",
        help="use at most N rows, drawn at random; 0 for all (default: %(default)s)",
    )

    model = compare.add_argument_group("model")
    model.add_argument(
        "--likelihood",
        metavar="NAME",
        help="gaussian, bernoulli, binomial, poisson or negative_binomial: what the rows are "
        "(default: gaussian; digits: bernoulli)",
    )
    model.add_argument(
        "--prior",
        default="normal",
        metavar="NAME",
        help="normal, gaussian_mixture, pinwheel, swiss_roll or square (default: %(default)s)",
    )
    model.add_argument(
        "--n-diffusion-steps", type=_natural, metavar="T", help="0 is a plain Gaussian VAE"
    )
    model.add_argument(
        "--max-iter", type=_positive, metavar="N", help="greatest number of passes over the rows"
    )
    model.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="a random seed (default: %(default)s)"
    )
    model.add_argument(
        "--methods",
        metavar="LIST",
        help="some of pca,tsne,umap,ddvae,ddvae_neighbors (default: all that are installed)",
    )

    output = compare.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="FILE",
        help="the picture: .png, .pdf or .svg (default: skddvi_compare_<data>.png)",
    )
    output.add_argument("--json", metavar="FILE", help="write the figures to this file too")
    output.add_argument("--no-plot", action="store_true", help="draw no picture")
    output.add_argument(
        "--quiet", action="store_true", help="print nothing but errors; see --json and --output"
    )
    return parser


def _number_type(convert, accepts, wanted):
    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {wanted}")
        return value

    return parse


_natural = _number_type(int, lambda n: n >= 0, "a whole number >= 0")
_row_limit = _number_type(int, lambda n: n == 0 or n >= 20, "0 (all rows) or a number >= 20")
_positive = _number_type(int, lambda n: n >= 1, "a whole number >= 1")
_seed = _number_type(int, lambda n: 0 <= n < 2**32, "a whole number from 0 to 2**32 - 1")
_positive_float = _number_type(float, lambda x: 0 < x < float("inf"), "a number > 0")


def _compare(args):
    """Run ``compare``: everything that can be wrong is checked before the first fit."""
    from ._compare import (
        LABELS,
        METHODS,
        as_json,
        check_request,
        compare,
        find_peers,
        format_comparison,
    )
    from ._picture import check_picture, check_writable
    from ._read import load_dataset

    methods = _parse_methods(args.methods, METHODS)
    output = args.output or f"skddvi_compare_{Path(args.data).stem}.png"
    draw = not args.no_plot and check_picture(output)
    if args.output and not args.no_plot and not draw:
        raise ValueError("--output needs matplotlib: pip install matplotlib (or give --no-plot)")
    if args.json:
        check_writable(args.json, "--json")

    dataset = load_dataset(args.data, label=args.label, data_key=args.data_key)
    if args.divide_by is not None:
        dataset.X[...] /= args.divide_by
    likelihood = args.likelihood or ("bernoulli" if args.data == "digits" else "gaussian")
    check_request(dataset.X, dataset.feature_names, likelihood, args.prior)
    methods, missing = find_peers(methods)
    if args.methods and missing:
        raise ValueError("; ".join(f"--methods={m} needs: {how}" for m, how in missing.items()))

    params = {"prior": args.prior}
    if args.n_diffusion_steps is not None:
        params["n_diffusion_steps"] = args.n_diffusion_steps
    if args.max_iter is not None:
        params["max_iter"] = args.max_iter
    with _progress(args.quiet) as watch:
        comparison = compare(
            dataset,
            methods,
            likelihood=likelihood,
            seed=args.seed,
            max_rows=args.max_rows or None,
            params=params,
            watch=watch,
        )
    comparison.notes += [f"{LABELS[m]} is not installed: {how}" for m, how in missing.items()]
    if not args.no_plot and not draw:
        comparison.notes.append("no picture, matplotlib is not installed: pip install matplotlib")
    if not args.quiet:
        print(format_comparison(comparison))
    if draw:
        _draw(comparison, output, args.prior)
        if not args.quiet:
            print(f"picture: {output}")
    if args.json:
        record = as_json(comparison)
        record["parameters"] = params
        record["missing"] = missing
        record["picture"] = output if draw else None
        record["versions"] = _versions()
        Path(args.json).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _parse_methods(text, known):
    if text is None:
        return list(known)
    methods = [name.strip().lower() for name in text.split(",") if name.strip()]
    unknown = [name for name in methods if name not in known]
    if unknown or not methods:
        found = unknown[0] if unknown else text
        raise ValueError(f"--methods: found {found!r}, expected some of {','.join(known)}")
    return list(dict.fromkeys(methods))


def _draw(comparison, path, prior):
    import numpy as np

    from ._compare import LABELS
    from ._picture import save_picture

    split = comparison.split
    held_out = np.repeat([False, True], [len(split.train), len(split.test)])
    codes = None if split.y_train is None else np.concatenate([split.y_train, split.y_test])
    panels = []
    for result in comparison.results:
        title = LABELS[result.method]
        if result.method.startswith("ddvae"):
            title += f", {prior} prior"
        if result.knn_accuracy is not None:
            title += f"\n{comparison.n_neighbors}-NN accuracy {result.knn_accuracy:.3f}"
        embedding = np.concatenate([result.train_embedding, result.test_embedding])
        panels.append((title, embedding, held_out, codes))
    title = (
        f"{comparison.dataset.name}: {len(held_out):,} rows, {len(split.test):,} of them held out "
        f"(strong colours), seed {comparison.seed}"
    )
    save_picture(path, panels, comparison.dataset.class_names, title)


@contextmanager
def _progress(quiet):
    """Give a function that shows which method runs and for how long, on a terminal, with rich.

    Piped, redirected, quiet or without rich: nothing is shown.
    """
    from ._progress import bars

    display = None
    if not quiet and sys.stdout.isatty():
        display = bars("stderr", "spinner", "{task.description}", "elapsed", transient=True)
    if display is None:
        yield None
        return
    with display as progress:

        def watch(label):
            for task in progress.task_ids:
                progress.update(task, total=1, completed=1)
            progress.add_task(label, total=None)

        yield watch


def _versions():
    versions = {"skddvi": __version__, "python": platform.python_version()}
    for package in ("numpy", "scipy", "torch", "scikit-learn", "umap-learn"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def _interrupt(signum, frame):
    raise _Interrupted


def main(argv=None):
    """Run the command line `argv` (default: that of the process) and return the exit status."""
    args = _parser().parse_args(argv)
    # Otherwise the first picture on a machine comes with a line about fonts.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    previous = signal.signal(signal.SIGINT, _interrupt)
    try:
        args.run(args)
        sys.stdout.flush()
    except (_Interrupted, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader has gone (as in "| head"); keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError) as error:
        return _fail(f"error: {error}", 2)
    except (ArithmeticError, MemoryError, RuntimeError) as error:
        return _fail(f"error: {error or type(error).__name__}", 1)
    finally:
        signal.signal(signal.SIGINT, previous)
    return 0


def _fail(message, status):
    print(" ".join(message.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
