"""The latent space with the prior behind it."""

from ._common import PriorContours, caption, check_plane, checked_rows, dress, pyplot, scatter


class LatentSpaceDisplay:
    """Embedding of rows in the plane, with the prior's density behind it.

    The prior *makes* the shape of the picture; so it is drawn, as the two regions that hold 50 %
    and 95 % of its mass, and named above the picture together with the seed. Classes differ in
    colour and marker, and their names stand at their medians.

    Use :meth:`from_estimator` to create one.

    Parameters
    ----------
    embedding : ndarray of shape (n_rows, 2)
        Noise-free latents of the rows.
    labels : array-like of shape (n_rows,), default=None
        A class for each row, or a quantity.
    contours : PriorContours, default=None
        The prior's log-density on a grid, with attributes ``x``, ``y``, ``log_density`` and
        ``levels``.
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
    PosteriorDisplay : How sure the model is of a row's place.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi import DDVAETransformer
    >>> from skddvi.displays import LatentSpaceDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DDVAETransformer(max_iter=2, random_state=0).fit(X)
    >>> display = LatentSpaceDisplay.from_estimator(model, X, y)
    >>> display.embedding.shape
    (150, 2)
    >>> display.caption
    'prior: normal, random_state: 0'
    """

    def __init__(self, embedding, *, labels=None, contours=None, caption=""):
        self.embedding = embedding
        self.labels = labels
        self.contours = contours
        self.caption = caption

    @classmethod
    def from_estimator(
        cls, estimator, X, y=None, *, ax=None, legend=True, names=True, **scatter_kwargs
    ):
        """Embed rows and draw them.

        Parameters
        ----------
        estimator : estimator of skddvi
            A fitted one with two latent dimensions.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows.
        y : array-like of shape (n_rows,), default=None
            A class for each row, or a quantity: more than 60 different floats. For the picture
            only.
        ax : matplotlib Axes, default=None
            Where to draw. By default a new figure.
        legend : bool, default=True
            Whether to draw a legend of up to 60 classes, or the colour bar of a quantity.
        names : bool, default=True
            Whether to write the names of up to 60 classes at their medians.
        **scatter_kwargs : dict
            Passed to matplotlib's ``scatter``.

        Returns
        -------
        display : LatentSpaceDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            When the estimator has not two latent dimensions, or ``y`` another length than ``X``.
        """
        pyplot()
        check_plane(estimator, "LatentSpaceDisplay")
        X = checked_rows(estimator, X, y)
        embedding = estimator._engine.embed(X)
        contours = PriorContours.of(estimator, embedding)
        display = cls(embedding, labels=y, contours=contours, caption=caption(estimator))
        return display.plot(ax, legend=legend, names=names, **scatter_kwargs)

    def plot(self, ax=None, *, legend=True, names=True, **scatter_kwargs):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. By default a new figure.
        legend : bool, default=True
            Whether to draw a legend of up to 60 classes, or the colour bar of a quantity.
        names : bool, default=True
            Whether to write the names of up to 60 classes at their medians.
        **scatter_kwargs : dict
            Passed to matplotlib's ``scatter``.

        Returns
        -------
        display : LatentSpaceDisplay
            This display, with ``ax_`` and ``figure_``.
        """
        if ax is None:
            _, ax = pyplot().subplots(figsize=(6.4, 5.2), layout="constrained")
        if self.contours is not None:
            self.contours.draw(ax)
        scatter(ax, self.embedding, self.labels, legend=legend, names=names, **scatter_kwargs)
        dress(ax, self.caption)
        self.ax_, self.figure_ = ax, ax.figure
        return self
