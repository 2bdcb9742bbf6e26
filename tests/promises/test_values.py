"""Promises 1 to 6: values and shapes of X, each test with the number of its promise."""

import re
import warnings

import numpy as np
import pytest
from _models import ASK, DOSAGES, X, small
from scipy import sparse

from skddvi.regularizers import NeighborhoodPreservation

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
