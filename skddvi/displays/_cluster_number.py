"""Bound and stability over the number of clusters."""

from .._picture import OKABE_ITO
from ..cluster_number import cluster_number_scan
from ._common import pyplot


class ClusterNumberDisplay:
    """Held-out bound and stability over the number of clusters, mean and spread over seeds.

    The bound rises up to the right number and little beyond; the stability falls where clusters
    begin to be cut at random. The dotted line is at the number that the scan finds best.

    Use :meth:`from_estimator` or :meth:`from_scan` to create one.

    Parameters
    ----------
    scan : ClusterNumberScan
        What is shown.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the bound.
    stability_ax_ : matplotlib Axes
        Axes of the stability, on the right of the same frame.
    figure_ : matplotlib Figure
        Figure that holds them.

    See Also
    --------
    skddvi.cluster_number_scan : Makes what is shown.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skddvi import DDVAEClusterer
    >>> from skddvi.displays import ClusterNumberDisplay
    >>> X, _ = make_blobs(200, n_features=4, centers=3, random_state=0)
    >>> model = DDVAEClusterer(n_diffusion_steps=0, hidden_layer_sizes=(32,), max_iter=20)
    >>> display = ClusterNumberDisplay.from_estimator(model, X, [2, 3], n_seeds=2)
    >>> display.ax_.get_xlabel()
    'number of clusters'
    """

    def __init__(self, scan):
        self.scan = scan

    @classmethod
    def from_estimator(cls, estimator, X, n_clusters_range, *, ax=None, **scan_options):
        """Fit a clusterer with several numbers of clusters and seeds, and draw what that gives.

        Parameters
        ----------
        estimator : DDVAEClusterer
            Copied for each fit.
        X : array-like of shape (n_samples, n_features)
            Rows.
        n_clusters_range : iterable of int
            Numbers of clusters to try.
        ax : matplotlib Axes, default=None
            Where to draw. By default a new figure.
        **scan_options : dict
            Passed to :func:`skddvi.cluster_number_scan`, such as ``n_seeds`` and ``X_val``.

        Returns
        -------
        display : ClusterNumberDisplay
            The display, drawn; its attribute ``scan`` holds the figures.
        """
        pyplot()  # before the work, if it is missing
        return cls(cluster_number_scan(estimator, X, n_clusters_range, **scan_options)).plot(ax)

    @classmethod
    def from_scan(cls, scan, *, ax=None):
        """Draw what :func:`skddvi.cluster_number_scan` found.

        Parameters
        ----------
        scan : ClusterNumberScan
            The figures.
        ax : matplotlib Axes, default=None
            Where to draw. By default a new figure.

        Returns
        -------
        display : ClusterNumberDisplay
            The display, drawn.
        """
        return cls(scan).plot(ax)

    def plot(self, ax=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where the bound is drawn; the stability gets an axis on its right. By default a new
            figure.

        Returns
        -------
        display : ClusterNumberDisplay
            This display, with ``ax_``, ``stability_ax_`` and ``figure_``.
        """
        if ax is None:
            _, ax = pyplot().subplots(figsize=(6.4, 4.2), layout="constrained")
        scan, other = self.scan, ax.twinx()
        _draw_means(ax, scan.n_clusters, scan.scores, OKABE_ITO[0], "o-", "held-out bound")
        if scan.stability.shape[1]:
            style = OKABE_ITO[3], "s--", "stability"
            _draw_means(other, scan.n_clusters, scan.stability, *style)
        best = scan.best_n_clusters
        ax.axvline(best, color="0.5", ls=":", lw=1.2, zorder=0, label=f"best: {best}")
        ax.set(xlabel="number of clusters", ylabel="held-out bound, nats a row")
        ax.xaxis.get_major_locator().set_params(integer=True)
        other.set(ylabel="stability over seeds, adjusted Rand index", ylim=(-0.05, 1.05))
        handles = [*ax.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
        n_seeds = scan.scores.shape[1]
        title = f"{n_seeds} seeds, mean and sd" if n_seeds > 1 else "1 seed"
        # Above the frame: either curve can be anywhere within it.
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3}
        ax.legend(handles=handles, title=title, frameon=False, **place)
        self.ax_, self.stability_ax_, self.figure_ = ax, other, ax.figure
        return self


def _draw_means(ax, x, values, color, style, label):
    spread = values.std(1, ddof=1) if values.shape[1] > 1 else None
    ax.errorbar(x, values.mean(1), spread, fmt=style, color=color, capsize=3, label=label)
