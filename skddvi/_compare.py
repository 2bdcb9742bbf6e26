"""Fit `DDVAETransformer` and its peers on the same rows and put them side by side.

This is the work behind ``python -m skddvi compare``; the shell's side of it is in ``__main__``.

Every method sees the same training rows and is measured on the same held-out rows. The peers get
the preprocessing that is usual for the kind of data (`_peer_preprocessing`), t-SNE and UMAP their
default settings. Seconds count the fit and the transform alone: no reading, no preprocessing of
the peers, and nothing that is paid once in a process: UMAP compiles itself on its first call, torch
imports much of itself on its first gradient step. Both are done before, on few rows, and said.
"""

import importlib.util
import time
import warnings
from dataclasses import dataclass, field, replace

import numpy as np
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.manifold import TSNE, trustworthiness
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from .likelihoods import GaussianLikelihood
from .metrics import knn_accuracy

LABELS = {
    "pca": "PCA",
    "tsne": "t-SNE",
    "umap": "UMAP",
    "ddvae": "DD-VAE",
    "ddvae_neighbors": "DD-VAE, neighbours",
}
METHODS = tuple(LABELS)
MIN_ROWS = 20
HELD_OUT = 0.2
# Trustworthiness needs all distances between the rows that it is computed on.
MAX_TRUSTWORTHINESS_ROWS = 2000
# The exact density of PCA needs the inverse of a matrix (n_features, n_features).
MAX_PCA_DENSITY_FEATURES = 4000
# Below this share of the largest variance, the least one is rounding.
SINGULAR = 1e-10


@dataclass
class Split:
    """Training and held-out rows, as given and as the peers get them."""

    train: np.ndarray
    test: np.ndarray
    peer_train: np.ndarray
    peer_test: np.ndarray
    y_train: np.ndarray | None
    y_test: np.ndarray | None
    log_volume: float | None  # of the scaling that made peer rows from gaussian rows, in nats


@dataclass
class Result:
    """What one method did: its figures, its embeddings, and what must be said about them.

    Times are in seconds, `nats_per_row` is the mean over held-out rows of a log-likelihood or of
    a lower bound on it, in nats in the original units. None: not defined for the method.
    """

    method: str
    fit_seconds: float
    transform_seconds: float | None
    train_embedding: np.ndarray = field(repr=False)
    test_embedding: np.ndarray = field(repr=False)
    knn_accuracy: float | None = None
    trustworthiness: float | None = None
    nats_per_row: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Comparison:
    """All results, and the sizes that they were measured with."""

    dataset: object
    split: Split
    seed: int
    likelihood: str
    n_neighbors: int
    trustworthiness_neighbors: int
    trustworthiness_rows: int
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_peers(methods):
    """Split method names into those that can run here and those whose package is missing.

    Returns
    -------
    methods : list of str
    missing : dict of str to str
        Method to the command that installs it.
    """
    missing = {}
    if "umap" in methods and importlib.util.find_spec("umap") is None:
        missing["umap"] = "pip install umap-learn"
    return [method for method in methods if method not in missing], missing


def check_request(X, feature_names, likelihood, prior):
    """Raise a `ValueError` for what cannot work, before any time is spent on fitting."""
    from .likelihoods import resolve_likelihood
    from .priors import resolve_prior

    n_rows, n_features = X.shape
    if n_rows < MIN_ROWS:
        raise ValueError(f"found {n_rows} rows; the comparison needs at least {MIN_ROWS}")
    if n_features < 2:
        raise ValueError(f"found {n_features} columns of data; expected at least 2")
    likelihood = resolve_likelihood(likelihood)
    bad = np.isinf(X) if likelihood.accepts_missing else ~np.isfinite(X)
    if bad.any():
        first = int(np.flatnonzero(bad.any(axis=0))[0])
        name = repr(feature_names[first]) if feature_names else first
        raise ValueError(
            f"X has {bad.sum()} missing or infinite values, the first in column {name}; "
            "fill them in first, for example with sklearn.impute.SimpleImputer"
        )
    if np.isnan(X).all():
        raise ValueError("X has no value that is not missing")
    resolve_prior(prior, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fit warns of the same, and that is printed
        likelihood.check(X)


def compare(dataset, methods, *, likelihood, seed=0, max_rows=None, params=None, watch=None):
    """Fit every method on the same rows and measure it on the same held-out rows.

    Parameters
    ----------
    dataset : skddvi._read.Dataset
    methods : sequence of {"pca", "tsne", "umap", "ddvae", "ddvae_neighbors"}
        In this order; the last has `skddvi.regularizers.NeighborhoodPreservation`.
    likelihood : str
        Likelihood of the DD-VAE; it also decides the preprocessing of the peers.
    seed : int, default=0
        Seed of the choice of rows, of the split, and of every method.
    max_rows : int or None, default=None
        More rows than this are thinned at random first.
    params : dict or None, default=None
        Further parameters of `DDVAETransformer`.
    watch : callable or None, default=None
        Called with each method's label when its turn comes.

    Returns
    -------
    Comparison
    """
    if len(dataset.class_names) == 1:
        notes = (*dataset.notes, "labels left out: all are of one class")
        dataset = replace(dataset, y=None, class_names=(), notes=notes)
    X, y = dataset.X, dataset.y
    if max_rows is not None and len(X) > max_rows:
        rows = np.sort(np.random.default_rng(seed).choice(len(X), max_rows, replace=False))
        X, y = X[rows], None if y is None else y[rows]
    split, notes = split_rows(X, y, likelihood, seed)

    n_test = min(len(split.test), MAX_TRUSTWORTHINESS_ROWS)
    comparison = Comparison(
        dataset,
        split,
        seed,
        likelihood,
        n_neighbors=min(20, int(np.sqrt(len(split.train)))),
        trustworthiness_neighbors=min(5, (n_test - 1) // 2),
        trustworthiness_rows=n_test,
        notes=[*dataset.notes, *notes],
    )
    fitters = {"pca": _fit_pca, "tsne": _fit_tsne, "umap": _fit_umap}
    own = {"likelihood": likelihood, **(params or {})}
    for method in methods:
        if watch is not None:
            watch(LABELS[method])
        if method in fitters:
            result = fitters[method](split, seed)
        else:
            result = _fit_ddvae(method, split, seed, own)
        _measure(result, comparison)
        comparison.results.append(result)
    return comparison


def split_rows(X, y, likelihood, seed):
    """Hold rows out, stratified by class where every class has two rows, and prepare the peers'.

    Returns
    -------
    split : Split
    notes : list of str
    """
    notes = []
    n_test = int(np.ceil(HELD_OUT * len(X)))
    counts = np.zeros(0) if y is None else np.unique(y, return_counts=True)[1]
    stratified = len(counts) > 1 and counts.min() > 1 and len(counts) <= n_test
    if y is not None and not stratified:
        notes.append("held-out rows not stratified: a class has one row, or classes are too many")
    train_rows, test_rows = train_test_split(
        np.arange(len(X)), test_size=n_test, random_state=seed, stratify=y if stratified else None
    )
    train, test = X[train_rows], X[test_rows]

    if likelihood == "gaussian":
        # A constant column has no density: every model would be free to claim any number of nats.
        varies = np.ptp(train, axis=0) > 0
        if varies.sum() < 2:
            raise ValueError(f"found {varies.sum()} columns that vary; expected at least 2")
        if not varies.all():
            notes.append(f"{np.sum(~varies)} columns left out, constant in the training rows")
            train, test = train[:, varies], test[:, varies]

    preprocessing = _peer_preprocessing(likelihood, train).fit(train)
    log_volume = None
    if likelihood == "gaussian":
        scale = preprocessing.scale_  # None for principal components
        log_volume = 0.0 if scale is None else float(np.log(scale).sum())
    labels = (None, None) if y is None else (y[train_rows], y[test_rows])
    peers = preprocessing.transform(train), preprocessing.transform(test)
    return Split(train, test, *peers, *labels, log_volume), notes


def _peer_preprocessing(likelihood, X):
    """Return what a careful user does to the rows before PCA, t-SNE or UMAP.

    Measurements are standardised, but not principal components; intensities in [0, 1] share a scale
    already; counts are divided by their row's total and log-transformed; genotypes are centred and
    scaled per variant, missing calls set to the mean.
    """
    if likelihood == "gaussian":
        return StandardScaler(with_std=GaussianLikelihood().fit(X).unit is None)
    if likelihood in ("poisson", "negative_binomial"):
        return FunctionTransformer(_log_normalize)
    if likelihood == "binomial":
        return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    return FunctionTransformer()


def _log_normalize(X):
    total = X.sum(axis=1, keepdims=True)
    return np.log1p(1e4 * X / np.where(total > 0, total, 1))


# ------------------------------------------------------------------------------------------------
# The methods


def _timed(function, *args):
    start = time.perf_counter()
    value = function(*args)
    return value, time.perf_counter() - start


def _fit_pca(split, seed):
    pca = PCA(n_components=2, random_state=seed)
    _, fit_seconds = _timed(pca.fit, split.peer_train)
    embedding, transform_seconds = _timed(pca.transform, split.peer_test)
    result = Result(
        "pca", fit_seconds, transform_seconds, pca.transform(split.peer_train), embedding
    )
    if split.log_volume is not None and split.train.shape[1] <= MAX_PCA_DENSITY_FEATURES:
        least = pca.noise_variance_ if pca.n_features_in_ > 2 else pca.explained_variance_[-1]
        if least > SINGULAR * pca.explained_variance_[0]:
            # In the units of X: that of the standardised rows over the volume of the scaling.
            result.nats_per_row = float(pca.score(split.peer_test)) - split.log_volume
            result.notes.append("nats per row are the exact log-likelihood of probabilistic PCA")
        else:
            result.notes.append(
                "no density: the columns are linear functions of one or two of them"
            )
    return result


def _fit_tsne(split, seed):
    X = np.concatenate([split.peer_train, split.peer_test])
    if X.shape[1] > 50:
        X = PCA(n_components=min(50, len(X)), random_state=seed).fit_transform(X)
    tsne = TSNE(perplexity=min(30.0, (len(X) - 1) / 3), random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        embedding, fit_seconds = _timed(tsne.fit_transform, X)
    n_train = len(split.train)
    note = "has no transform: fitted on all rows, the held-out ones too (which helps it)"
    return Result("tsne", fit_seconds, None, embedding[:n_train], embedding[n_train:], notes=[note])


def _fit_umap(split, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        def fit(X):
            return UMAP(n_neighbors=min(15, len(X) - 1), random_state=seed).fit(X)

        # Compilation for this kind of rows, with other rows to transform than it was fitted on,
        # because UMAP answers those from memory.
        _, first_use = _timed(lambda: fit(split.peer_train[:64]).transform(split.peer_test[:64]))
        umap, fit_seconds = _timed(fit, split.peer_train)
        embedding, transform_seconds = _timed(umap.transform, split.peer_test)
    return Result(
        "umap",
        fit_seconds,
        transform_seconds,
        umap.embedding_,
        embedding,
        notes=_first_use_notes(first_use, "compiled itself"),
    )


def _first_use_notes(seconds, what):
    return [f"{what} before the fit, in {seconds:.1f} s"] if seconds > 0.5 else []


def _fit_ddvae(method, split, seed, params):
    from .regularizers import NeighborhoodPreservation
    from .transformer import DDVAETransformer

    if method == "ddvae_neighbors":
        params = {**params, "regularizer": ["auto", NeighborhoodPreservation()]}
    estimator = DDVAETransformer(random_state=seed, **params)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", category=UserWarning)
        _, first_use = _timed(
            DDVAETransformer(max_iter=1, random_state=0).fit,
            np.random.default_rng(0).normal(size=(32, 2)),
        )
        caught.clear()
        _, fit_seconds = _timed(estimator.fit, split.train)
        embedding, transform_seconds = _timed(estimator.transform, split.test)
    train_embedding = estimator.transform(split.train)
    notes = ["nats per row are the evidence lower bound on the log-likelihood"]
    notes += _first_use_notes(first_use, "torch imported the rest of itself")
    messages = (str(w.message) for w in caught if issubclass(w.category, UserWarning))
    notes += [" ".join(message.split()) for message in dict.fromkeys(messages)]
    return Result(
        method,
        fit_seconds,
        transform_seconds,
        train_embedding,
        embedding,
        nats_per_row=float(estimator.score(split.test)),
        notes=notes,
    )


def _measure(result, comparison):
    """Add the figures that are computed from the embeddings, the same way for every method."""
    split = comparison.split
    if split.y_train is not None:
        result.knn_accuracy = knn_accuracy(
            result.train_embedding,
            split.y_train,
            result.test_embedding,
            split.y_test,
            n_neighbors=comparison.n_neighbors,
        )
    rows = slice(comparison.trustworthiness_rows)
    result.trustworthiness = float(
        trustworthiness(
            split.peer_test[rows],
            result.test_embedding[rows],
            n_neighbors=comparison.trustworthiness_neighbors,
        )
    )


# ------------------------------------------------------------------------------------------------
# What is printed and written


def format_comparison(comparison):
    """Return the table as text, with a line above it and the notes below."""
    dataset, split = comparison.dataset, comparison.split
    n_rows, n_features = len(split.train) + len(split.test), dataset.X.shape[1]
    rows = f"{n_rows:,} rows"
    if n_rows < len(dataset.X):
        rows = f"{n_rows:,} of {len(dataset.X):,} rows"
    classes = f", {len(dataset.class_names)} classes" if dataset.class_names else ""
    title = (
        f"{dataset.name}: {rows} x {n_features:,} features{classes}; {len(split.test):,} rows "
        f"held out; {comparison.likelihood} likelihood; seed {comparison.seed}"
    )

    header = ["method", "fit s", "transform s", "trustworthiness", "nats per row"]
    if split.y_test is not None:
        header.insert(3, f"{comparison.n_neighbors}-NN accuracy")
    lines, notes = [], []
    for result in comparison.results:
        cells = [
            LABELS[result.method],
            _cell(result.fit_seconds, ".2f"),
            _cell(result.transform_seconds, ".2f"),
            _cell(result.trustworthiness, ".3f"),
            _cell(result.nats_per_row, ".2f"),
        ]
        if split.y_test is not None:
            cells.insert(3, _cell(result.knn_accuracy, ".3f"))
        lines.append(cells)
        notes += [f"{LABELS[result.method]}: {note}" for note in result.notes]

    subsample = ""
    if comparison.trustworthiness_rows < len(split.test):
        subsample = f"{comparison.trustworthiness_rows:,} of the "
    notes.append(
        f"trustworthiness: {subsample}held-out rows, "
        f"{comparison.trustworthiness_neighbors} neighbours"
    )
    notes += comparison.notes
    return "\n".join([title, "", *_align([header, *lines]), "", *notes])


def _cell(value, spec):
    return "-" if value is None else format(value, spec)


def _align(rows):
    """Lines of text with the first column flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *rest = (
            cell.rjust(width) if j else cell.ljust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *rest])


def as_json(comparison):
    """Return the figures as a dict that `json.dump` takes; embeddings are not in it."""
    dataset, split = comparison.dataset, comparison.split
    return {
        "data": {
            "name": dataset.name,
            "n_rows": len(split.train) + len(split.test),
            "n_rows_in_file": len(dataset.X),
            "n_features": dataset.X.shape[1],
            "n_classes": len(dataset.class_names),
            "n_train": len(split.train),
            "n_held_out": len(split.test),
        },
        "seed": comparison.seed,
        "likelihood": comparison.likelihood,
        "knn_neighbors": comparison.n_neighbors,
        "trustworthiness_neighbors": comparison.trustworthiness_neighbors,
        "trustworthiness_rows": comparison.trustworthiness_rows,
        "notes": comparison.notes,
        "methods": [
            {
                "method": result.method,
                "fit_seconds": result.fit_seconds,
                "transform_seconds": result.transform_seconds,
                "knn_accuracy": result.knn_accuracy,
                "trustworthiness": result.trustworthiness,
                "nats_per_row": result.nats_per_row,
                "notes": result.notes,
            }
            for result in comparison.results
        ],
    }
