"""Classification with few labels, by a class-conditional model with a diffusion posterior."""

import warnings
from numbers import Integral, Real

import numpy as np
from sklearn.base import (
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ._base import BaseDDVAE, FitTask, _positive_integer, _seed, all_or_nothing
from ._engine.class_engine import ClassEngine
from ._labels import UNLABELLED, encode_labels
from ._propagation import guess_classes
from ._warn import warn
from .likelihoods import resolve_likelihood
from .priors import resolve_prior
from .transformer import DDVAETransformer

# With n_components="auto": that of a prior without a dimension of its own.
AUTO_N_COMPONENTS = 16
PLANAR_PRIORS = ("pinwheel", "swiss_roll", "square")
# Entries of the rows up to which neighbours are looked for among the rows themselves, too.
VIEW_ENTRIES = 2**26
# Dimension of the latents whose neighbours spread the labels, whatever that of the model's own.
N_PRETRAINED_COMPONENTS = 16
# Distance of neighbouring classes in the default prior, in standard deviations.
CLASS_GAP = 6.0


class DDVAEClassifier(
    ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseDDVAE
):
    """Classification with few labels, by denoising diffusion variational inference.

    A model of the rows with a part of the prior for each class: p(l) p(z|l) p(x|z). Rows with a
    label say which part is whose; rows without one, of which there may be many more, say where the
    parts are. The posterior over class and latent is q(l|x) q(z|x, l), a classifier and a diffusion
    model in latent space that is told the class [1]_ [2]_. Use it where you would use
    :class:`~sklearn.semi_supervised.LabelSpreading` or
    :class:`~sklearn.semi_supervised.SelfTrainingClassifier`; it also gives an embedding, a density,
    draws of each class, and an inverse. See the :doc:`/user_guide` for the mathematics.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Dimension d of the latent space. "auto" is 2 for a prior that lives in the plane, that of
        the prior where it is an object, else 16.
    prior : str or object, default="gaussian_mixture"
        What the latents of each class are like before a row is seen, p(z|l): one *part* of the
        prior a class, in the order of ``classes_``. A name: "gaussian_mixture" has a component a
        class, six standard deviations apart; "pinwheel" an arm, "swiss_roll" and "square" a stretch
        of the curve, in the plane. Or an object of :mod:`skddvi.priors`, or of your own, whose
        ``n_parts`` is the number of classes.
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
        "off". Dreams have a known class, too, and the classifier learns from them.
    sleep_weight : float, default=0.3
        Factor of the sleep term in the objective. Both are in nats a row.
    kl_weight : float or "auto", default=1.0
        Factor of everything but log p(x|z) in the objective. With 1 the objective without its sleep
        term is the evidence lower bound, equation (4). "auto" as in :class:`DDVAETransformer`.
    kl_warmup : float, default=0.0
        Share of the gradient steps, from 0 to 1, during which the factors ``kl_weight`` and
        ``sleep_weight`` rise linearly from 0. While the former is low, latents need not lie in the
        part of their class, and what the bound says of classes is noise: hence none by default.
    classification_weight : float, default=10.0
        Factor of the cross-entropy of the labelled rows in the objective (10). A step sees them
        about as often as unlabelled ones, however few they are.
    label_smoothing : float, default=0.0
        Share of the target that the cross-entropy spreads evenly over all classes, from 0 to below
        1 [3]_. It makes probabilities less extreme.
    consistency_weight : float, default=0.0
        Factor of the consistency term (11) in the objective: how much q(l|x) changes, in nats, when
        a row moves a little in the direction in which it changes most (virtual adversarial
        training [4]_). It keeps class boundaries away from rows, labelled or not. 0 leaves it out.
        10 suits images of digits; where classes differ by little in a few of the features, as
        populations do in principal components, it blurs them.
    pretraining : float, default=0.5
        Epochs of a first stage without labels, as a share of ``max_iter``, at least one; they come
        before those. A :class:`DDVAETransformer` with 16 components, with the ``sleep_weight`` and
        ``kl_weight`` that are its own defaults, learns to describe the rows; the encoder starts
        from the hidden layers of its encoder, and neighbours are looked for among its latents. 0
        leaves the stage out, and so it is left out where every row has a label.
    propagation_weight : float, default=10.0
        Factor of the propagation term in the objective: the cross-entropy of q(l|x) at rows without
        a label to the class that labels suggest which spread from neighbour to neighbour, each row
        by how sure that is [5]_ [6]_. Neighbours are those among the pretrained latents, among the
        rows as the likelihood prepares them, and under the gaussian likelihood among the rows as
        they are; the guesses are averaged. Rows of more than 67 million entries in all are left at
        the latents. 0 leaves the term out.
    n_neighbors : int, default=15
        Number of nearest neighbours of a row for the propagation; all other rows where there are
        fewer.
    class_tolerance : float, default=0.3
        Classes with q(l|x) of at least this are always evaluated in the sum over classes of an
        unlabelled row; a less probable one is evaluated with probability ``q(l|x) /
        class_tolerance`` and weighs so much more, which leaves the sum and its gradient unbiased. A
        row is thus evaluated at ``1 + 1 / class_tolerance`` classes at most on average, however
        many there are. 0 evaluates all.
    unlabeled : "auto", None or scalar, default="auto"
        What stands for "no label" in y. "auto" is -1 among integers (also those of dtype float),
        and None or NaN in object arrays; labels that are exactly -1 and +1 are two classes, with a
        warning. Any scalar may be named, NaN too; None says that every row has a label.
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
        Number of epochs, passes over the training rows. "auto" is 40, or where that is fewer as
        many as make about 5,000 gradient steps, but at least five.
    tol : float, default=1e-4
        Nats a row by which the held-out objective must rise to count as a change; for early
        stopping.
    early_stopping : bool, default=False
        Whether to hold out ``validation_fraction`` of the rows, stratified (or use ``X_val`` of
        :meth:`fit`), to stop when their bound minus the weighted cross-entropy of the labelled ones
        among them has not risen for ``n_iter_no_change`` epochs, and to keep the weights of the
        best epoch.
    validation_fraction : float, default=0.1
        Share of the rows that is held out, strictly between 0 and 1; for early stopping without
        ``X_val``.
    n_iter_no_change : int, default=10
        Epochs without a rise by ``tol`` after which early stopping stops.
    warm_start : bool, default=False
        Whether another call of :meth:`fit` goes on from the fitted model, with ``max_iter`` further
        epochs that are appended to ``history_``. The parameters that the model is built from must
        not have changed. There is no pretraining then: neighbours are looked for among the latents
        of the fitted model.
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
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; never what stands for "no label".
    class_prior_ : ndarray of shape (n_classes,)
        p(l): the shares of the classes among the labelled rows, with one row added to each; or the
        ``part_weights`` of the prior where it is an object.
    n_iter_ : int
        Number of epochs run, without those of the pretraining, which ``history_`` does not tell of.
    loss_curve_ : list of float of shape (`n_iter_`,)
        The negative of the objective (10), with the regularisers and the penalty of ``alpha``, in
        nats a row, mean of an epoch.
        It may rise while ``kl_warmup`` raises the weight of its terms.
    validation_scores_ : list of float of shape (`n_iter_`,) or None
        Bound of the held-out rows after each epoch, in nats a row, from one draw for each row and
        class with the same noise each time. None where no rows were held out.
    history_ : dict of str to list
        Mean over the rows of each term for each epoch, in nats:

        - "reconstruction", log p(x|z), and "log_prior", log p(z|l);
        - "terminal", the bracket of y_T in equation (4); "chain", the sum over t >= 2 (with two
          diffusion steps or more); "last_step", - log q(z|y_1, x, l). Instead of these three,
          without diffusion steps, "posterior_entropy", - log q(z|x, l);
        - "class_prior", log p(l), and "class_entropy", the entropy of q(l|x), 0 for labelled rows;
        - "elbo", the sum of those above: the bound on log p(x) or, for labelled rows, log p(x, l);
        - "kl_per_dimension", a list of ``n_components`` numbers for each epoch: the divergence of
          the posterior from a normal with the prior's mean and variance. A dimension near 0 carries
          nothing of the rows;
        - "classification", the cross-entropy of the labelled rows, and "accuracy", the share of
          them that was classified rightly, both as seen in the steps of the epoch;
        - "sleep", equation (5) with the class, "consistency", equation (11), and "propagation",
          before its weight, where they are on;
        - "pairs", for how many classes a row was evaluated;
        - the name of each regulariser, before its weight;
        - "weight_penalty", the penalty of ``alpha`` on the decoder, where there is one;
        - "loss", as ``loss_curve_``;
        - ``"validation_"`` and each name of the first four groups, "classification" and "accuracy",
          where there are held-out rows (labelled ones for the latter two).
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
    DDVAETransformer : The model without classes.
    sklearn.semi_supervised.LabelSpreading : Spreads labels over a graph of neighbours.
    sklearn.semi_supervised.SelfTrainingClassifier : Lets a classifier label rows for itself.
    skddvi.priors : The priors.

    Notes
    -----
    Equation numbers are those of the :doc:`/user_guide`. ``predict_proba`` is q(l|x), one pass
    through the encoder: deterministic, and the same in any batch. ``transform`` follows the chain
    without noise under the most probable class, so a row lies in its class's part of the prior and
    not between two; :meth:`sample_posterior` draws the class from q(l|x) first.

    ``score`` is the accuracy. It counts a row without a label as an error, so search with
    labelled rows alone in the held-out folds.

    The class of a row, given its latent, is independent of the row: all that tells classes apart is
    in z.

    References
    ----------
    .. [1] Piriyakulkij, W. T., Wang, Y., and Kuleshov, V. (2025). Denoising diffusion variational
       inference: diffusion models as expressive variational posteriors. AAAI. arXiv:2401.02739.
    .. [2] Kingma, D. P., Rezende, D. J., Mohamed, S., and Welling, M. (2014). Semi-supervised
       learning with deep generative models. NeurIPS. arXiv:1406.5298.
    .. [3] Szegedy, C., Vanhoucke, V., Ioffe, S., Shlens, J., and Wojna, Z. (2016). Rethinking the
       inception architecture for computer vision. CVPR. arXiv:1512.00567.
    .. [4] Miyato, T., Maeda, S., Koyama, M., and Ishii, S. (2018). Virtual adversarial training: a
       regularization method for supervised and semi-supervised learning. TPAMI. arXiv:1704.03976.
    .. [5] Zhou, D., Bousquet, O., Lal, T. N., Weston, J., and Schoelkopf, B. (2003). Learning with
       local and global consistency. NeurIPS.
    .. [6] Iscen, A., Tolias, G., Avrithis, Y., and Chum, O. (2019). Label propagation for deep
       semi-supervised learning. CVPR. arXiv:1904.04717.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skddvi import DDVAEClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> y_few = np.where(np.arange(len(y)) < 100, y, -1)  # -1: no label
    >>> model = DDVAEClassifier(max_iter=20, random_state=0).fit(X[:500], y_few[:500])
    >>> model.classes_
    array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    >>> bool(model.score(X[1500:], y[1500:]) > 0.7)
    True
    >>> model.predict_proba(X[1500:]).shape
    (297, 10)
    >>> model.sample(3, y=7, random_state=0).shape  # three sevens
    (3, 64)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **BaseDDVAE._parameter_constraints,
        "n_components": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "classification_weight": [Interval(Real, 0, None, closed="left")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "consistency_weight": [Interval(Real, 0, None, closed="left")],
        "pretraining": [Interval(Real, 0, None, closed="left")],
        "propagation_weight": [Interval(Real, 0, None, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "class_tolerance": [Interval(Real, 0, 1, closed="both")],
        "unlabeled": "no_validation",
    }

    # Neighbours are looked for among the rows themselves.
    _accept_stored = False

    def __init__(
        self,
        n_components="auto",
        *,
        prior="gaussian_mixture",
        likelihood="gaussian",
        noising="cosine",
        n_diffusion_steps=8,
        sleep="auto",
        sleep_weight=0.3,
        kl_weight=1.0,
        kl_warmup=0.0,
        classification_weight=10.0,
        label_smoothing=0.0,
        consistency_weight=0.0,
        pretraining=0.5,
        propagation_weight=10.0,
        n_neighbors=15,
        class_tolerance=0.3,
        unlabeled="auto",
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
        self.n_components = n_components
        self.prior = prior
        self.likelihood = likelihood
        self.noising = noising
        self.n_diffusion_steps = n_diffusion_steps
        self.sleep = sleep
        self.sleep_weight = sleep_weight
        self.kl_weight = kl_weight
        self.kl_warmup = kl_warmup
        self.classification_weight = classification_weight
        self.label_smoothing = label_smoothing
        self.consistency_weight = consistency_weight
        self.pretraining = pretraining
        self.propagation_weight = propagation_weight
        self.n_neighbors = n_neighbors
        self.class_tolerance = class_tolerance
        self.unlabeled = unlabeled
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

    @property
    def _n_features_out(self):
        return self.prior_.n_components

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, *, X_val=None, y_val=None):
        """Fit the model to the rows of X and the labels that some of them have.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,)
            Labels; rows without one have what parameter ``unlabeled`` says.
        X_val : {array-like, sparse matrix} of shape (n_held_out, n_features), default=None
            Held-out rows, whose bound and accuracy are recorded in ``history_`` and which take the
            place of ``validation_fraction`` where ``early_stopping=True``.
        y_val : array-like of shape (n_held_out,), default=None
            Labels of the held-out rows. By default they have none.

        Returns
        -------
        self : DDVAEClassifier
            The fitted model.

        Raises
        ------
        ValueError
            When no row has a label or all labels are of one class, the prior has not a part for
            each class, X holds values that the likelihood cannot have, parameters do not fit each
            other, or ``warm_start=True`` and the model would have another build.
        RuntimeError
            When ``device`` is not there.
        MemoryError
            When memory runs out; the message says for what, and what to lower.
        FloatingPointError
            When the objective is not finite in the first epoch, however small the steps. After a
            complete epoch training goes back to it and warns instead.
        """
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None; use "
                "DDVAETransformer where no row has a label."
            )
        labels, classes = encode_labels(y, self.unlabeled)
        labels_val = None
        if y_val is not None:
            if X_val is None:
                raise ValueError("y_val holds the labels of X_val, found y_val without X_val.")
            labels_val, _ = encode_labels(y_val, self.unlabeled, classes, "y_val")
        if self.warm_start and hasattr(self, "_engine"):
            if not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"warm_start=True goes on with the fitted model, which has the classes "
                    f"{self.classes_.tolist()}, found {classes.tolist()} in y; set "
                    "warm_start=False to build another."
                )
        else:
            self.classes_ = classes
            counts = np.bincount(labels[labels >= 0], minlength=len(classes)) + 1.0
            self.class_prior_ = counts / counts.sum()
        return self._fit(X, X_val, labels, labels_val)

    def predict_log_proba(self, X):
        """Return the logarithms of the class probabilities of the rows of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows, with the features of the training rows.

        Returns
        -------
        log_p : ndarray of shape (n_rows, n_classes)
            log q(l|x), in the order of ``classes_``.
        """
        X = self._rows(X)
        return self._engine.log_class_probabilities(X)

    def predict_proba(self, X):
        """Return the class probabilities of the rows of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows, with the features of the training rows.

        Returns
        -------
        p : ndarray of shape (n_rows, n_classes)
            q(l|x), in the order of ``classes_``; each row sums to one. Computed in float32 for
            float32 rows, else in float64.
        """
        p = np.exp(self.predict_log_proba(X))
        return p / p.sum(axis=1, keepdims=True)

    def predict(self, X):
        """Return the most probable class of the rows of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows, with the features of the training rows.

        Returns
        -------
        y : ndarray of shape (n_rows,)
            Labels, out of ``classes_``.
        """
        log_p = self.predict_log_proba(X)
        return self.classes_[log_p.argmax(axis=1)]

    def score(self, X, y, sample_weight=None):
        """Return the accuracy of :meth:`predict`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows, with the features of the training rows.
        y : array-like of shape (n_rows,)
            Their labels, all known.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights of the rows.

        Returns
        -------
        accuracy : float
            The share of rows whose label is predicted, in [0, 1].
        """
        return super().score(X, y, sample_weight)

    def transform(self, X):
        """Return the noise-free latents of the rows of X under their most probable class.

        They are the end of the reverse path of q(z|x, l) without its noise: the same for a row
        alone, in any batch, and in any order.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows, with the features of the training rows.

        Returns
        -------
        Z : ndarray of shape (n_rows, n_components)
            Latents, computed in float32 for float32 rows, else in float64.
        """
        X = self._rows(X)
        return self._engine.embed(X)

    def sample(self, n_samples=1, y=None, guidance_scale=1.0, random_state=None):
        """Draw new rows of given classes: latents from p(z|l), then rows from p(x|z).

        Guidance [1]_ draws latents from p(z|l) p(l|z)^(s - 1), normalised, with s the guidance
        scale. A diffusion model of x has to learn p(l|z) from examples with and without their
        label; here it is known exactly from the prior, so nothing is learned for it and the draws
        are exact.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        y : label or array-like of shape (n_samples,), default=None
            The class of all rows or of each. By default drawn from ``class_prior_``.
        guidance_scale : float, default=1.0
            The s above, at least 0. 1 draws from p(z|l), more leaves out latents that could be of
            another class, and 0 ignores the class.
        random_state : int, RandomState instance or None, default=None
            Source of the draws. None gives other draws each time, independent of the global state
            of numpy.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows in the units of the training data, float64.

        References
        ----------
        .. [1] Ho, J., and Salimans, T. (2022). Classifier-free diffusion guidance.
           arXiv:2207.12598.
        """
        check_is_fitted(self)
        n_samples = _positive_integer("n_samples", n_samples)
        if not isinstance(guidance_scale, Real) or not 0 <= guidance_scale < np.inf:
            raise ValueError(
                f"guidance_scale must be a finite number of at least 0, found {guidance_scale!r}."
            )
        codes = None if y is None else self._codes_of(y, n_samples)
        return self._engine.sample(n_samples, _seed(random_state), codes, guidance_scale)[0]

    def _codes_of(self, y, n_samples):
        """Return the class codes of labels to sample, (n_samples,)."""
        if isinstance(y, str) or getattr(y, "ndim", None) == 0 or not hasattr(y, "__len__"):
            y = [y] * n_samples
        codes, _ = encode_labels(y, None, self.classes_)
        if len(codes) != n_samples:
            raise ValueError(
                f"y must be one label or n_samples={n_samples} of them, found {len(codes)}."
            )
        return codes

    def _make_prior(self):
        n_classes, n_components = len(self.classes_), self.n_components
        if n_components == "auto":
            n_components = getattr(self.prior, "n_components", AUTO_N_COMPONENTS)
            if self.prior in PLANAR_PRIORS:
                n_components = 2
        prior = resolve_prior(self.prior, n_components, n_parts=n_classes, gap=CLASS_GAP)
        if prior.n_parts != n_classes:
            raise ValueError(
                f"prior must have a part for each class, found prior={prior.name!r} with "
                f"n_parts={prior.n_parts} and {n_classes} classes in y."
            )
        if not isinstance(self.prior, str):
            self.class_prior_ = prior.part_weights.double().numpy()
        return prior

    def _make_engine(self, *args, **kwargs):
        return ClassEngine(self.class_prior_, *args, **kwargs)

    def _fit_new(self, task, likelihood, seed):
        """Return a new engine, trained after a stage without labels, and its history."""
        engine, embed = self._build_engine(task.X, likelihood, seed), None
        if self.pretraining > 0.0 and (task.labels == UNLABELLED).any():
            pretrained = self._pretrained(task, seed)
            engine.take_encoder(pretrained)
            embed = pretrained.embed
        task = self._with_guesses(task, engine, embed)
        return engine, self._train(engine, task, task.schedule)

    def _fit_further(self, task):
        task = self._with_guesses(task, self._engine, self._engine.embed)
        return super()._fit_further(task)

    def _pretrained(self, task, seed):
        """Return an engine that has learned to describe the rows without their labels."""
        shared = ("likelihood", "noising", "n_diffusion_steps", "sleep", "hidden_layer_sizes")
        shared += ("denoiser_width", "activation", "encoder", "decoder", "learning_rate_init")
        shared += ("n_input_components", "alpha", "precision", "device")
        model = DDVAETransformer(
            N_PRETRAINED_COMPONENTS,
            **{name: getattr(self, name) for name in shared},
            init="random",
            batch_size=task.schedule.batch_size,
            max_iter=max(1, round(self.pretraining * task.schedule.max_iter)),
        )
        schedule = model._schedule(task.X, None)
        # Not by fit: the rows have been checked already, and a checkpoint is that of this fit.
        alone = FitTask(task.X, None, schedule, watch=lambda *_: None, checkpoint=task.checkpoint)
        likelihood = resolve_likelihood(self.likelihood)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Training was interrupted", UserWarning)
            try:
                return model._fit_new(alone, likelihood, _seed(seed))[0]
            except UserWarning as interruption:  # there is no classifier yet that could be kept
                raise KeyboardInterrupt from interruption

    def _with_guesses(self, task, engine, embed):
        """Return the task with the classes that neighbours suggest.

        Neighbours by each view of the rows: as ``embed`` embeds them, if it is not None,
        standardised, and real values, too, as they are, since their scale may tell something.
        """
        if self.propagation_weight == 0 or not (task.labels == UNLABELLED).any():
            return task
        X, views = task.X, []
        if embed is not None:
            views.append(embed(X))
        if X.shape[0] * X.shape[1] <= VIEW_ENTRIES:
            views.append(engine.standardize(X))
            if engine.model.likelihood.name == "gaussian":
                views.append(X if isinstance(X, np.ndarray) else X.toarray())
        if not views:
            return task
        guesses = guess_classes(views, task.labels, len(self.classes_), self.n_neighbors)
        return task._replace(guesses=guesses)

    def _loop_maker(self, engine, task):
        return engine.loop_maker(
            task.labels,
            task.labels_val,
            task.guesses,
            weight=self.classification_weight,
            smoothing=self.label_smoothing,
            consistency_weight=self.consistency_weight,
            propagation_weight=self.propagation_weight,
            tolerance=self.class_tolerance,
        )

    def _split(self, n_rows, seed, labels=None):
        rows, held_out = super()._split(n_rows, seed)
        if held_out is None:
            return rows, None
        strata, counts = np.unique(labels, return_counts=True)
        smaller = min(len(rows), len(held_out))
        if counts.min() < 2 or smaller < len(strata):
            warn(
                f"validation_fraction={self.validation_fraction} of {n_rows} rows cannot be "
                f"stratified: there are {len(strata)} kinds of rows, unlabelled ones included, the "
                f"rarest with {counts.min()}, and {smaller} rows in the smaller part. The split is "
                "not stratified; label more rows, or give X_val and y_val.",
            )
            # No class may be left without a label to learn from.
            lost = np.setdiff1d(labels[held_out], [*labels[rows], UNLABELLED])
            back = [held_out[labels[held_out] == code][0] for code in lost]
            rows, held_out = np.union1d(rows, back).astype(int), np.setdiff1d(held_out, back)
            return rows, held_out if len(held_out) else None
        from sklearn.model_selection import train_test_split  # late, for a quick import

        return train_test_split(
            np.arange(n_rows), test_size=len(held_out), random_state=seed, stratify=labels
        )
