"""How many clusters there are: the held-out bound and the stability over seeds."""

import itertools
import sys
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from ._base import _positive_integer

__all__ = ["ClusterNumberScan", "cluster_number_scan"]


@dataclass(frozen=True)
class ClusterNumberScan:
    """What :func:`cluster_number_scan` found; m numbers of clusters, s seeds.

    Parameters
    ----------
    n_clusters : ndarray of int of shape (m,)
        The numbers of clusters that were tried.
    scores : ndarray of shape (m, s)
        Mean evidence lower bound of the held-out rows, in nats a row.
    stability : ndarray of shape (m, s * (s - 1) / 2)
        Adjusted Rand index of all rows between each two seeds: 1 where both divide the rows in the
        same way, about 0 where they have nothing in common.
    n_clusters_effective : ndarray of int of shape (m, s)
        Clusters that hold at least one training row.

    Examples
    --------
    >>> import numpy as np
    >>> from skddvi import ClusterNumberScan
    >>> scan = ClusterNumberScan(
    ...     n_clusters=np.array([2, 3, 4]),
    ...     scores=np.array([[-9.0, -9.2], [-5.0, -5.1], [-5.2, -4.9]]),
    ...     stability=np.array([[0.9], [1.0], [0.7]]),
    ...     n_clusters_effective=np.array([[2, 2], [3, 3], [4, 4]]),
    ... )
    >>> scan.best_n_clusters
    3
    """

    n_clusters: np.ndarray
    scores: np.ndarray
    stability: np.ndarray
    n_clusters_effective: np.ndarray

    @property
    def best_n_clusters(self):
        """The most stable of the numbers whose bound is as good as the best, an int.

        As good are those whose mean over seeds is at most one standard error of the best below
        that. Of equally stable ones (to two decimals) it is the one with the highest bound.
        """
        mean = self.scores.mean(1)
        best = int(mean.argmax())
        n_seeds = self.scores.shape[1]
        error = self.scores[best].std(ddof=1) / np.sqrt(n_seeds) if n_seeds > 1 else 0.0
        good = np.flatnonzero(mean >= mean[best] - error)
        stability = self.stability.mean(1).round(2) if n_seeds > 1 else np.zeros(len(mean))
        return int(self.n_clusters[max(good, key=lambda k: (stability[k], mean[k]))])

    def plot(self, ax=None):
        """Draw bound and stability over the number of clusters.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where the bound is drawn; the stability gets an axis on its right. None makes a figure.

        Returns
        -------
        ax : matplotlib Axes
            The axes of the bound; ``ax.figure`` is the figure.

        See Also
        --------
        skddvi.displays.ClusterNumberDisplay : Keeps all that it draws.
        """
        from .displays import ClusterNumberDisplay

        return ClusterNumberDisplay.from_scan(self, ax=ax).ax_


def cluster_number_scan(
    estimator,
    X,
    n_clusters_range,
    *,
    n_seeds=3,
    X_val=None,
    validation_fraction=0.2,
    random_state=0,
    verbose=0,
    callback=None,
):
    """Fit a clusterer with several numbers of clusters and seeds, and compare them without labels.

    A good number of clusters has a high bound on rows that were held out, and divides the rows in
    the same way whatever the seed. The bound alone rises little beyond the right number and falls
    little; the stability tells where clusters begin to be cut at random.

    Parameters
    ----------
    estimator : DDVAEClusterer
        Copied for each fit; neither it nor its ``random_state`` is used itself.
    X : array-like of shape (n_samples, n_features)
        Rows.
    n_clusters_range : iterable of int
        Numbers of clusters to try.
    n_seeds : int, default=3
        Number of fits for each of them, with seeds ``random_state``, ``random_state + 1``, ... With
        one there is no stability.
    X_val : array-like of shape (n_held_out, n_features), default=None
        Held-out rows for the bound. None holds out ``validation_fraction`` of X.
    validation_fraction : float, default=0.2
        Share of the rows that is held out, the same rows in every fit.
    random_state : int, default=0
        The first seed, and that of the split.
    verbose : int, default=0
        Whether to write a line to standard output after each fit.
    callback : callable, default=None
        Called after each fit with the number of fits done, the number of all, and a dict of
        "n_clusters", "seed", "score" and "n_clusters_effective"; a true return value stops the
        scan, whose result then holds the numbers of clusters that are complete.

    Returns
    -------
    scan : ClusterNumberScan
        The figures, with a method ``plot``.

    Raises
    ------
    ValueError
        When no number of clusters is given, random_state is not an integer, or the callback stops
        before the first is complete.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skddvi import DDVAEClusterer, cluster_number_scan
    >>> X, _ = make_blobs(200, n_features=4, centers=3, random_state=0)
    >>> model = DDVAEClusterer(n_diffusion_steps=0, hidden_layer_sizes=(32,), max_iter=20)
    >>> scan = cluster_number_scan(model, X, [2, 3], n_seeds=2)
    >>> scan.scores.shape, scan.stability.shape
    ((2, 2), (2, 1))
    """
    # Late, for a quick import of skddvi.
    from sklearn.metrics import adjusted_rand_score
    from sklearn.model_selection import train_test_split

    if not hasattr(n_clusters_range, "__iter__"):
        raise ValueError(f"n_clusters_range must be a sequence, found {n_clusters_range!r}.")
    numbers = np.array(
        [_positive_integer("n_clusters_range", number) for number in n_clusters_range], dtype=int
    )
    n_seeds = _positive_integer("n_seeds", n_seeds)
    if len(numbers) == 0:
        raise ValueError("n_clusters_range must hold at least one number, found none.")
    if not isinstance(random_state, Integral):
        raise ValueError(
            f"random_state must be an integer, from which the seeds count on, found "
            f"{random_state!r}."
        )
    rows = X
    if X_val is None:
        index = np.arange(_num_samples(X))
        train, held_out = train_test_split(
            index, test_size=validation_fraction, random_state=random_state
        )
        X, X_val = _safe_indexing(rows, train), _safe_indexing(rows, held_out)
    scores, stability, effective = [], [], []
    for k, number in enumerate(numbers):
        labels, figures = [], []
        for seed in range(n_seeds):
            model = clone(estimator).set_params(
                n_clusters=int(number), random_state=random_state + seed
            )
            model.fit(X)
            labels.append(model.predict(rows))
            figures.append((model.score(X_val), model.n_clusters_effective_))
            stop = _report(
                k * n_seeds + seed + 1,
                len(numbers) * n_seeds,
                {
                    "n_clusters": int(number),
                    "seed": random_state + seed,
                    "score": figures[-1][0],
                    "n_clusters_effective": figures[-1][1],
                },
                verbose,
                callback,
            )
            if stop:
                break
        if len(figures) == n_seeds:
            scores.append([score for score, _ in figures])
            effective.append([count for _, count in figures])
            pairs = itertools.combinations(labels, 2)
            stability.append([adjusted_rand_score(one, other) for one, other in pairs])
        if stop:
            break
    if not scores:
        raise ValueError("callback stopped the scan before one number of clusters was complete.")
    n_pairs = n_seeds * (n_seeds - 1) // 2
    return ClusterNumberScan(
        n_clusters=numbers[: len(scores)],
        scores=np.array(scores),
        stability=np.array(stability, dtype=float).reshape(len(scores), n_pairs),
        n_clusters_effective=np.array(effective),
    )


def _report(n_done, n_fits, figures, verbose, callback):
    """Say what a fit gave; return whether the callback wants to stop."""
    if verbose:
        sys.stdout.write(
            f"Fit {n_done}/{n_fits}: n_clusters={figures['n_clusters']}, seed {figures['seed']}: "
            f"held-out bound {figures['score']:.4g} nats a row, "
            f"{figures['n_clusters_effective']} clusters with rows\n"
        )
    return callback is not None and bool(callback(n_done, n_fits, figures))
