"""What is promised for bad input, misuse, and what users ask for, each promise with its number."""

import copy
import re
import warnings

import joblib
import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError

from skddvi import DDVAETransformer
from skddvi._engine import device as device_module
from skddvi._engine.trainer import CHUNK_ROWS
from skddvi.priors import GaussianMixturePrior, NormalPrior
from skddvi.regularizers import NeighborhoodPreservation


def small(**params):
    """Return a model that is fitted in a tenth of a second."""
    defaults = {
        "hidden_layer_sizes": (16,),
        "denoiser_width": 16,
        "kl_warmup": 0.0,
        "n_diffusion_steps": 3,
        "max_iter": 4,
        "random_state": 0,
    }
    return DDVAETransformer(**defaults | params)


def make_rows(n_rows, n_features=6, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(3, n_features))
    return 3.0 + rng.normal(size=(n_rows, 3)) @ mixing


X = make_rows(80)
DOSAGES = np.random.default_rng(0).binomial(2, 0.3, size=(200, 10)).astype(float)


@pytest.fixture(scope="module")
def fitted():
    """Return a fitted model; no test may change it."""
    return small().fit(X)


ASK = {
    "transform": lambda model, rows: model.transform(rows),
    "score_samples": lambda model, rows: model.score_samples(rows),
    "score": lambda model, rows: model.score(rows),
    "sample_posterior": lambda model, rows: model.sample_posterior(rows, random_state=0),
}


# ------------------------------------------------------------------------------ 1. NaN and inf


def with_holes(rows):
    rows = rows.copy()
    rows[3, 2] = rows[5, 2] = np.nan
    rows[7, 4] = -np.inf
    return rows


HOLES = r"needs a finite X, found 3 NaN or inf values, the first in columns \[2, 4\].*SimpleImputer"


@pytest.mark.parametrize("make", [np.array, np.float32, sparse.csr_array, sparse.coo_matrix])
def test_promise_01_nan_at_fit(make):
    with pytest.raises(ValueError, match=HOLES):
        small().fit(make(with_holes(X)))


@pytest.mark.parametrize("name", ASK)
def test_promise_01_nan_after_fit(fitted, name):
    with pytest.raises(ValueError, match=HOLES):
        ASK[name](fitted, with_holes(X))


def test_promise_01_nan_in_held_out_rows():
    with pytest.raises(ValueError, match=HOLES):
        small().fit(X, X_val=with_holes(X))


def test_promise_01_nan_in_latents(fitted):
    with pytest.raises(ValueError, match="Input Z contains NaN"):
        fitted.inverse_transform([[0.0, np.nan]])


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "poisson", "negative_binomial"])
def test_promise_01_every_other_likelihood_refuses_nan(likelihood):
    rows = (X > 3).astype(float)
    rows[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"found 1 NaN or inf values.*SimpleImputer"):
        small(likelihood=likelihood).fit(rows)
    assert not small(likelihood=likelihood).__sklearn_tags__().input_tags.allow_nan


def test_promise_01_nan_is_a_missing_call_under_binomial():
    rows = DOSAGES.copy()
    rows[:, :5] = rows[:, 5:]  # so that something can be told about what is missing
    missing = np.random.default_rng(1).random(rows.shape) < 0.2
    rows[missing] = np.nan
    rows[:8] = np.nan
    model = small(likelihood="binomial", max_iter=60, learning_rate_init=0.01, early_stopping=True)
    assert model.__sklearn_tags__().input_tags.allow_nan
    latents = model.fit_transform(rows)
    for result in (latents, model.inverse_transform(latents), model.score_samples(rows)):
        assert np.isfinite(result).all()
    # A row without any call tells nothing, so that its bound is close to log 1.
    assert -1 < model.score_samples(rows)[0] <= 1e-6
    assert model.score(rows[8:]) < -5
    with pytest.raises(ValueError, match=r"values outside 0\.\.2: 1 entry equals inf"):
        model.transform(np.where(missing, np.inf, 0.0)[np.flatnonzero(missing.sum(1) == 1)[:1]])


# ------------------------------------------------------------------------------ 2, 3. codes, ranges


@pytest.mark.parametrize("code", [-1, 9, 255])
def test_promise_02_coded_missing_calls_under_binomial(code):
    rows = DOSAGES.astype(np.int16)
    rows.flat[:412] = code
    message = f"values outside 0..2: 412 entries equal {code}; code missing calls as NaN"
    with pytest.raises(ValueError, match=re.escape(message)):
        small(likelihood="binomial").fit(rows)
    model = small(likelihood="binomial").fit(DOSAGES)
    with pytest.raises(ValueError, match=re.escape(message)):
        model.transform(rows)


@pytest.mark.parametrize("code", [-1, 9, 255])
def test_promise_02_coded_missing_calls_elsewhere(code):
    rows = DOSAGES.copy()
    rows.flat[:412] = code
    model = small(max_iter=1)
    with pytest.warns(UserWarning, match=f"only 0, 1, 2 and {code}, which looks like genotype"):
        model.fit(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.transform(rows)  # it has been said
        small(max_iter=1).fit(DOSAGES)
        small(max_iter=1).fit(rows + 0.5)


def test_promise_03_raw_values_under_bernoulli():
    rows = np.array([[0, 300], [10, 20], [30, 40]])
    with pytest.raises(ValueError, match=re.escape("needs X in [0, 1], found [0, 300]")):
        small(likelihood="bernoulli").fit(rows)
    model = small(likelihood="bernoulli").fit(rows / 300)
    with pytest.raises(ValueError, match=re.escape("needs X in [0, 1], found [0, 300]")):
        model.transform(rows)


def test_promise_03_negative_counts():
    with pytest.raises(
        ValueError, match="needs counts >= 0, found 2 negative values, the lowest -3"
    ):
        small(likelihood="poisson").fit([[1, -3], [2, 5], [-1, 0]])


# ------------------------------------------------------------------------------ 4. scales


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "scale",
    [2.0**-40, 2.0**40, 2.0 ** np.array([-40, 40, 0, -40, 40, 20])],
    ids=["small", "large", "mixed"],
)
def test_promise_04_wild_scales(scale, dtype):
    # Powers of two from 1e-12 to 1e12, by which a float is multiplied without rounding.
    rows, scaled = X.astype(dtype), (X * scale).astype(dtype)
    model, other = small(max_iter=10).fit(rows), small(max_iter=10).fit(scaled)
    np.testing.assert_allclose(other.transform(scaled), model.transform(rows), atol=1e-5)
    latents = model.transform(rows)
    np.testing.assert_allclose(
        other.inverse_transform(latents) / scale, model.inverse_transform(latents), atol=1e-4
    )
    # The log-density changes by the logarithm of the units.
    shift = np.log(np.broadcast_to(scale, 6)).sum()
    np.testing.assert_allclose(
        other.score_samples(scaled) + shift, model.score_samples(rows), atol=1e-2
    )
    drawn, usual = other.sample(10, random_state=0), model.sample(10, random_state=0)
    np.testing.assert_allclose(drawn / scale, usual, atol=1e-4)


def test_promise_04_large_offset_beside_a_small_spread():
    rows = 1e6 + 1e-3 * X
    restored = small(max_iter=30).fit(rows)
    assert np.isfinite(restored.transform(rows)).all()
    spread = restored.inverse_transform(restored.transform(rows)) - rows
    assert np.abs(spread).max() < 1e-3 * np.ptp(X, axis=0).max()


def test_promise_04_values_beyond_single_precision():
    with pytest.raises(ValueError, match=r"within \+-1e\+30, found .*e\+300 in size; rescale X"):
        small().fit(1e300 * X)
    tiny = small().fit(1e-300 * X)
    assert np.isfinite(tiny.transform(1e-300 * X)).all()
    assert np.isfinite(tiny.score_samples(1e-300 * X)).all()


# ------------------------------------------------------------------------------ 5, 6. odd data


def odd_rows():
    rows = X.copy()
    rows[10] = 0.0
    rows[:, 2] = 0.0
    rows[20:25] = rows[19]
    return rows


@pytest.mark.parametrize("likelihood", ["gaussian", "poisson", "negative_binomial"])
@pytest.mark.parametrize("make", [np.array, sparse.csr_array])
def test_promise_05_constant_column_zero_row_duplicates(likelihood, make):
    rows = odd_rows()
    if likelihood != "gaussian":
        rows = np.rint(np.abs(rows))
    model = small(likelihood=likelihood, max_iter=10)
    latents = model.fit_transform(make(rows))
    bound = model.score_samples(make(rows))
    restored = model.inverse_transform(latents)
    for result in (latents, bound, restored, model.sample(20, random_state=0)):
        assert np.isfinite(result).all()
    np.testing.assert_allclose(latents[20:25] - latents[19], 0, atol=1e-12)
    np.testing.assert_allclose(bound[20:25] - bound[19], 0, atol=1e-9)
    assert np.abs(latents[18] - latents[19]).max() > 1e-6
    if likelihood == "gaussian":
        np.testing.assert_allclose(restored[:, 2], np.zeros(80), atol=0.2)


@pytest.mark.parametrize(
    ("likelihood", "value"),
    [("gaussian", 5.0), ("gaussian", 0.0), ("bernoulli", 1.0), ("binomial", 2.0), ("poisson", 0.0)],
)
def test_promise_05_nothing_but_one_value(likelihood, value):
    rows = np.full((30, 4), value)
    model = small(likelihood=likelihood, max_iter=10)
    latents = model.fit_transform(rows)
    assert np.isfinite(latents).all()
    np.testing.assert_allclose(latents - latents[0], 0, atol=1e-12)
    np.testing.assert_allclose(model.inverse_transform(latents), rows, atol=1.0)
    assert np.isfinite(model.score_samples(rows)).all()


@pytest.mark.parametrize("n_rows", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "params", [{}, {"early_stopping": True}, {"n_diffusion_steps": 0}], ids=str
)
def test_promise_06_tiny_data(n_rows, params):
    model = small(**params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two rows none can be held out
        latents = model.fit_transform(X[:n_rows])
    assert latents.shape == (n_rows, 2)
    assert np.isfinite(latents).all()
    assert np.isfinite(model.score_samples(X)).all()


@pytest.mark.parametrize("batch_size", [4, 2, 1])
def test_promise_06_last_batch_of_one_row(batch_size):
    model = small(batch_size=batch_size, regularizer=NeighborhoodPreservation(3)).fit(X[:9])
    assert np.isfinite(model.transform(X)).all()
    assert np.isfinite(model.loss_curve_).all()


def test_promise_06_one_row_cannot_be_fitted():
    message = (
        r"Found array with 1 sample\(s\) \(shape=\(1, 6\)\) while a minimum of 2 is required by "
        "DDVAETransformer"
    )
    with pytest.raises(ValueError, match=message):
        small().fit(X[:1])
    with pytest.raises(ValueError, match=message):
        small(warm_start=True).fit(X).fit(X[:1])
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        small().fit(X[:0])


# ------------------------------------------------------------------------------ 7, 8. few rows


@pytest.mark.parametrize(("n_rows", "fraction"), [(2, 0.1), (3, 0.5), (4, 0.9)])
def test_promise_07_too_few_rows_to_split(n_rows, fraction):
    model = small(early_stopping=True, validation_fraction=fraction)
    message = f"validation_fraction={fraction} of {n_rows} rows leaves fewer than 2 to train on"
    with pytest.warns(UserWarning, match=message) as caught:
        model.fit(X[:n_rows])
    assert caught[0].filename == __file__
    assert model.n_iter_ == 4
    assert model.validation_scores_ is None


@pytest.mark.parametrize("make", [np.array, sparse.csr_array, list])
def test_promise_08_one_row_at_transform(fitted, make):
    whole = fitted.transform(X)
    for index in (0, 41):
        alone = fitted.transform(make(X[index : index + 1]))
        assert alone.shape == (1, 2)
        np.testing.assert_allclose(alone[0], whole[index], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="Reshape your data"):
        fitted.transform(X[0])


# ------------------------------------------------------------------------------ 9. columns


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_promise_09_columns(library):
    frames = pytest.importorskip(library)
    names = list("abcdef")
    frame = frames.DataFrame(dict(zip(names, X.T, strict=True)))
    model = small().fit(frame)
    if not hasattr(model, "feature_names_in_"):
        pytest.skip(f"this scikit-learn does not see the names in this {library}")
    changed = {
        "in the same order as they were in fit": frame[names[::-1]],
        "unseen at fit time:\n- g": frame.rename(
            **({"columns": {"a": "g"}} if library == "pandas" else {"mapping": {"a": "g"}})
        ),
        "yet now missing:\n- f": frame[names[:-1]],
        "unseen at fit time:\n- h": (
            frame.assign(h=1.0)
            if library == "pandas"
            else frame.with_columns(frames.lit(1.0).alias("h"))
        ),
    }
    for message, rows in changed.items():
        for ask in ASK.values():
            with pytest.raises(ValueError, match="feature names should match") as caught:
                ask(model, rows)
            assert message in str(caught.value)
        with pytest.raises(ValueError, match="feature names should match"):
            small().fit(frame, X_val=rows)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.transform(X)


@pytest.mark.parametrize("n_features", [1, 5, 7])
@pytest.mark.parametrize("name", ASK)
def test_promise_09_number_of_columns(fitted, name, n_features):
    message = f"X has {n_features} features, but DDVAETransformer is expecting 6 features as input"
    with pytest.raises(ValueError, match=message):
        ASK[name](fitted, np.ones((3, n_features)))


# ------------------------------------------------------------------------------ 10. containers


def memory_mapped(rows, folder):
    joblib.dump(rows, folder / "rows.joblib")
    return joblib.load(folder / "rows.joblib", mmap_mode="r")


def read_only(rows, folder):
    rows = rows.copy()
    rows.flags.writeable = False
    return rows


CONTAINERS = {
    "list": lambda rows, folder: rows.tolist(),
    "float32": lambda rows, folder: rows.astype(np.float32),
    "float16": lambda rows, folder: rows.astype(np.float16),
    "longdouble": lambda rows, folder: rows.astype(np.longdouble),
    "int8": lambda rows, folder: rows.astype(np.int8),
    "int64": lambda rows, folder: rows.astype(np.int64),
    "object": lambda rows, folder: rows.astype(object),
    "big-endian": lambda rows, folder: rows.astype(">f8"),
    "Fortran-ordered": lambda rows, folder: np.asfortranarray(rows),
    "reversed view": lambda rows, folder: rows[:, ::-1].copy()[:, ::-1],
    "strided view": lambda rows, folder: np.repeat(rows, 2, axis=0)[::2],
    "read-only": read_only,
    "memory-mapped": memory_mapped,
    "CSR": lambda rows, folder: sparse.csr_array(rows),
    "CSC": lambda rows, folder: sparse.csc_array(rows),
    "COO": lambda rows, folder: sparse.coo_array(rows),
    "CSR matrix": lambda rows, folder: sparse.csr_matrix(rows),
    "CSC matrix": lambda rows, folder: sparse.csc_matrix(rows),
    "COO matrix": lambda rows, folder: sparse.coo_matrix(rows),
    "integer CSR": lambda rows, folder: sparse.csr_array(rows.astype(np.int32)),
    "pandas": lambda rows, folder: pytest.importorskip("pandas").DataFrame(rows),
    "pandas Int64": lambda rows, folder: pytest.importorskip("pandas").DataFrame(
        rows, dtype="Int64"
    ),
    "polars": lambda rows, folder: pytest.importorskip("polars").DataFrame(rows),
    "tensor": lambda rows, folder: torch.from_numpy(rows.copy()),
    "float32 tensor": lambda rows, folder: torch.from_numpy(rows).float(),
    "integer tensor": lambda rows, folder: torch.from_numpy(rows).int(),
}


def dense(rows):
    return np.asarray(rows.toarray() if sparse.issparse(rows) else rows, dtype=float)


@pytest.fixture(scope="module")
def whole_numbers():
    """Return rows of small whole numbers, exact in any dtype, and what is made of them."""
    rows = np.rint(2 * X).clip(-20, 20)
    rows[rows < 5] = 0.0
    model = small().fit(rows)
    return rows, model, model.transform(rows), model.score_samples(rows)


@pytest.mark.filterwarnings("ignore:.*feature names:UserWarning")
@pytest.mark.parametrize("container", CONTAINERS)
def test_promise_10_containers(container, whole_numbers, tmp_path):
    rows, reference, latents, bound = whole_numbers
    given = CONTAINERS[container](rows, tmp_path)
    before = copy.deepcopy(given)
    model = small().fit(given)
    for result in (model.transform(given), model.transform(rows), reference.transform(given)):
        np.testing.assert_allclose(result, latents, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.score_samples(given), bound, rtol=0, atol=1e-4)
    draws = [m.sample_posterior(g, 2, 0) for m, g in ((model, given), (reference, rows))]
    if draws[0].dtype == draws[1].dtype:  # the noise of float32 rows is another
        np.testing.assert_allclose(*draws, rtol=0, atol=1e-5)
    assert type(before) is type(given)
    np.testing.assert_array_equal(dense(given), dense(before))


@pytest.mark.parametrize("make", [np.array, sparse.csr_array, torch.from_numpy])
def test_promise_10_bool(make):
    rows = X > 3
    model = small(likelihood="bernoulli").fit(make(rows))
    expected = small(likelihood="bernoulli").fit_transform(rows.astype(float))
    np.testing.assert_allclose(model.transform(make(rows)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.full((5, 6), "a"), "arrays of bytes/strings"),
        (np.full((5, 6), "1.5"), "arrays of bytes/strings"),
        ([["a", "b"], ["c", "d"]], "arrays of bytes/strings"),
        (np.full((5, 6), "a", dtype=object), "could not convert string to float"),
        ("abc", "Expected 2D array, got scalar array"),
        (np.ones((5, 6, 1)), "Found array with dim 3"),
        (np.ones(6), "Expected 2D array, got 1D array"),
        (np.ones((5, 6)) * 1j, "Complex data not supported"),
        ([[1, 2], [3]], "inhomogeneous"),
        (None, "Expected 2D array, got scalar array"),
        ([[{}] * 6] * 5, "must be a string or a (real )?number"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_promise_10_what_is_no_table_of_numbers(fitted, rows, message):
    for ask in (small().fit, fitted.transform):
        with pytest.raises((TypeError, ValueError), match=message):
            ask(rows)


# ------------------------------------------------------------------------------ 13. sizes


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prior": "pinwheel", "n_components": 3}, "'pinwheel' lives in 2 .* n_components=3"),
        ({"prior": "swiss_roll", "n_components": 1}, "'swiss_roll' lives in 2 .* n_components=1"),
        ({"prior": "square", "n_components": 4}, "'square' lives in 2 .* n_components=4"),
        ({"prior": NormalPrior(5)}, "NormalPrior lives in 5 dimensions, found n_components=2"),
        (
            {"prior": GaussianMixturePrior(np.eye(3), 0.1)},
            "GaussianMixturePrior lives in 3 dimensions, found n_components=2",
        ),
        ({"noising": [0.1, 0.2]}, "noising gives 2 betas, .* n_diffusion_steps=3"),
        ({"regularizer": NeighborhoodPreservation(100)}, "n_neighbors must be in 1..79 .* 100"),
        ({"hidden_layer_sizes": (16, 0)}, r"hidden_layer_sizes .* at least 1, found \(16, 0\)"),
        ({"hidden_layer_sizes": (16, 2.5)}, r"hidden_layer_sizes .* found \(16, 2.5\)"),
    ],
    ids=str,
)
def test_promise_13_sizes_that_cannot_work(params, message):
    model = small(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X)


def test_promise_13_latents_of_another_dimension(fitted):
    with pytest.raises(ValueError, match="Z has 3 columns, but the model has n_components=2"):
        fitted.inverse_transform(np.ones((4, 3)))


# ------------------------------------------------------------------------------ 14. life cycle

BAD = [
    ("n_components", 0),
    ("n_components", 1.5),
    ("prior", "banana"),
    ("prior", 3),
    ("likelihood", "banana"),
    ("likelihood", None),
    ("noising", "banana"),
    ("noising", 3),
    ("n_diffusion_steps", -1),
    ("sleep", "banana"),
    ("sleep", True),
    ("sleep_weight", -0.1),
    ("kl_weight", np.nan),
    ("kl_warmup", 1.5),
    ("regularizer", "banana"),
    ("hidden_layer_sizes", "banana"),
    ("hidden_layer_sizes", 0),
    ("denoiser_width", 0),
    ("activation", "banana"),
    ("batch_size", 0),
    ("batch_size", "banana"),
    ("learning_rate_init", 0.0),
    ("max_iter", 0),
    ("max_iter", "banana"),
    ("tol", -1),
    ("early_stopping", "yes"),
    ("validation_fraction", 0.0),
    ("validation_fraction", 1.0),
    ("n_iter_no_change", 0),
    ("warm_start", "yes"),
    ("checkpoint", 3),
    ("checkpoint", True),
    ("precision", "float16"),
    ("device", 0),
    ("random_state", "seed"),
    ("verbose", "loud"),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_promise_14_bad_parameters(name, value):
    model = small(**{name: value})  # silent
    assert getattr(model, name) is value
    repr(model)
    with pytest.raises(InvalidParameterError) as caught:
        model.fit(X)
    assert f"The {name!r} parameter of DDVAETransformer must be" in str(caught.value)
    assert f"Got {value!r} instead" in str(caught.value)
    with pytest.raises(NotFittedError):
        model.transform(X)


def test_promise_14_every_parameter_has_a_bad_value_here():
    assert {name for name, _ in BAD} == set(DDVAETransformer().get_params())


@pytest.mark.parametrize("method", ["inverse_transform", "sample", *ASK])
def test_promise_14_methods_before_fit(method):
    ask = ASK.get(method, lambda model, rows: getattr(model, method)(2))
    with pytest.raises(NotFittedError, match="This DDVAETransformer instance is not fitted yet"):
        ask(small(), X)


def test_promise_14_set_params_does_not_alter_the_fitted_model():
    model = small().fit(X)
    before = model.transform(X), model.score_samples(X), model.sample(3, random_state=0)
    model.set_params(
        n_components=3,
        prior="square",
        likelihood="poisson",
        noising="linear",
        n_diffusion_steps=0,
        hidden_layer_sizes=(3,),
        activation="tanh",
        precision="bfloat16",
        device="nowhere",
        random_state=5,
        kl_weight=0.0,
    )
    after = model.transform(X), model.score_samples(X), model.sample(3, random_state=0)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.prior_.name == "normal"
    assert model.inverse_transform(before[0]).shape == X.shape
    assert len(model.get_feature_names_out()) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_components", 3),
        ("prior", "pinwheel"),
        ("likelihood", "poisson"),
        ("noising", np.array([0.1, 0.2, 0.3])),
        ("n_diffusion_steps", 0),
        ("hidden_layer_sizes", (3,)),
        ("denoiser_width", 7),
        ("activation", "tanh"),
        ("device", "auto"),
    ],
)
def test_promise_14_warm_start_of_another_model(name, value):
    model = small(warm_start=True).fit(X)
    old = getattr(model, name)
    before = model.transform(X)
    with pytest.raises(ValueError, match="warm_start=True goes on with the fitted model") as caught:
        model.set_params(**{name: value}).fit(X)
    assert f"which has {name}={old!r}, found {name}={value!r}" in str(caught.value)
    np.testing.assert_array_equal(model.transform(X), before)
    model.set_params(**{name: old}, learning_rate_init=1e-4, max_iter=1).fit(X)
    assert model.n_iter_ == 5


def test_promise_14_warm_start_with_other_columns():
    model = small(warm_start=True).fit(X)
    with pytest.raises(ValueError, match="X has 5 features, but DDVAETransformer is expecting 6"):
        model.fit(X[:, :5])


def test_promise_14_regularizers_need_names_of_their_own():
    def elbo(z, rows):
        return z.sum()

    first, second = (lambda z, rows: z.sum()), (lambda z, rows: z.sum())
    for regularizer, name in [(elbo, "elbo"), ([first, second], "<lambda>")]:
        with pytest.raises(ValueError, match=f"name of its own for history_, found '{name}' taken"):
            small(regularizer=regularizer).fit(X)
    with pytest.raises(ValueError, match=r"regularizer must be callable .* found 3"):
        small(regularizer=[first, 3]).fit(X)


# ------------------------------------------------------------------------------ 15. devices


@pytest.mark.parametrize("name", ["cuda", "cuda:99", "mps", "banana", "meta"])
def test_promise_15_missing_device(name, monkeypatch):
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 0)
    model = small(device=name)
    message = f"device={name!r} is not available; the devices here are cpu. .*device='cpu'"
    with pytest.raises(RuntimeError, match=message):
        model.fit(X)


@pytest.mark.parametrize("name", ["mps", "mps:0"])
def test_promise_15_a_device_without_float64(name, monkeypatch):
    monkeypatch.setattr(device_module.torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RuntimeError, match=rf"device='{name}' .* MPS has no float64.*device='cpu'"):
        small(device=name).fit(X)
    assert device_module.resolve_device("auto").type == "cpu"


def test_promise_15_devices_are_listed(monkeypatch):
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RuntimeError, match="the devices here are cpu, cuda:0, cuda:1"):
        small(device="cuda:2").fit(X)


def test_promise_15_forked_worker(monkeypatch):
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device_module.torch.cuda, "_is_in_bad_fork", lambda: True)
    message = "device='cuda' cannot be used in a forked process; .*loky.*device='cpu'"
    with pytest.raises(RuntimeError, match=message):
        small(device="cuda").fit(X)


def test_promise_15_auto_is_the_cpu_where_there_is_no_other(monkeypatch, fitted):
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 0)
    model = small(device="auto").fit(X)
    np.testing.assert_array_equal(model.transform(X), fitted.transform(X))


# ------------------------------------------------------------------------------ what users ask for
# Saved models, seeds, n_jobs and the embedding of a row alone are tested in test_transformer.py.


class Trouble:
    """A regulariser that makes trouble from its n-th call on."""

    name = "trouble"

    def __init__(self, n_calls, what):
        self.n_calls = n_calls
        self.what = what

    def __call__(self, z, rows):
        self.n_calls -= 1
        if self.n_calls > 0:
            return z.new_zeros(())
        if self.what == "interrupt":
            raise KeyboardInterrupt
        return z.sum() * self.what


def test_ask_no_nan_in_training_and_the_last_epoch_is_kept():
    # Two batches in an epoch: the fifth call falls into the third epoch.
    params = {"batch_size": 40, "max_iter": 6}
    model = small(regularizer=Trouble(5, np.nan), **params)
    with pytest.warns(RuntimeWarning) as caught:
        model.fit(X)
    last = str(caught[-1].message)
    low, high = f"{X.min():g}", f"{X.max():g}"
    for part in ("'trouble'", "epoch 3", f"[{low}, {high}]", "learning_rate_init=", "rescale X"):
        assert part in last
    assert "stopped" in last and "kept" in last
    assert {warning.filename for warning in caught} == {__file__}
    assert model.n_iter_ == 2
    assert np.isfinite(model.loss_curve_).all()
    assert np.isfinite(model.transform(X)).all()
    with pytest.warns(RuntimeWarning):
        other = small(regularizer=Trouble(6, np.inf), **params).fit(X)
    np.testing.assert_array_equal(model.transform(X), other.transform(X))


def test_ask_no_nan_in_training_or_an_error_that_says_why():
    with pytest.raises(FloatingPointError) as caught:
        small(regularizer=Trouble(1, np.nan)).fit(X)
    for part in ("'trouble'", "epoch 1", "X in [", "learning_rate_init=0.002", "StandardScaler"):
        assert part in str(caught.value)


def test_ask_training_survives_a_learning_rate_that_is_too_high():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        model = small(learning_rate_init=10.0, max_iter=20).fit(X)
    assert np.isfinite(model.loss_curve_).all()
    assert np.isfinite(model.transform(X)).all()


def test_ask_interrupt_keeps_the_work():
    # Both stop in the third epoch, before and after one of its two gradient steps.
    models = []
    for n_calls in (5, 6):
        model = small(regularizer=Trouble(n_calls, "interrupt"), batch_size=40, max_iter=9)
        message = "interrupted in epoch 3; .* the last complete epoch"
        with pytest.warns(UserWarning, match=message) as caught:
            models.append(model.fit(X))
        assert caught[0].filename == __file__
        assert model.n_iter_ == len(model.history_["elbo"]) == 2
    np.testing.assert_array_equal(models[0].transform(X), models[1].transform(X))


def test_ask_interrupt_in_the_first_epoch():
    model = small(regularizer=Trouble(1, "interrupt"))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    with pytest.raises(NotFittedError):
        model.transform(X)


def test_ask_held_out_score_for_unsupervised_search():
    rows = make_rows(200)
    params = {"learning_rate_init": [1e-6, 1e-2]}
    search = GridSearchCV(small(max_iter=30), params, cv=2).fit(rows)
    assert search.best_params_ == {"learning_rate_init": 1e-2}
    scores = cross_val_score(small(max_iter=30, learning_rate_init=1e-2), rows, cv=2)
    assert scores.mean() == pytest.approx(search.best_score_)


def test_ask_y_in_a_pipeline_does_not_supervise():
    y = (X[:, 0] > 3).astype(int)
    pipeline = make_pipeline(StandardScaler(), small())
    plain = pipeline.fit_transform(X)
    np.testing.assert_array_equal(pipeline.fit_transform(X, y), plain)
    np.testing.assert_array_equal(pipeline.fit_transform(X, np.full(80, np.nan)), plain)


def test_ask_sparse_rows_are_made_dense_by_the_batch(monkeypatch):
    rows = sparse.random(5000, 300, density=0.02, format="csr", random_state=0)
    most = []
    toarray = type(rows).toarray

    def noted(self, *args, **kwargs):
        most.append(self.shape[0])
        return toarray(self, *args, **kwargs)

    monkeypatch.setattr(type(rows), "toarray", noted)
    model = small(max_iter=1).fit(rows)
    model.transform(rows)
    model.score_samples(rows)
    assert sum(most) > 5000
    assert max(most) <= CHUNK_ROWS


def test_ask_own_validation_rows_and_their_curve():
    held_out = make_rows(200)[80:]
    model = small(max_iter=20).fit(X, X_val=held_out)
    curve = model.validation_scores_
    assert len(curve) == 20
    assert curve[-1] > curve[0]
    stopped = small(max_iter=200, early_stopping=True, n_iter_no_change=2, tol=10.0)
    assert stopped.fit(X, X_val=held_out).n_iter_ < 200


def test_ask_nothing_is_said_unasked(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = small(early_stopping=True).fit(X)
        model.transform(X)
        model.score(X)
        model.sample(2)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
