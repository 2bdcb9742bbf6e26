"""Clustering without labels: DDVAEClusterer beside KMeans and GaussianMixture, on three data sets.

``--dataset mnist``
    60,000 handwritten digits, ten clusters, figures on the 10,000 test digits. The DD-VAE has the
    bernoulli likelihood; the others get the first 20 principal components.
``--dataset genomes``
    1000 Genomes phase 3, 2,504 people by 20 principal components on their natural scale
    (eigenvectors times the square roots of the eigenvalues), 26 clusters for 26 populations.
``--dataset neurons``
    4,186 neurons of C. elegans by 2,000 genes (sci-RNA-seq), ten clusters. The DD-VAE gets the raw
    counts and the negative binomial likelihood; the others the first 20 principal components of
    log(1 + counts), each row scaled to the median library size.

Accuracy is the share of rows in the class that their cluster is matched with, by the best
one-to-one matching; NMI the normalised mutual information of clusters and classes. The classes are
used for these two figures alone. Default arguments otherwise; KMeans and GaussianMixture take the
best of five starts. ``ddvae_3d`` has three latent dimensions in place of ten, which is enough for
twenty features, and starts from a mixture among the latents, which need no layout when so few.

The data: an .npz file. mnist: see mnist.py; genomes: see ancestry.py; neurons: X (4186, 2000) raw
counts, y (4186,) and library_size (4186,), from worm_neuron_cell.h5 of ttgump/scDeepCluster, the
2,000 genes with the largest variance of log(1 + scaled counts).

Run as::

    OMP_NUM_THREADS=2 python benchmarks/clustering.py --dataset genomes --data path/pcs.npz
"""

import sys

import numpy as np
from _common import first_use_seconds, load_counts, load_mnist, log_counts, timed
from _harness import benchmark_parser, parse, report, run_cells
from ancestry import load_components
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from skddvi.metrics import matched_accuracy

METHODS = ("kmeans", "gmm", "ddvae", "ddvae_3d")
THREE_DIMENSIONS = {"n_components": 3, "init": "gaussian_mixture"}
DATASETS = {
    "mnist": {"n_clusters": 10, "likelihood": "bernoulli", "n_rows": 60_000},
    "genomes": {"n_clusters": 26, "likelihood": "gaussian", "n_rows": 2504},
    "neurons": {"n_clusters": 10, "likelihood": "negative_binomial", "n_rows": 4186},
}
QUICK_ROWS = 400
COLUMNS = {
    "first_use_seconds": ("first use s", ".1f"),
    "fit_seconds": ("fit s", ".1f"),
    "accuracy": ("accuracy", ".3f"),
    "nmi": ("NMI", ".3f"),
    "n_effective": ("clusters", ".1f"),
    "bound": ("bound", ".2f"),
}


def load(dataset, path):
    """Return training rows, rows to judge by, their classes, and what KMeans gets of both."""
    if dataset == "mnist":
        X, _, X_test, y_test = load_mnist(path)
        pca = PCA(20, random_state=0).fit(X)
        return X, X_test, y_test, pca.transform(X), pca.transform(X_test)
    if dataset == "genomes":
        X, y = load_components(path)
        return X, X, y, X, X
    X, size, y = load_counts(path)
    components = PCA(20, random_state=0).fit_transform(log_counts(X, size, np.median(size)))
    return X, X, y, components, components


def cell(method, seed, settings):
    dataset = settings["dataset"]
    X, judged, y, components, judged_components = load(dataset, settings["data"])
    rows = np.random.default_rng(0).permutation(len(X))[: settings["n_rows"]]
    if judged is X:
        judged, judged_components, y = X[rows], components[rows], y[rows]
    X, components = X[rows], components[rows]
    n_clusters = DATASETS[dataset]["n_clusters"]
    values = {"first_use_seconds": 0.0}
    if method.startswith("ddvae"):
        from skddvi import DDVAEClusterer

        params = settings["ddvae"] | (THREE_DIMENSIONS if method == "ddvae_3d" else {})
        values["first_use_seconds"] = first_use_seconds("ddvae", X)
        likelihood = DATASETS[dataset]["likelihood"]
        model = DDVAEClusterer(n_clusters, likelihood=likelihood, random_state=seed, **params)
    else:
        X, judged = components, judged_components
        peers = {"kmeans": KMeans, "gmm": GaussianMixture}
        model = peers[method](n_clusters, n_init=5, random_state=seed)
    _, values["fit_seconds"] = timed(model.fit, X)
    clusters = model.predict(judged)
    values |= {
        "accuracy": matched_accuracy(y, clusters),
        "nmi": float(normalized_mutual_info_score(y, clusters)),
        "n_effective": len(np.unique(clusters)),
    }
    if method.startswith("ddvae"):
        values["bound"] = float(model.score(judged))
        values["n_iter"] = model.n_iter_
    return values


def main(argv=None):
    parser = benchmark_parser(
        __doc__, methods=METHODS, data="an .npz file: see the top of the file"
    )
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    dataset = parser.parse_known_args(argv)[0].dataset
    args = parse(parser, f"clustering_{dataset}", argv)
    settings = {
        "data": args.data,
        "dataset": dataset,
        "n_rows": QUICK_ROWS if args.quick else DATASETS[dataset]["n_rows"],
        "ddvae": {} if args.max_iter is None else {"max_iter": args.max_iter},
    }
    cells = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    record = run_cells(cell, cells, settings, args.out)
    return report(record, COLUMNS, args.methods)


if __name__ == "__main__":
    sys.exit(main())
