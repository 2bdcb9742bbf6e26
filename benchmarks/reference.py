"""The setting of the paper's own MNIST runs: what a row costs there, and what comes of it.

The networks and the chain of the authors' configuration in place of the defaults: two layers of
1,000 units, 40 diffusion steps, a pinwheel prior; 20 epochs over 60,000 digits, in batches of the
default size, which is not the authors' 128 rows. Bernoulli likelihood of grey levels in [0, 1], two
latent dimensions. ``float32`` and ``bfloat16`` are two precisions of the same model; ``coverage``
is the latter with `skddvi.regularizers.PriorCoverage`. Figures on the 10,000 test digits, as in
``posteriors.py``; ``reconstruction`` is the mean of log p(x|z) over one draw for each training row
in the last epoch, in nats. ``ms`` is wall-clock time of 128 rows in training, over the whole fit.

The data: as for ``mnist.py``; without --data the 8 x 8 digits of scikit-learn. Run as::

    OMP_NUM_THREADS=2 python benchmarks/reference.py --data path/mnist.npz --seeds 1
"""

import sys

from _common import MNIST_HELP, fitted_to_images, load_images
from _harness import benchmark_parser, parse, report, run_cells
from _metrics import bounds, latent_fit

from skddvi.metrics import knn_accuracy
from skddvi.regularizers import PriorCoverage

PRIOR = "pinwheel"
METHODS = {
    "bfloat16": {"precision": "auto", "regularizer": None},
    "float32": {"precision": "float32", "regularizer": None},
    "coverage": {"precision": "auto", "regularizer": PriorCoverage()},
}
COLUMNS = {
    "ms_of_128_rows": ("ms", ".1f"),
    "fit_seconds": ("fit s", ".0f"),
    "reconstruction": ("reconstruction", ".1f"),
    "bound": ("bound", ".2f"),
    "bound_k500": ("bound, K=500", ".2f"),
    "latent_nll": ("latent NLL", ".3f"),
    "latent_nll_floor": ("floor", ".3f"),
    "knn_accuracy": ("20-NN accuracy", ".3f"),
}


def cell(method, seed, settings):
    X_train, X_test, y_train, y_test = load_images(settings)
    params = {"prior": PRIOR, **METHODS[method], **settings["model"]}
    model, values = fitted_to_images(X_train, seed, settings, **params)
    n_rows = model.n_iter_ * len(X_train)
    test = model.transform(X_test)
    return {
        **values,
        **latent_fit(test, PRIOR, settings["n_prior_draws"], seed),
        **bounds(model, X_test, settings["n_importance_rows"]),
        "ms_of_128_rows": 128_000 * values["fit_seconds"] / n_rows,
        "reconstruction": model.history_["reconstruction"][-1],
        "knn_accuracy": knn_accuracy(model.transform(X_train), y_train, test, y_test),
    }


def main(argv=None):
    parser = benchmark_parser(
        __doc__, methods=tuple(METHODS), seeds=1, data=MNIST_HELP, data_required=False
    )
    parser.add_argument("--n-train", type=int, metavar="N", help="first N rows (default: 60000)")
    args = parse(parser, "reference", argv)
    quick = args.quick
    settings = {
        "data": args.data,
        "n_train": args.n_train or (300 if quick else 60_000),
        "n_test": 100 if quick else 10_000,
        "n_importance_rows": 10 if quick else 100,
        "n_prior_draws": 200 if quick else 10_000,
        "max_iter": args.max_iter or 20,
        "model": {
            "hidden_layer_sizes": [50, 50] if quick else [1000, 1000],
            "n_diffusion_steps": 40,
            "noising": "cosine",
        },
    }
    cells = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    record = run_cells(cell, cells, settings, args.out)
    return report(record, COLUMNS, args.methods)


if __name__ == "__main__":
    sys.exit(main())
