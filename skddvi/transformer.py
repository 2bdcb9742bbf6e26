"""Dimensionality reduction with a diffusion posterior."""

import dataclasses
from numbers import Integral

from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ._base import STRUCTURE, BaseDDVAE, _positive_integer, _seed, all_or_nothing
from .priors import NormalPrior
from .priors._curves import CurvePrior
from .regularizers import NeighborhoodPreservation, PriorCoverage
from .regularizers._start import NeighborStart

# With init="auto": from so many rows on training starts from a layout of their neighbourhoods.
AUTO_INIT_ROWS = 200
# With regularizer="auto": so many training rows are to cover a curved prior.
AUTO_COVERAGE_ROWS = 5000
# With n_map_steps="auto": so many, up to so many training rows, features and components.
AUTO_MAP_STEPS, AUTO_MAP_ROWS, AUTO_MAP_FEATURES, AUTO_MAP_COMPONENTS = 10, 5000, 100, 3


class DDVAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseDDVAE):
    """Dimensionality reduction by denoising diffusion variational inference.

    A variational autoencoder whose posterior q(z|x) is a diffusion model in latent space that is
    conditioned on the row [1]_. It gives what PCA gives (an embedding of new rows, an inverse, a
    held-out score) with a nonlinear map, a prior of your choice, and a posterior that can bend and
    split, so that the uncertainty of a row's place can be drawn. Training maximises a lower bound
    on log p(x); no label is used. See the :doc:`/user_guide` for the mathematics.

    Parameters
    ----------
    n_components : int, default=2
        Dimension d of the latent space.
    prior : str or object, default="normal"
        What the latents are like before a row is seen, p(z). A name: "normal" and
        "gaussian_mixture" live in any dimension, "pinwheel", "swiss_roll" and "square" in 2. Or an
        object of :mod:`skddvi.priors`, or of your own, with ``n_components``, ``sample(n,
        generator)`` and ``log_prob(z)``, as :class:`skddvi.priors.UserPrior` describes.
    likelihood : str or Likelihood, default="gaussian"
        How rows scatter around what the decoder says, p(x|z): "gaussian" for real values of any
        scale, "bernoulli" for values in [0, 1], "binomial" for dosages 0, 1, 2 with NaN for missing
        calls, "poisson" or "negative_binomial" for counts; or a
        :class:`skddvi.likelihoods.Likelihood`.
    noising : str, array-like of shape (n_diffusion_steps,) or object, default="even"
        The noising process that the posterior learns to reverse, equation (2): "even",
        which is made for few steps, "cosine", "linear", "variance_exploding", an array with one
        beta for each step, or an object with ``coefficients(n_steps)`` such as those of
        :mod:`skddvi.noising`.
    n_diffusion_steps : int, default=4
        Number T of steps of the chain. 0 gives the Gaussian posterior of a variational autoencoder
        [2]_. Time for training and for :meth:`transform` grows with it.
    sleep : {"auto", "conditional", "latent", "off"}, default="auto"
        The sleep term, equation (5). "conditional" dreams rows from the model and makes the
        posterior explain them; "latent" is a cheaper approximation in which the denoiser sees no
        row; "off" leaves the term out. "auto" is "conditional" if ``n_diffusion_steps > 0``, else
        "off".
    sleep_weight : float, default=2.0
        Factor of the sleep term in the objective, equation (6). Both are in nats a row.
    kl_weight : float or "auto", default="auto"
        Factor of everything but log p(x|z) in the objective. With 1 the objective without its sleep
        term is the evidence lower bound, equation (4). "auto" is 1 with at least four rows to a
        feature. With fewer the decoder learns rows by heart, for which latents must be told apart
        more finely than is good for other rows, and "auto" rises after the warm-up, until half of
        the other steps, to twice the square root of the number of features to a row.
    kl_warmup : float, default=0.4
        Share of the gradient steps, from 0 to 1, during which the factors ``kl_weight`` and
        ``sleep_weight``, where there is one, rise linearly from 0.
    init : {"auto", "neighbors", "random"}, default="auto"
        What training starts from. "neighbors": a layout of the graph of nearest neighbours; for a
        prior that is not normal it is moved by short ways to where that has its mass. There a
        new model's encoder learns to place rows over the first 15 % of the steps; the term is that
        of :class:`skddvi.regularizers.NeighborhoodPreservation`, over at most 10,000 rows, fewer
        where they are wide and in a store, with a weight that falls to 0. After that the objective
        is as without it, and is spared to untangle rows that have found their places at random;
        early stopping waits for it. "random": random weights alone. "auto" is "neighbors" where
        there are 200 rows for it, unless that regulariser is given.
    regularizer : "auto", callable, list of callables or None, default="auto"
        Terms on the latents beside the bound, such as
        :class:`skddvi.regularizers.NeighborhoodPreservation`: ``regularizer(z, rows)`` of a batch's
        latents and its row indices. Attributes ``weight`` (1 where there is none) and ``name`` are
        its factor in the loss and its key in ``history_``. "auto" is
        :class:`skddvi.regularizers.PriorCoverage`, so that rows fill the shape that was asked for,
        under a pinwheel, a swiss roll or a square, with 5,000 training rows or more, if
        ``n_diffusion_steps > 0``; else None. In a list it stands for the same.
    hidden_layer_sizes : int, array-like of int, or "auto", default="auto"
        Widths of the encoder's hidden layers; the decoder has them in reverse order. Empty for a
        linear encoder and decoder. "auto" is two layers of 256 for up to 1,000 training rows and
        two of 512 for more.
    denoiser_width : int, default=128
        Width of the two hidden layers of the denoiser, and of the network of ``n_refinements``.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="silu"
        Activation of the hidden layers of encoder and decoder.
    n_input_components : int, "auto" or None, default="auto"
        Number of principal components of the rows, as the likelihood prepares them, that the
        encoder sees in place of the features; never more than there are rows or features. None lets
        it see the features. So does "auto" with 50 features or less, with five training rows to a
        feature or more, and with an ``encoder`` of your own; else it is 50, since from so few rows
        an encoder of all features learns their noise.
    n_refinements : int, default=0
        How often what the encoder says of a row is corrected by what the decoder says of it: a
        small network is shown how p(x|z) rises and bends where the encoder points, and learns from
        40 % of the steps on what to make of it (iterative amortised inference [5]_). The bound of
        rows that were not trained on gains by it where there are few training rows; groups in a
        picture may lose. A correction costs as much as ``n_components`` + 1 passes through the
        decoder. See :ref:`user-guide-refinement`.
    n_map_steps : int or "auto", default="auto"
        How many steps :meth:`transform` takes from the end of the noise-free path to where log p(x,
        z) is largest, the maximum a posteriori: damped Gauss-Newton steps in float64, each kept
        unless it leads downwards. Places in a picture are the more exact, and :meth:`transform` is
        many times slower. The posterior, its draws and bounds are what they are without. It is
        settled by :meth:`fit`. "auto" is 10 for up to 5,000 training rows, 100 features and three
        components, if ``n_diffusion_steps > 0``, without a ``decoder`` of your own and without
        :class:`skddvi.regularizers.NeighborhoodPreservation`, which places rows itself; else 0.
    encoder : callable, default=None
        Factory of a network of your own in place of the encoder's hidden layers:
        ``encoder(n_inputs, n_outputs)`` returns a `torch.nn.Module` that maps rows, as the
        likelihood prepares them, of shape (n, n_inputs) to features of shape (n, n_outputs), where
        n_outputs is the last of ``hidden_layer_sizes``. See :ref:`guide-networks`.
    decoder : callable, default=None
        Factory of a network of your own in place of the decoder's, likewise: it maps latents,
        standardised under the prior, of shape (n, n_components) to what the likelihood takes, of
        shape (n, n_features).
    alpha : float or "auto", default="auto"
        Strength of the L2 penalty on the weights W of the decoder's last layer: the loss has the
        term ``alpha / (2 n) * (W**2).sum()`` for n training rows, as if W had a normal prior of
        variance 1 / alpha. "auto" is the width of the layer divided by the variance that its output
        has to have, as principal components of one half of the rows find it in the other half. 0 is
        no penalty. A ``decoder`` of your own has none.
    batch_size : int or "auto", default="auto"
        Rows in a gradient step. "auto" is a 64th of the training rows, but at least 64 and at most
        512; never more than there are.
    learning_rate_init : float, default=0.003
        Learning rate of Adam, whose decay rates are 0.9 and 0.95. From this it falls along a line
        to 0; over the first 5 % of the steps it rises from 0 to that line.
    max_iter : int or "auto", default="auto"
        Number of epochs, passes over the training rows. "auto" is 40, or where that is fewer as
        many as make about 5,000 gradient steps, but at least five.
    tol : float, default=1e-4
        Nats a row by which the held-out bound must rise to count as a change; for early stopping.
    early_stopping : bool, default=False
        Whether to hold out ``validation_fraction`` of the rows (or use ``X_val`` of :meth:`fit`),
        to stop when their bound has not risen for ``n_iter_no_change`` epochs, and to keep the
        weights of the best epoch.
    validation_fraction : float, default=0.1
        Share of the rows that is held out, strictly between 0 and 1; for early stopping without
        ``X_val``.
    n_iter_no_change : int, default=10
        Epochs without a rise by ``tol`` after which early stopping stops.
    warm_start : bool, default=False
        Whether another call of :meth:`fit` goes on from the fitted model, with ``max_iter`` further
        epochs that are appended to ``history_``. The parameters that the model is built from must
        not have changed.
    checkpoint : str or path-like, default=None
        A file that :meth:`fit` keeps its state in, so that a fit that was interrupted, by Ctrl-C, a
        callback or the end of the process, goes on from there when it is called again with the same
        parameters and rows, to the same model. Or a folder that exists, in which each fit has a
        file of its own, as a search needs. See :ref:`guide-checkpoints`.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Arithmetic of the training. "bfloat16" runs matrix products of encoder and decoder in mixed
        precision. "auto" is
        "bfloat16" from 128 features on, or with a hidden layer of 512 units or more, as it is by
        default with more than 1,000 rows, where the device has instructions for it, else
        "float32". What is asked of the fitted model is computed in the dtype of the rows.
    device : str, default="cpu"
        "cpu", "cuda" or "cuda:1", or "auto" for the first GPU or else the CPU. A pickle holds CPU
        tensors, whatever the device was.
    random_state : int, RandomState instance or None, default=None
        Source of the initial weights, the split, the order of the rows and the noise. An int gives
        the same model again on the same machine. None gives another model each time; it does not
        draw from the global state of numpy, so ``np.random.seed`` has no influence.
    verbose : int, default=0
        Whether to show how far the training is, and the bound: as a bar on a terminal or in a
        notebook, which takes rich (``skddvi[progress]``) and in a notebook ipywidgets, else as a
        line on standard output after each epoch.

    Attributes
    ----------
    n_iter_ : int
        Number of epochs run.
    loss_curve_ : list of float of shape (`n_iter_`,)
        The negative of the objective (6), with the regularisers, the term of ``init`` and the
        penalty of ``alpha``, in nats a row, mean of an epoch. It may rise while ``kl_warmup``
        raises the weight of its terms.
    validation_scores_ : list of float of shape (`n_iter_`,) or None
        Bound (4) of the held-out rows after each epoch, in nats a row, from one draw a row with the
        same noise each time. None where no rows were held out.
    history_ : dict of str to list
        Mean over the rows of each term for each epoch, in nats:

        - "reconstruction", log p(x|z), and "log_prior", log p(z);
        - "terminal", the bracket of y_T in equation (4); "chain", the sum over t >= 2 (with two
          diffusion steps or more); "last_step", - log q(z|y_1, x). Instead of these three, without
          diffusion steps, "posterior_entropy", - log q(z|x);
        - "elbo", the sum of those above, which is the bound (4);
        - "kl_per_dimension", a list of ``n_components`` numbers for each epoch: the divergence of
          the posterior from a normal with the prior's mean and variance. A dimension near 0 carries
          nothing of the rows;
        - "sleep", equation (5), where it is on;
        - the name of each regulariser, before its weight;
        - "start", the term of ``init``, before its weight, where there is one, and 0 when over;
        - "weight_penalty", the penalty of ``alpha`` on the decoder, where there is one;
        - "loss", as ``loss_curve_``;
        - ``"validation_"`` and each name of the first four groups, where there are held-out rows.
    prior_ : Prior
        The prior in use.
    likelihood_ : Likelihood
        The likelihood with what it learned from the training rows.
    n_features_in_ : int
        Number of features seen during :meth:`fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during :meth:`fit`. Defined only when all of them are strings.

    See Also
    --------
    sklearn.decomposition.PCA : Linear dimensionality reduction with a density.
    sklearn.manifold.TSNE : Embedding of one data set, for pictures.
    skddvi.priors : The priors.
    skddvi.likelihoods : The likelihoods.
    skddvi.noising : The noising processes.
    skddvi.regularizers : The regularisers.

    Notes
    -----
    Equation numbers are those of the :doc:`/user_guide`. The model is p(z) p(x|z), equation (1).
    Its posterior is the reverse of the noising process (2) [4]_, conditioned on the row, equation
    (3). :meth:`transform` follows it without noise: one point for each row, the same in any batch
    (from where it climbs to a more likely one, see ``n_map_steps``).
    :meth:`sample_posterior` draws from it.

    Training maximises the objective (6): the evidence lower bound (4) minus the weighted sleep term
    (5). :meth:`score_samples` gives the bound (4) of each row whatever the weights of the objective
    were, or the tighter bound (7) of several importance samples [3]_, and :meth:`score` the mean of
    the former, so that ``GridSearchCV`` can search without labels. Bounds compare between models of
    the same likelihood and the same preprocessing.

    The networks are trained in single precision, or where it pays in mixed, see ``precision``. The
    rows may be a sparse matrix; it is made dense one batch at a time. No training rows are kept in
    the fitted model.

    References
    ----------
    .. [1] Piriyakulkij, W. T., Wang, Y., and Kuleshov, V. (2025). Denoising diffusion variational
       inference: diffusion models as expressive variational posteriors. AAAI. arXiv:2401.02739.
    .. [2] Kingma, D. P., and Welling, M. (2014). Auto-encoding variational Bayes. ICLR.
       arXiv:1312.6114.
    .. [3] Burda, Y., Grosse, R., and Salakhutdinov, R. (2016). Importance weighted autoencoders.
       ICLR. arXiv:1509.00519.
    .. [4] Ho, J., Jain, A., and Abbeel, P. (2020). Denoising diffusion probabilistic models.
       NeurIPS. arXiv:2006.11239.
    .. [5] Marino, J., Yue, Y., and Mandt, S. (2018). Iterative amortized inference. ICML.
       arXiv:1807.09356.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skddvi import DDVAETransformer
    >>> X = load_digits().data
    >>> model = DDVAETransformer(max_iter=2, random_state=0).fit(X[:1500])
    >>> Z = model.transform(X[1500:])
    >>> Z.shape
    (297, 2)
    >>> model.inverse_transform(Z).shape
    (297, 64)
    >>> model.sample(3, random_state=0).shape
    (3, 64)

    The spread of draws from the posterior says how sure the model is of a row's place.

    >>> draws = model.sample_posterior(X[1500:], n_samples=20, random_state=0)
    >>> draws.std(axis=0).shape
    (297, 2)

    The held-out bound compares models without labels.

    >>> longer = DDVAETransformer(max_iter=6, random_state=0).fit(X[:1500])
    >>> longer.score(X[1500:]) > model.score(X[1500:])
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **BaseDDVAE._parameter_constraints,
        "init": [StrOptions({"auto", "neighbors", "random"})],
        "regularizer": [StrOptions({"auto"}), *BaseDDVAE._parameter_constraints["regularizer"]],
        "n_refinements": [Interval(Integral, 0, None, closed="left")],
        "n_map_steps": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
    }
    _structure_names = (*STRUCTURE, "n_refinements", "n_map_steps")

    def __init__(
        self,
        n_components=2,
        *,
        prior="normal",
        likelihood="gaussian",
        noising="even",
        n_diffusion_steps=4,
        sleep="auto",
        sleep_weight=2.0,
        kl_weight="auto",
        kl_warmup=0.4,
        init="auto",
        regularizer="auto",
        hidden_layer_sizes="auto",
        denoiser_width=128,
        activation="silu",
        n_input_components="auto",
        n_refinements=0,
        n_map_steps="auto",
        encoder=None,
        decoder=None,
        alpha="auto",
        batch_size="auto",
        learning_rate_init=3e-3,
        max_iter="auto",
        tol=1e-4,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        checkpoint=None,
        precision="auto",
        device="cpu",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.prior = prior
        self.likelihood = likelihood
        self.noising = noising
        self.n_diffusion_steps = n_diffusion_steps
        self.sleep = sleep
        self.sleep_weight = sleep_weight
        self.kl_weight = kl_weight
        self.kl_warmup = kl_warmup
        self.init = init
        self.regularizer = regularizer
        self.hidden_layer_sizes = hidden_layer_sizes
        self.denoiser_width = denoiser_width
        self.activation = activation
        self.n_input_components = n_input_components
        self.n_refinements = n_refinements
        self.n_map_steps = n_map_steps
        self.encoder = encoder
        self.decoder = decoder
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _regularizers(self, X):
        resolved = []
        for each in super()._regularizers(X):
            if not (isinstance(each, str) and each == "auto"):
                resolved.append(each)
            elif self._covers_prior(X):
                resolved.append(PriorCoverage())
        return resolved

    def _covers_prior(self, X):
        """Return whether rows X are to fill the prior if nothing else is asked for."""
        is_large = self.n_diffusion_steps > 0 and X.shape[0] >= AUTO_COVERAGE_ROWS
        return is_large and isinstance(self._make_prior(), CurvePrior)

    def _decoder_steps(self, X):
        n_steps = self.n_map_steps
        if n_steps == "auto":
            is_small = X.shape[0] <= AUTO_MAP_ROWS and X.shape[1] <= AUTO_MAP_FEATURES
            is_picture = self.n_components <= AUTO_MAP_COMPONENTS and self.n_diffusion_steps > 0
            weighty = [r for r in self._regularizers(X) if getattr(r, "weight", 1.0) != 0.0]
            own = self.decoder is not None or _has_layout(weighty)
            n_steps = AUTO_MAP_STEPS if is_small and is_picture and not own else 0
        return {"n_refinements": int(self.n_refinements), "n_map_steps": int(n_steps)}

    def _fit_new(self, task, likelihood, seed):
        schedule, start = task.schedule, NeighborStart().fit(task.X)
        starts = self.init == "neighbors"
        if self.init == "auto":
            has_layout = _has_layout(term.penalty for term in schedule.terms)
            starts = start.n_sampled_ >= AUTO_INIT_ROWS and not has_layout
        if starts:
            start.has_shape_ = type(self._make_prior()) is not NormalPrior
            schedule = dataclasses.replace(schedule, terms=(*schedule.terms, start.term()))
        return super()._fit_new(task._replace(schedule=schedule), likelihood, seed)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, X_val=None):
        """Fit the model to the rows of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows. Those of a store (h5py, Zarr, Dask) are read a block at a time.
        y : None
            Ignored.
        X_val : {array-like, sparse matrix} of shape (n_held_out, n_features), default=None
            Held-out rows, whose bound is recorded in ``history_`` and which take the place of
            ``validation_fraction`` where ``early_stopping=True``.

        Returns
        -------
        self : DDVAETransformer
            The fitted model.

        Raises
        ------
        ValueError
            When X holds values that the likelihood cannot have, parameters do not fit each other,
            or ``warm_start=True`` and the model would have another build.
        RuntimeError
            When ``device`` is not there.
        MemoryError
            When memory runs out; the message says for what, and what to lower.
        FloatingPointError
            When the objective is not finite in the first epoch, however small the steps. After a
            complete epoch training goes back to it and warns instead.
        """
        return self._fit(X, X_val)

    def transform(self, X):
        """Return the latents of the rows of X, one point each.

        They are the end of the reverse path of the posterior (3) without its noise, or where
        ``n_map_steps`` leads from there: the same for a row alone, in any batch, and in any order.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows, with the features of the training rows.

        Returns
        -------
        Z : ndarray of shape (n_rows, n_components)
            Latents: float32 for float32 rows, and computed so but for the climb, else float64.
        """
        X = self._rows(X)
        return self._engine.embed(X)

    def sample(self, n_samples=1, random_state=None):
        """Draw new rows from the model: latents from the prior, then rows from p(x|z).

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Source of the draws. None gives other draws each time, independent of the global state
            of numpy.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows in the units of the training data, float64.
        """
        check_is_fitted(self)
        n_samples = _positive_integer("n_samples", n_samples)
        return self._engine.sample(n_samples, _seed(random_state))[0]


def _has_layout(regularizers):
    """Return whether one of the regularisers lays the rows out."""
    return any(isinstance(each, NeighborhoodPreservation) for each in regularizers)
