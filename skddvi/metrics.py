"""Figures of embeddings, clusters, samples and probabilities; higher or lower is said of each.

What scikit-learn or scipy computes is called, not written again: some functions here only put what
they have into the form of this field. Figures whose cost grows with the square of the rows are
computed on ``max_rows`` rows, drawn with ``random_state``, the same ones at every call.
"""

import itertools
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist
from sklearn.base import clone, is_classifier
from sklearn.manifold import trustworthiness
from sklearn.metrics import (
    adjusted_rand_score,
    completeness_score,
    normalized_mutual_info_score,
)
from sklearn.metrics.cluster import contingency_matrix
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neighbors import KernelDensity, KNeighborsClassifier, NearestNeighbors
from sklearn.utils import check_array, check_consistent_length, gen_batches
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.validation import column_or_1d

from ._base import _seed
from ._labels import of_one_kind

__all__ = [
    "active_dimensions",
    "cluster_scores",
    "continuity",
    "embedding_report",
    "expected_calibration_error",
    "knn_accuracy",
    "knn_cv_accuracy",
    "knn_recall",
    "latent_nll",
    "matched_accuracy",
    "maximum_mean_discrepancy",
    "mixture_scores",
    "purity_score",
    "stability_report",
]

_BLOCK_ROWS = 1024  # of a kernel matrix held at once
_MEDIAN_ROWS = 1000  # that the median distance is taken over
# Bandwidths tried by cross-validation, in units of the embedding's spread: wide and geometric,
# because an embedding may lie on curves or fill the plane.
_BANDWIDTHS = np.geomspace(0.01, 1.0, 25)
# What the functions' options may be, by their names.
_COUNT = Interval(Integral, 1, None, closed="left")
_OPTIONS = {
    "max_rows": [_COUNT],
    "n_neighbors": [_COUNT],
    "n_splits": [Interval(Integral, 2, None, closed="left")],
    "n_clusters": [None, _COUNT],
    "n_init": [_COUNT],
    "n_bins": [_COUNT],
    "labels": [None, "array-like"],
    "bandwidth": [None, Real],
    "threshold": [Interval(Real, 0, None, closed="left")],
    "seeds": [Integral, "array-like"],
    "random_state": ["random_state"],
}
_checked = validate_params(_OPTIONS, prefer_skip_nested_validation=True)


# --------------------------------------------------------------------------- densities and samples


@_checked
def latent_nll(embedding, prior_draws, *, max_rows=2000, random_state=0):
    """Latent negative log-likelihood: how much of the prior an embedding leaves out.

    Minus the mean log-density, in nats, of draws from the prior under a Gaussian kernel density
    estimate of the embedding. Low where the embedding covers the prior; the least that can be had
    is the figure of other draws from the prior in place of the embedding, about its entropy.

    Parameters
    ----------
    embedding : array-like of shape (n_rows, n_components)
        Latents of rows, better held-out ones. At least 5 rows.
    prior_draws : array-like of shape (n_draws, n_components)
        Draws from the prior.
    max_rows : int, default=2000
        Rows of the embedding by which five-fold cross-validation chooses the bandwidth. It is then
        scaled to all rows by Scott's exponent, -1 / (n_components + 4).
    random_state : int, RandomState instance or None, default=0
        Source of the rows for the cross-validation.

    Returns
    -------
    nll : float
        In nats a draw; lower is better.

    Examples
    --------
    >>> import numpy as np
    >>> from skddvi.metrics import latent_nll
    >>> prior, embedding = np.random.default_rng(0).normal(size=(2, 500, 2))
    >>> latent_nll(embedding, prior) < latent_nll(embedding / 10, prior)
    True
    """
    embedding, prior_draws = check_array(embedding), check_array(prior_draws)
    seed = _seed(random_state)
    few = embedding[_few_rows(len(embedding), max_rows, seed)]
    spread = float(np.sqrt(few.var(axis=0).mean())) or 1.0
    grid = {"bandwidth": spread * _BANDWIDTHS}
    folds = KFold(5, shuffle=True, random_state=seed)
    search = GridSearchCV(KernelDensity(), grid, cv=folds, refit=False).fit(few)
    exponent = 1 / (embedding.shape[1] + 4)
    bandwidth = search.best_params_["bandwidth"] * (len(few) / len(embedding)) ** exponent
    density = KernelDensity(bandwidth=bandwidth, rtol=1e-4).fit(embedding)
    return float(-density.score_samples(prior_draws).mean())


@_checked
def maximum_mean_discrepancy(X, Y, *, bandwidth=None, max_rows=5000, random_state=0):
    r"""Squared maximum mean discrepancy of two samples, unbiased.

    The U-statistic of [1]_, lemma 6, with the kernel
    :math:`k(x, y) = \exp(-\lVert x - y \rVert^2 / (2 h^2))`. Zero on average where both samples are
    of one distribution, in which case it is negative half of the time.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_features)
        Rows of one sample; at least 2.
    Y : array-like of shape (m_rows, n_features)
        Rows of the other; at least 2.
    bandwidth : float, default=None
        Length h of the kernel. None is the median distance between rows of both samples taken
        together; figures compare only at the same bandwidth.
    max_rows : int, default=5000
        Rows of each sample that are used. The cost grows with their square; memory does not.
    random_state : int, RandomState instance or None, default=0
        Source of the rows used.

    Returns
    -------
    mmd : float
        The estimate of the squared discrepancy; lower is better.

    References
    ----------
    .. [1] Gretton, A. et al. (2012). A kernel two-sample test. JMLR 13, 723-773.

    Examples
    --------
    >>> import numpy as np
    >>> from skddvi.metrics import maximum_mean_discrepancy
    >>> X, Y = np.random.default_rng(0).normal(size=(2, 300, 3))
    >>> abs(maximum_mean_discrepancy(X, Y)) < 0.01
    True
    >>> maximum_mean_discrepancy(X, Y + 1) > 0.1
    True
    """
    X, Y = (check_array(sample, dtype=np.float64, ensure_min_samples=2) for sample in (X, Y))
    if X.shape[1] != Y.shape[1]:
        raise ValueError(f"X has {X.shape[1]} features and Y {Y.shape[1]}, expected the same.")
    # Two seeds, so that two samples of one length are not thinned alike.
    first, second = np.random.default_rng(_seed(random_state)).integers(2**31, size=2).tolist()
    X, Y = X[_few_rows(len(X), max_rows, first)], Y[_few_rows(len(Y), max_rows, second)]
    if bandwidth is None:
        half = _MEDIAN_ROWS // 2
        few = X[_few_rows(len(X), half, first)], Y[_few_rows(len(Y), half, second)]
        pooled = np.concatenate(few)
        bandwidth = float(np.median(pdist(pooled))) or 1.0
    elif not bandwidth > 0:
        raise ValueError(f"bandwidth must be a positive number or None, found {bandwidth!r}.")
    gamma = 0.5 / bandwidth**2
    if not 0 < gamma < np.inf:
        raise ValueError(
            f"X and Y are too far apart or too close, found {bandwidth=}; rescale them."
        )
    n, m = len(X), len(Y)
    # Each row's kernel with itself is 1, and no part of the unbiased mean.
    within_x = (_kernel_sum(X, X, gamma) - n) / (n * (n - 1))
    within_y = (_kernel_sum(Y, Y, gamma) - m) / (m * (m - 1))
    return float(within_x + within_y - 2 * _kernel_sum(X, Y, gamma) / (n * m))


def _kernel_sum(X, Y, gamma):
    return sum(rbf_kernel(X[rows], Y, gamma).sum() for rows in gen_batches(len(X), _BLOCK_ROWS))


@_checked
def active_dimensions(means, *, threshold=0.01):
    """Count the latent dimensions that the rows make use of.

    A dimension is active where the variance over rows of its posterior mean exceeds a threshold
    [1]_. Where a posterior has collapsed onto the prior, the mean is the same for every row.

    Parameters
    ----------
    means : array-like of shape (n_rows, n_components)
        Posterior means, or the latents of ``transform``, under a prior of about unit
        variance.
    threshold : float, default=0.01
        Variance from which on a dimension counts.

    Returns
    -------
    n_active : int
        From 0 to n_components.

    References
    ----------
    .. [1] Burda, Y., Grosse, R., and Salakhutdinov, R. (2016). Importance weighted autoencoders.
       ICLR. arXiv:1509.00519.

    Examples
    --------
    >>> from skddvi.metrics import active_dimensions
    >>> active_dimensions([[0.0, 1.0], [0.01, -1.0], [0.0, 0.5]])
    1
    """
    means = check_array(means, dtype=np.float64)
    return int((means.var(axis=0) > threshold).sum())


# --------------------------------------------------------------------------- neighbourhoods


@_checked
def continuity(X, embedding, *, n_neighbors=5):
    """Share of neighbours in the input that stay neighbours in the embedding, weighted by rank.

    It is trustworthiness [1]_ with the two spaces exchanged, and computed that way: rows that are
    among the nearest of the input and not of the embedding cost the more, the farther they are in
    the embedding. Time and memory grow with the square of the rows.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_features)
        Rows.
    embedding : array-like of shape (n_rows, n_components)
        Their latents.
    n_neighbors : int, default=5
        Size of a neighbourhood, less than half the rows.

    Returns
    -------
    continuity : float
        In [0, 1]; higher is better.

    References
    ----------
    .. [1] Venna, J., and Kaski, S. (2001). Neighborhood preservation in nonlinear projection
       methods: an experimental study. ICANN.

    Examples
    --------
    >>> import numpy as np
    >>> from skddvi.metrics import continuity
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> continuity(X, 2 * X)
    1.0
    >>> continuity(X, X[:, :2]) < 1
    True
    """
    return float(trustworthiness(embedding, X, n_neighbors=n_neighbors))


@_checked
def knn_recall(X, embedding, *, n_neighbors=20):
    """Mean share of each row's nearest neighbours that are among its nearest in the embedding.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Rows.
    embedding : array-like of shape (n_rows, n_components)
        Their latents.
    n_neighbors : int, default=20
        Size of a neighbourhood, less than the rows.

    Returns
    -------
    recall : float
        In [0, 1]; higher is better. An embedding at random has n_neighbors / (n_rows - 1).

    Examples
    --------
    >>> import numpy as np
    >>> from skddvi.metrics import knn_recall
    >>> X = np.arange(10.0).reshape(5, 2)
    >>> knn_recall(X, -X, n_neighbors=2)
    1.0
    """
    check_consistent_length(X, embedding)
    there, here = (
        NearestNeighbors(n_neighbors=n_neighbors).fit(space).kneighbors(return_distance=False)
        for space in (X, embedding)
    )
    found = (there[:, :, None] == here[:, None, :]).any(axis=2)
    return float(found.mean())


@_checked
def knn_accuracy(train, y_train, test, y_test, *, n_neighbors=20):
    """Accuracy on held-out embeddings of nearest neighbours among those of the training rows.

    Parameters
    ----------
    train : array-like of shape (n_train, n_components)
        Embedding of the training rows.
    y_train : array-like of shape (n_train,)
        Their labels.
    test : array-like of shape (n_test, n_components)
        Embedding of held-out rows.
    y_test : array-like of shape (n_test,)
        Their labels.
    n_neighbors : int, default=20
        Neighbours that vote; all training rows where there are fewer.

    Returns
    -------
    accuracy : float
        In [0, 1]; higher is better.

    Examples
    --------
    >>> from skddvi.metrics import knn_accuracy
    >>> knn_accuracy([[0.0], [1.0]], ["a", "b"], [[0.2], [0.7]], ["a", "a"], n_neighbors=1)
    0.5
    """
    train = check_array(train)
    knn = KNeighborsClassifier(min(n_neighbors, len(train))).fit(train, y_train)
    return float(knn.score(test, y_test))


@_checked
def knn_cv_accuracy(embedding, y, *, n_neighbors=20, n_splits=5):
    """Accuracy of nearest neighbours in stratified cross-validation on one embedding.

    The labels are held out, not the rows: they were all embedded together. For an estimator with
    ``transform``, :func:`knn_accuracy` on held-out rows is the stricter figure. The folds are
    scikit-learn's own, which follow the order of the rows: what was collected together, relatives
    or a batch, is mostly held out together.

    Parameters
    ----------
    embedding : array-like of shape (n_rows, n_components)
        Latents.
    y : array-like of shape (n_rows,)
        Labels, at least ``n_splits`` rows of each.
    n_neighbors : int, default=20
        Neighbours that vote.
    n_splits : int, default=5
        Number of folds.

    Returns
    -------
    accuracy : float
        Mean over the folds, in [0, 1]; higher is better.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi.metrics import knn_cv_accuracy
    >>> knn_cv_accuracy(*load_iris(return_X_y=True)) > 0.9
    True
    """
    knn = KNeighborsClassifier(n_neighbors)
    return float(cross_val_score(knn, embedding, y, cv=n_splits).mean())


# --------------------------------------------------------------------------- clusters and classes


def purity_score(labels_true, labels_pred):
    """Share of rows that belong to the commonest class of their cluster.

    Parameters
    ----------
    labels_true : array-like of shape (n_rows,)
        Classes.
    labels_pred : array-like of shape (n_rows,)
        Clusters. Purity cannot fall where one is split: compare at the same number of clusters.

    Returns
    -------
    purity : float
        In (0, 1]; higher is better.

    Examples
    --------
    >>> from skddvi.metrics import purity_score
    >>> purity_score([0, 0, 1, 1], [3, 3, 3, 5])
    0.75
    """
    table = _contingencies(labels_true, labels_pred)
    return float(table.max(axis=0).sum() / table.sum())


def matched_accuracy(labels_true, labels_pred):
    """Accuracy under the best one-to-one matching of clusters to classes.

    Where there are more clusters than classes, or fewer, some stay without a match, and their rows
    count as wrong.

    Parameters
    ----------
    labels_true : array-like of shape (n_rows,)
        Classes.
    labels_pred : array-like of shape (n_rows,)
        Clusters.

    Returns
    -------
    accuracy : float
        In (0, 1]; higher is better.

    Examples
    --------
    >>> from skddvi.metrics import matched_accuracy
    >>> matched_accuracy([0, 0, 1, 1], [7, 7, 5, 5])
    1.0
    >>> matched_accuracy([0, 0, 1, 1], [0, 1, 2, 3])
    0.5
    """
    table = _contingencies(labels_true, labels_pred)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / table.sum())


def _contingencies(labels_true, labels_pred):
    """Return how many rows of each class are in each cluster, (n_classes, n_clusters)."""
    labels = [
        of_one_kind(column_or_1d(check_array(given, ensure_2d=False, dtype=None)), name)
        for name, given in (("labels_true", labels_true), ("labels_pred", labels_pred))
    ]
    check_consistent_length(*labels)
    return contingency_matrix(*labels)


def cluster_scores(labels_true, labels_pred):
    """Agreement of clusters with classes, by the measures in use.

    Parameters
    ----------
    labels_true : array-like of shape (n_rows,)
        Classes.
    labels_pred : array-like of shape (n_rows,)
        Clusters.

    Returns
    -------
    scores : dict of str to float
        "purity" and "matched_accuracy" of this module; "completeness", "nmi" and "ari" of
        :mod:`sklearn.metrics`. 1 is perfect agreement in each. Printed as a table.

    Examples
    --------
    >>> from skddvi.metrics import cluster_scores
    >>> cluster_scores([0, 0, 1, 1], [0, 0, 1, 2])
    purity            1.0000
    completeness      0.6667
    nmi               0.8000
    ari               0.5714
    matched_accuracy  0.7500
    """
    return _Report(
        purity=purity_score(labels_true, labels_pred),
        completeness=float(completeness_score(labels_true, labels_pred)),
        nmi=float(normalized_mutual_info_score(labels_true, labels_pred)),
        ari=float(adjusted_rand_score(labels_true, labels_pred)),
        matched_accuracy=matched_accuracy(labels_true, labels_pred),
    )


@_checked
def mixture_scores(embedding, y, *, n_clusters=None, n_init=5, random_state=0):
    """Agreement of the classes with the clusters that a Gaussian mixture finds in an embedding.

    Parameters
    ----------
    embedding : array-like of shape (n_rows, n_components)
        Latents.
    y : array-like of shape (n_rows,)
        Labels, which the mixture does not see.
    n_clusters : int, default=None
        Components of the mixture. None is the number of classes.
    n_init : int, default=5
        Initialisations of the mixture, of which the likeliest is kept.
    random_state : int, RandomState instance or None, default=0
        Source of the initialisations.

    Returns
    -------
    scores : dict of str to float
        As :func:`cluster_scores`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi.metrics import mixture_scores
    >>> mixture_scores(*load_iris(return_X_y=True))["purity"] > 0.9
    True
    """
    y = of_one_kind(column_or_1d(check_array(y, ensure_2d=False, dtype=None)), "y")
    n_clusters = len(np.unique(y)) if n_clusters is None else n_clusters
    mixture = GaussianMixture(n_clusters, n_init=n_init, random_state=_seed(random_state))
    return cluster_scores(y, mixture.fit_predict(embedding))


@_checked
def expected_calibration_error(y_true, probabilities, *, labels=None, n_bins=15):
    """Mean distance between how sure predictions are and how often they are right.

    Rows are binned by the probability of the class predicted for them, the largest; the error is
    the mean over bins of the distance between accuracy and mean confidence, weighted by the rows
    in them [1]_.

    Parameters
    ----------
    y_true : array-like of shape (n_rows,)
        Classes.
    probabilities : array-like of shape (n_rows, n_classes)
        As ``predict_proba`` gives them.
    labels : array-like of shape (n_classes,), default=None
        The class of each column, as ``classes_``. None is the sorted classes in ``y_true``, of
        which there must be as many as columns.
    n_bins : int, default=15
        Bins of equal width over [0, 1].

    Returns
    -------
    error : float
        In [0, 1]; lower is better.

    References
    ----------
    .. [1] Guo, C., Pleiss, G., Sun, Y., and Weinberger, K. Q. (2017). On calibration of modern
       neural networks. ICML. arXiv:1706.04599.

    Examples
    --------
    >>> from skddvi.metrics import expected_calibration_error
    >>> expected_calibration_error([0, 1, 1, 0], [[0.5, 0.5]] * 4)
    0.0
    >>> expected_calibration_error([0, 1, 1, 0], [[1.0, 0.0]] * 4)
    0.5
    """
    confidence, right, counts = calibration_bins(
        y_true, probabilities, labels=labels, n_bins=n_bins
    )
    return float(np.abs(right - confidence).sum() / counts.sum())


def calibration_bins(y_true, probabilities, *, labels=None, n_bins=15):
    """Return the sum of confidences, the number of right rows and that of all rows in each bin.

    The parameters are those of :func:`expected_calibration_error`.
    """
    y_true = column_or_1d(y_true)
    probabilities = check_array(probabilities, dtype=np.float64)
    check_consistent_length(y_true, probabilities)
    low, high = probabilities.min(), probabilities.max()
    if low < 0 or high > 1:
        raise ValueError(f"probabilities must lie in [0, 1], found [{low:g}, {high:g}].")
    labels = np.unique(y_true) if labels is None else np.asarray(labels)
    if len(labels) != probabilities.shape[1]:
        raise ValueError(
            f"probabilities has {probabilities.shape[1]} columns, found {len(labels)} labels; name "
            "the class of each column by labels, as in labels=classifier.classes_."
        )
    confidence = probabilities.max(axis=1)
    right = labels[probabilities.argmax(axis=1)] == y_true
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    return (
        np.bincount(bins, weights=confidence, minlength=n_bins),
        np.bincount(bins, weights=right, minlength=n_bins),
        np.bincount(bins, minlength=n_bins),
    )


# --------------------------------------------------------------------------- reports


@_checked
def embedding_report(
    embedding, X, y=None, *, n_neighbors=20, n_clusters=None, max_rows=2000, random_state=0
):
    """Describe an embedding by the figures of the field, as a table.

    Parameters
    ----------
    embedding : array-like of shape (n_rows, n_components)
        Latents of rows.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        The rows, in the units in which distances between them mean something.
    y : array-like of shape (n_rows,), default=None
        Labels that the embedding did not see.
    n_neighbors : int, default=20
        Size of the neighbourhoods in all figures that have one.
    n_clusters : int, default=None
        Components of the Gaussian mixture whose clusters are compared with ``y``. None is the
        number of classes.
    max_rows : int, default=2000
        Rows that the figures of neighbourhoods are computed on; they need n_rows^2 of memory.
    random_state : int, RandomState instance or None, default=0
        Source of the rows and initialisations.

    Returns
    -------
    report : dict of str to float
        - "trustworthiness", by :func:`sklearn.manifold.trustworthiness`, "continuity" and
          "knn_recall": whether neighbours are true, whole, and found;
        - "active_dimensions";
        - with ``y``, "knn_accuracy" of :func:`knn_cv_accuracy` and what :func:`mixture_scores`
          returns.

        Printed as a table.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> from skddvi.metrics import embedding_report
    >>> X, y = load_wine(return_X_y=True)
    >>> X = scale(X)
    >>> embedding_report(-X, X)
    trustworthiness    1.0000
    continuity         1.0000
    knn_recall         1.0000
    active_dimensions      13
    >>> embedding_report(X[:, :2], X, y)["knn_accuracy"] < 0.9
    True
    """
    embedding = check_array(embedding)
    X = check_array(X, accept_sparse="csr")
    check_consistent_length(embedding, X)
    rows = _few_rows(len(embedding), max_rows, random_state)
    if len(rows) <= 2 * n_neighbors:
        raise ValueError(
            f"n_neighbors={n_neighbors} needs more than {2 * n_neighbors} rows, found {len(rows)}; "
            "lower n_neighbors, or raise max_rows."
        )
    few_X, few = X[rows], embedding[rows]
    report = _Report(
        trustworthiness=float(trustworthiness(few_X, few, n_neighbors=n_neighbors)),
        continuity=continuity(few_X, few, n_neighbors=n_neighbors),
        knn_recall=knn_recall(few_X, few, n_neighbors=n_neighbors),
        active_dimensions=active_dimensions(embedding),
    )
    if y is not None:
        report["knn_accuracy"] = knn_cv_accuracy(embedding, y, n_neighbors=n_neighbors)
        report |= mixture_scores(embedding, y, n_clusters=n_clusters, random_state=random_state)
    return report


class MeanAndSd(NamedTuple):
    """Mean and standard deviation (n - 1 in the denominator)."""

    mean: float
    sd: float


@_checked
def stability_report(
    estimator,
    X,
    y=None,
    *,
    seeds=5,
    n_neighbors=20,
    n_clusters=None,
    max_rows=2000,
    random_state=0,
):
    """Fit an estimator with several seeds and say how much its results differ.

    Parameters
    ----------
    estimator : estimator
        With ``fit_transform`` and a parameter ``random_state``, of its own or of a step of a
        pipeline. It is cloned, not fitted.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Rows.
    y : array-like of shape (n_rows,), default=None
        Labels for the figures; the estimator does not see them.
    seeds : int or sequence of int, default=5
        The seeds; an integer n stands for 0, ..., n - 1. At least two.
    n_neighbors : int, default=20
        As in :func:`embedding_report`.
    n_clusters : int, default=None
        As in :func:`embedding_report`.
    max_rows : int, default=2000
        As in :func:`embedding_report`.
    random_state : int, RandomState instance or None, default=0
        As in :func:`embedding_report`, the same for every seed.

    Returns
    -------
    report : dict of str to (float, float)
        Mean and standard deviation, ``.mean`` and ``.sd``, over seeds of every figure of
        :func:`embedding_report`, and over pairs of seeds of

        - "procrustes_disparity", by :func:`scipy.spatial.procrustes`: 0 where two embeddings
          differ by shift, scale, rotation and reflection alone, at most 1;
        - "neighbor_overlap", :func:`knn_recall` of one embedding in the other;
        - "ari_between_runs", where the estimator has ``labels_``: the adjusted Rand index of its
          clusters.

        Printed as a table.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.decomposition import PCA
    >>> from skddvi.metrics import stability_report
    >>> stability_report(PCA(2), load_iris().data, seeds=2)["neighbor_overlap"]
    MeanAndSd(mean=1.0, sd=nan)
    """
    seeds = list(range(seeds)) if isinstance(seeds, Integral) else list(seeds)
    if len(seeds) < 2:
        raise ValueError(f"seeds must be two or more, found {seeds!r}.")
    if hasattr(estimator, "__sklearn_tags__") and is_classifier(estimator):
        raise ValueError(
            f"estimator must do without labels, by which the embeddings are judged, found the "
            f"classifier {estimator!r}."
        )
    names = [
        name
        for name in estimator.get_params()
        if name == "random_state" or name.endswith("__random_state")
    ]
    if not names:
        raise ValueError(
            f"estimator must have a parameter random_state to vary, found none in {estimator!r}."
        )
    if not isinstance(random_state, Integral):
        random_state = _seed(random_state)
    options = {"n_neighbors": n_neighbors, "max_rows": max_rows, "random_state": random_state}
    embeddings, labels, reports = [], [], []
    for seed in seeds:
        model = clone(estimator).set_params(**dict.fromkeys(names, seed))
        embeddings.append(np.asarray(model.fit_transform(X)))
        labels.append(getattr(model, "labels_", None))
        reports.append(embedding_report(embeddings[-1], X, y, n_clusters=n_clusters, **options))
    report = _Report({name: _mean_and_sd([each[name] for each in reports]) for name in reports[0]})
    rows = _few_rows(len(embeddings[0]), max_rows, random_state)
    few = [embedding[rows] for embedding in embeddings]
    pairs = list(itertools.combinations(range(len(seeds)), 2))
    report["procrustes_disparity"] = _mean_and_sd(
        [procrustes(embeddings[i], embeddings[j])[2] for i, j in pairs]
    )
    report["neighbor_overlap"] = _mean_and_sd(
        [knn_recall(few[i], few[j], n_neighbors=n_neighbors) for i, j in pairs]
    )
    if labels[0] is not None:
        report["ari_between_runs"] = _mean_and_sd(
            [adjusted_rand_score(labels[i], labels[j]) for i, j in pairs]
        )
    return report


class _Report(dict):
    """Figures by name, printed as a table."""

    def __repr__(self):
        """Return one line a figure: its value, or mean ± standard deviation."""
        cells = {name: _cell(value) for name, value in self.items()}
        first = max(map(len, cells), default=0)
        second = max(map(len, cells.values()), default=0)
        return "\n".join(f"{name:<{first}}  {cell:>{second}}" for name, cell in cells.items())

    def __or__(self, other):
        """Return a report of the figures of both."""
        return _Report({**self, **other})


def _cell(value):
    if isinstance(value, MeanAndSd):
        return f"{value.mean:.4f} ± {value.sd:.4f}"
    return str(value) if isinstance(value, Integral) else f"{value:.4f}"


def _mean_and_sd(values):
    """Return mean and sd; the latter is NaN for one value."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return MeanAndSd(float(np.mean(values)), sd)


def _few_rows(n_rows, max_rows, random_state):
    """Return the indices of at most ``max_rows`` rows, in their order."""
    rng = np.random.default_rng(_seed(random_state))
    return np.sort(rng.permutation(n_rows)[:max_rows])
