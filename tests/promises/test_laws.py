"""Laws that hold whatever the rows, the batches, the types, the scales and the parameters."""

import copy
import pickle

import numpy as np
import pytest
from _models import ESTIMATORS, X, fit, make_rows, small, tiny
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import skddvi

ROWS = make_rows(24, seed=7)
KINDS = st.sampled_from(sorted(ESTIMATORS))
LAW = settings(max_examples=20, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def models():
    """Return a fitted model of each kind; no test may change them."""
    return {kind: fit(small(kind), X) for kind in ESTIMATORS}


def answers(model, rows):
    """Return what a model says of rows, an array for each question, a row for each row."""
    found = [model.transform(rows), model.score_samples(rows)]
    if hasattr(model, "predict_proba"):
        found.append(model.predict_proba(rows))
    return found


def assert_alike(found, wanted, tolerance):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@LAW
@given(kind=KINDS, order=st.permutations(range(24)))
def test_the_order_of_rows_does_not_matter(models, kind, order):
    whole = answers(models[kind], ROWS)
    assert_alike(answers(models[kind], ROWS[order]), [part[order] for part in whole], 1e-9)


@LAW
@given(kind=KINDS, cuts=st.sets(st.integers(1, 23), max_size=6))
def test_the_batches_of_rows_do_not_matter(models, kind, cuts):
    parts = [answers(models[kind], part) for part in np.split(ROWS, sorted(cuts))]
    joined = [np.concatenate(part) for part in zip(*parts, strict=True)]
    assert_alike(joined, answers(models[kind], ROWS), 1e-9)


@LAW
@given(kind=KINDS, picked=st.lists(st.integers(0, 23), min_size=1, max_size=40))
def test_equal_rows_have_equal_answers(models, kind, picked):
    whole = answers(models[kind], ROWS)
    assert_alike(answers(models[kind], ROWS[picked]), [part[picked] for part in whole], 1e-9)


@LAW
@given(
    kind=KINDS,
    dtype=st.sampled_from(["float32", ">f8", "float16", "int8", "int64", "uint8", "object"]),
    layout=st.sampled_from(["C", "F", "strided"]),
)
def test_the_type_of_numbers_does_not_matter(models, kind, dtype, layout):
    rows = np.abs(ROWS).round().clip(0, 100)
    given_rows = rows.astype(dtype)
    if layout == "strided":
        given_rows = np.repeat(given_rows, 2, axis=0)[::2]
    else:
        given_rows = np.array(given_rows, order=layout)
    tolerance = 1e-3 if dtype == "float32" else 1e-9  # float32 rows are computed with in float32
    assert_alike(answers(models[kind], given_rows), answers(models[kind], rows), tolerance)


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(kind=KINDS, power=st.lists(st.integers(-40, 40), min_size=6, max_size=6))
def test_the_units_of_features_do_not_matter(kind, power):
    # Powers of two, by which a float is multiplied without rounding.
    scale = 2.0 ** np.array(power)
    one, other = fit(tiny(kind), ROWS), fit(tiny(kind), ROWS * scale)
    np.testing.assert_allclose(other.transform(ROWS * scale), one.transform(ROWS), atol=1e-6)
    latents = one.transform(ROWS)
    np.testing.assert_allclose(
        other.inverse_transform(latents) / scale, one.inverse_transform(latents), rtol=1e-5
    )
    shift = np.log(scale).sum()
    np.testing.assert_allclose(
        other.score_samples(ROWS * scale) + shift, one.score_samples(ROWS), atol=1e-3
    )


# ------------------------------------------------------------------------------ round trips

PARAMETERS = {
    "n_diffusion_steps": st.integers(0, 4),
    "prior": st.sampled_from(["normal", "gaussian_mixture", "pinwheel", "swiss_roll", "square"]),
    "noising": st.sampled_from(["cosine", "linear", "even", "variance_exploding"]),
    "sleep": st.sampled_from(["auto", "conditional", "latent", "off"]),
    "sleep_weight": st.floats(0, 2),
    "kl_weight": st.floats(0, 2) | st.just("auto"),
    "hidden_layer_sizes": st.sampled_from([(), 4, (5,), [4, 3], np.array([6])]),
    "activation": st.sampled_from(["identity", "logistic", "tanh", "relu", "silu"]),
    "batch_size": st.integers(1, 30) | st.just("auto"),
    "early_stopping": st.booleans(),
    "precision": st.sampled_from(["auto", "float32", "bfloat16"]),
    "random_state": st.integers(0, 2**32 - 1),
    "warm_start": st.booleans(),
}
CHOICES = st.fixed_dictionaries({}, optional=PARAMETERS)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(kind=KINDS, params=CHOICES, others=CHOICES)
def test_parameters_survive_clone_and_set_params(kind, params, others):
    model = tiny(kind, **params)
    copied = clone(model)
    for name, value in model.get_params().items():
        np.testing.assert_equal(copied.get_params()[name], value)
    assert vars(model) == model.get_params()  # nothing else is made before the fit
    changed = tiny(kind, **others).set_params(**model.get_params())
    for name, value in model.get_params().items():
        assert changed.get_params()[name] is value
    assert repr(changed) == repr(model)


@settings(max_examples=9, deadline=None, derandomize=True, database=None)
@given(kind=KINDS, params=CHOICES)
def test_models_survive_clone_save_pickle_and_copy(kind, params, tmp_path_factory):
    # A classifier's prior must have a part for each class.
    assume(kind != "classifier" or params.get("prior") != "normal")
    params = {"max_iter": 2, **params}
    model = fit(tiny(kind, **params), ROWS)
    wanted = [*answers(model, ROWS), model.sample(3, random_state=0)]
    path = tmp_path_factory.getbasetemp() / f"{kind}.safetensors"
    skddvi.save(model, path)
    again = fit(clone(model), ROWS)
    for other in (
        again,
        skddvi.load(path),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
    ):
        found = [*answers(other, ROWS), other.sample(3, random_state=0)]
        for one, first in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, first)
        np.testing.assert_equal(other.history_, model.history_)
        assert repr(other.get_params()) == repr(model.get_params())
