"""Ancestry from 1000 Genomes: DD-VAE beside PCA, t-SNE, UMAP and other posteriors.

All rows are embedded in two dimensions, default arguments throughout. ``vae`` (Gaussian posterior),
``aae`` (adversarial) and ``iaf`` (normalising flow) are those of `skddvi.baselines`, on the same
engine as the DD-VAE; ``ddvae_path`` is the DD-VAE with ``n_refinements=0`` and ``n_map_steps=0``,
``ddvae_neighbors`` that with
`skddvi.regularizers.NeighborhoodPreservation`.

``--kind components``
    2,504 people of phase 3 by 20 principal components on their natural scale (eigenvectors times
    the square roots of the eigenvalues), 26 populations; the same rows for every method.
``--kind genotypes``
    1,092 people of phase 1 by 14,079 variants, 14 populations. The methods of this package get the
    genotypes, copies of an allele, and the binomial likelihood. PCA gets them centred and divided
    by sqrt(2 p (1 - p)), p the frequency of the allele, as geneticists do; t-SNE and UMAP the first
    20 principal components of that, as their users do with many features; the time for this is not
    in theirs.

Then, against the populations: a Gaussian mixture on the embedding (five initialisations; 20
components, or as many as there are populations where these are fewer) gives clusters, whose purity,
completeness and normalised mutual information are shown; and a 20-nearest-neighbour classifier on
the embedding gives an accuracy in stratified five-fold cross-validation, in folds that follow the
order of the file; trustworthiness (20 neighbours) is against the components, or the scaled
genotypes. PCA of components takes the first two; its standard deviation is that of the
mixture alone.

The data: an .npz file with y, and X (2504, 20) and eigenvalues (20,), or X (1092, 14079) of 0, 1
and 2. The components can be made from the phase-3 genotypes of the 1000 Genomes Project
(internationalgenome.org, release 20130502): keep variants with a minor allele frequency of at least
0.10, thin them for linkage disequilibrium (``plink --maf 0.10 --indep 50 5 1.5``), run ``plink
--pca 20``, and read plink.eigenvec, plink.eigenval and the population of each person from
integrated_call_samples_v3.20130502.ALL.panel. The genotypes are
HapMap3/1kg.ref.phase1_release_v3.20101123_thinned_autosomal_overlap.bed of gabraham/flashpca, the
populations in 20130606_g1k.ped of the project.

With ``--embeddings FOLDER`` the embeddings of the cells that are run are kept, for
``embeddings_figure.py``. Run as::

    OMP_NUM_THREADS=1 python benchmarks/ancestry.py --data path/pcs_1000g_phase3.npz
    ... --kind genotypes --data path/genotypes_1000g_phase1.npz
"""

import sys
from functools import partial

import numpy as np
from _common import ENGINE_METHODS, add_embeddings_option, embed_all, save_embedding
from _harness import benchmark_parser, parse, report, run_cells
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from skddvi.metrics import knn_cv_accuracy, mixture_scores

METHODS = (
    "pca",
    "tsne",
    "umap",
    "vae",
    "aae",
    "iaf",
    "ddvae_path",
    "ddvae",
    "ddvae_neighbors",
)
LIKELIHOODS = {"components": "gaussian", "genotypes": "binomial"}
N_COMPONENTS = 20
COLUMNS = {
    "first_use_seconds": ("first use s", ".1f"),
    "fit_seconds": ("fit s", ".2f"),
    "purity": ("purity", ".3f"),
    "completeness": ("completeness", ".3f"),
    "nmi": ("NMI", ".3f"),
    "knn_accuracy": ("20-NN accuracy", ".3f"),
    "trustworthiness": ("trustworthiness", ".3f"),
    "bound": ("bound, all rows", ".2f"),
}


def load_components(path):
    """Return the scaled components (n, 20), float64, and population codes (n,)."""
    with np.load(path, allow_pickle=False) as file:
        return file["X"] * np.sqrt(file["eigenvalues"]), file["y"]


def load_genotypes(path):
    """Return copies of an allele (n, p), 0, 1 or 2, and population codes (n,)."""
    with np.load(path, allow_pickle=False) as file:
        return file["X"], file["y"]


def standardised(genotypes, frequencies=None):
    """Return genotypes centred and scaled by what the frequencies say; constant ones dropped.

    ``frequencies`` (p,) are those of the genotypes themselves, if not given.
    """
    p = genotypes.mean(axis=0) / 2 if frequencies is None else frequencies
    varied = (p > 0) & (p < 1)
    p = p[varied]
    return (genotypes[:, varied] - 2 * p) / np.sqrt(2 * p * (1 - p))


def cell(method, seed, settings, embeddings=None):
    kind = settings["kind"]
    X, y = (load_components if kind == "components" else load_genotypes)(settings["data"])
    rows = np.sort(np.random.default_rng(0).permutation(len(X))[: settings["n_rows"]])
    X, y = X[rows], y[rows]
    reference = X if kind == "components" else standardised(X)
    if kind == "genotypes" and method not in ENGINE_METHODS:
        X = reference
        if method != "pca":
            X = PCA(N_COMPONENTS, random_state=0).fit_transform(X)
    values, embedding = embed_all(
        method, X, seed, likelihood=LIKELIHOODS[kind], **settings["ddvae"]
    )
    save_embedding(embeddings, method, seed, embedding, y)
    scores = mixture_scores(
        embedding,
        y,
        n_clusters=settings["n_clusters"],
        n_init=settings["n_init"],
        random_state=seed,
    )
    return {
        **values,
        **scores,
        "knn_accuracy": knn_cv_accuracy(embedding, y),
        "trustworthiness": trustworthiness(reference, embedding, n_neighbors=20),
    }


def main(argv=None):
    parser = benchmark_parser(
        __doc__, methods=METHODS, data="an .npz file: see the top of the file"
    )
    parser.add_argument("--kind", choices=LIKELIHOODS, default="components")
    add_embeddings_option(parser)
    kind = parser.parse_known_args(argv)[0].kind
    args = parse(parser, "ancestry" if kind == "components" else f"ancestry_{kind}", argv)
    with np.load(args.data, allow_pickle=False) as file:
        n_rows, n_populations = len(file["y"]), len(np.unique(file["y"]))
    settings = {
        "data": args.data,
        "kind": kind,
        "n_rows": min(600, n_rows) if args.quick else n_rows,
        "n_clusters": min(20, n_populations),
        "n_init": 1 if args.quick else 5,
        "ddvae": {} if args.max_iter is None else {"max_iter": args.max_iter},
    }
    cells = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    record = run_cells(partial(cell, embeddings=args.embeddings), cells, settings, args.out)
    return report(record, COLUMNS, args.methods)


if __name__ == "__main__":
    sys.exit(main())
