"""Figures of an embedding that several benchmarks share; scikit-learn computes whatever it can."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import completeness_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neighbors import KernelDensity, KNeighborsClassifier


def knn_accuracy(train, y_train, test, y_test, n_neighbors=20):
    """Accuracy on test embeddings (n_test, d) of k-NN on training embeddings (n_train, d)."""
    knn = KNeighborsClassifier(min(n_neighbors, len(train))).fit(train, y_train)
    return float(knn.score(test, y_test))


def knn_cv_accuracy(embedding, y, seed, n_neighbors=20, n_splits=5):
    """Mean accuracy of k-NN in stratified cross-validation on one embedding (n, d)."""
    folds = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
    return float(cross_val_score(KNeighborsClassifier(n_neighbors), embedding, y, cv=folds).mean())


def purity_score(y, clusters):
    """Share of rows that belong to the commonest class of their cluster."""
    table = contingency_matrix(y, clusters)  # (n_classes, n_clusters)
    return float(table.max(axis=0).sum() / table.sum())


def matched_accuracy(y, clusters):
    """Share of rows in the class that their cluster is matched with, one to one, at best."""
    table = contingency_matrix(y, clusters)  # (n_classes, n_clusters)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / table.sum())


def mixture_scores(embedding, y, seed, n_clusters, n_init=5):
    """Agreement of the classes with the clusters that a Gaussian mixture finds in (n, d)."""
    mixture = GaussianMixture(n_clusters, n_init=n_init, random_state=seed)
    clusters = mixture.fit_predict(embedding)
    return {
        "purity": purity_score(y, clusters),
        "completeness": float(completeness_score(y, clusters)),
        "nmi": float(normalized_mutual_info_score(y, clusters)),
    }


def latent_nll(embedding, prior_draws, seed, max_rows=2000):
    """Mean negative log-density, in nats, of prior draws under held-out embeddings.

    Low when the embeddings cover the prior. The density is a Gaussian kernel estimate on
    `embedding` (n, d); its bandwidth maximises the log-likelihood in five-fold cross-validation
    on at most `max_rows` of the embeddings. The expectation is over `prior_draws` (m, d).

    Returns
    -------
    dict
        ``latent_nll``, and ``kde_bandwidth`` in the units of the embedding.
    """
    rng = np.random.default_rng(seed)
    few = rng.permutation(embedding)[:max_rows]
    # Wide and geometric: an embedding may lie on curves or fill the plane. Relative to its spread.
    spread = float(np.sqrt(few.var(axis=0).mean())) or 1.0
    grid = {"bandwidth": spread * np.geomspace(0.01, 1.0, 25)}
    search = GridSearchCV(KernelDensity(), grid, cv=5, refit=False).fit(few)
    # Scott's exponent: the best bandwidth shrinks with the number of rows.
    d = embedding.shape[1]
    bandwidth = search.best_params_["bandwidth"] * (len(few) / len(embedding)) ** (1 / (d + 4))
    kde = KernelDensity(bandwidth=bandwidth, rtol=1e-4).fit(embedding)
    return {
        "latent_nll": float(-kde.score_samples(prior_draws).mean()),
        "kde_bandwidth": float(bandwidth),
    }


def expected_calibration_error(probabilities, y, classes, n_bins=15):
    """Mean distance of confidence and accuracy over bins of confidence (Guo et al. 2017).

    `probabilities` (n, n_classes) are those of `classes`, `y` (n,) the true labels; the bins have
    equal width and count by the rows in them.
    """
    confidence = probabilities.max(axis=1)
    right = classes[probabilities.argmax(axis=1)] == y
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(y))
