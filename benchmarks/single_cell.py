"""Single cells (raw UMI counts) in two dimensions: DD-VAE beside PCA, t-SNE, UMAP and the VAEs.

All cells are embedded, default arguments throughout. ``vae`` (Gaussian posterior), ``aae``
(adversarial) and ``iaf`` (normalising flow) are those of `skddvi.baselines`, on the same engine as
the DD-VAE; ``ddvae_neighbors`` is the DD-VAE with
`skddvi.regularizers.NeighborhoodPreservation`. The methods of this package get the counts and the
negative binomial likelihood. PCA gets log(1 + counts), each cell scaled to the median library size;
t-SNE and UMAP the first 50 principal components of that, as scanpy does by default; the time for
this is not in theirs.

Figures: accuracy of a 20-nearest-neighbour classifier of cell types on the embedding, in stratified
five-fold cross-validation; purity and normalised mutual information of the cell types with the
components of a Gaussian mixture on the embedding, as many as there are types; trustworthiness (20
neighbours, 2,000 cells) against the scaled logarithms, which are what PCA, t-SNE and UMAP see;
lower bound on the log-likelihood of the counts in nats a cell.

The data: an .npz file with X raw counts, y, and library_size, each cell's total over all genes.

- C. elegans neurons, X (4186, 2000): worm_neuron_cell.h5 of ttgump/scDeepCluster, the 2,000 genes
  with the largest variance of log(1 + scaled counts);
- human blood cells, X (700, 765): ``layers/counts`` of ``scanpy.datasets.pbmc68k_reduced()``,
  ``bulk_labels`` and ``n_counts``.

With ``--embeddings FOLDER`` the embeddings of the cells that are run are kept, for
``embeddings_figure.py``. Run as::

    OMP_NUM_THREADS=1 python benchmarks/single_cell.py --data path/single_cell_worm_neuron.npz \\
        --out results/single_cell_neurons.json
    ... --data path/single_cell_pbmc68k_reduced.npz --out results/single_cell_blood.json
"""

import sys
from functools import partial

import numpy as np
from _common import (
    ENGINE_METHODS,
    add_embeddings_option,
    embed_all,
    load_counts,
    log_counts,
    save_embedding,
)
from _harness import benchmark_parser, parse, report, run_cells
from sklearn.decomposition import PCA

from skddvi.metrics import embedding_report

METHODS = ("pca", "tsne", "umap", "vae", "aae", "iaf", "ddvae", "ddvae_neighbors")
COLUMNS = {
    "first_use_seconds": ("first use s", ".1f"),
    "fit_seconds": ("fit s", ".1f"),
    "knn_accuracy": ("20-NN accuracy", ".3f"),
    "purity": ("purity", ".3f"),
    "nmi": ("NMI", ".3f"),
    "trustworthiness": ("trustworthiness", ".3f"),
    "bound": ("bound, all cells", ".1f"),
}


def cell(method, seed, settings, embeddings=None):
    counts, size, y = load_counts(settings["data"])
    rows = np.sort(np.random.default_rng(0).permutation(len(y))[: settings["n_rows"]])
    logs = log_counts(counts[rows], size[rows], np.median(size))
    y, X = y[rows], logs
    if method in ENGINE_METHODS:
        X = counts[rows]
    elif method != "pca":
        X = PCA(settings["n_pcs"], random_state=0).fit_transform(X)
    values, embedding = embed_all(
        method, X, seed, likelihood="negative_binomial", **settings["ddvae"]
    )
    save_embedding(embeddings, method, seed, embedding, y)
    return values | embedding_report(embedding, logs, y, random_state=seed)


def main(argv=None):
    parser = benchmark_parser(
        __doc__, methods=METHODS, data="an .npz file with X, y and library_size"
    )
    add_embeddings_option(parser)
    args = parse(parser, "single_cell", argv)
    n_rows = len(load_counts(args.data)[2])
    settings = {
        "data": args.data,
        "n_rows": min(400, n_rows) if args.quick else n_rows,
        "n_pcs": 50,
        "ddvae": {} if args.max_iter is None else {"max_iter": args.max_iter},
    }
    cells = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    record = run_cells(partial(cell, embeddings=args.embeddings), cells, settings, args.out)
    return report(record, COLUMNS, args.methods)


if __name__ == "__main__":
    sys.exit(main())
