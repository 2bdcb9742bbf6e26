"""The adversarial autoencoder."""

from dataclasses import replace
from numbers import Integral, Real

from sklearn.utils._param_validation import Interval, StrOptions

from ._base import Baseline, constraints, document, structure

# Steps of the critic for each of the encoder, by its kind: those of the papers.
AUTO_CRITIC_STEPS = {"gan": 1, "wasserstein": 5}


@document
class AdversarialAutoencoder(Baseline):
    """Autoencoder whose latents a critic draws towards the prior.

    The encoder gives each row one latent, without a density. In place of a divergence there is a
    game: a critic learns to tell the latents of rows from draws of the prior, and the encoder to
    be taken for the prior [1]_.

    Parameters
    ----------
    {model}
    critic : {"gan", "wasserstein"}, default="gan"
        The discriminator of the original, whose output is the log-odds that a latent is a draw
        from the prior, with the generator loss that does not saturate [2]_; or the Wasserstein
        critic [3]_ with gradient penalty [4]_.
    adversarial_weight : float, default=10.0
        Factor of the encoder's loss against the critic, beside log p(x|z) in nats.
    n_critic_steps : int or "auto", default="auto"
        Steps of the critic for each step of the encoder. "auto" is 1 for "gan" and 5 for
        "wasserstein".
    critic_width : int, default=128
        Width of the critic's two hidden layers.
    {training}

    Attributes
    ----------
    {n_iter_}
    loss_curve_ : list of float of shape (`n_iter_`,)
        What the encoder and the decoder minimise: - log p(x|z) + ``adversarial_weight`` times the
        encoder's loss, plus the regularisers and the penalty of ``alpha``, in nats a row, mean of
        an epoch.
    validation_scores_ : list of float of shape (`n_iter_`,) or None
        Mean log p(x|z) of the held-out rows after each epoch; early stopping goes by it. None where
        no rows were held out.
    history_ : dict of str to list
        Mean over the rows of each term for each epoch, in nats:

        - "reconstruction", log p(x|z), and "log_prior", log p(z). There is no "elbo";
        - "critic_loss". For "gan" 2 log 2 = 1.39 where the critic cannot tell the two apart; near
          0 it tells them apart without doubt: the latents are not the prior's, a part of which they
          leave out (mode collapse), and the encoder learns little from such a critic. For
          "wasserstein" minus the distance of the two, plus the penalty: near 0 is good;
        - "generator_loss", the encoder's loss against the critic;
        {history}
    {attributes}

    See Also
    --------
    GaussianVAE : The same networks with a posterior and a bound.

    Notes
    -----
    There is no bound here: a posterior without spread has none that is finite. :meth:`score` and
    :meth:`score_samples` give log p(x|z) at the row's own latent. That is what early stopping and
    ``GridSearchCV`` can go by; it says nothing of how well the latents follow the prior, and is
    as a rule far above log p(x): never compare it with another estimator's score.

    Draws of :meth:`sample_posterior` are all the same point.

    References
    ----------
    .. [1] Makhzani, A., Shlens, J., Jaitly, N., Goodfellow, I., and Frey, B. (2015). Adversarial
       autoencoders. arXiv:1511.05644.
    .. [2] Goodfellow, I. et al. (2014). Generative adversarial nets. NeurIPS. arXiv:1406.2661.
    .. [3] Arjovsky, M., Chintala, S., and Bottou, L. (2017). Wasserstein generative adversarial
       networks. ICML. arXiv:1701.07875.
    .. [4] Gulrajani, I. et al. (2017). Improved training of Wasserstein GANs. NeurIPS.
       arXiv:1704.00028.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi.baselines import AdversarialAutoencoder
    >>> X = load_iris().data
    >>> model = AdversarialAutoencoder(max_iter=2, random_state=0).fit(X)
    >>> len(model.history_["critic_loss"])
    2
    """

    kl_weight = 0.0
    kl_warmup = 0.0
    _parameter_constraints: dict = constraints(
        critic=[StrOptions(set(AUTO_CRITIC_STEPS))],
        adversarial_weight=[Interval(Real, 0, None, closed="left")],
        n_critic_steps=[StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        critic_width=[Interval(Integral, 1, None, closed="left")],
    )
    _structure_names = structure("critic", "n_critic_steps", "critic_width")

    def __init__(
        self,
        n_components=2,
        *,
        prior="normal",
        likelihood="gaussian",
        critic="gan",
        adversarial_weight=10.0,
        n_critic_steps="auto",
        critic_width=128,
        init="auto",
        regularizer=None,
        hidden_layer_sizes="auto",
        activation="silu",
        n_input_components="auto",
        encoder=None,
        decoder=None,
        alpha="auto",
        batch_size="auto",
        learning_rate_init=2e-3,
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
        self.critic = critic
        self.adversarial_weight = adversarial_weight
        self.n_critic_steps = n_critic_steps
        self.critic_width = critic_width
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
        n_steps = self.n_critic_steps
        return "point", {
            "critic": self.critic,
            "critic_width": self.critic_width,
            "n_critic_steps": AUTO_CRITIC_STEPS[self.critic] if n_steps == "auto" else n_steps,
        }

    def _schedule(self, X, X_val):
        weight = float(self.adversarial_weight)
        schedule = super()._schedule(X, X_val)
        return replace(schedule, adversarial_weight=weight, criterion="reconstruction")

    def score_samples(self, X):
        """Return log p(x|z) of each row at its own latent, in nats. This is not a bound.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows, with the features of the training rows.

        Returns
        -------
        reconstruction : ndarray of shape (n_rows,)
            In nats. It is no bound on log p(x) and does not compare with other estimators' scores.
        """
        X = self._rows(X)
        return self._engine.reconstruction(X)

    def score(self, X, y=None):
        """Return the mean of log p(x|z) at the rows' own latents, in nats. This is not a bound.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows, with the features of the training rows.
        y : None
            Ignored.

        Returns
        -------
        reconstruction : float
            The mean of :meth:`score_samples`.
        """
        return super().score(X)
