"""What the estimators share: parameters, validation, and the way from fit to the engine."""

import copy
import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from numbers import Integral, Real
from typing import NamedTuple

import joblib
import numpy as np
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from ._callbacks import CallbackSupportMixin, epochs
from ._checkpoint import Checkpoint, identity
from ._components import output_variance, principal_components
from ._engine.device import has_fast_bfloat16, with_gradients
from ._engine.engine import Engine
from ._engine.inputs import input_slope, sample_inputs
from ._engine.memory import tells_of_memory
from ._engine.networks import ACTIVATIONS
from ._engine.rows import as_array
from ._engine.stored import StoredRows, is_stored
from ._engine.trainer import Schedule, Term
from ._progress import shown_epochs
from ._warn import warn
from .likelihoods import Likelihood, resolve_likelihood
from .noising import posterior_coefficients, resolve_noising
from .priors import resolve_prior

# With batch_size="auto": a batch is this share of the rows, within these bounds.
AUTO_BATCHES, AUTO_BATCH_BOUNDS = 64, (64, 512)
# With max_iter="auto": so many epochs, or as many as make so many gradient steps, but never fewer.
AUTO_EPOCHS, AUTO_STEPS, AUTO_MIN_EPOCHS = 40, 5000, 5
# With kl_weight="auto": so many times the square root of the features to a row, but never below 1.
AUTO_KL_WEIGHT = 2.0
# With hidden_layer_sizes="auto": the layers up to that many rows, and above.
AUTO_LAYERS_ROWS, AUTO_LAYERS = 1000, ((256, 256), (512, 512))
# With n_input_components="auto": so many, where there are fewer rows to a feature than that.
AUTO_INPUT_COMPONENTS, AUTO_ROWS_PER_FEATURE = 50, 5
# With precision="auto": mixed precision from that many features or units of a hidden layer on. With
# fewer, matrix products are not where the time goes.
AUTO_BFLOAT16_FEATURES, AUTO_BFLOAT16_UNITS = 128, 512
# Draws that the bound of a row is averaged over where one importance sample was asked for.
N_SCORE_DRAWS = 32

PRIORS = {"normal", "gaussian_mixture", "pinwheel", "swiss_roll", "square"}
LIKELIHOODS = {"gaussian", "bernoulli", "binomial", "poisson", "negative_binomial"}
NOISINGS = {"cosine", "linear", "even", "variance_exploding"}
# Keys of history_ that a regulariser may not take.
RESERVED_TERMS = {
    "elbo",
    "reconstruction",
    "log_prior",
    "posterior_entropy",
    "terminal",
    "chain",
    "last_step",
    "kl_per_dimension",
    "class_prior",
    "class_entropy",
    "classification",
    "accuracy",
    "consistency",
    "propagation",
    "pairs",
    "sleep",
    "neighbor_agreement",
    "weight_penalty",
    "start",
    "loss",
    # Of the baselines.
    "importance_weighted_bound",
    "auxiliary",
    "conditional_entropy",
    "critic_loss",
    "generator_loss",
}
# Parameters that make the model what it is: a warm start goes on with the one that there is.
STRUCTURE = (
    "n_components",
    "prior",
    "likelihood",
    "noising",
    "n_diffusion_steps",
    "hidden_layer_sizes",
    "denoiser_width",
    "activation",
    "n_input_components",
    "encoder",
    "decoder",
    "device",
)


def all_or_nothing(method):
    """Leave an estimator as it was where its ``fit`` fails or is interrupted.

    And fit it where the user has switched gradients off, for networks of another kind. The
    outermost decorator: what scikit-learn's does after a failure needs the attributes that the fit
    has set.
    """

    @functools.wraps(method)
    def whole(self, *args, **kwargs):
        before = vars(self).copy()
        try:
            with with_gradients():
                return method(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return whole


class FitTask(NamedTuple):
    """What a fit trains on, and what it calls after each epoch."""

    X: object  # ndarray or CSR matrix of the training rows
    X_val: object  # the same of held-out rows, or None
    schedule: Schedule  # of one training through all epochs
    watch: Callable  # makes an engine's on_epoch of the engine, a report and a history so far
    labels: object = None  # codes of the training rows' classes, where the estimator has any
    labels_val: object = None
    guesses: object = None  # probabilities of the training rows' classes, where it makes any
    checkpoint: Checkpoint | None = None
    show: Callable | None = None  # shows the epochs, see shown_epochs


class BaseDDVAE(CallbackSupportMixin, BaseEstimator):
    """Base class of the estimators: everything but what one of them is for.

    Warning: this class should not be used directly. Use derived classes instead.
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "prior": [StrOptions(PRIORS), HasMethods(["sample", "log_prob"])],
        "likelihood": [StrOptions(LIKELIHOODS), Likelihood],
        "noising": [StrOptions(NOISINGS), "array-like", HasMethods(["coefficients"])],
        "n_diffusion_steps": [Interval(Integral, 0, None, closed="left")],
        "sleep": [StrOptions({"auto", "conditional", "latent", "off"})],
        "sleep_weight": [Interval(Real, 0, None, closed="left")],
        "kl_weight": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "kl_warmup": [Interval(Real, 0, 1, closed="both")],
        "regularizer": [None, callable, list, tuple],
        "hidden_layer_sizes": [
            StrOptions({"auto"}),
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "denoiser_width": [Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "n_input_components": [
            StrOptions({"auto"}),
            None,
            Interval(Integral, 1, None, closed="left"),
        ],
        "encoder": [None, callable],
        "decoder": [None, callable],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "checkpoint": [None, str, os.PathLike],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    # What validate_data is told of sparse rows.
    _accept_sparse = "csr"
    # Whether rows may stay in a store, see StoredRows; else they are read all at once.
    _accept_stored = True
    # Parameters that a warm start may not change.
    _structure_names = STRUCTURE
    # The latents are what inverse_transform is about, not metadata to be routed to it.
    __metadata_request__inverse_transform = {"Z": UNUSED}  # noqa: RUF012

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = bool(self._accept_sparse)
        name = self.likelihood
        if not isinstance(name, str):
            name = getattr(name, "name", None)
        tags.input_tags.allow_nan = name == "binomial" or (
            getattr(self.likelihood, "accepts_missing", False)
        )
        tags.input_tags.positive_only = name in LIKELIHOODS and name != "gaussian"
        return tags

    def __sklearn_is_fitted__(self):
        # A fit that failed half-way has left attributes that end in "_", but no model.
        return hasattr(self, "_engine")

    # ---------------------------------------------------------------------- rows

    def _validate(self, X, likelihood, *, reset=False, min_rows=1):
        """Return rows of float that the likelihood accepts: an array, CSR matrix or StoredRows."""
        store = X if self._accept_stored and is_stored(X) else None
        if store is not None:  # a few rows tell of what kind they all are
            X = np.asarray(store[:min_rows])
        _check_pointers(X)
        # Tensors become arrays even where scikit-learn is told to leave them as they are.
        with config_context(array_api_dispatch=False), _told_of_missing():
            X = validate_data(
                self,
                as_array(X),
                accept_sparse=self._accept_sparse,
                dtype="numeric",  # unlike a list of dtypes, this refuses strings
                order="C",
                ensure_all_finite=False,
                ensure_min_samples=min_rows,
                reset=reset,
            )
        if X.dtype not in (np.float64, np.float32):
            X = _as_float(X)
        X = X if store is None else StoredRows(store)
        with warnings.catch_warnings():
            if not reset:
                # What was said of the training rows need not be said again of every other.
                warnings.simplefilter("ignore", UserWarning)
            likelihood.check(X)
        return X

    def _holds_rows_out(self):
        """Return whether the fit needs held-out rows."""
        return self.early_stopping

    def _split(self, n_rows, seed, labels=None):
        """Return the indices of training rows and of held-out rows (None where there are none)."""
        rows = np.arange(n_rows)
        if not self._holds_rows_out():
            return rows, None
        n_held_out = math.ceil(self.validation_fraction * n_rows)
        if n_rows - n_held_out < 2:
            instead = "early_stopping is off for this fit"
            if not self.early_stopping:
                instead = "restarts are compared by the training rows"
            warn(
                f"validation_fraction={self.validation_fraction} of {n_rows} rows leaves fewer "
                f"than 2 to train on; {instead}. Give more rows or X_val.",
            )
            return rows, None
        from sklearn.model_selection import train_test_split  # late, for a quick import

        return train_test_split(rows, test_size=n_held_out, random_state=seed)

    # ---------------------------------------------------------------------- fit

    @tells_of_memory(
        "training on",
        "lower batch_size, hidden_layer_sizes, denoiser_width, n_components or n_diffusion_steps, "
        "train on fewer rows, or give X as float32 or, where most of it is 0, as a sparse matrix",
    )
    def _fit(self, X, X_val, labels=None, labels_val=None):
        """Validate, build or take over the engine, train it, and keep what it says.

        ``labels``, where an estimator has them, are the class codes of the rows.
        """
        seed = _seed(self.random_state)
        likelihood = resolve_likelihood(self.likelihood)
        continued = self.warm_start and hasattr(self, "_engine")
        if continued:
            self._check_structure()
        X = self._validate(X, likelihood, reset=not continued, min_rows=2)
        check_consistent_length(X, labels)
        if X_val is not None:
            X_val = self._validate(X_val, likelihood)
            check_consistent_length(X_val, labels_val)
        checkpoint = None
        if self.checkpoint is not None:
            given = {"X": X, "y": labels, "X_val": X_val, "y_val": labels_val}
            start = self._engine if continued else None
            checkpoint = Checkpoint(self.checkpoint, identity(self, given, seed, start), seed)
            seed = checkpoint.seed
        if X_val is None:
            rows, held_out = self._split(X.shape[0], seed, labels)
            if held_out is not None:
                X, X_val = _some_rows(X, rows), _some_rows(X, held_out)
                if labels is not None:
                    labels, labels_val = labels[rows], labels[held_out]
        schedule = self._schedule(X, X_val)
        n_epochs = self._n_trainings() * schedule.max_iter
        with (
            epochs(self, X, n_epochs) as watch,
            checkpoint or nullcontext(),
            shown_epochs(self.verbose) as show,
        ):
            task = FitTask(
                X, X_val, schedule, watch, labels, labels_val, checkpoint=checkpoint, show=show
            )
            if continued:
                engine, history = self._fit_further(task)
            else:
                engine, history = self._fit_new(task, likelihood, seed)
        self._engine = engine
        self._structure = {name: getattr(self, name) for name in self._structure_names}
        self.history_ = history
        self.loss_curve_ = history["loss"]
        self.validation_scores_ = history.get(f"validation_{schedule.criterion}")
        self.n_iter_ = len(history["loss"])
        return self

    def _check_structure(self):
        """Raise where a warm start is asked to go on with a model of another build."""
        for name, fitted in self._structure.items():
            value = getattr(self, name)
            if not _same(value, fitted):
                raise ValueError(
                    f"warm_start=True goes on with the fitted model, which has {name}={fitted!r}, "
                    f"found {name}={value!r}; set warm_start=False to build another."
                )

    def _n_trainings(self):
        """Return how often a fit goes through all of its epochs."""
        return 1

    def _fit_new(self, task, likelihood, seed):
        """Return a new engine, trained, and its history."""
        engine = self._build_engine(task.X, likelihood, seed)
        return engine, self._train(engine, task, task.schedule)

    def _fit_further(self, task):
        """Return the fitted engine, trained further, and the history of both fits."""
        return self._engine, _joined(self.history_, self._train(self._engine, task, task.schedule))

    def _train(self, engine, task, schedule, stage=""):
        """Train an engine as the schedule says and return the history."""
        training = task.checkpoint and task.checkpoint.training()
        history = training.history if training else {}
        schedule = dataclasses.replace(
            schedule,
            alpha=self._strength(engine, task.X),
            bfloat16=self._uses_bfloat16(engine, task.X.shape[1]),
        )
        return engine.fit(
            task.X,
            schedule,
            X_val=task.X_val,
            on_epoch=task.watch(engine, self._on_epoch(task.show, schedule, stage), history),
            make_loop=self._loop_maker(engine, task),
            checkpoint=training,
        )

    def _strength(self, engine, X):
        """Return alpha, a number: 0 for a decoder of the user's, which regularises itself."""
        if engine.output_width is None:
            return 0.0
        if self.alpha != "auto":
            return float(self.alpha)
        likelihood = engine.model.likelihood
        variance = output_variance(sample_inputs(likelihood, X), input_slope(likelihood))
        return engine.output_width / variance

    def _loop_maker(self, engine, task):
        """Return what makes the training loop; None for that of the bound alone."""
        return None

    def _make_prior(self):
        """Return the prior of a new model."""
        return resolve_prior(self.prior, self.n_components)

    def _make_engine(self, *args, **kwargs):
        return Engine(*args, **kwargs)

    def _build_engine(self, X, likelihood, seed):
        prior = self._make_prior()
        process = resolve_noising(self.noising, self.n_diffusion_steps)
        schedule = None
        if self.n_diffusion_steps > 0:
            alpha, sigma = process.coefficients(self.n_diffusion_steps)
            transitions = [np.append(0.0, c) for c in posterior_coefficients(alpha, sigma)]
            schedule = alpha, sigma, transitions
        likelihood = likelihood.fit(X)
        return self._make_engine(
            prior,
            likelihood,
            schedule,
            hidden_layer_sizes=_hidden_layer_sizes(self.hidden_layer_sizes, X.shape[0]),
            denoiser_width=int(self.denoiser_width),
            activation=self.activation,
            device=self.device,
            seed=seed,
            posterior=self._posterior(),
            projection=self._projection(X, likelihood),
            encoder=self.encoder,
            decoder=self.decoder,
            **self._decoder_steps(X),
        )

    def _decoder_steps(self, X):
        """Return how often inference for rows is helped by the decoder, by name."""
        return {}

    def _projection(self, X, likelihood):
        """Return the matrix (k, p) of the components that the encoder sees; None for features."""
        n_components = self.n_input_components
        if n_components == "auto":
            few_rows = X.shape[0] < AUTO_ROWS_PER_FEATURE * X.shape[1]
            few_features = X.shape[1] <= AUTO_INPUT_COMPONENTS
            if few_features or not few_rows or self.encoder is not None:
                return None
            n_components = AUTO_INPUT_COMPONENTS
        if n_components is None:
            return None
        return principal_components(sample_inputs(likelihood, X), int(n_components))

    def _posterior(self):
        """Return name and options of the engine's posterior; None for the one of DDVI."""
        return None

    def _schedule(self, X, X_val):
        n_rows = X.shape[0]
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = int(np.clip(n_rows // AUTO_BATCHES, *AUTO_BATCH_BOUNDS))
        batch_size = min(int(batch_size), n_rows)  # of numpy's integers torch takes no size
        max_iter = self.max_iter
        if max_iter == "auto":
            n_batches = math.ceil(n_rows / batch_size)
            max_iter = max(AUTO_MIN_EPOCHS, min(AUTO_EPOCHS, round(AUTO_STEPS / n_batches)))
        sleep = self.sleep
        if sleep == "auto":
            sleep = "conditional" if self.n_diffusion_steps > 0 else "off"
        kl_weight, kl_growth = self.kl_weight, 1.0
        if kl_weight == "auto":
            # Not at once: latents must find their places before it is dear to be told apart.
            kl_weight = 1.0
            kl_growth = max(1.0, AUTO_KL_WEIGHT * math.sqrt(X.shape[1] / n_rows))
        return Schedule(
            max_iter=max_iter,
            batch_size=batch_size,
            learning_rate=self.learning_rate_init,
            kl_weight=kl_weight,
            kl_warmup=self.kl_warmup,
            kl_growth=kl_growth,
            sleep=sleep,
            sleep_weight=self.sleep_weight,
            terms=_fitted_regularizers(self._regularizers(X), X),
            early_stopping=self.early_stopping and X_val is not None,
            n_iter_no_change=self.n_iter_no_change,
            tol=self.tol,
        )

    def _regularizers(self, X):
        """Return the list of what the parameter ``regularizer`` stands for with these rows."""
        if self.regularizer is None:
            return []
        several = isinstance(self.regularizer, list | tuple)
        return list(self.regularizer) if several else [self.regularizer]

    def _uses_bfloat16(self, engine, n_features):
        if self.precision != "auto":
            return self.precision == "bfloat16"
        wide = engine.n_units >= AUTO_BFLOAT16_UNITS or n_features >= AUTO_BFLOAT16_FEATURES
        return wide and has_fast_bfloat16(self.device)

    def _on_epoch(self, show, schedule, stage=""):
        """Return what tells of an epoch of one training; None at ``verbose=0``."""
        if show is None:
            return None
        tell = show(stage, schedule.max_iter)

        def report(epoch, figures):
            name = schedule.criterion
            bounds = f"{'bound' if name == 'elbo' else name} {figures[name]:.4g} nats a row"
            if f"validation_{name}" in figures:
                bounds += f", held out {figures[f'validation_{name}']:.4g}"
            tell(epoch, bounds)

        return report

    # ---------------------------------------------------------------------- the fitted model

    @property
    def prior_(self):
        """The prior in use."""
        check_is_fitted(self)
        return self._engine.model.prior

    @property
    def likelihood_(self):
        """The fitted likelihood."""
        check_is_fitted(self)
        return self._engine.model.likelihood

    @tells_of_memory("reading", "give fewer rows at a time, or float32")
    def _rows(self, X):
        """Return new rows, checked against those of the fit."""
        check_is_fitted(self)
        return self._validate(X, self.likelihood_)

    @property
    def _n_features_out(self):
        return self.prior_.n_components

    def sample_posterior(self, X, n_samples=1, random_state=None):
        """Draw latents of each row from the posterior q(z|x), equation (3).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows, with the features of the training rows.
        n_samples : int, default=1
            Number of draws for each row.
        random_state : int, RandomState instance or None, default=None
            Source of the noise. None gives other draws each time, independent of the global state
            of numpy.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_rows, n_components)
            The latents; their spread over the first axis is the model's uncertainty.
        """
        X = self._rows(X)
        n_samples = _positive_integer("n_samples", n_samples)
        return self._engine.sample_posterior(X, n_samples, _seed(random_state))

    def inverse_transform(self, Z):
        """Return the expected rows of given latents, in the units of the training data.

        Parameters
        ----------
        Z : array-like of shape (n_rows, n_components)
            Latents.

        Returns
        -------
        X : ndarray of shape (n_rows, n_features)
            The mean of p(x|z). Under the count likelihoods that of a row with the training rows'
            median library size.
        """
        check_is_fitted(self)
        return self._engine.decode(self._latents(Z))

    def _latents(self, Z):
        with config_context(array_api_dispatch=False):
            Z = check_array(as_array(Z, "Z"), dtype=(np.float64, np.float32), input_name="Z")
        n_components = self.prior_.n_components
        if Z.shape[1] != n_components:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but the model has n_components={n_components}."
            )
        return Z

    def score_samples(self, X, n_importance_samples=1):
        """Return a lower bound on the log-density of each row, in nats.

        One importance sample gives the evidence lower bound, equation (4); more give the tighter
        importance-weighted bound, equation (7), which grows towards log p(x). The noise of the
        draws is one fixed array, the same for every row, model and call, so that scores compare.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows, with the features of the training rows.
        n_importance_samples : int, default=1
            K of equation (7). The cost grows in proportion from 32 on; below, the estimate is
            averaged over as many repeats as make 32 draws.

        Returns
        -------
        bound : ndarray of shape (n_rows,)
            In nats. Bounds compare between models of the same likelihood and preprocessing.
        """
        X = self._rows(X)
        n_importance_samples = _positive_integer("n_importance_samples", n_importance_samples)
        n_repeats = max(1, N_SCORE_DRAWS // n_importance_samples)
        return self._engine.bound(X, n_importance_samples, n_repeats)

    def score(self, X, y=None):
        """Return the mean evidence lower bound of the rows, in nats a row; higher is better.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows, with the features of the training rows.
        y : None
            Ignored.

        Returns
        -------
        bound : float
            The mean of :meth:`score_samples`.
        """
        return float(np.mean(self.score_samples(X), dtype=np.float64))


def _check_pointers(X):
    """Raise where a compressed sparse matrix points outside of itself, which scipy would follow."""
    if not sparse.issparse(X) or X.format not in ("csr", "csc"):
        return
    n_lines, n_entries = X.shape if X.format == "csr" else X.shape[::-1]
    start, index = X.indptr, X.indices
    sound = len(start) == n_lines + 1 and start[0] == 0 and (np.diff(start) >= 0).all()
    sound = sound and start[-1] <= min(len(index), len(X.data))
    if sound and start[-1]:
        index = index[: start[-1]]
        sound = index.min() >= 0 and index.max() < n_entries
    if not sound:
        raise ValueError(
            f"X is a damaged sparse matrix of shape {X.shape}: its indices or indptr point outside "
            "of it; build it again, and look at X.check_format(full_check=True)."
        )


def _as_float(X):
    """Return the rows in float64; an object array may hold what is no number."""
    try:
        return X.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"X must hold numbers, found a column that does not ({error}); encode categories and "
            "dates as numbers first, for example with OneHotEncoder."
        ) from error


def _some_rows(X, rows):
    """Return the rows of those numbers; of a store, in its own order."""
    return X.subset(rows) if isinstance(X, StoredRows) else X[rows]


def _seed(random_state):
    """Return a seed; None gives a fresh one, and leaves numpy's global generator alone."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0] >> 1)
    try:
        return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
    except ValueError:
        raise ValueError(
            "random_state must be None, an integer in 0..2**32 - 1 or a RandomState, found "
            f"{random_state!r}."
        ) from None


def _joined(before, after):
    """Return one history of two fits; a term that one of them lacks is NaN there."""
    joined = {}
    for name, values in (before | after).items():
        # Some terms have a number for each latent dimension.
        lacking = [math.nan] * len(values[0]) if isinstance(values[0], list) else math.nan
        parts = [history.get(name, [lacking] * len(history["loss"])) for history in (before, after)]
        joined[name] = parts[0] + parts[1]
    return joined


def _hidden_layer_sizes(sizes, n_rows):
    """Return the widths as a tuple of int, an integer standing for one layer."""
    if isinstance(sizes, str):
        return AUTO_LAYERS[n_rows > AUTO_LAYERS_ROWS]
    try:
        sizes = tuple(sizes)
    except TypeError:
        sizes = (sizes,)
    if not all(isinstance(size, Integral) and size > 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be integers of at least 1, found {sizes!r}.")
    return tuple(int(size) for size in sizes)


@contextmanager
def _told_of_missing():
    """Say what to do about pandas.NA among objects, of which scikit-learn names the type alone."""
    try:
        yield
    except TypeError as error:
        if "NAType" not in str(error):
            raise
        raise TypeError(
            "X has pandas.NA in a column of dtype object; make the column numeric first, as "
            "X.convert_dtypes() does, and impute what is missing if the likelihood takes no NaN."
        ) from error


def _same(value, fitted):
    """Return whether two values of a parameter build the same part of a model."""
    if value is fitted:
        return True
    try:
        return np.array_equal(value, fitted) or joblib.hash(value) == joblib.hash(fitted)
    except Exception:  # whatever a user's own object answers to == or to being pickled
        return False


def _fitted_regularizers(regularizers, X):
    """Return the term of each regulariser, copies of the user's that are fitted."""
    fitted = []
    for each in regularizers:
        if not callable(each):
            raise ValueError(f"regularizer must be callable as f(z, rows), found {each!r}.")
        if isinstance(each, type):
            raise ValueError(f"regularizer must be an object, found the class {each.__name__}.")
        each = copy.deepcopy(each)
        if hasattr(each, "fit"):
            each.fit(X)
        name = getattr(each, "name", None) or getattr(each, "__name__", type(each).__name__)
        taken = name in RESERVED_TERMS or name.startswith("validation_")
        if taken or name in (other.name for other in fitted):
            raise ValueError(
                f"regularizer needs a name of its own for history_, found {name!r} taken; give the "
                "callable another attribute `name`."
            )
        weight = getattr(each, "weight_", getattr(each, "weight", 1.0))
        if not (isinstance(weight, Real) and math.isfinite(weight)):
            raise ValueError(
                f"the weight of regularizer {name!r} must be a finite number, found {weight!r}."
            )
        fitted.append(Term(name, float(weight), each))
    return tuple(fitted)


def _positive_integer(name, value):
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, found {value!r}.")
    return int(value)
