"""A grid of the latent space, decoded to images."""

import math

import numpy as np

from .._base import _positive_integer
from ._common import MASSES, PriorContours, caption, check_plane, dress, pyplot

LINE_COLOURS = ("#56B4E9", "#D55E00")


class DecodedGridDisplay:
    """Decoded points of a grid in the latent space, as one mosaic of images.

    Each tile is the expected row p(x|z) at the latent in its middle. Lines show the regions that
    hold 50 % and 95 % of the prior's mass: what lies outside of them the model has hardly learned
    from, and a tile there means little.

    Use :meth:`from_estimator` to create one.

    Parameters
    ----------
    images : ndarray of shape (n_points, n_points, height, width) or (..., height, width, 3)
        Tiles, a row of them for each value of the second latent, from low to high.
    x, y : ndarray of shape (n_points,)
        Latents of the columns and of the rows of tiles.
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
    LatentSpaceDisplay : Where rows lie in the same space.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skddvi import DDVAETransformer
    >>> from skddvi.displays import DecodedGridDisplay
    >>> X = load_digits().data[:300]
    >>> model = DDVAETransformer(max_iter=2, random_state=0).fit(X)
    >>> display = DecodedGridDisplay.from_estimator(model, (8, 8), n_points=5)
    >>> display.images.shape
    (5, 5, 8, 8)
    """

    def __init__(self, images, *, x, y, contours=None, caption=""):
        self.images = images
        self.x = x
        self.y = y
        self.contours = contours
        self.caption = caption

    @classmethod
    def from_estimator(
        cls, estimator, image_shape, *, n_points=15, extent=None, ax=None, **imshow_kwargs
    ):
        """Decode a grid and draw it.

        Parameters
        ----------
        estimator : estimator of skddvi
            A fitted one with two latent dimensions.
        image_shape : tuple of int
            Height and width of the images that the rows are, or height, width and 3.
        n_points : int, default=15
            Number of tiles on each axis.
        extent : tuple (left, right, bottom, top), default=None
            The region, as in matplotlib's ``imshow``. By default that of the prior.
        ax : matplotlib Axes, default=None
            Where to draw. By default a new figure.
        **imshow_kwargs : dict
            Passed to matplotlib's ``imshow``.

        Returns
        -------
        display : DecodedGridDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            When the estimator has not two latent dimensions, or the features do not make such
            images.
        """
        pyplot()
        check_plane(estimator, "DecodedGridDisplay")
        image_shape = [
            _positive_integer("image_shape", n) for n in _numbers("image_shape", image_shape)
        ]
        n_points = _positive_integer("n_points", n_points)
        if math.prod(image_shape) != estimator.n_features_in_:
            raise ValueError(
                f"image_shape={tuple(image_shape)} has {math.prod(image_shape)} pixels, but the "
                f"model has {estimator.n_features_in_} features."
            )
        contours = PriorContours.of(estimator, np.empty((0, 2)))
        if extent is None:
            extent = contours.x[0], contours.x[-1], contours.y[0], contours.y[-1]
        extent = _numbers("extent", extent)
        if len(extent) != 4 or not np.isfinite(extent).all():
            raise ValueError(f"extent must be x_low, x_high, y_low, y_high, found {extent}.")
        x, y = (_centres(low, high, n_points) for low, high in (extent[:2], extent[2:]))
        latents = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        images = estimator._engine.decode(latents).reshape(n_points, n_points, *image_shape)
        display = cls(images, x=x, y=y, contours=contours, caption=caption(estimator))
        return display.plot(ax, **imshow_kwargs)

    def plot(self, ax=None, **imshow_kwargs):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. By default a new figure.
        **imshow_kwargs : dict
            Passed to matplotlib's ``imshow``.

        Returns
        -------
        display : DecodedGridDisplay
            This display, with ``ax_`` and ``figure_``.
        """
        if ax is None:
            _, ax = pyplot().subplots(figsize=(6.0, 6.0), layout="constrained")
        # A margin without colour around each tile.
        margin = [(0, 0), (0, 0), (1, 1), (1, 1), *[(0, 0)] * (self.images.ndim - 4)]
        tiles = np.pad(self.images[::-1], margin, constant_values=np.nan)
        mosaic = np.concatenate(np.concatenate(tiles, axis=1), axis=1)
        extent = [*_edges(self.x), *_edges(self.y)]
        # Tiles far from the prior's mass may hold anything, and shall not set the scale of greys.
        low, high = np.percentile(self.images, [1, 99])
        if mosaic.ndim == 3:  # matplotlib wants colours within [0, 1]
            shade = np.clip((mosaic - low) / max(high - low, 1e-12), 0.0, 1.0)
            mosaic = np.nan_to_num(shade, nan=1.0)
        style = {"extent": extent, "cmap": "gray_r", "vmin": low, "vmax": high}
        ax.imshow(mosaic, **style | imshow_kwargs)
        if self.contours is not None:
            self._draw_contours(ax)
        dress(ax, self.caption)
        ax.set_aspect("equal", adjustable="box")
        ax.set(xlim=extent[:2], ylim=extent[2:])
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_contours(self, ax):
        """Draw the prior's contours as lines, and say in a legend what they hold."""
        from matplotlib.lines import Line2D
        from matplotlib.patheffects import withStroke

        rim = [withStroke(linewidth=2.6, foreground="white")]
        grid = self.contours.x, self.contours.y, self.contours.log_density
        handles = []
        for level, mass, colour in zip(
            self.contours.levels, MASSES[::-1], LINE_COLOURS, strict=True
        ):
            lines = ax.contour(
                *grid, levels=[level], colors=[colour], linewidths=1.4, linestyles="solid"
            )
            lines.set_path_effects(rim)
            label = f"{mass:.0%} of the prior"
            handles.append(Line2D([], [], color=colour, lw=1.4, label=label, path_effects=rim))
        place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": len(handles)}
        ax.legend(handles=handles, fontsize=8, frameon=False, borderaxespad=0.2, **place)


def _numbers(name, values):
    """Return a list of the numbers that a sequence holds."""
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be a sequence of numbers, found {values!r}.")
    return values.tolist()


def _centres(low, high, n_points):
    """Return the middles of ``n_points`` equal parts of an interval."""
    return low + (high - low) * (np.arange(n_points) + 0.5) / n_points


def _edges(centres):
    """Return the ends of the interval that has these middles of its parts."""
    half = 0.5 * (centres[1] - centres[0]) if len(centres) > 1 else 0.5
    return centres[0] - half, centres[-1] + half
