"""The inverse autoregressive flow posterior."""

from numbers import Integral

from sklearn.utils._param_validation import Interval

from ._base import Baseline, constraints, document, structure


@document
class InverseAutoregressiveFlowVAE(Baseline):
    """Variational autoencoder whose posterior is an inverse autoregressive flow.

    A Gaussian draw goes through ``n_flows`` blocks that shift and stretch each latent by what a
    masked network (MADE) [2]_ makes of the latents before it and of the row [1]_. The order of the
    latents is reversed from block to block. The density is exact. Before training it is the
    Gaussian posterior.

    Parameters
    ----------
    {model}
    n_flows : int, default=4
        Number of blocks.
    flow_width : int, default=128
        Width of the two hidden layers of each block.
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
    GaussianVAE : The same without blocks.

    Notes
    -----
    :meth:`transform` gives the point to which the flow takes the mean of the Gaussian. The flow is
    the affine one of equation 10 of [1]_, with log-stretches within 3 of zero, instead of the gate
    of their equation 14, which can only shrink.

    References
    ----------
    .. [1] Kingma, D. P. et al. (2016). Improved variational inference with inverse autoregressive
       flow. NeurIPS. arXiv:1606.04934.
    .. [2] Germain, M., Gregor, K., Murray, I., and Larochelle, H. (2015). MADE: masked autoencoder
       for distribution estimation. ICML. arXiv:1502.03509.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi.baselines import InverseAutoregressiveFlowVAE
    >>> X = load_iris().data
    >>> model = InverseAutoregressiveFlowVAE(max_iter=2, random_state=0).fit(X)
    >>> model.sample_posterior(X, n_samples=3).shape
    (3, 150, 2)
    """

    _parameter_constraints: dict = constraints(
        "kl_weight",
        "kl_warmup",
        n_flows=[Interval(Integral, 1, None, closed="left")],
        flow_width=[Interval(Integral, 1, None, closed="left")],
    )
    _structure_names = structure("n_flows", "flow_width")

    def __init__(
        self,
        n_components=2,
        *,
        prior="normal",
        likelihood="gaussian",
        n_flows=4,
        flow_width=128,
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
        self.n_flows = n_flows
        self.flow_width = flow_width
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
        return "flow", {"n_blocks": self.n_flows, "flow_width": self.flow_width}
