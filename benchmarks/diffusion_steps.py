"""What diffusion steps and the sleep term buy: prior x number of steps x sleep, on MNIST.

Training rows are the first 8,000 of MNIST, bernoulli likelihood, two latent dimensions, the same
number of epochs for every cell. Without diffusion steps (T = 0) the model is a Gaussian VAE.
Figures on test rows: lower bound on the log-likelihood in nats per row, the tighter
bound with 500 importance samples on the first few hundred rows, and the latent negative
log-likelihood: minus the mean log-density of draws from the prior under a kernel density estimate
of the embeddings, low when the embeddings cover the prior; its best value is that of draws from
the prior in place of embeddings, shown as ``floor``. The last column is the accuracy of
20-nearest-neighbour classification of test embeddings given training embeddings. With
``--coverage on``, or ``off,on`` for both, cells under a curved prior have
`skddvi.regularizers.PriorCoverage`. By default a DD-VAE has it with diffusion steps; here a cell
has it, whatever its steps, only where its name says so.

The data: as for ``mnist.py``. Run as::

    OMP_NUM_THREADS=1 python benchmarks/diffusion_steps.py --data path/mnist.npz --seeds 1
    ... --priors normal,pinwheel --steps 0,1,8 --sleeps off,conditional --pictures results/scatter
"""

import sys
from functools import partial
from pathlib import Path

from _common import MNIST_HELP, first_use_seconds, load_mnist, make_estimator, timed
from _harness import benchmark_parser, parse, parse_list, report, run_cells
from _metrics import bounds, latent_fit

from skddvi.metrics import knn_accuracy
from skddvi.regularizers import PriorCoverage

PRIORS = ("normal", "pinwheel", "swiss_roll", "square")
STEPS = ("0", "1", "2", "5", "8", "10", "20", "50")
SLEEPS = ("off", "latent", "conditional")
COVERAGE = ("off", "on")
COLUMNS = {
    "fit_seconds": ("fit s", ".1f"),
    "n_iter": ("epochs", ".0f"),
    "bound": ("bound", ".2f"),
    "bound_k500": ("bound, K=500", ".2f"),
    "latent_nll": ("latent NLL", ".3f"),
    "latent_nll_floor": ("floor", ".3f"),
    "knn_accuracy": ("20-NN accuracy", ".3f"),
}


def cell_names(prior, n_steps, sleep, coverage):
    name = f"{prior} T={n_steps} sleep={sleep}"
    covered = [f"{name} coverage"] if "on" in coverage and prior != "normal" else []
    return [name, *covered] if "off" in coverage else covered


def cell(method, seed, settings, pictures=None):
    prior, n_steps, sleep, *coverage = (part.split("=")[-1] for part in method.split(" "))
    X_train, y_train, X_test, y_test = load_mnist(settings["data"])
    X_train, y_train = X_train[: settings["n_train"]], y_train[: settings["n_train"]]
    X_test, y_test = X_test[: settings["n_test"]], y_test[: settings["n_test"]]
    estimator = make_estimator(
        "ddvae",
        seed,
        prior=prior,
        likelihood="bernoulli",
        n_diffusion_steps=int(n_steps),
        n_refinements=0,  # as with all of the rows
        n_map_steps=0,
        sleep=sleep,
        regularizer=PriorCoverage() if coverage else None,
        max_iter=settings["max_iter"],
    )
    first_use_seconds("ddvae", X_train)
    _, fit_seconds = timed(estimator.fit, X_train)
    test, transform_seconds = timed(estimator.transform, X_test)
    values = {
        "fit_seconds": fit_seconds,
        "transform_seconds": transform_seconds,
        "n_iter": estimator.n_iter_,
        **bounds(estimator, X_test, settings["n_importance_rows"]),
        **latent_fit(test, prior, settings["n_prior_draws"], seed),
        "knn_accuracy": knn_accuracy(estimator.transform(X_train), y_train, test, y_test),
    }
    if pictures is not None:
        save_scatter(Path(pictures) / f"{method.replace(' ', '_')}_seed{seed}.png", test, y_test)
    return values


def save_scatter(path, embedding, y):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.scatter(*embedding.T, s=2, c=y, cmap="tab10", linewidths=0)
    ax.set_title(path.stem)
    ax.set_aspect("equal", adjustable="datalim")
    figure.savefig(path, dpi=120)


def main(argv=None):
    parser = benchmark_parser(__doc__, seeds=1, data=MNIST_HELP)
    parser.add_argument("--priors", metavar="LIST", help=f"default: {','.join(PRIORS)}")
    parser.add_argument("--steps", metavar="LIST", help=f"default: {','.join(STEPS)}")
    parser.add_argument("--sleeps", metavar="LIST", help=f"default: {','.join(SLEEPS)}")
    parser.add_argument("--coverage", metavar="LIST", default="off", help="default: off; off,on")
    parser.add_argument("--n-train", type=int, metavar="N", help="first N rows (default: 8000)")
    parser.add_argument("--n-test", type=int, metavar="N", help="test rows (default: 10000)")
    parser.add_argument("--pictures", metavar="FOLDER", help="save a scatter plot of each cell")
    args = parse(parser, "diffusion_steps", argv)
    priors = parse_list(parser, "--priors", args.priors, PRIORS[:2] if args.quick else PRIORS)
    sleeps = parse_list(parser, "--sleeps", args.sleeps, SLEEPS)
    coverage = parse_list(parser, "--coverage", args.coverage, COVERAGE)
    steps = STEPS[:3:2] if args.quick else STEPS
    if args.steps is not None:
        steps = args.steps.split(",")
        if not all(step.isdecimal() for step in steps):
            parser.error(f"--steps: found {args.steps!r}, expected whole numbers such as 0,1,8")
    settings = {
        "data": args.data,
        "n_train": args.n_train or (500 if args.quick else 8000),
        "n_test": args.n_test or (300 if args.quick else 10_000),
        "n_importance_rows": 10 if args.quick else 500,
        "n_prior_draws": 500 if args.quick else 10_000,
        "max_iter": args.max_iter or 30,
    }
    # Without diffusion there is no denoiser, so nothing for the latent form to train.
    names = [
        name
        for prior in priors
        for step in steps
        for sleep in sleeps
        if not (step == "0" and sleep == "latent")
        for name in cell_names(prior, step, sleep, coverage)
    ]
    if not names:
        parser.error("no cell is left: the normal prior has none with coverage, T=0 none latent")
    cells = [(name, seed) for seed in range(args.seeds) for name in names]
    record = run_cells(partial(cell, pictures=args.pictures), cells, settings, args.out)
    return report(record, COLUMNS, names)


if __name__ == "__main__":
    sys.exit(main())
