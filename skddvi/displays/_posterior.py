"""Posterior draws of chosen rows."""

import numpy as np

from .._base import _positive_integer, _seed
from .._picture import class_style
from ._common import (
    PriorContours,
    caption,
    check_plane,
    checked_rows,
    draw_legend,
    dress,
    pyplot,
    write_name,
)

# Rows shown where none are named.
N_ROWS = 6


class PosteriorDisplay:
    """Draws from the posterior q(z|x) of chosen rows, as clouds.

    A cloud shows where in the latent space a row could have come from: its width is the model's
    uncertainty of the row's place, and two clouds of one row are two explanations of it. A cross
    marks the latent that ``transform`` returns. The other rows are grey.

    Use :meth:`from_estimator` to create one.

    Parameters
    ----------
    draws : ndarray of shape (n_samples, n_chosen, 2)
        Draws for each of the chosen rows.
    rows : ndarray of shape (n_chosen,)
        Indices of the chosen rows.
    embedding : ndarray of shape (n_rows, 2)
        Noise-free latents of all rows.
    contours : PriorContours, default=None
        The prior's log-density on a grid.
    caption : str, default=""
        Written above the picture.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure that holds them.

    See Also
    --------
    TrajectoryDisplay : How the posterior gets there.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi import DDVAETransformer
    >>> from skddvi.displays import PosteriorDisplay
    >>> X, _ = load_iris(return_X_y=True)
    >>> model = DDVAETransformer(max_iter=2, random_state=0).fit(X)
    >>> display = PosteriorDisplay.from_estimator(model, X, rows=[0, 50, 100], n_samples=20)
    >>> display.draws.shape
    (20, 3, 2)
    """

    def __init__(self, draws, *, rows, embedding, contours=None, caption=""):
        self.draws = draws
        self.rows = rows
        self.embedding = embedding
        self.contours = contours
        self.caption = caption

    @classmethod
    def from_estimator(
        cls, estimator, X, rows=None, *, n_samples=200, random_state=0, ax=None, legend=True
    ):
        """Draw from the posterior of rows, and show the draws.

        Parameters
        ----------
        estimator : estimator of skddvi
            A fitted one with two latent dimensions.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows.
        rows : array-like of int, default=None
            Indices of the rows to show. By default six, spread evenly.
        n_samples : int, default=200
            Number of draws for each of them.
        random_state : int, RandomState instance or None, default=0
            Source of the draws.
        ax : matplotlib Axes, default=None
            Where to draw. By default a new figure.
        legend : bool, default=True
            Whether to draw a legend.

        Returns
        -------
        display : PosteriorDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            When the estimator has not two latent dimensions.
        TypeError
            When the estimator is not one of skddvi.
        IndexError
            When a row is not there.
        """
        pyplot()
        check_plane(estimator, "PosteriorDisplay")
        X = checked_rows(estimator, X)
        embedding = estimator._engine.embed(X)
        if rows is None:
            rows = np.unique(np.linspace(0, len(embedding) - 1, N_ROWS).round().astype(int))
        rows = np.asarray(rows)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ValueError(f"rows must be a sequence of indices, found {rows!r}.")
        absent = rows[(rows < -len(embedding)) | (rows >= len(embedding))]
        if len(absent):
            raise IndexError(f"rows must be among the {len(embedding)} of X, found {absent[0]}.")
        n_samples = _positive_integer("n_samples", n_samples)
        draws = estimator._engine.sample_posterior(X[rows], n_samples, _seed(random_state))
        contours = PriorContours.of(estimator, np.concatenate([embedding, *draws]))
        display = cls(
            draws, rows=rows, embedding=embedding, contours=contours, caption=caption(estimator)
        )
        return display.plot(ax, legend=legend)

    def plot(self, ax=None, *, legend=True):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. By default a new figure.
        legend : bool, default=True
            Whether to draw a legend.

        Returns
        -------
        display : PosteriorDisplay
            This display, with ``ax_`` and ``figure_``.
        """
        if ax is None:
            _, ax = pyplot().subplots(figsize=(6.4, 5.2), layout="constrained")
        if self.contours is not None:
            self.contours.draw(ax)
        ax.scatter(*self.embedding.T, s=4, color="0.6", linewidths=0, rasterized=True)
        n_rows = len(self.rows)
        for index, row in enumerate(self.rows):
            colour, marker = class_style(index, n_rows)
            cloud, place = self.draws[:, index], self.embedding[row]
            style = {"color": colour, "marker": marker, "label": f"row {row}"}
            ax.scatter(*cloud.T, s=14, alpha=0.5, linewidths=0, **style)
            ax.scatter(*place, s=70, color="white", marker="X", linewidths=0, zorder=4)
            ax.scatter(*place, s=36, color=colour, marker="X", linewidths=0, zorder=4)
            write_name(ax, (place[0], cloud[:, 1].max()), row)
        if legend:
            draw_legend(ax, n_rows)
        dress(ax, self.caption)
        self.ax_, self.figure_ = ax, ax.figure
        return self
