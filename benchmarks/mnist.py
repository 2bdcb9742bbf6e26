"""MNIST (60,000 + 10,000 x 784): cost and quality of the DD-VAE beside PCA and UMAP.

Grey levels are divided by 255; the DD-VAE has the bernoulli likelihood and default arguments
otherwise, ``ddvae_neighbors`` with `skddvi.regularizers.NeighborhoodPreservation`, and
``ddvae_picture`` with the same, ``sleep="off"``, ``max_iter=10`` and ``learning_rate_init=0.005``,
a quick fit for pictures of large data.
Every method and seed runs in a process of its own, so that peak memory is its own; it includes the
interpreter, the libraries and the data (``rss_before_mib`` in the JSON file is what was resident
before the fit).
Figures on the 10,000 test rows: accuracy of a 20-nearest-neighbour classifier on embeddings, given
those of the training rows; trustworthiness (20 neighbours, the first 5,000 rows); ``global``, the
rank correlation of distances between the classes' centroids in the embedding with those in the
input; and the lower bound on the log-likelihood in nats per row. What is paid once
in a process (UMAP compiles itself, torch imports much of itself) is shown apart, as first use.

The data: an .npz file with X_train, y_train, X_test, y_test. Keras' ``mnist.npz`` will do
(storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz), or make one from OpenML::

    X, y = sklearn.datasets.fetch_openml("mnist_784", return_X_y=True, as_frame=False)
    X, y = X.astype("uint8"), y.astype("uint8")
    numpy.savez_compressed("mnist.npz", X_train=X[:60000], y_train=y[:60000],
                           X_test=X[60000:], y_test=y[60000:])

With ``--embeddings FOLDER`` the embeddings of the cells that are run are kept, for
``embeddings_figure.py``. Run as::

    OMP_NUM_THREADS=2 python benchmarks/mnist.py --data path/mnist.npz --seeds 3
"""

import sys
from functools import partial

from _common import (
    ENGINE_METHODS,
    MNIST_HELP,
    add_embeddings_option,
    embed,
    load_mnist,
    save_embedding,
)
from _harness import benchmark_parser, parse, report, run_cells
from _metrics import centroid_correlation
from sklearn.manifold import trustworthiness

from skddvi.metrics import knn_accuracy

METHODS = ("pca", "umap", "ddvae", "ddvae_neighbors", "ddvae_picture")
COLUMNS = {
    "first_use_seconds": ("first use s", ".1f"),
    "fit_seconds": ("fit s", ".1f"),
    "transform_seconds": ("transform s", ".2f"),
    "peak_rss_mib": ("peak MiB", ".0f"),
    "knn_accuracy": ("20-NN accuracy", ".4f"),
    "trustworthiness": ("trustworthiness", ".4f"),
    "centroid_correlation": ("global", ".3f"),
    "bound": ("test bound", ".2f"),
}


def cell(method, seed, settings, embeddings=None):
    X_train, y_train, X_test, y_test = load_mnist(settings["data"])
    X_train, y_train = X_train[: settings["n_train"]], y_train[: settings["n_train"]]
    X_test, y_test = X_test[: settings["n_test"]], y_test[: settings["n_test"]]
    values, train, test, estimator = embed(
        method, X_train, X_test, seed, likelihood="bernoulli", **settings["ddvae"]
    )
    save_embedding(embeddings, method, seed, test, y_test)
    values["knn_accuracy"] = knn_accuracy(train, y_train, test, y_test)
    values["centroid_correlation"] = centroid_correlation(X_test, test, y_test)
    few = slice(settings["n_trust_rows"])
    values["trustworthiness"] = trustworthiness(X_test[few], test[few], n_neighbors=20)
    if method in ENGINE_METHODS:
        values["bound"] = float(estimator.score(X_test))
    return values


def main(argv=None):
    parser = benchmark_parser(__doc__, methods=METHODS, seeds=3, data=MNIST_HELP)
    parser.add_argument("--n-train", type=int, metavar="N", help="first N rows (default: 60000)")
    add_embeddings_option(parser)
    args = parse(parser, "mnist", argv)
    settings = {
        "data": args.data,
        "n_train": args.n_train or (1000 if args.quick else 60_000),
        "n_test": 500 if args.quick else 10_000,
        "n_trust_rows": 5000,
        "ddvae": {} if args.max_iter is None else {"max_iter": args.max_iter},
    }
    cells = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    record = run_cells(partial(cell, embeddings=args.embeddings), cells, settings, args.out)
    return report(record, COLUMNS, args.methods)


if __name__ == "__main__":
    sys.exit(main())
