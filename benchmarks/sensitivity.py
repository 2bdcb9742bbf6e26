"""One parameter at a time around the defaults: what the DD-VAE's figures depend on.

8,000 training rows, 30 epochs, bernoulli likelihood, no regulariser, and else default arguments but
for the parameter that a row names; ``defaults`` (4 diffusion steps, noising "even", sleep weight 2,
KL weight 1, two latent dimensions) is the row to compare with. Figures on test rows, as in
``posteriors.py``: lower bound on the log-likelihood in nats per row and the tighter one of 500
importance samples, both without the weights of the objective; latent negative log-likelihood and
its least value ``floor``, in two dimensions only; accuracy of 20-nearest-neighbour classification;
processor time of the fit. The pinwheel is a prior in two dimensions, so their number changes with
the normal alone.

The data: as for ``mnist.py``; without --data the 8 x 8 digits of scikit-learn. Run as::

    OMP_NUM_THREADS=1 python benchmarks/sensitivity.py --data path/mnist.npz --seeds 3
    ... --priors square,normal --parameters sleep_weight,kl_weight
"""

import sys

from _common import MNIST_HELP, fitted_to_images, load_images
from _harness import benchmark_parser, parse, parse_list, report, run_cells
from _metrics import bounds, latent_fit

from skddvi.metrics import knn_accuracy

PRIORS = ("pinwheel", "normal")
OTHER_PRIORS = ("swiss_roll", "square")
# The defaults are not among them: they are a row of their own.
VALUES = {
    "n_diffusion_steps": (0, 2, 8, 16, 32),
    "noising": ("cosine", "linear"),
    "sleep_weight": (0.0, 0.5, 1.0, 4.0, 8.0),
    "kl_weight": (0.25, 0.5, 2.0, 4.0),
    "n_components": (3, 5, 10, 20),
}
COLUMNS = {
    "fit_cpu_seconds": ("fit s", ".1f"),
    "bound": ("bound", ".2f"),
    "bound_k500": ("bound, K=500", ".2f"),
    "latent_nll": ("latent NLL", ".3f"),
    "latent_nll_floor": ("floor", ".3f"),
    "knn_accuracy": ("20-NN accuracy", ".3f"),
}


def cell_names(priors, parameters, n_values=None):
    """Return "prior defaults" and "prior parameter=value" for the first values of each."""
    names = []
    for prior in priors:
        names.append(f"{prior} defaults")
        for parameter in parameters:
            if parameter != "n_components" or prior == "normal":
                names += [f"{prior} {parameter}={value}" for value in VALUES[parameter][:n_values]]
    return names


def cell(method, seed, settings):
    prior, change = method.split(" ")
    parameter, _, named = change.partition("=")
    params = {"regularizer": None, "n_refinements": 0, "n_map_steps": 0}
    if parameter in VALUES:
        params[parameter] = next(value for value in VALUES[parameter] if str(value) == named)
    X_train, X_test, y_train, y_test = load_images(settings)
    model, values = fitted_to_images(X_train, seed, settings, prior=prior, **params)
    test = model.transform(X_test)
    if test.shape[1] == 2:
        values |= latent_fit(test, prior, settings["n_prior_draws"], seed)
    return {
        **values,
        **bounds(model, X_test, settings["n_importance_rows"]),
        "knn_accuracy": knn_accuracy(model.transform(X_train), y_train, test, y_test),
    }


def main(argv=None):
    parser = benchmark_parser(__doc__, seeds=3, data=MNIST_HELP, data_required=False)
    parser.add_argument(
        "--priors",
        metavar="LIST",
        default=",".join(PRIORS),
        help=f"default: {','.join(PRIORS)}; also {','.join(OTHER_PRIORS)}",
    )
    parser.add_argument("--parameters", metavar="LIST", help=f"default: {','.join(VALUES)}")
    parser.add_argument("--n-train", type=int, metavar="N", help="first N rows (default: 8000)")
    args = parse(parser, "sensitivity", argv)
    priors = parse_list(parser, "--priors", args.priors, PRIORS + OTHER_PRIORS)
    parameters = parse_list(parser, "--parameters", args.parameters, VALUES)
    settings = {
        "data": args.data,
        "n_train": args.n_train or (300 if args.quick else 8000),
        "n_test": 100 if args.quick else 10_000,
        "n_importance_rows": 10 if args.quick else 500,
        "n_prior_draws": 200 if args.quick else 10_000,
        "max_iter": args.max_iter or 30,
    }
    names = cell_names(priors, parameters, n_values=1 if args.quick else None)
    cells = [(name, seed) for seed in range(args.seeds) for name in names]
    record = run_cells(cell, cells, settings, args.out)
    return report(record, COLUMNS, names)


if __name__ == "__main__":
    sys.exit(main())
