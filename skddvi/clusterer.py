"""Clustering with a learned mixture prior."""

import copy
import dataclasses
import warnings
from numbers import Integral, Real

import numpy as np
from sklearn import config_context
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ._base import (
    N_SCORE_DRAWS,
    STRUCTURE,
    BaseDDVAE,
    _joined,
    _positive_integer,
    _seed,
    all_or_nothing,
)
from ._engine.trainer import Term
from ._neighbors import NeighborAgreement, fuzzy_graph, layout, nearest_neighbors
from ._warn import warn
from .mixture_prior import MixturePrior
from .priors import resolve_prior

# Draws from q(z|x) that the responsibilities of a row are averaged over.
N_RESPONSIBILITY_DRAWS = 16
# Starts of k-means or of the mixture among the latents, and of the mixture in the layout, of which
# every other one merges two groups and cuts a third.
N_STARTS, N_LAYOUT_STARTS = 5, 20
# Rows for each entry of a mean that full covariances take.
FULL_COVARIANCE_ROWS = 10


class DDVAEClusterer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseDDVAE):
    """Clustering by a mixture in the latent space of a diffusion variational autoencoder.

    The model of :class:`DDVAETransformer` with a learned mixture for its prior, equation (13): a
    row belongs to a cluster k, its latent is drawn around the centre of that cluster, and the
    decoder makes the row of the latent [1]_ [2]_. Centres, spreads and weights of the clusters are
    trained with the networks by the evidence lower bound; no label is used. See the
    :doc:`/user_guide` for the mathematics.

    Parameters
    ----------
    n_clusters : int, default=8
        Number K of clusters. Fewer may come out, which :meth:`fit` warns about.
    n_components : int, default=10
        Dimension d of the latent space. 2 gives a picture; clusters of rows with many features part
        better in more. For rows of few features, such as 20 principal components, try 3 with
        ``init="gaussian_mixture"``.
    n_init : int, default=1
        Number of trainings, each from other initial weights. The one with the highest bound of
        held-out rows is kept: those of ``X_val``, or else ``validation_fraction`` of the rows,
        which are not trained on.
    init : {"neighbors", "gaussian_mixture", "kmeans"}, default="neighbors"
        How the rows are first divided, after the pretraining. "gaussian_mixture" and "kmeans" do it
        by the latents. "neighbors" first lays out the graph of nearest neighbours among the latents
        anew, as UMAP does [3]_, which opens gaps between groups that bend or differ in density, and
        fits a Gaussian mixture there, the likeliest from twenty starts.
    pretraining : float, default=0.5
        Share of the epochs, at least 0 and below 1, in which the clusters are still one, and the
        networks learn to describe the rows.
    n_neighbors : int, default=15
        Number of nearest neighbours of a row in the pretrained latents, for ``init="neighbors"``
        and for the agreement; all other rows where there are fewer.
    agreement_weight : float, default=25.0
        Factor of the agreement of neighbours in the loss, in nats a row: minus the logarithm of the
        probability that a row is in the same cluster as its neighbours [4]_. 0 leaves it out.
    prior : str or object, default="normal"
        What one cluster looks like in the latent space, p(z|k): it is standardised, scaled and
        shifted to the centre of each. A name: "normal" and "gaussian_mixture" live in any
        dimension, "pinwheel", "swiss_roll" and "square" in 2. Or an object of
        :mod:`skddvi.priors`, or of your own, as :class:`skddvi.priors.UserPrior` describes.
    likelihood : str or Likelihood, default="gaussian"
        How rows scatter around what the decoder says, p(x|z): "gaussian" for real values of any
        scale, "bernoulli" for values in [0, 1], "binomial" for dosages 0, 1, 2 with NaN for missing
        calls, "poisson" or "negative_binomial" for counts; or a
        :class:`skddvi.likelihoods.Likelihood`.
    noising : str, array-like of shape (n_diffusion_steps,) or object, default="cosine"
        The noising process that the posterior learns to reverse, equation (2): "cosine", "linear",
        "even", "variance_exploding", an array with one beta for each step, or an object with
        ``coefficients(n_steps)`` such as those of :mod:`skddvi.noising`.
    n_diffusion_steps : int, default=8
        Number T of steps of the chain. 0 gives the Gaussian posterior of a variational autoencoder
        [2]_. Time for training and for :meth:`transform` grows with it.
    sleep : {"auto", "conditional", "latent", "off"}, default="auto"
        The sleep term, equation (5). "conditional" dreams rows from the model and makes the
        posterior explain them; "latent" is a cheaper approximation in which the denoiser sees no
        row; "off" leaves the term out. "auto" is "conditional" if ``n_diffusion_steps > 0``, else
        "off".
    sleep_weight : float, default=0.3
        Factor of the sleep term in the objective, equation (6). Both are in nats a row.
    kl_weight : float or "auto", default=1.0
        Factor of everything but log p(x|z) in the objective. With 1 the objective without its sleep
        term is the evidence lower bound, equation (4). "auto" as in :class:`DDVAETransformer`,
        anew in the joint training.
    kl_warmup : float, default=0.2
        Share of the pretraining's gradient steps, from 0 to 1, during which the factors
        ``kl_weight`` and ``sleep_weight`` rise linearly from 0. In the joint training they are
        whole throughout.
    regularizer : callable or list of callables, default=None
        Terms on the latents beside the bound, such as
        :class:`skddvi.regularizers.NeighborhoodPreservation`: ``regularizer(z, rows)`` of a batch's
        latents and its row indices. Attributes ``weight`` (1 where there is none) and ``name`` are
        its factor in the loss and its key in ``history_``.
    hidden_layer_sizes : int, array-like of int, or "auto", default="auto"
        Widths of the encoder's hidden layers; the decoder has them in reverse order. Empty for a
        linear encoder and decoder. "auto" is two layers of 256 for up to 1,000 training rows and
        two of 512 for more.
    denoiser_width : int, default=128
        Width of the two hidden layers of the denoiser.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="silu"
        Activation of the hidden layers of encoder and decoder.
    n_input_components : int, "auto" or None, default="auto"
        Number of principal components of the rows, as the likelihood prepares them, that the
        encoder sees in place of the features; never more than there are rows or features. None lets
        it see the features. So does "auto" with 50 features or less, with five training rows to a
        feature or more, and with an ``encoder`` of your own; else it is 50, since from so few rows
        an encoder of all features learns their noise.
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
    learning_rate_init : float, default=0.002
        Learning rate of Adam, whose decay rates are 0.9 and 0.95. From this it falls along a line
        to 0; over the first 5 % of the steps it rises from 0 to that line.
    max_iter : int or "auto", default="auto"
        Number of epochs, passes over the training rows, of both stages. "auto" is 40, or where that
        is fewer as many as make about 5,000 gradient steps, but at least five.
    tol : float, default=1e-4
        Nats a row by which the held-out bound must rise to count as a change; for early stopping.
    early_stopping : bool, default=False
        Whether to hold out ``validation_fraction`` of the rows (or use ``X_val`` of :meth:`fit`),
        to stop when their bound has not risen for ``n_iter_no_change`` epochs of the joint
        training, and to keep the weights of the best of these epochs.
    validation_fraction : float, default=0.1
        Share of the rows that is held out, strictly between 0 and 1; for early stopping and for
        ``n_init`` above 1, without ``X_val``.
    n_iter_no_change : int, default=10
        Epochs without a rise by ``tol`` after which early stopping stops.
    warm_start : bool, default=False
        Whether another call of :meth:`fit` goes on from the fitted model, with ``max_iter`` further
        epochs of joint training that are appended to ``history_``; ``n_init`` does not count then.
        The parameters that the model is built from must not have changed.
    checkpoint : str or path-like, default=None
        A file that :meth:`fit` keeps its state in, so that a fit that was interrupted, by Ctrl-C, a
        callback or the end of the process, goes on from there when it is called again with the same
        parameters and rows, to the same model. Or a folder that exists, in which each fit has a
        file of its own, as a search needs. See :ref:`guide-checkpoints`.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Arithmetic of the training. "bfloat16" runs matrix products in mixed precision. "auto" is
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
    labels_ : ndarray of int of shape (n_samples,)
        Cluster of each training row, from 0: what :meth:`predict` says of it. Clusters are numbered
        by their training rows, the largest first.
    weights_ : ndarray of shape (n_clusters,)
        Probabilities of the clusters in the prior.
    cluster_centers_ : ndarray of shape (n_clusters, n_components)
        Means of the clusters, in the latent space. :meth:`inverse_transform` gives the rows that
        belong to them.
    covariances_ : ndarray of shape (n_clusters, n_components)
        Variances of the clusters along each axis of the latent space.
    n_clusters_effective_ : int
        Number of clusters that hold at least one training row.
    restart_scores_ : ndarray of shape (n_init,) or None
        Bound of the held-out rows of each training, in nats a row; that of the training rows where
        there are too few to hold any out. None where ``n_init=1`` or a warm start went on.
    n_iter_ : int
        Number of epochs run.
    loss_curve_ : list of float of shape (`n_iter_`,)
        The negative of the objective (6), with the regularisers and the penalty of ``alpha``, in
        nats a row, mean of an epoch. It may rise while ``kl_warmup`` raises the weight of its
        terms.
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
        - the name of each regulariser, before its weight, and "neighbor_agreement", NaN in the
          pretraining;
        - "weight_penalty", the penalty of ``alpha`` on the decoder, where there is one;
        - "loss", as ``loss_curve_``;
        - ``"validation_"`` and each name of the first four groups, where there are held-out rows.
    prior_ : skddvi.mixture_prior.MixturePrior
        The learned mixture.
    likelihood_ : Likelihood
        The likelihood with what it learned from the training rows.
    n_features_in_ : int
        Number of features seen during :meth:`fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during :meth:`fit`. Defined only when all of them are strings.

    See Also
    --------
    sklearn.mixture.GaussianMixture : The same mixture over the rows themselves.
    sklearn.cluster.KMeans : Fast, for round clusters of like size.
    skddvi.cluster_number_scan : How many clusters there are.
    DDVAETransformer : The same model with a prior that is chosen.

    Notes
    -----
    Equation numbers are those of the :doc:`/user_guide`. Training has two stages. In the
    *pretraining* all clusters lie on top of each other, so that the prior is one cluster shape.
    Then the latents of the training rows are divided by ``init``, and each cluster gets the mean,
    the spread and the share of its rows. In the *joint training* clusters and networks are trained
    together, so that clusters pull their rows together wherever that does not cost the
    reconstruction too much; the agreement of neighbours keeps cluster borders out of dense places.

    :meth:`predict_proba` is the mean of p(k|z) over draws from the posterior q(z|x), equation (14),
    with the same noise for every row, so that a row's cluster depends on no other row. Numbers
    given to clusters mean nothing, and another seed gives other clusters where the data leave the
    choice open: :func:`cluster_number_scan` measures that.

    Sparse rows are refused, as by :class:`~sklearn.mixture.GaussianMixture`.

    References
    ----------
    .. [1] Piriyakulkij, W. T., Wang, Y., and Kuleshov, V. (2025). Denoising diffusion variational
       inference: diffusion models as expressive variational posteriors. AAAI. arXiv:2401.02739.
    .. [2] Jiang, Z., Zheng, Y., Tan, H., Tang, B., and Zhou, H. (2017). Variational deep embedding:
       an unsupervised and generative approach to clustering. IJCAI. arXiv:1611.05148.
    .. [3] McConville, R., Santos-Rodriguez, R., Piechocki, R. J., and Craddock, I. (2021). N2D:
       (not too) deep clustering via clustering the local manifold of an autoencoded embedding.
       ICPR. arXiv:1908.05968.
    .. [4] Van Gansbeke, W., Vandenhende, S., Georgoulis, S., Proesmans, M., and Van Gool, L.
       (2020). SCAN: learning to classify images without labels. ECCV. arXiv:2005.12320.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skddvi import DDVAEClusterer
    >>> X, _ = make_blobs(200, n_features=5, centers=3, random_state=0)
    >>> model = DDVAEClusterer(n_clusters=3, max_iter=20, random_state=0).fit(X)
    >>> model.n_clusters_effective_
    3
    >>> model.labels_.shape
    (200,)
    >>> model.predict_proba(X[:2]).shape
    (2, 3)

    Rows as the model imagines them in the largest cluster:

    >>> model.sample(4, cluster=0, random_state=0).shape
    (4, 5)

    A picture is a clustering in two dimensions.

    >>> picture = DDVAEClusterer(n_clusters=3, n_components=2, max_iter=20, random_state=0)
    >>> picture.fit_transform(X).shape
    (200, 2)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **BaseDDVAE._parameter_constraints,
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions({"neighbors", "gaussian_mixture", "kmeans"})],
        "pretraining": [Interval(Real, 0, 1, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "agreement_weight": [Interval(Real, 0, None, closed="left")],
    }
    # scikit-learn's check of sparse rows takes whatever has predict_proba for a classifier.
    _accept_sparse = False
    _structure_names = ("n_clusters", *STRUCTURE)

    def __init__(
        self,
        n_clusters=8,
        *,
        n_components=10,
        n_init=1,
        init="neighbors",
        pretraining=0.5,
        n_neighbors=15,
        agreement_weight=25.0,
        prior="normal",
        likelihood="gaussian",
        noising="cosine",
        n_diffusion_steps=8,
        sleep="auto",
        sleep_weight=0.3,
        kl_weight=1.0,
        kl_warmup=0.2,
        regularizer=None,
        hidden_layer_sizes="auto",
        denoiser_width=128,
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
        self.n_clusters = n_clusters
        self.n_components = n_components
        self.n_init = n_init
        self.init = init
        self.pretraining = pretraining
        self.n_neighbors = n_neighbors
        self.agreement_weight = agreement_weight
        self.prior = prior
        self.likelihood = likelihood
        self.noising = noising
        self.n_diffusion_steps = n_diffusion_steps
        self.sleep = sleep
        self.sleep_weight = sleep_weight
        self.kl_weight = kl_weight
        self.kl_warmup = kl_warmup
        self.regularizer = regularizer
        self.hidden_layer_sizes = hidden_layer_sizes
        self.denoiser_width = denoiser_width
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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, X_val=None):
        """Fit the model to the rows of X and divide them into clusters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows. Those of a store (h5py, Zarr, Dask) are read a block at a time.
        y : None
            Ignored.
        X_val : array-like of shape (n_held_out, n_features), default=None
            Held-out rows, whose bound is recorded in ``history_`` and which take the place of
            ``validation_fraction`` where ``early_stopping=True`` or ``n_init`` is above 1.

        Returns
        -------
        self : DDVAEClusterer
            The fitted model.

        Raises
        ------
        ValueError
            When there are fewer rows than clusters, X holds values that the likelihood cannot have,
            parameters do not fit each other, or ``warm_start=True`` and the model would have
            another build.
        RuntimeError
            When ``device`` is not there.
        MemoryError
            When memory runs out; the message says for what, and what to lower.
        FloatingPointError
            When the objective is not finite in the first epoch, however small the steps.
        """
        self._fit(X, X_val)
        self._number_clusters(X)
        return self

    # ---------------------------------------------------------------------- the two stages

    def _make_prior(self):
        return MixturePrior(resolve_prior(self.prior, self.n_components), self.n_clusters)

    def _holds_rows_out(self):
        return self.early_stopping or self.n_init > 1

    def _n_trainings(self):
        return self.n_init

    def _fit_new(self, task, likelihood, seed):
        """Return the best of ``n_init`` engines by their held-out bound, and its history."""
        X, X_val = task.X, task.X_val
        if X.shape[0] < self.n_clusters:
            raise ValueError(
                f"n_samples={X.shape[0]} should be >= n_clusters={self.n_clusters}; give more rows "
                "or ask for fewer clusters."
            )
        seeds = [seed, *np.random.default_rng(seed).integers(2**31, size=self.n_init - 1)]
        scores, best = [], None
        for seed in map(int, seeds):
            # Each restart trains a likelihood of its own.
            engine = self._build_engine(X, copy.deepcopy(likelihood), seed)
            before, complete = self._pretrain(engine, task)
            responsibilities = self._place_clusters(engine, X, seed)
            history = before
            if complete:
                n_epochs_before = len(before.get("loss", []))
                further = self._train_jointly(engine, task, responsibilities, n_epochs_before)
                history = _joined(before, further) if before else further
            if self.n_init > 1:
                held_out = X if X_val is None else X_val
                bound = engine.bound(held_out, 1, N_SCORE_DRAWS)
                scores.append(float(bound.mean(dtype=np.float64)))
            if best is None or scores[-1] == max(scores):
                best = engine, history
        self.restart_scores_ = np.array(scores) if self.n_init > 1 else None
        return best

    def _fit_further(self, task):
        """Return the fitted engine, trained further, and the history of both fits."""
        responsibilities = self._engine.responsibilities(task.X, N_RESPONSIBILITY_DRAWS)
        self.restart_scores_ = None
        further = self._train_jointly(self._engine, task, responsibilities, 0)
        return self._engine, _joined(self.history_, further)

    def _pretrain(self, engine, task):
        """Train with all clusters in one place; return the history and whether it is complete."""
        schedule = task.schedule
        n_epochs = min(round(self.pretraining * schedule.max_iter), schedule.max_iter - 1)
        if n_epochs == 0:
            return {}, True
        engine.model.prior.freeze()
        schedule = dataclasses.replace(schedule, max_iter=n_epochs, early_stopping=False)
        history = self._train(engine, task, schedule, "Pretraining")
        # It stops early where it was interrupted or diverged.
        return history, len(history["loss"]) == n_epochs

    def _place_clusters(self, engine, X, seed):
        """Put the clusters where the rows are, and return each row's in one-hot form, (n, K)."""
        labels = self._initial_labels(engine.embed(X).astype(np.float64), seed)
        draws = engine.sample_posterior(X, 1, seed)[0]
        engine.model.prior.set_components(*_moments(draws, labels, self.n_clusters))
        return np.eye(self.n_clusters)[labels]

    def _train_jointly(self, engine, task, responsibilities, n_epochs_before):
        """Train clusters and networks for the epochs that are left, and return the history."""
        schedule = task.schedule
        schedule = dataclasses.replace(
            schedule,
            max_iter=schedule.max_iter - n_epochs_before,
            kl_warmup=0.0 if n_epochs_before else schedule.kl_warmup,
        )
        prior = engine.model.prior
        prior.learn()
        if self.agreement_weight > 0 and self.n_clusters > 1:
            _, neighbors = nearest_neighbors(engine.embed(task.X), self.n_neighbors)
            agreement = NeighborAgreement(prior, neighbors, responsibilities, self.agreement_weight)
            term = Term(agreement.name, agreement.weight, agreement)
            schedule = dataclasses.replace(schedule, terms=(*schedule.terms, term))
        return self._train(engine, task, schedule)

    def _initial_labels(self, Z, seed):
        """Return a first cluster for each row from its latents, (n,)."""
        # Late, because they take as long to import as all of this package.
        from sklearn.cluster import KMeans
        from sklearn.mixture import GaussianMixture

        # Not everything here dispatches, and all of it is numpy's.
        with config_context(array_api_dispatch=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a start need not have converged
            means = KMeans(self.n_clusters, n_init=N_STARTS, random_state=seed)
            if self.init == "kmeans":
                return means.fit_predict(Z)
            n_starts = N_STARTS
            if self.init == "neighbors":
                n_starts = N_LAYOUT_STARTS
                graph = fuzzy_graph(*nearest_neighbors(Z, self.n_neighbors))
                Z = layout(graph, Z, np.random.default_rng(seed))
            enough = len(Z) >= FULL_COVARIANCE_ROWS * self.n_clusters * Z.shape[1]
            mixture = GaussianMixture(
                self.n_clusters,
                covariance_type="full" if enough else "diag",
                n_init=n_starts,
                random_state=seed,
            )
            try:
                return mixture.fit_predict(Z)
            except ValueError:  # a component of one row, or of rows that are all in one place
                return means.fit_predict(Z)

    def _number_clusters(self, X):
        """Give the clusters numbers by their training rows, the largest first, and count them."""
        prior = self._engine.model.prior
        counts = np.bincount(self.predict(X), minlength=self.n_clusters)
        prior.permute(np.argsort(-counts, kind="stable"))
        self.labels_ = self.predict(X)
        self.n_clusters_effective_ = int(np.count_nonzero(counts))
        self.weights_, self.cluster_centers_, scales = prior.components()
        self.covariances_ = scales**2
        n_empty = self.n_clusters - self.n_clusters_effective_
        if n_empty:
            warn(
                f"{n_empty} of n_clusters={self.n_clusters} clusters hold no training row; lower "
                f"n_clusters to {self.n_clusters_effective_}, or raise n_init or max_iter.",
            )

    # ---------------------------------------------------------------------- the fitted model

    def transform(self, X):
        """Return the noise-free latents of the rows of X.

        They are the end of the reverse path of the posterior (3) without its noise: the same for
        a row alone, in any batch, and in any order.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            Rows, with the features of the training rows.

        Returns
        -------
        Z : ndarray of shape (n_rows, n_components)
            Latents, computed in float32 for float32 rows, else in float64.
        """
        X = self._rows(X)
        return self._engine.embed(X)

    def predict_proba(self, X):
        """Return the probability of each cluster for the rows of X, equation (14).

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            Rows, with the features of the training rows.

        Returns
        -------
        probabilities : ndarray of shape (n_rows, n_clusters)
            The mean of p(k|z) over draws from q(z|x) with fixed noise; they add up to one.
        """
        X = self._rows(X)
        return self._engine.responsibilities(X, N_RESPONSIBILITY_DRAWS)

    def predict(self, X):
        """Return the most probable cluster of the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            Rows, with the features of the training rows.

        Returns
        -------
        labels : ndarray of int of shape (n_rows,)
            Clusters, from 0: where :meth:`predict_proba` is largest.
        """
        return self.predict_proba(X).argmax(axis=1)

    def sample(self, n_samples=1, random_state=None, *, cluster=None):
        """Draw new rows from the model, or from one of its clusters.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Source of the draws. None gives other draws each time, independent of the global state
            of numpy.
        cluster : int, default=None
            The cluster that all rows come from. None draws clusters by ``weights_``.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows in the units of the training data, float64.
        """
        check_is_fitted(self)
        n_samples = _positive_integer("n_samples", n_samples)
        n_clusters = self.prior_.n_parts
        if cluster is not None and not (
            isinstance(cluster, Integral) and 0 <= cluster < n_clusters
        ):
            raise ValueError(
                f"cluster must be an integer in 0..{n_clusters - 1} or None, found {cluster!r}."
            )
        return self._engine.sample(n_samples, _seed(random_state), cluster)[0]


def _moments(Z, labels, n_clusters):
    """Return means, standard deviations and counts of the clusters of Z; empty: those of all."""
    counts = np.bincount(labels, minlength=n_clusters)
    centers, scales = np.tile(Z.mean(0), (n_clusters, 1)), np.tile(Z.std(0), (n_clusters, 1))
    for k in np.flatnonzero(counts):
        centers[k] = Z[labels == k].mean(0)
        if counts[k] > 1:
            scales[k] = Z[labels == k].std(0)
    return centers, scales, counts
