"""The training history, every term of it."""

import numpy as np

from .._picture import OKABE_ITO
from ._common import check_estimator, pyplot

TITLES = {
    "elbo": "bound (4)",
    "loss": "loss, $-$(6) + penalties",
    "reconstruction": "log p(x|z)",
    "log_prior": "log p(z)",
    "terminal": "bracket of $y_T$",
    "chain": "brackets of t $\\geq$ 2",
    "last_step": "$-$log q(z|$y_1$, x)",
    "posterior_entropy": "$-$log q(z|x)",
    "sleep": "sleep term (5)",
    "weight_penalty": "penalty of the decoder's weights",
    "kl_per_dimension": "KL per dimension",
}
N_COLUMNS = 4


class HistoryDisplay:
    """The terms of the objective over the epochs, a panel for each, in nats a row.

    Where rows were held out, theirs are the dashed lines: a gap that grows is overfitting. A
    dimension whose KL stays near 0 carries nothing of the rows.

    Use :meth:`from_estimator` to create one.

    Parameters
    ----------
    history : dict of str to list
        The attribute ``history_`` of an estimator.

    Attributes
    ----------
    axes_ : dict of str to matplotlib Axes
        Axes of each term, by its name in ``history_``.
    figure_ : matplotlib Figure
        Figure that holds them.

    See Also
    --------
    skddvi.DDVAETransformer : Says what the terms of ``history_`` are.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi import DDVAETransformer
    >>> from skddvi.displays import HistoryDisplay
    >>> X, _ = load_iris(return_X_y=True)
    >>> model = DDVAETransformer(max_iter=3, random_state=0).fit(X)
    >>> display = HistoryDisplay.from_estimator(model)
    >>> list(display.axes_)[:3]
    ['elbo', 'loss', 'reconstruction']
    """

    def __init__(self, history):
        self.history = history

    @classmethod
    def from_estimator(cls, estimator):
        """Draw the history of a fitted estimator.

        Parameters
        ----------
        estimator : estimator of skddvi
            A fitted one.

        Returns
        -------
        display : HistoryDisplay
            The display, drawn.
        """
        pyplot()
        check_estimator(estimator)
        return cls(estimator.history_).plot()

    def plot(self, figure=None):
        """Draw the display.

        Parameters
        ----------
        figure : matplotlib Figure, default=None
            Where to draw. By default a new figure.

        Returns
        -------
        display : HistoryDisplay
            This display, with ``axes_`` and ``figure_``.
        """
        first = [name for name in ("elbo", "loss") if name in self.history]
        names = first + [
            name
            for name in self.history
            if name not in first and not name.startswith("validation_")
        ]
        n_rows = -(-len(names) // N_COLUMNS)
        if figure is None:
            size = (2.7 * min(N_COLUMNS, len(names)), 2.1 * n_rows + 0.3)
            figure = pyplot().figure(figsize=size, layout="constrained")
        grid = figure.subplots(n_rows, min(N_COLUMNS, len(names)), squeeze=False).ravel()
        self.axes_ = dict(zip(names, grid, strict=False))
        for ax in grid[len(names) :]:
            ax.remove()
        for name, ax in self.axes_.items():
            self._draw_term(ax, name)
        for index, ax in enumerate(grid[: len(names)]):
            if index >= len(names) - N_COLUMNS:
                ax.set_xlabel("epoch")
            if index % N_COLUMNS == 0:
                ax.set_ylabel("nats a row")
        self.figure_ = figure
        return self

    def _draw_term(self, ax, name):
        values = np.asarray(self.history[name], dtype=float).reshape(len(self.history[name]), -1)
        epochs = np.arange(1, len(values) + 1)
        marker = "o" if len(values) == 1 else None
        for index, column in enumerate(values.T):
            style = {"color": OKABE_ITO[index % len(OKABE_ITO)], "marker": marker}
            ax.plot(epochs, column, lw=1.4, label=f"$z_{{{index + 1}}}$", **style)
        if 1 < values.shape[1] <= len(OKABE_ITO):
            ax.legend(frameon=False, fontsize=8)
        held_out = self.history.get(f"validation_{name}")
        if held_out is not None:
            held_out = np.asarray(held_out, dtype=float).reshape(len(epochs), -1)
            for index, column in enumerate(held_out.T):
                # Of several dimensions each has the colour of its training rows.
                color = OKABE_ITO[3 if held_out.shape[1] == 1 else index % len(OKABE_ITO)]
                ax.plot(epochs, column, color=color, lw=1.4, ls="--", label="held out")
        if held_out is not None and name == "elbo":
            ax.lines[0].set_label("training")
            ax.legend(frameon=False, fontsize=8)
        ax.set_title(TITLES.get(name, name), fontsize=9)
        ax.tick_params(labelsize=8)
        ax.locator_params(axis="x", integer=True, nbins=5)
