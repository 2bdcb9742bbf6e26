"""How sure a classifier is, and how often it is right."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._picture import OKABE_ITO
from ..metrics import calibration_bins, expected_calibration_error
from ._common import pyplot


class ReliabilityDisplay:
    """Reliability diagram of a classifier with two classes or more.

    Rows are binned by their confidence, the probability of the class that is predicted for them;
    drawn is how often that class is right, with one standard error, over the mean confidence. Below
    the diagonal a classifier is surer than it should be. Grey bars are the shares of rows.
    `sklearn.calibration.CalibrationDisplay` shows the probability of one of two classes instead.

    Use :meth:`from_estimator` or :meth:`from_predictions` to create one.

    Parameters
    ----------
    confidence, accuracy : ndarray of shape (n_bins,)
        Mean confidence of the rows of each bin, and the share of them that is right; NaN in a bin
        without rows.
    counts : ndarray of int of shape (n_bins,)
        Rows in each bin. The bins are of equal width over [0, 1].
    expected_calibration_error : float
        As :func:`skddvi.metrics.expected_calibration_error`.
    name : str, default=None
        What the curve is called.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the diagram.
    figure_ : matplotlib Figure
        Figure that holds them.

    See Also
    --------
    skddvi.metrics.expected_calibration_error : The figure in the legend.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi import DDVAEClassifier
    >>> from skddvi.displays import ReliabilityDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DDVAEClassifier(max_iter=5, random_state=0).fit(X[::2], y[::2])
    >>> display = ReliabilityDisplay.from_estimator(model, X[1::2], y[1::2])
    >>> int(display.counts.sum())
    75
    """

    def __init__(self, confidence, accuracy, counts, expected_calibration_error, *, name=None):
        self.confidence = confidence
        self.accuracy = accuracy
        self.counts = counts
        self.expected_calibration_error = expected_calibration_error
        self.name = name

    @classmethod
    def from_estimator(cls, estimator, X, y, *, n_bins=15, ax=None, name=None):
        """Draw the diagram of a fitted classifier on rows that it has not seen.

        Parameters
        ----------
        estimator : classifier
            A fitted one with ``predict_proba``, of skddvi or not.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows.
        y : array-like of shape (n_rows,)
            Their labels, all known.
        n_bins : int, default=15
            Bins of equal width over [0, 1].
        ax : matplotlib Axes, default=None
            Where to draw. By default a new figure.
        name : str, default=None
            What the curve is called. By default as the estimator's class.

        Returns
        -------
        display : ReliabilityDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            When the estimator has no ``predict_proba``.
        """
        if not hasattr(estimator, "predict_proba"):
            raise TypeError(
                f"estimator must have predict_proba, found {type(estimator).__name__}; give a "
                "classifier, or probabilities to from_predictions."
            )
        check_is_fitted(estimator)
        name = type(estimator).__name__ if name is None else name
        options = {"labels": estimator.classes_, "n_bins": n_bins, "ax": ax, "name": name}
        return cls.from_predictions(y, estimator.predict_proba(X), **options)

    @classmethod
    def from_predictions(cls, y_true, probabilities, *, labels=None, n_bins=15, ax=None, name=None):
        """Draw the diagram of given probabilities.

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
        ax : matplotlib Axes, default=None
            Where to draw. By default a new figure.
        name : str, default=None
            What the curve is called.

        Returns
        -------
        display : ReliabilityDisplay
            The display, drawn.
        """
        pyplot()
        given = {"labels": labels, "n_bins": n_bins}
        confidence, right, counts = calibration_bins(y_true, probabilities, **given)
        with np.errstate(invalid="ignore"):  # bins without rows
            confidence, accuracy = confidence / counts, right / counts
        error = expected_calibration_error(y_true, probabilities, **given)
        return cls(confidence, accuracy, counts, error, name=name).plot(ax)

    def plot(self, ax=None, *, name=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. By default a new figure.
        name : str, default=None
            What the curve is called. By default as the display says.

        Returns
        -------
        display : ReliabilityDisplay
            This display, with ``ax_`` and ``figure_``.
        """
        if ax is None:
            _, ax = pyplot().subplots(figsize=(4.8, 4.8), layout="constrained")
        n_bins = len(self.counts)
        share = self.counts / max(self.counts.sum(), 1)
        edges = np.arange(n_bins) / n_bins
        ax.bar(
            edges, share, 1 / n_bins, align="edge", color="0.88", edgecolor="0.75", lw=0.6,
            label="share of rows",
        )  # fmt: skip
        ax.plot([0, 1], [0, 1], color="0.4", ls=":", lw=1.2, label="as sure as right")
        seen = self.counts > 0
        accuracy, counts = self.accuracy[seen], self.counts[seen]
        # Of the accuracy with one row of each kind added: where all rows are right, its own is 0.
        likely = (accuracy * counts + 1) / (counts + 2)
        spread = np.sqrt(likely * (1 - likely) / counts)
        name = self.name if name is None else name
        label = f"expected calibration error {self.expected_calibration_error:.3f}"
        style = {"color": OKABE_ITO[0], "capsize": 2, "ms": 4.5, "lw": 1.4, "elinewidth": 1}
        label = label if name is None else f"{name}\n{label}"
        ax.errorbar(self.confidence[seen], accuracy, spread, fmt="o-", label=label, **style)
        ax.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
        ax.set(xlabel="confidence", ylabel="accuracy")
        # Above the frame: the curve can be anywhere within it.
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False, fontsize=8)
        self.ax_, self.figure_ = ax, ax.figure
        return self
