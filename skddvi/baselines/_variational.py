"""The variational autoencoder, and the importance weighted one."""

from dataclasses import replace
from numbers import Integral

from sklearn.utils._param_validation import Interval

from ._base import Baseline, constraints, document


@document
class GaussianVAE(Baseline):
    """Variational autoencoder: a Gaussian posterior with diagonal covariance.

    The model of Kingma and Welling [1]_, the same as ``DDVAETransformer(n_diffusion_steps=0)``.
    With ``kl_weight`` other than 1 it is the beta-VAE [2]_.

    Parameters
    ----------
    {model}
    {kl_weight}
    {kl_warmup}
    {training}

    Attributes
    ----------
    {n_iter_}
    {loss_curve_}
    {validation_scores_}
    history_ : dict of str to list
        Mean over the rows of each term for each epoch, in nats:

        - "reconstruction", log p(x|z), "log_prior", log p(z), "posterior_entropy", - log q(z|x),
          and their sum, "elbo", which is the bound (4);
        - "kl_per_dimension", as :class:`skddvi.DDVAETransformer` has it;
        {history}
    {attributes}

    See Also
    --------
    skddvi.DDVAETransformer : The same model with a diffusion posterior.

    References
    ----------
    .. [1] Kingma, D. P., and Welling, M. (2014). Auto-encoding variational Bayes. ICLR.
       arXiv:1312.6114.
    .. [2] Higgins, I. et al. (2017). beta-VAE: learning basic visual concepts with a constrained
       variational framework. ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi.baselines import GaussianVAE
    >>> X = load_iris().data
    >>> model = GaussianVAE(max_iter=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (150, 2)
    """

    _parameter_constraints: dict = constraints("kl_weight", "kl_warmup")

    def __init__(
        self,
        n_components=2,
        *,
        prior="normal",
        likelihood="gaussian",
        kl_weight="auto",
        kl_warmup=0.4,
        init="auto",
        regularizer=None,
        hidden_layer_sizes="auto",
        activation="silu",
        n_input_components="auto",
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
        self.kl_weight = kl_weight
        self.kl_warmup = kl_warmup
        self.init = init
        self.regularizer = regularizer
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.n_input_components = n_input_components
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


@document
class IWAE(Baseline):
    """Importance weighted autoencoder: a Gaussian posterior trained on bound (7).

    Each row is drawn ``n_importance_samples`` times, and what is maximised is the log of the mean
    of the weights [1]_ instead of the mean of their logs. The posterior is the Gaussian of
    :class:`GaussianVAE`; weighting its draws makes it a richer one in effect.

    Parameters
    ----------
    {model}
    n_importance_samples : int, default=5
        K of equation (7) in training. 1 is :class:`GaussianVAE`. Time grows with it.
    {kl_weight}
    {kl_warmup}
    {training}

    Attributes
    ----------
    {n_iter_}
    loss_curve_ : list of float of shape (`n_iter_`,)
        Minus bound (7) with its terms weighted by ``kl_weight``, plus the regularisers and the
        penalty of ``alpha``, in nats a row, mean of an epoch.
    validation_scores_ : list of float of shape (`n_iter_`,) or None
        Bound (7) of the held-out rows after each epoch, in nats a row, with the same noise each
        time; early stopping goes by it. None where no rows were held out.
    history_ : dict of str to list
        Mean over the rows of each term for each epoch, in nats:

        - "reconstruction", log p(x|z), "log_prior", log p(z), "posterior_entropy", - log q(z|x),
          and their sum, "elbo", which is the bound (4), means over draws; and
          "importance_weighted_bound", (7), where K > 1;
        - "kl_per_dimension", as :class:`skddvi.DDVAETransformer` has it;
        {history}
    {attributes}

    See Also
    --------
    GaussianVAE : The same with one draw a row.

    Notes
    -----
    :meth:`score` is the bound (4), as for every estimator, so that it compares with others; this
    posterior was not trained for it and is wider than the best for it. What was trained is
    ``score_samples(X, n_importance_samples=K)``.

    References
    ----------
    .. [1] Burda, Y., Grosse, R., and Salakhutdinov, R. (2016). Importance weighted autoencoders.
       ICLR. arXiv:1509.00519.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi.baselines import IWAE
    >>> X = load_iris().data
    >>> model = IWAE(max_iter=2, random_state=0).fit(X)
    >>> bool(model.score_samples(X, n_importance_samples=5).mean() > model.score(X))
    True
    """

    _parameter_constraints: dict = constraints(
        "kl_weight", "kl_warmup", n_importance_samples=[Interval(Integral, 1, None, closed="left")]
    )

    def __init__(
        self,
        n_components=2,
        *,
        prior="normal",
        likelihood="gaussian",
        n_importance_samples=5,
        kl_weight="auto",
        kl_warmup=0.4,
        init="auto",
        regularizer=None,
        hidden_layer_sizes="auto",
        activation="silu",
        n_input_components="auto",
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
        self.n_importance_samples = n_importance_samples
        self.kl_weight = kl_weight
        self.kl_warmup = kl_warmup
        self.init = init
        self.regularizer = regularizer
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.n_input_components = n_input_components
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

    def _schedule(self, X, X_val):
        n_samples = self.n_importance_samples
        criterion = "importance_weighted_bound" if n_samples > 1 else "elbo"
        schedule = super()._schedule(X, X_val)
        return replace(schedule, n_importance_samples=n_samples, criterion=criterion)
