"""The diffusion posterior whose denoiser never sees the row."""

from numbers import Integral

from sklearn.utils._param_validation import Interval

from ._base import Baseline, constraints, document


@document
class UnconditionalLatentDiffusion(Baseline):
    """Latent diffusion: a chain in latent space that does not look at the row.

    The first version of DDVI [1]_. The encoder says where the chain starts, q(y_T|x); from there a
    denoiser of the prior alone, the same for every row, leads to the latent. Its sleep term is the
    latent one of equation (5), which for this posterior is no approximation of the path's part.

    Parameters
    ----------
    {model}
    noising : str, array-like of shape (n_diffusion_steps,) or object, default="cosine"
        The noising process, as for :class:`skddvi.DDVAETransformer`.
    n_diffusion_steps : int, default=8
        Number T of steps of the chain, at least one.
    sleep_weight : float, default=0.3
        Factor of the sleep term in the objective, equation (6). Both are in nats a row.
    {denoiser_width}
    {kl_weight}
    {kl_warmup}
    {training}

    Attributes
    ----------
    {n_iter_}
    {loss_curve_}
    {validation_scores_}
    history_ : dict of str to list
        The terms that :class:`skddvi.DDVAETransformer` has, with the same names.
    {attributes}

    See Also
    --------
    skddvi.DDVAETransformer : The chain that looks at the row at every step.

    Notes
    -----
    All that is known of the row must survive every step, and each step that is narrower than that
    of the noising process costs its share of the bound (4). The spreads are those of a chain that
    follows the prior, times a factor learned for each step and dimension, the same for every row.
    The bound is true, and loose. A process of small steps, such as ``noising=[0.05] * 8``, which
    leaves something of z in y_T, lets more of the row through than the default.

    References
    ----------
    .. [1] Piriyakulkij, W. T., Wang, Y., and Kuleshov, V. (2024). Diffusion variational inference:
       diffusion models as expressive variational posteriors. arXiv:2401.02739v1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi.baselines import UnconditionalLatentDiffusion
    >>> X = load_iris().data
    >>> model = UnconditionalLatentDiffusion(max_iter=2, random_state=0).fit(X)
    >>> model.sample_posterior(X, n_samples=3).shape
    (3, 150, 2)
    """

    sleep = "latent"
    _parameter_constraints: dict = constraints(
        "noising",
        "sleep_weight",
        "denoiser_width",
        "kl_weight",
        "kl_warmup",
        n_diffusion_steps=[Interval(Integral, 1, None, closed="left")],
    )

    def __init__(
        self,
        n_components=2,
        *,
        prior="normal",
        likelihood="gaussian",
        noising="cosine",
        n_diffusion_steps=8,
        sleep_weight=0.3,
        denoiser_width=128,
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
        self.noising = noising
        self.n_diffusion_steps = n_diffusion_steps
        self.sleep_weight = sleep_weight
        self.denoiser_width = denoiser_width
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

    def _posterior(self):
        return "unconditional_diffusion", {}
