"""What the displays share: the prior's contours, classes and their styles, the axes."""

from dataclasses import dataclass

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._base import BaseDDVAE
from .._picture import MAX_LEGEND, class_style

# Shares of the prior's mass within its contours.
MASSES = (0.5, 0.95)
N_DRAWS, N_GRID = 4000, 160
CONTOUR_COLOURS = ("0.93", "0.85")
MAX_LEGEND_ROWS = 20


def pyplot():
    """Return matplotlib's pyplot, which nothing but drawing needs."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "drawing needs matplotlib, which is not installed; install it with "
            "pip install 'skddvi[plots]'"
        ) from error
    return plt


def check_estimator(estimator):
    """Raise unless the estimator is a fitted one of skddvi."""
    if not isinstance(estimator, BaseDDVAE):
        raise TypeError(
            f"estimator must be one of skddvi, found {type(estimator).__name__}; of a pipeline, "
            "give the last step, and the rows as that step gets them: pipeline[:-1].transform(X)."
        )
    check_is_fitted(estimator)


def check_plane(estimator, what):
    """Raise unless the latents of a fitted estimator lie in a plane."""
    check_estimator(estimator)
    n_components = estimator.prior_.n_components
    if n_components != 2:
        raise ValueError(f"{what} needs n_components=2, found n_components={n_components}.")


def checked_rows(estimator, X, labels=None):
    """Return rows as the engine takes them, after checking that each has a label, if any."""
    X = estimator._rows(X)
    if labels is not None and not hasattr(labels, "__len__"):
        raise ValueError(f"y must have one entry a row, found {labels!r}.")
    if labels is not None and len(labels) != X.shape[0]:
        raise ValueError(
            f"y must have one entry a row, found {len(labels)} entries and {X.shape[0]} rows."
        )
    return X


def caption(estimator):
    """Return what made the picture: the prior, which gives it its shape, and the seed."""
    seed = estimator.random_state
    if isinstance(seed, np.random.RandomState):
        seed = "RandomState"
    return f"prior: {estimator.prior_.name}, random_state: {seed}"


@dataclass
class PriorContours:
    """The prior's log-density on a grid of the plane, and the levels that are drawn.

    Attributes
    ----------
    x, y : ndarray of shape (n,)
        The grid.
    log_density : ndarray of shape (n, n)
        log p(z) in nats, a row for each y.
    levels : ndarray of shape (n_levels,)
        Ascending log-densities; above them lie 95 % and 50 % of the prior's mass.
    """

    x: np.ndarray
    y: np.ndarray
    log_density: np.ndarray
    levels: np.ndarray

    @classmethod
    def of(cls, estimator, Z):
        """Return the contours in a box that holds the prior and the latents ``Z`` (n, 2)."""
        draws = estimator._engine.sample_prior(N_DRAWS, 0)
        everything = np.concatenate([draws, np.asarray(Z, dtype=np.float64)])
        low, high = everything.min(0), everything.max(0)
        margin = 0.05 * (high - low)
        x, y = np.linspace(low - margin, high + margin, N_GRID).T
        grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        log_density = estimator._engine.log_prior(grid).reshape(N_GRID, N_GRID)
        within = estimator._engine.log_prior(draws)
        return cls(x, y, log_density, np.quantile(within, 1.0 - np.array(MASSES[::-1])))

    def draw(self, ax):
        """Fill the regions that hold the masses, behind everything else."""
        levels = [*self.levels, max(self.log_density.max(), self.levels[-1]) + 1.0]
        ax.contourf(
            self.x, self.y, self.log_density, levels=levels, colors=CONTOUR_COLOURS, zorder=0
        )


def classes_of(labels):
    """Return the classes and each row's class, or None where the labels are a quantity.

    Labels that cannot be ordered, as None beside strings, are ordered by how they are written.
    """
    labels = np.asarray(labels)
    try:
        classes, codes = np.unique(labels, return_inverse=True)
    except TypeError:
        classes, codes = np.unique(labels.astype(str), return_inverse=True)
    if classes.dtype.kind == "f" and len(classes) > MAX_LEGEND:
        return None, None
    return classes, codes


def scatter(ax, Z, labels=None, *, legend=True, names=True, **kwargs):
    """Draw points with their labels: classes by colour and marker, quantities by colour alone."""
    kwargs = {
        "s": float(np.clip(20_000 / max(len(Z), 1), 3.0, 22.0)),
        "alpha": 0.7,
        "linewidths": 0,
        "rasterized": len(Z) > 2000,
    } | kwargs
    if labels is None:
        ax.scatter(*Z.T, **{"color": class_style(0, 1)[0]} | kwargs)
        return
    classes, codes = classes_of(labels)
    if classes is None:
        points = ax.scatter(*Z.T, c=np.asarray(labels), cmap="viridis", **kwargs)
        if legend:
            ax.figure.colorbar(points, ax=ax)
        return
    n_classes = len(classes)
    for code, name in enumerate(classes):
        colour, marker = class_style(code, n_classes)
        rows = codes == code
        ax.scatter(*Z[rows].T, color=colour, marker=marker, label=str(name), **kwargs)
        if names and n_classes <= MAX_LEGEND:
            write_name(ax, np.median(Z[rows], axis=0), name)
    if legend and 1 < n_classes <= MAX_LEGEND:
        draw_legend(ax, n_classes)


def write_name(ax, place, name):
    """Write a name with a white rim, so that it can be read on points of any colour."""
    from matplotlib.patheffects import withStroke

    ax.annotate(
        str(name),
        place,
        color="0.1",
        ha="center",
        va="center",
        fontsize=8.5,
        fontweight="bold",
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=5,
    )


def draw_legend(ax, n_classes):
    """Draw the legend beside the axes, in as many columns as it needs."""
    legend = ax.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        ncols=-(-n_classes // MAX_LEGEND_ROWS),
        frameon=False,
        fontsize=8,
        handletextpad=0.2,
        columnspacing=0.8,
        markerscale=1.0,
    )
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)
        handle.set_sizes([30.0])


def dress(ax, text=""):
    """Name the axes of the plane, with one scale for both, and write the caption."""
    shared = [axes.get_siblings(ax) for axes in (ax.get_shared_x_axes(), ax.get_shared_y_axes())]
    # matplotlib can widen the limits of axes to fill their box, but not of those that share them.
    ax.set_aspect("equal", adjustable="datalim" if max(map(len, shared)) == 1 else "box")
    ax.set_xlabel("$z_1$")
    ax.set_ylabel("$z_2$")
    ax.set_title(text, loc="left", fontsize=8, color="0.35")
