"""The reverse trajectory in panels."""

import numpy as np

from .._base import _positive_integer, _seed
from ._common import (
    PriorContours,
    caption,
    check_plane,
    checked_rows,
    draw_legend,
    dress,
    pyplot,
    scatter,
)


class TrajectoryDisplay:
    r"""The way of the posterior from noise to the latents, in panels.

    The chain of equation (3) starts at :math:`y_T` and ends at :math:`z = y_0`. Each panel shows
    one of its steps, for one drawn path of each row, in the prior's units; the last has the prior's
    density behind it.

    Use :meth:`from_estimator` to create one.

    Parameters
    ----------
    path : ndarray of shape (n_steps + 1, n_rows, 2)
        :math:`y_T, \dots, y_1, z` of each row.
    labels : array-like of shape (n_rows,), default=None
        A class for each row, or a quantity.
    contours : PriorContours, default=None
        The prior's log-density on a grid.
    caption : str, default=""
        Written above the first panel.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        Axes of the panels.
    figure_ : matplotlib Figure
        Figure that holds them.
    steps_ : ndarray of shape (n_panels,)
        The step t that each panel shows.

    See Also
    --------
    LatentSpaceDisplay : Noise-free latents.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi import DDVAETransformer
    >>> from skddvi.displays import TrajectoryDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DDVAETransformer(n_diffusion_steps=4, max_iter=2, random_state=0).fit(X)
    >>> display = TrajectoryDisplay.from_estimator(model, X, y, n_panels=3)
    >>> display.path.shape
    (5, 150, 2)
    >>> display.steps_
    array([4, 2, 0])
    """

    def __init__(self, path, *, labels=None, contours=None, caption=""):
        self.path = path
        self.labels = labels
        self.contours = contours
        self.caption = caption

    @classmethod
    def from_estimator(
        cls, estimator, X, y=None, *, n_panels=5, random_state=0, axes=None, legend=True
    ):
        """Draw a path for each row, and show it.

        Parameters
        ----------
        estimator : estimator of skddvi
            A fitted one with two latent dimensions and at least one diffusion step.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows.
        y : array-like of shape (n_rows,), default=None
            A class for each row, or a quantity. For the picture only.
        n_panels : int, default=5
            Number of panels, of which the first shows :math:`y_T` and the last z. Fewer where the
            chain has fewer steps.
        random_state : int, RandomState instance or None, default=0
            Source of the noise.
        axes : sequence of matplotlib Axes, default=None
            Where to draw, one for each panel. By default a new figure.
        legend : bool, default=True
            Whether to draw a legend beside the last panel.

        Returns
        -------
        display : TrajectoryDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            When the estimator has not two latent dimensions, or no chain, or ``n_panels`` is less
            than 2.
        """
        pyplot()
        check_plane(estimator, "TrajectoryDisplay")
        X = checked_rows(estimator, X, y)
        path = estimator._engine.sample_path(X, _seed(random_state))
        if len(path) == 1:
            raise ValueError(
                "TrajectoryDisplay needs a chain of at least one step, found n_diffusion_steps=0."
            )
        contours = PriorContours.of(estimator, path[-1])
        display = cls(path, labels=y, contours=contours, caption=caption(estimator))
        return display.plot(axes, n_panels=n_panels, legend=legend)

    def plot(self, axes=None, *, n_panels=5, legend=True):
        """Draw the display.

        Parameters
        ----------
        axes : sequence of matplotlib Axes, default=None
            Where to draw, one for each panel. By default a new figure.
        n_panels : int, default=5
            Number of panels; with ``axes`` it is their number.
        legend : bool, default=True
            Whether to draw a legend beside the last panel.

        Returns
        -------
        display : TrajectoryDisplay
            This display, with ``axes_``, ``figure_`` and ``steps_``.
        """
        if axes is not None:
            n_panels = len(axes)
        n_panels = _positive_integer("n_panels", n_panels)
        n_steps = len(self.path) - 1
        n_panels = min(n_panels, n_steps + 1)
        if n_panels < 2:
            raise ValueError(f"n_panels must be at least 2, found {n_panels}.")
        if axes is None:
            _, axes = pyplot().subplots(
                1,
                n_panels,
                figsize=(2.5 * n_panels + 0.8, 3.0),
                sharex=True,
                sharey=True,
                layout="constrained",
            )
        self.steps_ = np.linspace(n_steps, 0, n_panels).round().astype(int)
        for ax, step in zip(axes, self.steps_, strict=False):
            last = step == 0
            if last and self.contours is not None:
                self.contours.draw(ax)
            points = self.path[n_steps - step]
            scatter(ax, points, self.labels, legend=False, names=False, s=7)
            dress(ax, self.caption if step == n_steps else "")
            name = "$z$" if last else f"$y_{{{step}}}$"
            ax.text(0.04, 0.96, name, transform=ax.transAxes, va="top", fontsize=12, zorder=5)
            ax.label_outer()
        n_classes = len(axes[-1].get_legend_handles_labels()[0])
        if legend and n_classes > 1:
            draw_legend(axes[n_panels - 1], n_classes)
        self.axes_, self.figure_ = np.asarray(axes)[:n_panels], axes[0].figure
        return self
