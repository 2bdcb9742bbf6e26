"""The contract of DDVAETransformer."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from skddvi import DDVAETransformer, _base, save
from skddvi._engine.engine import _score_noise
from skddvi._engine.trainer import CHUNK_ROWS
from skddvi.displays import HistoryDisplay
from skddvi.likelihoods import BinomialLikelihood, GaussianLikelihood, resolve_likelihood
from skddvi.noising import VarianceExploding, VariancePreserving, resolve_noising
from skddvi.priors import EmpiricalPrior, GaussianMixturePrior, PinwheelPrior, resolve_prior
from skddvi.regularizers import NeighborhoodPreservation

ROOT = Path(__file__).parents[1]


def make_rows(n_rows, n_features=6, seed=0):
    """Return rows that are a curved image of two dimensions, with a little noise."""
    rng = np.random.default_rng(seed)
    plane = rng.normal(size=(n_rows, 2))
    image = plane @ np.random.default_rng(1).normal(size=(2, n_features))
    return 3.0 + image + 0.3 * np.sin(image) + 0.2 * rng.normal(size=image.shape)


def small(**params):
    """Return a model that is fitted in a tenth of a second."""
    defaults = {
        "hidden_layer_sizes": (16,),
        "denoiser_width": 16,
        "kl_warmup": 0.0,  # so that the loss is the objective from the first epoch on
        "n_diffusion_steps": 3,
        "max_iter": 4,
        "random_state": 0,
    }
    return DDVAETransformer(**defaults | params)


X = make_rows(80)
X.flags.writeable = False
Z = np.random.default_rng(2).normal(size=(5, 2))


@pytest.fixture(scope="module")
def fitted():
    """Return a barely trained model; no test may change it."""
    return small().fit(X)


@pytest.fixture(scope="module")
def trained():
    """Return a model trained until it describes the rows well; no test may change it."""
    return long_trained()


def long_trained(**params):
    model = small(hidden_layer_sizes=(32, 32), max_iter=100, learning_rate_init=5e-3, **params)
    return model.fit(make_rows(400))


def parameters_of(model):
    return [p.detach().numpy() for p in model._engine.model.parameters()]


def assert_same_model(one, other):
    """Assert that two fitted models have the same weights to the last bit."""
    for a, b in zip(parameters_of(one), parameters_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------ shapes and dtypes


@pytest.mark.parametrize("n_components", [1, 2, 5])
@pytest.mark.parametrize("n_diffusion_steps", [0, 1, 3])
def test_shapes(n_components, n_diffusion_steps):
    model = small(n_components=n_components, n_diffusion_steps=n_diffusion_steps)
    latents = model.fit_transform(X)
    assert latents.shape == (80, n_components)
    assert model.transform(X[:7]).shape == (7, n_components)
    assert model.inverse_transform(latents).shape == X.shape
    assert model.sample(3, random_state=0).shape == (3, 6)
    assert model.sample(random_state=0).shape == (1, 6)
    assert model.sample_posterior(X[:7], 4, random_state=0).shape == (4, 7, n_components)
    assert model.score_samples(X).shape == (80,)
    assert model.score_samples(X[:7], n_importance_samples=40).shape == (7,)
    assert isinstance(model.score(X), float)
    assert model.n_features_in_ == 6
    assert not hasattr(model, "feature_names_in_")
    assert model.prior_.n_components == n_components
    assert model.likelihood_.n_features == 6
    for result in (latents, model.score_samples(X), model.sample(3, random_state=0)):
        assert np.isfinite(result).all()


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.float16, np.float64),
        (np.int32, np.float64),
        (np.uint8, np.float64),
        (np.bool_, np.float64),
    ],
)
def test_dtypes(given, returned):
    rows = (X > 3.0).astype(given) if given is np.bool_ else X.clip(0, 9).astype(given)
    model = small(max_iter=1)
    latents = model.fit_transform(rows)
    assert latents.dtype == returned
    assert model.inverse_transform(latents).dtype == returned
    assert model.sample_posterior(rows, random_state=0).dtype == returned
    assert model.score_samples(rows).dtype == returned
    assert model.sample(2, random_state=0).dtype == np.float64


def test_float64_leaves_the_model_in_single_precision(fitted):
    for ask in (fitted.transform, fitted.score_samples, fitted.sample_posterior):
        ask(X)
    fitted.sample(2)
    assert {p.dtype for p in fitted._engine.model.parameters()} == {torch.float32}


def test_float64_is_computed_as_such(fitted):
    step = 1e-11  # far below what float32 resolves at 3
    change = fitted.transform(X + step) - fitted.transform(X)
    coarse = fitted.transform(X + 1e6 * step) - fitted.transform(X)
    np.testing.assert_allclose(1e6 * change, coarse, rtol=0.02, atol=1e-7)
    assert np.abs(coarse).max() > 1e-6
    np.testing.assert_allclose(
        fitted.transform(X.astype(np.float32)), fitted.transform(X), atol=1e-5
    )


def test_fit_transform_is_fit_then_transform(fitted):
    np.testing.assert_array_equal(small().fit_transform(X), fitted.transform(X))


# ------------------------------------------------------------------------------ what it learns


def test_embedding_describes_rows(trained):
    rows = make_rows(200, seed=3)
    restored = trained.inverse_transform(trained.transform(rows))
    assert np.square(rows - restored).sum() < 0.2 * np.square(rows - rows.mean(axis=0)).sum()


def test_score_tells_rows_of_the_same_kind_from_others(trained, fitted):
    rows = make_rows(200, seed=3)
    shuffled = np.column_stack([np.roll(rows[:, j], 7 * j) for j in range(rows.shape[1])])
    assert trained.score(rows) > trained.score(shuffled) + 5
    assert trained.score(rows) > fitted.score(rows) + 1


def test_score_is_the_mean_of_score_samples(trained):
    assert trained.score(X) == pytest.approx(trained.score_samples(X).mean(), rel=1e-12)


def test_bound_grows_with_importance_samples(trained):
    rows = make_rows(200, seed=3)
    # With the default process the bound has arrived at 16, and more draws only move its error.
    for model, n_samples in (
        (trained, (1, 4, 16)),
        (long_trained(noising="cosine"), (1, 4, 16, 64, 256)),
    ):
        bounds = [model.score_samples(rows, k).mean() for k in n_samples]
        assert np.all(np.diff(bounds) > 0), bounds
        assert bounds[-1] - bounds[0] < 5


def test_samples_are_like_rows(trained):
    rows, drawn = make_rows(4000, seed=3), trained.sample(4000, random_state=0)
    spread = rows.std(axis=0)
    assert np.abs(drawn.mean(axis=0) - rows.mean(axis=0)).max() < 0.25 * spread.max()
    np.testing.assert_allclose(drawn.std(axis=0) / spread, 1, atol=0.25)


def test_posterior_draws_scatter_around_the_transform():
    model = small(n_diffusion_steps=0, max_iter=30).fit(X)
    draws = model.sample_posterior(X, 2000, random_state=0)
    error = (draws.mean(axis=0) - model.transform(X)) / (draws.std(axis=0) / np.sqrt(2000))
    assert 0.8 < error.std() < 1.2  # 160 standard normal numbers
    assert np.abs(error).max() < 5


def test_inverse_of_extreme_latents_is_finite(trained):
    assert np.isfinite(trained.inverse_transform(1e6 * Z)).all()


# ------------------------------------------------------------------------------ rows alone and not


def test_transform_of_a_row_does_not_depend_on_the_others(trained):
    rows = make_rows(60, seed=3)
    whole = trained.transform(rows)
    one_by_one = np.concatenate([trained.transform(row[None]) for row in rows])
    np.testing.assert_allclose(one_by_one, whole, rtol=0, atol=1e-7)
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(trained.transform(rows[order]), whole[order], rtol=0, atol=1e-7)


def test_transform_across_chunks(fitted):
    rows = make_rows(CHUNK_ROWS + 3)
    whole = fitted.transform(rows)
    np.testing.assert_allclose(fitted.transform(rows[-5:]), whole[-5:], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        fitted.inverse_transform(whole)[-5:], fitted.inverse_transform(whole[-5:]), atol=1e-12
    )


@pytest.mark.parametrize("n_importance_samples", [1, 50])
def test_score_of_a_row_does_not_depend_on_the_others(trained, n_importance_samples):
    rows = make_rows(40, seed=3)
    whole = trained.score_samples(rows, n_importance_samples)
    alone = [trained.score_samples(row[None], n_importance_samples)[0] for row in rows[:8]]
    np.testing.assert_allclose(alone, whole[:8], rtol=0, atol=1e-7)
    backwards = trained.score_samples(rows[::-1], n_importance_samples)
    np.testing.assert_allclose(backwards, whole[::-1], rtol=0, atol=1e-7)
    np.testing.assert_array_equal(trained.score_samples(rows, n_importance_samples), whole)


# ------------------------------------------------------------------------------ randomness


@pytest.mark.parametrize("n_diffusion_steps", [0, 3])
def test_same_seed_same_bits(n_diffusion_steps):
    one, other = (small(n_diffusion_steps=n_diffusion_steps).fit(X) for _ in range(2))
    assert_same_model(one, other)
    assert one.history_ == other.history_
    np.testing.assert_array_equal(one.transform(X), other.transform(X))
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))
    other = small(n_diffusion_steps=n_diffusion_steps, random_state=1).fit(X)
    assert np.abs(one.transform(X) - other.transform(X)).max() > 1e-3


def test_random_state_instance_moves_on():
    one, other = np.random.RandomState(0), np.random.RandomState(0)
    first = small(random_state=one).fit(X)
    assert_same_model(first, small(random_state=other).fit(X))
    second = small(random_state=one).fit(X)
    assert np.abs(first.transform(X) - second.transform(X)).max() > 1e-3
    assert_same_model(second, small(random_state=other).fit(X))


def test_no_seed_means_a_fresh_one_and_leaves_global_generators_alone(fitted):
    states = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        draws, samples, fits = [], [], []
        for _ in range(2):
            np.random.seed(0)  # noqa: NPY002
            torch.manual_seed(0)
            before = np.random.get_state()[1].tobytes(), torch.get_rng_state()  # noqa: NPY002
            fits.append(small(random_state=None, max_iter=1).fit(X).transform(X))
            draws.append(fitted.sample_posterior(X))
            samples.append(fitted.sample(3))
            assert np.random.get_state()[1].tobytes() == before[0]  # noqa: NPY002
            assert torch.equal(torch.get_rng_state(), before[1])
        for one, other in (fits, draws, samples):
            assert np.abs(one - other).max() > 1e-3
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        torch.set_rng_state(states[1])


def test_draws_repeat_with_their_seed(fitted):
    for draw in (
        lambda seed: fitted.sample_posterior(X, 2, random_state=seed),
        lambda seed: fitted.sample(5, random_state=seed),
    ):
        np.testing.assert_array_equal(draw(3), draw(3))
        assert np.abs(draw(3) - draw(4)).max() > 1e-3


# ------------------------------------------------------------------------------ y, held-out rows


@pytest.mark.parametrize("y", [np.arange(80) % 3, ["a"] * 80, [1.5], np.nan])
def test_y_is_ignored(fitted, y):
    assert_same_model(small().fit(X, y), fitted)
    assert fitted.score(X, y) == fitted.score(X)


def test_held_out_rows_are_recorded_and_not_learned_from(fitted):
    model = small().fit(X, X_val=make_rows(30, seed=3))
    assert_same_model(model, fitted)
    assert fitted.validation_scores_ is None
    assert len(model.validation_scores_) == model.n_iter_ == 4
    assert model.validation_scores_ == model.history_["validation_elbo"]
    other = small().fit_transform(X, X_val=make_rows(30, seed=3))
    np.testing.assert_array_equal(other, fitted.transform(X))


def test_validation_score_is_the_bound_of_the_held_out_rows():
    held_out = make_rows(500, seed=3)
    model = small().fit(X, X_val=held_out)
    # One draw a row against 32: they differ by the spread of the draws.
    assert model.validation_scores_[-1] == pytest.approx(model.score(held_out), abs=0.3)


def seen_rows():
    """Return a regulariser that notes the indices of the rows it is shown, and the notes."""
    seen = set()

    def note(z, rows):
        seen.update(rows.tolist())
        return z.new_zeros(())

    return note, seen


@pytest.mark.parametrize("fraction", [0.1, 0.33])
def test_early_stopping_holds_out_its_fraction(fraction):
    regularizer, seen = seen_rows()
    small(early_stopping=True, validation_fraction=fraction, regularizer=regularizer).fit(X)
    assert seen == set(range(80 - int(np.ceil(80 * fraction))))


def test_early_stopping_with_own_rows_trains_on_all_others():
    regularizer, seen = seen_rows()
    model = small(early_stopping=True, regularizer=regularizer).fit(X, X_val=make_rows(30, seed=3))
    assert seen == set(range(80))
    assert len(model.validation_scores_) == 4


def test_early_stopping_stops():
    options = {"early_stopping": True, "tol": 1e9, "n_iter_no_change": 3, "max_iter": 50}
    assert small(**options).fit(X).n_iter_ == 1 + 3
    # Where the bound has stopped rising, the corrections of the encoder begin, early or not.
    assert small(n_refinements=1, **options).fit(X).n_iter_ == 1 + 3 + 3
    assert small(early_stopping=True, tol=0.0, n_iter_no_change=50, max_iter=8).fit(X).n_iter_ == 8


class Explosion:
    """A regulariser that drives the latents away from the prior after some calls."""

    def __init__(self, n_calls):
        self.n_calls = n_calls

    def __call__(self, z, rows):
        self.n_calls -= 1
        return z.square().mean() * (0.0 if self.n_calls >= 0 else -100.0)


def test_early_stopping_keeps_the_best_epoch():
    held_out = make_rows(200, seed=5)
    model = small(
        max_iter=30,
        batch_size=80,
        learning_rate_init=0.02,
        early_stopping=True,
        n_iter_no_change=30,
        regularizer=Explosion(15),
        warm_start=True,
    ).fit(X, X_val=held_out)
    curve = model.validation_scores_
    assert model.n_iter_ == 30
    assert 5 < np.argmax(curve) < 20
    assert curve[-1] < max(curve) - 1
    # One more epoch that changes nothing shows the bound of the weights that were kept.
    model.set_params(max_iter=1, learning_rate_init=1e-12, regularizer=None)
    assert model.fit(X, X_val=held_out).validation_scores_[-1] == pytest.approx(
        max(curve), abs=1e-4
    )


# ------------------------------------------------------------------------------ warm start


def test_warm_start_continues():
    model = small(warm_start=True, max_iter=30, learning_rate_init=5e-3).fit(X)
    first = model.loss_curve_
    latents = model.transform(X)
    assert model.fit(X) is model
    assert model.n_iter_ == 60
    assert model.loss_curve_[:30] == first
    assert all(len(values) == 60 for values in model.history_.values())
    gained = first[0] - first[-1]
    assert gained > 0.5
    assert model.loss_curve_[30] < first[-1] + 0.3 * gained
    assert np.mean(model.loss_curve_[-5:]) < np.mean(first[-5:])
    assert np.abs(model.transform(X) - latents).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "kind", "other"),
    [
        ("prior", lambda n: PinwheelPrior(n_arms=n), 4),
        ("noising", lambda n: VarianceExploding(1.0, n), 7.0),
    ],
    ids=["prior", "noising"],
)
def test_warm_start_goes_on_with_an_equal_object(name, kind, other):
    model = small(warm_start=True, **{name: kind(3)}).fit(X)
    model.set_params(**{name: kind(3)}).fit(X)
    assert len(model.history_["loss"]) == 2 * model.max_iter
    with pytest.raises(ValueError, match=f"which has {name}="):
        model.set_params(**{name: kind(other)}).fit(X)


def test_without_warm_start_each_fit_is_new(fitted):
    model = small().fit(make_rows(50, n_features=3))
    assert_same_model(model.fit(X), fitted)
    assert model.n_iter_ == 4
    assert model.n_features_in_ == 6


def test_warm_start_with_other_terms_keeps_the_history_aligned():
    model = small(warm_start=True).fit(X)
    model.set_params(sleep="off").fit(X, X_val=X[:20])
    assert {len(values) for values in model.history_.values()} == {8}
    assert np.isnan(model.history_["sleep"][4:]).all()
    assert np.isnan(model.validation_scores_[:4]).all()
    assert np.isfinite(model.validation_scores_[4:]).all()
    # Terms of each dimension, too.
    of_dimensions = np.array(model.history_["validation_kl_per_dimension"])
    assert of_dimensions.shape == (8, 2)
    np.testing.assert_array_equal(np.isnan(of_dimensions).all(1), np.arange(8) < 4)
    HistoryDisplay.from_estimator(model)


def test_a_warm_start_that_fails_leaves_the_model_alone():
    n_calls = [0]

    def failing(z, rows):
        n_calls[0] += 1
        if n_calls[0] > 2:
            raise RuntimeError("of the user")
        return z.square().mean()

    model = small(warm_start=True).fit(X)
    before = model.transform(X)
    model.set_params(regularizer=failing)
    with pytest.raises(RuntimeError, match="of the user"):
        model.fit(X)
    np.testing.assert_array_equal(model.transform(X), before)
    assert model.n_iter_ == len(model.history_["loss"]) == 4


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_gradients_that_are_off_do_not_matter(fitted, without):
    with without():
        model = small().fit(X)
        assert_same_model(model, fitted)
    assert_same_model(model, fitted)


def test_pandas_na_among_objects():
    rows = pd.DataFrame({"a": [0, 1, pd.NA, 2], "b": [1, 0, 2, 1]}, dtype=object)
    model = small(likelihood="binomial")
    with pytest.raises(TypeError, match=r"make the column numeric first, as X\.convert_dtypes\(\)"):
        model.fit(rows)
    assert np.isfinite(model.fit(rows.convert_dtypes()).transform(rows.convert_dtypes())).all()


# ------------------------------------------------------------------------------ parameters


def with_objects():
    return small(
        prior=GaussianMixturePrior([[-1.0, 0.0], [1.0, 0.0]], scales=0.3),
        likelihood=GaussianLikelihood(variance=0.5),
        noising=VariancePreserving("linear"),
        regularizer=NeighborhoodPreservation(n_neighbors=4),
    )


def test_objects_survive_clone_and_params():
    model = with_objects().fit(X)
    copied = clone(model)
    assert not hasattr(copied, "history_")
    assert str(copied.get_params()) == str(model.get_params())
    for name in ("prior", "likelihood", "noising", "regularizer"):
        assert type(getattr(copied, name)) is type(getattr(model, name))
        assert getattr(copied, name) is not getattr(model, name)
    assert_same_model(copied.fit(X), model)
    assert_same_model(DDVAETransformer(**model.get_params(deep=False)).fit(X), model)
    assert_same_model(small().set_params(**model.get_params()).fit(X), model)


def test_fit_leaves_the_users_objects_alone():
    model = with_objects()
    before = {name: pickle.dumps(value) for name, value in model.get_params().items()}
    identities = {name: id(value) for name, value in model.get_params().items()}
    model.fit(X)
    assert {name: pickle.dumps(value) for name, value in model.get_params().items()} == before
    assert {name: id(value) for name, value in model.get_params().items()} == identities


def test_auto_max_iter():
    most, steps, least = _base.AUTO_EPOCHS, _base.AUTO_STEPS, _base.AUTO_MIN_EPOCHS
    model = small(max_iter="auto", batch_size=50)
    assert model.fit(X).n_iter_ == most
    for n_batches, expected in {500: steps // 500, steps: least}.items():
        assert model._schedule(np.empty((50 * n_batches, 1)), None).max_iter == expected


def test_auto_batch_size_and_one_larger_than_the_data():
    low, high = _base.AUTO_BATCH_BOUNDS
    schedule = small()._schedule
    sizes = (
        (10, 10),
        (80, low),
        (1600, low),
        (8000, 125),
        (12800, 200),
        (10**6, high),
    )
    for n_rows, expected in sizes:
        assert schedule(np.empty((n_rows, 1)), None).batch_size == expected
    assert_same_model(small(batch_size=80).fit(X), small(batch_size=10**6).fit(X))


def test_auto_hidden_layers_depend_on_the_rows():
    model = small(hidden_layer_sizes="auto", max_iter=1)
    many = np.repeat(X, 1 + _base.AUTO_LAYERS_ROWS // 80, axis=0)
    for rows, expected in zip((X, many), _base.AUTO_LAYERS, strict=True):
        layers = model.fit(rows)._engine.model.posterior.body
        assert tuple(len(layer.bias) for layer in layers[::2]) == expected


@pytest.mark.parametrize(
    ("one", "other"), [(16, (16,)), ([16, 8], (16, 8)), (np.array([16, 8]), (16, 8))]
)
def test_hidden_layer_sizes_of_any_kind(one, other):
    assert_same_model(small(hidden_layer_sizes=one).fit(X), small(hidden_layer_sizes=other).fit(X))


def test_no_hidden_layer_is_a_linear_decoder():
    model = small(hidden_layer_sizes=()).fit(X)
    a, b = model.inverse_transform(Z), model.inverse_transform(Z + 2.0)
    np.testing.assert_allclose(b - a, np.broadcast_to((b - a)[0], (5, 6)), atol=1e-9)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu", "silu"])
def test_activations(activation):
    assert np.isfinite(small(activation=activation).fit(X).score(X))


def test_auto_sleep():
    assert_same_model(small().fit(X), small(sleep="conditional").fit(X))
    without_chain = small(n_diffusion_steps=0)
    assert_same_model(without_chain.fit(X), small(n_diffusion_steps=0, sleep="off").fit(X))
    assert "sleep" in small(sleep="latent").fit(X).history_
    assert "sleep" not in without_chain.history_
    assert "sleep" not in small(sleep_weight=0.0).fit(X).history_


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_bfloat16_trains_on_counts(likelihood):
    counts = np.random.default_rng(0).poisson(300.0, size=(60, 4))

    def reconstruction(precision):
        # Of five fits: rounding sends each of them another way.
        fits = [
            small(likelihood=likelihood, precision=precision, random_state=seed).fit(counts)
            for seed in range(5)
        ]
        return np.mean([model.history_["reconstruction"][-1] for model in fits])

    assert reconstruction("bfloat16") == pytest.approx(reconstruction("float32"), abs=0.2)


def test_bfloat16_trains():
    rough, exact = small(precision="bfloat16").fit(X), small(precision="float32").fit(X)
    assert_same_model(exact, small(precision="auto").fit(X))
    assert rough.score(X) == pytest.approx(exact.score(X), abs=0.5)
    assert rough.score(X) != exact.score(X)
    assert {p.dtype for p in rough._engine.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("fast", [False, True])
def test_auto_precision_is_mixed_where_it_pays(fast, monkeypatch):
    monkeypatch.setattr(_base, "has_fast_bfloat16", lambda device: fast)
    wide = np.tile(X, (1, -(-128 // X.shape[1])))
    expected = small(precision="bfloat16" if fast else "float32").fit(wide)
    assert_same_model(expected, small(precision="auto").fit(wide))
    few = wide[:, :127]
    for units in (511, 512):
        precision = "bfloat16" if fast and units == 512 else "float32"
        fits = [
            small(precision=each, hidden_layer_sizes=(4, units), max_iter=2).fit(few)
            for each in (precision, "auto")
        ]
        assert_same_model(*fits)
    # By the layers that there are, and not by those of a model made anew for so many rows.
    rows = np.tile(few, (20, 1))
    assert len(rows) > 1000
    model = small(hidden_layer_sizes="auto", max_iter=1, warm_start=True).fit(few)
    for X_again in (few, rows):
        model.fit(X_again)
        assert not model._uses_bfloat16(model._engine, 127)


def test_works_with_another_default_dtype_of_torch(fitted):
    torch.set_default_dtype(torch.float64)
    try:
        model = small(early_stopping=True).fit(X)
        assert {p.dtype for p in model._engine.model.parameters()} == {torch.float32}
        assert model.transform(X.astype(np.float32)).dtype == np.float32
        np.testing.assert_array_equal(fitted.transform(X), small().fit(X).transform(X))
    finally:
        torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------------------ building blocks

COUNTS = np.random.default_rng(0).negative_binomial(3, 0.1, size=(80, 6)).astype(float)
DOSAGES = np.random.default_rng(0).binomial(2, 0.3, size=(80, 6)).astype(float)


@pytest.mark.parametrize("n_diffusion_steps", [0, 3])
@pytest.mark.parametrize(
    ("likelihood", "rows"),
    [
        ("gaussian", X),
        (GaussianLikelihood(variance=0.1), X),
        ("bernoulli", (X > 3).astype(float)),
        ("binomial", DOSAGES),
        (BinomialLikelihood(n_trials=4), 2 * DOSAGES),
        ("poisson", COUNTS),
        ("negative_binomial", COUNTS),
    ],
    ids=["gaussian", "gaussian-0.1", "bernoulli", "binomial", "binomial-4", "poisson", "negative"],
)
def test_likelihoods(likelihood, rows, n_diffusion_steps):
    model = small(likelihood=likelihood, n_diffusion_steps=n_diffusion_steps, max_iter=20)
    restored = model.inverse_transform(model.fit_transform(rows))
    drawn = model.sample(200, random_state=0)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert np.isfinite(model.score_samples(rows)).all()
    assert np.isfinite(drawn).all()
    spread = rows.std()
    assert abs(drawn.mean() - rows.mean()) < spread
    assert abs(restored.mean() - rows.mean()) < spread
    tags = model.__sklearn_tags__().input_tags
    assert tags.positive_only == (model.likelihood_.name != "gaussian")
    assert tags.allow_nan == (model.likelihood_.name == "binomial")
    if model.likelihood_.name != "gaussian":
        assert restored.min() >= 0
        np.testing.assert_array_equal(drawn, np.rint(drawn))
        assert drawn.min() >= 0
        assert model.score_samples(rows).max() < 0  # a log-probability
    if model.likelihood_.name in ("bernoulli", "binomial"):
        assert drawn.max() <= rows.max()
        assert restored.max() <= rows.max()


class Laplace:
    """A prior of the user's own, no subclass of anything."""

    n_components = 2

    def sample(self, n, generator):
        u = torch.rand(2, n, 2, generator=generator)
        return u[0].log() - u[1].log()

    def log_prob(self, z):
        return -(2 * torch.nn.functional.softplus(-z.abs()) + z.abs()).sum(-1)


PRIORS = [
    "normal",
    "gaussian_mixture",
    "pinwheel",
    "swiss_roll",
    "square",
    PinwheelPrior(n_arms=3),
    EmpiricalPrior(np.random.default_rng(0).normal(size=(50, 2))),
    Laplace(),
]


def label(value):
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize("prior", PRIORS, ids=label)
def test_priors(prior):
    model = small(prior=prior, max_iter=10).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.sample(20, random_state=0)).all()
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    restored = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(restored.score_samples(X), model.score_samples(X))


@pytest.mark.parametrize(
    "noising",
    [
        "cosine",
        "linear",
        "even",
        "variance_exploding",
        [0.1, 0.5, 0.9],
        np.array([0.1, 0.5, 0.9]),
        VarianceExploding(sigma_max=5.0),
    ],
    ids=label,
)
@pytest.mark.parametrize("n_diffusion_steps", [1, 3])
def test_noisings(noising, n_diffusion_steps):
    if isinstance(noising, list | np.ndarray):
        noising = noising[:n_diffusion_steps]
    model = small(noising=noising, n_diffusion_steps=n_diffusion_steps, max_iter=10).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert_same_model(clone(model).fit(X), model)


def test_a_process_that_leaves_nothing_of_the_latents():
    """alpha_T is then 1e-60, whose inverse single precision does not have."""
    model = small(noising=[0.999] * 40, n_diffusion_steps=40, max_iter=3).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.transform(X.astype(np.float32))).all()


def test_accepted_names_are_those_that_can_be_resolved():
    for name in _base.PRIORS:
        assert resolve_prior(name, 2).name == name
    for name in _base.LIKELIHOODS:
        assert resolve_likelihood(name).name == name
    for name in _base.NOISINGS:
        resolve_noising(name, 3)
    for resolve in (
        lambda n: resolve_prior(n, 2),
        resolve_likelihood,
        lambda n: resolve_noising(n, 3),
    ):
        with pytest.raises(ValueError, match="must be one of"):
            resolve("nothing")


# ------------------------------------------------------------------------------ history


@pytest.mark.parametrize("n_diffusion_steps", [0, 1, 3])
def test_history(n_diffusion_steps):
    model = small(n_diffusion_steps=n_diffusion_steps).fit(X, X_val=X[:30])
    posterior = {0: ["posterior_entropy"], 1: ["terminal", "last_step"]}
    terms = [
        "reconstruction",
        "log_prior",
        *posterior.get(n_diffusion_steps, ["terminal", "chain", "last_step"]),
    ]
    history = model.history_
    validation = {f"validation_{name}" for name in (*terms, "elbo", "kl_per_dimension")}
    asleep = {"sleep"} if n_diffusion_steps else set()
    own = {*terms, "elbo", "kl_per_dimension", "weight_penalty", "loss"} | asleep
    assert set(history) == own | validation
    assert own <= _base.RESERVED_TERMS
    assert {len(values) for values in history.values()} == {4}
    assert np.shape(history["kl_per_dimension"]) == (4, 2)
    assert model.loss_curve_ == history["loss"]
    for prefix in ("", "validation_"):
        total = np.sum([history[prefix + name] for name in terms], axis=0)
        np.testing.assert_allclose(history[prefix + "elbo"], total, rtol=1e-5)


def test_loss_is_the_objective():
    history = small(sleep_weight=0.25).fit(X).history_
    objective = 0.25 * np.array(history["sleep"]) - history["elbo"] + history["weight_penalty"]
    np.testing.assert_allclose(history["loss"], objective, rtol=1e-5)
    history = small(sleep="off", kl_weight=0.0, alpha=0.0).fit(X).history_
    np.testing.assert_allclose(history["loss"], np.negative(history["reconstruction"]), rtol=1e-5)


def test_kl_weight_and_warmup_have_an_effect():
    models = [
        small(sleep="off", max_iter=20, kl_weight=weight, kl_warmup=warmup).fit(X)
        for weight, warmup in [(1.0, 0.0), (1.0, 1.0), (20.0, 0.0)]
    ]
    divergence = [np.sum(model.history_["kl_per_dimension"][-1]) for model in models]
    assert divergence[2] < divergence[0] < divergence[1]


# ------------------------------------------------------------------------------ scikit-learn


def test_set_output():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"), index=[f"row {i}" for i in range(80)])
    model = small(n_components=3).set_output(transform="pandas")
    latents = model.fit_transform(frame)
    names = [f"ddvaetransformer{i}" for i in range(3)]
    assert list(latents.columns) == names
    assert list(latents.index) == list(frame.index)
    assert list(model.get_feature_names_out()) == names
    assert list(model.feature_names_in_) == list("abcdef")
    np.testing.assert_array_equal(latents.to_numpy(), small(n_components=3).fit_transform(X))
    assert isinstance(model.inverse_transform(latents), np.ndarray)


def test_set_output_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(X, schema=list("abcdef"))
    latents = small().set_output(transform="polars").fit_transform(frame)
    assert isinstance(latents, polars.DataFrame)
    assert latents.columns == ["ddvaetransformer0", "ddvaetransformer1"]
    np.testing.assert_array_equal(latents.to_numpy(), small().fit_transform(X))


def test_pipeline():
    pipeline = make_pipeline(StandardScaler(), small(max_iter=60, learning_rate_init=5e-3))
    latents = pipeline.fit_transform(X, y=np.arange(80))
    assert latents.shape == (80, 2)
    np.testing.assert_allclose(pipeline.transform(X[:3]), latents[:3], atol=1e-7)
    restored = pipeline.inverse_transform(latents)
    assert np.square(X - restored).sum() < 0.5 * np.square(X - X.mean(axis=0)).sum()
    assert np.isfinite(pipeline.score(X))
    assert list(pipeline.get_feature_names_out()) == ["ddvaetransformer0", "ddvaetransformer1"]
    pipeline.fit(X, ddvaetransformer__X_val=X[:20])
    assert len(pipeline[-1].validation_scores_) == 60


def test_html_repr(fitted):
    for model in (small(), with_objects(), fitted):
        assert "DDVAETransformer" in estimator_html_repr(model)
        assert "DDVAETransformer" in model._repr_html_()
    assert "prior=PinwheelPrior(n_arms=3" in repr(small(prior=PinwheelPrior(n_arms=3)))
    assert repr(DDVAETransformer()) == "DDVAETransformer()"


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.transform(X),
        lambda model: model.inverse_transform(Z),
        lambda model: model.sample(),
        lambda model: model.sample_posterior(X),
        lambda model: model.score_samples(X),
        lambda model: model.score(X),
        lambda model: model.get_feature_names_out(),
        lambda model: model.prior_,
        lambda model: model.likelihood_,
    ],
)
def test_not_fitted(ask):
    with pytest.raises(NotFittedError, match="DDVAETransformer"):
        ask(DDVAETransformer())


def test_verbose(capsys):
    small().fit(X)
    assert capsys.readouterr() == ("", "")
    small(verbose=1).fit(X)
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("Epoch 1/4: bound ")
    assert "held out" not in out
    small(verbose=True).fit(X, X_val=X)
    assert capsys.readouterr().out.count("held out") == 4


@pytest.mark.parametrize("n", [0, -1, 1.0, True, None, "2"])
def test_numbers_of_draws_are_checked(fitted, n):
    with pytest.raises(ValueError, match=f"n_samples must be an integer .* found {n!r}"):
        fitted.sample(n)
    with pytest.raises(ValueError, match=f"n_samples must be an integer .* found {n!r}"):
        fitted.sample_posterior(X, n)
    with pytest.raises(ValueError, match=f"n_importance_samples must be an integer .* found {n!r}"):
        fitted.score_samples(X, n)


# ------------------------------------------------------------------------------ input


@pytest.mark.parametrize("make", [np.array, np.asfortranarray, sparse.csr_matrix, sparse.csr_array])
def test_input_is_never_modified(make):
    rows, held_out, latents = make(X), make(X[:20]), Z.copy()
    parts = [rows, held_out] if isinstance(rows, np.ndarray) else [rows.data, rows.indices]
    before = [joblib.hash(part) for part in (*parts, latents)]
    model = small(early_stopping=True, regularizer=NeighborhoodPreservation(4)).fit(
        rows, X_val=held_out
    )
    model.transform(rows)
    model.score_samples(rows)
    model.sample_posterior(rows, random_state=0)
    model.inverse_transform(latents)
    assert [joblib.hash(part) for part in (*parts, latents)] == before


def test_read_only_input():
    assert not X.flags.writeable
    latents = Z.copy()
    latents.flags.writeable = False
    model = small().fit(X)
    assert_same_model(model, small().fit(X.copy()))
    np.testing.assert_array_equal(model.inverse_transform(latents), model.inverse_transform(Z))


def test_results_do_not_share_memory_with_the_input(fitted):
    rows = X.copy()
    latents, bound = fitted.transform(rows), fitted.score_samples(rows)
    for result in (latents, bound):
        assert not np.shares_memory(result, rows)
        assert result.flags.writeable


# ------------------------------------------------------------------------------ pickles


def tensors_in(value, seen=None):
    """Yield the tensors that can be reached from an object through attributes and containers."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item, seen)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from tensors_in(item, seen)
    elif hasattr(value, "__dict__"):
        yield from tensors_in(vars(value), seen)


def test_ask_memory_pickle_holds_no_training_rows():
    few, many = (small(max_iter=1, batch_size=10**4).fit(make_rows(n)) for n in (50, 5000))
    sizes = [len(pickle.dumps(model)) for model in (few, many)]
    assert sizes[1] < 1.02 * sizes[0]
    assert sizes[1] < make_rows(5000).nbytes / 2
    for dtype in (np.float32, np.float64):
        assert make_rows(5000)[7].astype(dtype).tobytes() not in pickle.dumps(many)
    assert max(len(tensor) for tensor in tensors_in(many) if tensor.ndim) < 5000


def test_pickled_model_goes_on_alike():
    model = small(warm_start=True, prior=PinwheelPrior(n_arms=3)).fit(X)
    restored = pickle.loads(pickle.dumps(model))
    assert_same_model(restored.fit(X), model.fit(X))


def test_promise_15_pickle_of_a_model_elsewhere_is_one_for_the_cpu(fitted):
    model = copy.deepcopy(fitted)
    model._engine.device = torch.device("cuda")  # no tensor is there: the name alone is tested
    restored = pickle.loads(pickle.dumps(model))
    assert restored._engine.device == torch.device("cpu")
    assert model._engine.device == torch.device("cuda")
    np.testing.assert_array_equal(restored.transform(X), fitted.transform(X))


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@needs_cuda
@pytest.mark.parametrize("prior", ["normal", "pinwheel"])
def test_pickle_of_a_cuda_model_holds_cpu_tensors(prior):
    model = small(device="cuda", prior=prior).fit(X)
    found = list(tensors_in(model))
    assert "cuda" in {tensor.device.type for tensor in found}
    restored = pickle.loads(pickle.dumps(model))
    found = list(tensors_in(restored))
    assert len(found) > 10
    assert {tensor.device.type for tensor in found} == {"cpu"}
    np.testing.assert_allclose(restored.transform(X), model.transform(X), atol=1e-6)
    np.testing.assert_allclose(restored.score_samples(X), model.score_samples(X), atol=1e-5)


# In another process: a search with two workers after a fit in the parent, then saved models.
IN_ANOTHER_PROCESS = """
import json, pickle, sys
import joblib, numpy as np
from sklearn.model_selection import GridSearchCV
from skddvi import DDVAETransformer, load

folder = sys.argv[1]
X = np.load(folder + "/X.npy")
with open(folder + "/model.pickle", "rb") as file:
    restored = [pickle.load(file), joblib.load(folder + "/model.joblib")]
restored.append(load(folder + "/model.safetensors"))
for index, model in enumerate(restored):
    np.save(f"{folder}/Z{index}.npy", model.transform(X))

model = DDVAETransformer(hidden_layer_sizes=(16,), max_iter=3, random_state=0).fit(X)
search = GridSearchCV(
    model,
    {"n_diffusion_steps": [0, 2], "prior": ["normal", "pinwheel"]},
    n_jobs=2,
    cv=2,
    error_score="raise",
).fit(X)
print(json.dumps([search.cv_results_["mean_test_score"].tolist(), search.best_params_]))
"""


@pytest.fixture(scope="module")
def another_process(tmp_path_factory, trained):
    """Run the script above; return its folder and what it printed."""
    folder = tmp_path_factory.mktemp("saved")
    np.save(folder / "X.npy", X)
    (folder / "model.pickle").write_bytes(pickle.dumps(trained))
    joblib.dump(trained, folder / "model.joblib")
    save(trained, folder / "model.safetensors")
    process = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, str(folder)],
        capture_output=True,
        text=True,
        timeout=180,  # a search that hangs shall fail
        env=os.environ | {"PYTHONPATH": str(ROOT)},  # the workers get it too
    )
    assert process.returncode == 0, process.stderr
    return folder, json.loads(process.stdout)


def test_saved_model_gives_the_same_in_another_process(another_process, trained):
    folder, _ = another_process
    for index in range(3):
        np.testing.assert_array_equal(np.load(folder / f"Z{index}.npy"), trained.transform(X))


def test_ask_n_jobs_grid_search_with_two_workers_after_a_fit(another_process):
    scores, best = another_process[1]
    assert len(scores) == 4
    assert len(set(scores)) == 4
    assert np.isfinite(scores).all()
    assert best["n_diffusion_steps"] in (0, 2)


def test_more_noise_than_a_sobol_sequence_has_dimensions():
    noise = _score_noise(3, 4 * 5401)
    assert noise.shape == (3, 21604)
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
