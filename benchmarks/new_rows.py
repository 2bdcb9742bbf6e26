"""Rows that no method was fitted to: how the embeddings of ancestry and of cells place them.

A quarter of the rows is held out, drawn anew for every seed with the classes in proportion. Each
method is fitted to the others, default arguments throughout, and places the quarter; t-SNE cannot,
so it is fitted to all rows at once and has seen what the others have not. ``ddvae_neighbors`` is
the DD-VAE with `skddvi.regularizers.NeighborhoodPreservation`, ``ddvae_path`` that with
``n_refinements=0`` and ``n_map_steps=0``. What each method gets of the rows is
as in ``ancestry.py`` and ``single_cell.py``, but frequencies of alleles, principal components and
the median library size are those of the training rows. Only the rows of ``--kind components`` are
principal components that were made of all people together, so they know a little of each other.

Figures of the held-out rows: accuracy of a 20-nearest-neighbour classifier among the training rows
of the embedding; purity, completeness and normalised mutual information of the classes with the
components of a Gaussian mixture fitted to the training rows of the embedding (five initialisations;
20 components, or as many as there are classes where these are fewer); trustworthiness (20
neighbours, among the held-out rows) against the components, the scaled genotypes or the scaled
logarithms; lower bound in nats a row.

The data: an .npz file of ``ancestry.py`` (``--kind components``, ``genotypes``) or of
``single_cell.py`` (``cells``). Run as::

    OMP_NUM_THREADS=1 python benchmarks/new_rows.py --data path/pcs_1000g_phase3.npz
    ... --kind genotypes --data path/genotypes_1000g_phase1.npz
    ... --kind cells --data path/single_cell_worm_neuron.npz --out results/new_rows_neurons.json
"""

import sys

import numpy as np
from _common import ENGINE_METHODS, embed, load_counts, log_counts
from _harness import benchmark_parser, parse, report, run_cells
from ancestry import N_COMPONENTS, load_components, load_genotypes, standardised
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split

from skddvi.metrics import cluster_scores, knn_accuracy

METHODS = ("pca", "tsne", "umap", "ddvae_path", "ddvae", "ddvae_neighbors")
# Of each kind: the likelihood, and the principal components that t-SNE and UMAP get, if not all.
KINDS = {
    "components": ("gaussian", None),
    "genotypes": ("binomial", N_COMPONENTS),
    "cells": ("negative_binomial", 50),
}
N_CLUSTERS = 20
COLUMNS = {
    "fit_seconds": ("fit s", ".1f"),
    "transform_seconds": ("transform s", ".3f"),
    "knn_accuracy": ("20-NN accuracy", ".3f"),
    "purity": ("purity", ".3f"),
    "completeness": ("completeness", ".3f"),
    "nmi": ("NMI", ".3f"),
    "trustworthiness": ("trustworthiness", ".3f"),
    "bound": ("bound", ".1f"),
}


def load(kind, path):
    """Return raw rows, library sizes of cells (None for other kinds), and classes."""
    if kind == "cells":
        return load_counts(path)
    X, y = (load_components if kind == "components" else load_genotypes)(path)
    return X, None, y


def split(kind, X, size, y, seed):
    """Return training and held-out rows: each raw, as peers see them, and classes."""
    train, test = train_test_split(np.arange(len(y)), test_size=0.25, stratify=y, random_state=seed)
    if kind == "components":
        parts = X[train], X[test]
    elif kind == "genotypes":
        frequencies = X[train].mean(axis=0) / 2
        parts = [standardised(X[rows], frequencies) for rows in (train, test)]
    else:
        median = np.median(size[train])
        parts = [log_counts(X[rows], size[rows], median) for rows in (train, test)]
    return [(X[rows], part, y[rows]) for rows, part in zip((train, test), parts, strict=True)]


def cell(method, seed, settings):
    kind = settings["kind"]
    X, size, y = load(kind, settings["data"])
    rows = np.sort(np.random.default_rng(0).permutation(len(y))[: settings["n_rows"]])
    size = None if size is None else size[rows]
    train, test = split(kind, X[rows], size, y[rows], seed)
    likelihood, n_pcs = KINDS[kind]
    if method in ENGINE_METHODS:
        X_train, X_test = train[0], test[0]
    else:
        X_train, X_test = train[1], test[1]
        if method != "pca" and n_pcs is not None:
            pca = PCA(n_pcs, random_state=0).fit(X_train)
            X_train, X_test = pca.transform(X_train), pca.transform(X_test)
    values, of_train, of_test, model = embed(
        method, X_train, X_test, seed, likelihood=likelihood, **settings["ddvae"]
    )
    mixture = GaussianMixture(
        settings["n_clusters"], n_init=settings["n_init"], random_state=seed
    ).fit(of_train)
    return {
        **values,
        **cluster_scores(test[2], mixture.predict(of_test)),
        "knn_accuracy": knn_accuracy(of_train, train[2], of_test, test[2]),
        "trustworthiness": trustworthiness(test[1], of_test, n_neighbors=20),
        "bound": float(model.score(X_test)) if method in ENGINE_METHODS else None,
    }


def main(argv=None):
    parser = benchmark_parser(
        __doc__, methods=METHODS, data="an .npz file: see the top of the file"
    )
    parser.add_argument("--kind", choices=KINDS, default="components")
    kind = parser.parse_known_args(argv)[0].kind
    args = parse(parser, f"new_rows_{kind}", argv)
    y = load(args.kind, args.data)[2]
    settings = {
        "data": args.data,
        "kind": args.kind,
        "n_rows": min(400, len(y)) if args.quick else len(y),
        "n_clusters": min(N_CLUSTERS, len(np.unique(y))),
        "n_init": 1 if args.quick else 5,
        "ddvae": {} if args.max_iter is None else {"max_iter": args.max_iter},
    }
    cells = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    record = run_cells(cell, cells, settings, args.out)
    return report(record, COLUMNS, args.methods)


if __name__ == "__main__":
    sys.exit(main())
