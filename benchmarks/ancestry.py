"""Ancestry from 1000 Genomes (2,504 people, 20 principal components): DD-VAE, t-SNE, UMAP, PCA.

The rows are the first 20 principal components on their natural scale (eigenvectors times the square
roots of the eigenvalues). All rows are embedded in two dimensions, default arguments throughout.
Then, against the 26 populations: a Gaussian mixture of 20 components on the embedding (five
initialisations) gives clusters, whose purity, completeness and normalised mutual information are
shown; and a 20-nearest-neighbour classifier on the embedding gives an accuracy in stratified
five-fold cross-validation, in folds that follow the order of the file. PCA takes the first two
components; its standard deviation is that of the mixture alone.

The data: an .npz file with X (2504, 20), eigenvalues (20,) and y (2504,). It can be made from the
phase-3 genotypes of the 1000 Genomes Project (internationalgenome.org, release 20130502): keep
variants with a minor allele frequency of at least 0.10, thin them for linkage disequilibrium
(``plink --maf 0.10 --indep 50 5 1.5``), run ``plink --pca 20``, and read plink.eigenvec,
plink.eigenval and the population of each person from integrated_call_samples_v3.20130502.ALL.panel.

Run as::

    OMP_NUM_THREADS=1 python benchmarks/ancestry.py --data path/pcs_1000g_phase3.npz --seeds 5
"""

import sys
import warnings

import numpy as np
from _common import first_use_seconds, make_estimator, timed
from _harness import benchmark_parser, parse, report, run_cells

from skddvi.metrics import knn_cv_accuracy, mixture_scores

METHODS = ("pca", "tsne", "umap", "ddvae")
COLUMNS = {
    "first_use_seconds": ("first use s", ".1f"),
    "fit_seconds": ("fit s", ".2f"),
    "purity": ("purity", ".3f"),
    "completeness": ("completeness", ".3f"),
    "nmi": ("NMI", ".3f"),
    "knn_accuracy": ("20-NN accuracy", ".3f"),
    "bound": ("bound, all rows", ".2f"),
}


def load_components(path):
    """Return the scaled components (n, 20), float64, and population codes (n,)."""
    with np.load(path, allow_pickle=False) as file:
        return file["X"] * np.sqrt(file["eigenvalues"]), file["y"]


def cell(method, seed, settings):
    X, y = load_components(settings["data"])
    rows = np.sort(np.random.default_rng(0).permutation(len(X))[: settings["n_rows"]])
    X, y = X[rows], y[rows]
    estimator = make_estimator(method, seed, **settings["ddvae"])
    first_use = first_use_seconds(method, X)
    with warnings.catch_warnings():
        if method == "umap":
            warnings.simplefilter("ignore")  # it says that a seed costs it its threads
        embedding, fit_seconds = timed(estimator.fit_transform, X)
    values = {
        "first_use_seconds": first_use,
        "fit_seconds": fit_seconds,
        **mixture_scores(
            embedding,
            y,
            n_clusters=settings["n_clusters"],
            n_init=settings["n_init"],
            random_state=seed,
        ),
        "knn_accuracy": knn_cv_accuracy(embedding, y),
    }
    if method == "ddvae":
        values["bound"] = float(estimator.score(X))
        values["n_iter"] = estimator.n_iter_
    return values


def main(argv=None):
    parser = benchmark_parser(
        __doc__, methods=METHODS, data="an .npz file with X, eigenvalues and y"
    )
    args = parse(parser, "ancestry", argv)
    settings = {
        "data": args.data,
        "n_rows": 600 if args.quick else 2504,
        "n_clusters": 20,
        "n_init": 1 if args.quick else 5,
        "ddvae": {} if args.max_iter is None else {"max_iter": args.max_iter},
    }
    cells = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    record = run_cells(cell, cells, settings, args.out)
    return report(record, COLUMNS, args.methods)


if __name__ == "__main__":
    sys.exit(main())
