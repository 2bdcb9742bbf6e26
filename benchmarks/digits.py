"""Handwritten digits of scikit-learn (1,797 x 64): DD-VAE beside PCA, t-SNE and UMAP.

Each seed draws another fifth of the rows to hold out, and seeds every method. Pixels are divided
by 16, the DD-VAE has the bernoulli likelihood and default arguments otherwise. Figures, all on
held-out rows: accuracy of a 20-nearest-neighbour classifier on embeddings, given those of the
training rows; trustworthiness (5 neighbours); lower bound on the log-likelihood in nats per row,
with 1 and with 100 importance samples. t-SNE has no transform and is fitted on the held-out rows
too, which helps it. What is paid once in a process (UMAP compiles itself, torch imports much of
itself) is shown apart, as first use.

The data come with scikit-learn. Run as::

    OMP_NUM_THREADS=1 python benchmarks/digits.py --seeds 5
"""

import sys

from _common import embed
from _harness import benchmark_parser, parse, report, run_cells
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from sklearn.model_selection import train_test_split

from skddvi.metrics import knn_accuracy

METHODS = ("pca", "tsne", "umap", "ddvae")
COLUMNS = {
    "first_use_seconds": ("first use s", ".1f"),
    "fit_seconds": ("fit s", ".2f"),
    "transform_seconds": ("transform s", ".3f"),
    "knn_accuracy": ("20-NN accuracy", ".3f"),
    "trustworthiness": ("trustworthiness", ".3f"),
    "bound": ("bound", ".2f"),
    "bound_k100": ("bound, K=100", ".2f"),
}


def cell(method, seed, settings):
    X, y = load_digits(return_X_y=True)
    X = (X / 16.0)[: settings["n_rows"]]
    y = y[: settings["n_rows"]]
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.2, stratify=y, random_state=seed
    )
    values, train, test, estimator = embed(
        method, X_train, X_test, seed, likelihood="bernoulli", **settings["ddvae"]
    )
    values["knn_accuracy"] = knn_accuracy(train, y_train, test, y_test)
    values["trustworthiness"] = float(trustworthiness(X_test, test))
    if method == "ddvae":
        values["bound"] = float(estimator.score(X_test))
        few = X_test[: settings["n_importance_rows"]]
        values["bound_k100"] = float(estimator.score_samples(few, n_importance_samples=100).mean())
    return values


def main(argv=None):
    args = parse(benchmark_parser(__doc__, methods=METHODS), "digits", argv)
    settings = {
        "n_rows": 300 if args.quick else 1797,
        "n_importance_rows": 20 if args.quick else 360,
        "ddvae": {} if args.max_iter is None else {"max_iter": args.max_iter},
    }
    cells = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    record = run_cells(cell, cells, settings, args.out)
    return report(record, COLUMNS, args.methods)


if __name__ == "__main__":
    sys.exit(main())
