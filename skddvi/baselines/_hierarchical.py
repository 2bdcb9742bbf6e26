"""The hierarchical posterior, with an auxiliary variable."""

from numbers import Integral

from sklearn.utils._param_validation import Interval

from ._base import Baseline, constraints, document, structure


@document
class HierarchicalVAE(Baseline):
    """Variational autoencoder with a hierarchical posterior.

    The posterior is a mixture over an auxiliary variable a of the size of z: draw a from q(a|x),
    then z from q(z|a,x), both diagonal Gaussians whose parameters are networks'. A learned reverse
    model r(a|z,x) takes part in the bound [1]_ [2]_, which is that of diffusion with one step whose
    noising is learned. Before training it is the Gaussian posterior.

    Parameters
    ----------
    {model}
    auxiliary_width : int, default=128
        Width of the two hidden layers of the networks of q(z|a,x) and of r(a|z,x).
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

        - "reconstruction", log p(x|z), "log_prior", log p(z), "auxiliary", log r(a|z,x) -
          log q(a|x), "conditional_entropy", - log q(z|a,x), and their sum, "elbo", which is a lower
          bound on log p(x), the bound (4) with r(a|z,x) for the noising process;
        - "kl_per_dimension", as :class:`skddvi.DDVAETransformer` has it;
        {history}
    {attributes}

    See Also
    --------
    GaussianVAE : The same without the auxiliary variable.

    Notes
    -----
    :meth:`transform` gives the mean of q(z|a,x) at the mean of q(a|x).

    References
    ----------
    .. [1] Ranganath, R., Tran, D., and Blei, D. M. (2016). Hierarchical variational models. ICML.
       arXiv:1511.02386.
    .. [2] Maaloe, L., Sonderby, C. K., Sonderby, S. K., and Winther, O. (2016). Auxiliary deep
       generative models. ICML. arXiv:1602.05473.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi.baselines import HierarchicalVAE
    >>> X = load_iris().data
    >>> model = HierarchicalVAE(max_iter=2, random_state=0).fit(X)
    >>> model.sample_posterior(X, n_samples=3).shape
    (3, 150, 2)
    """

    _parameter_constraints: dict = constraints(
        "kl_weight", "kl_warmup", auxiliary_width=[Interval(Integral, 1, None, closed="left")]
    )
    _structure_names = structure("auxiliary_width")

    def __init__(
        self,
        n_components=2,
        *,
        prior="normal",
        likelihood="gaussian",
        auxiliary_width=128,
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
        self.auxiliary_width = auxiliary_width
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
        return "hierarchical", {"auxiliary_width": self.auxiliary_width}
