"""Few rows with many features: the encoder's principal components, the decoder's penalty."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.decomposition import PCA
from torch import nn

import skddvi
from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer
from skddvi._components import SMALLEST_MEAN_VARIANCE, output_variance, principal_components
from skddvi._engine import inputs, stored
from skddvi._engine.inputs import input_slope, sample_inputs
from skddvi._engine.optimizer import Adam
from skddvi._engine.stored import StoredRows
from skddvi.likelihoods import (
    BernoulliLikelihood,
    BinomialLikelihood,
    GaussianLikelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
)


def structured(n, p, spread, seed=0, d=3):
    """Return outputs (n, p) of rank d whose features have this standard deviation."""
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(n, d)) @ rng.normal(size=(d, p))
    return spread * outputs / outputs.std(0)


def genotypes(n=300, p=400, spread=0.8, seed=0):
    rng = np.random.default_rng(seed + 1)
    chance = 1.0 / (1.0 + np.exp(-structured(n, p, spread, seed) - rng.normal(size=p)))
    return rng.binomial(2, chance).astype(np.float64)


def variance_of_output(likelihood, X):
    return output_variance(sample_inputs(likelihood, X), input_slope(likelihood))


def small(kind=DDVAETransformer, **params):
    defaults = {"hidden_layer_sizes": (32,), "max_iter": 3, "random_state": 0}
    return kind(**defaults | params)


# ---------------------------------------------------------------------- what the rows say


@pytest.mark.parametrize("spread", [0.5, 1.0])
@pytest.mark.parametrize(
    ("likelihood", "draw"),
    [
        (BinomialLikelihood, lambda rng, o: rng.binomial(2, 1.0 / (1.0 + np.exp(-o)))),
        (BernoulliLikelihood, lambda rng, o: rng.binomial(1, 1.0 / (1.0 + np.exp(-o)))),
        (PoissonLikelihood, lambda rng, o: rng.poisson(20.0 * np.exp(o))),
        (NegativeBinomialLikelihood, lambda rng, o: rng.poisson(20.0 * np.exp(o))),
    ],
)
def test_output_variance_is_that_of_the_log_odds_or_log_rates(likelihood, draw, spread):
    outputs = structured(3000, 200, spread)
    X = draw(np.random.default_rng(5), outputs).astype(np.float64)
    fitted = likelihood().fit(X)
    # A derivative at the mean row is a line for a curve: a third is as near as it comes.
    assert variance_of_output(fitted, X) == pytest.approx(spread**2, rel=0.35)


def test_output_variance_of_real_values_is_the_share_that_can_be_predicted():
    rng = np.random.default_rng(0)
    signal = structured(4000, 200, 0.6)
    X = 7.0 * (signal + 0.8 * rng.normal(size=signal.shape)) + 100.0
    fitted = GaussianLikelihood().fit(X)
    assert variance_of_output(fitted, X) == pytest.approx(0.36, abs=0.03)


def test_output_variance_of_noise_is_the_least_that_is_believed():
    X = np.random.default_rng(0).normal(size=(500, 300))
    fitted = GaussianLikelihood().fit(X)
    assert variance_of_output(fitted, X) == SMALLEST_MEAN_VARIANCE


@pytest.mark.parametrize("X", [np.zeros((2, 60)), np.zeros((9, 3)), np.eye(2)])
def test_output_variance_of_hardly_any_rows(X):
    fitted = GaussianLikelihood().fit(X)
    assert 0.0 < variance_of_output(fitted, X) <= 10.0


def test_principal_components_are_those_of_the_inputs_in_one_unit():
    X = structured(200, 80, 1.0) + 0.1 * np.random.default_rng(1).normal(size=(200, 80))
    matrix = principal_components(X, 3)
    reference = PCA(3, random_state=0).fit(X)
    found = (X - X.mean(0)) @ matrix.T
    expected = reference.transform(X)
    np.testing.assert_allclose(np.square(found).mean(), 1.0, rtol=0.01)
    ratio = found.std(0) / expected.std(0)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    assert np.abs(np.corrcoef(found.T, expected.T)[:3, 3:]).diagonal() == pytest.approx(1.0)


def test_sample_of_rows_is_the_same_for_sparse_and_dense():
    X = np.random.default_rng(0).poisson(0.3, size=(50, 20)).astype(np.float64)
    likelihood = PoissonLikelihood().fit(X)
    dense, of_sparse = (sample_inputs(likelihood, form) for form in (X, sparse.csr_matrix(X)))
    np.testing.assert_array_equal(dense, of_sparse)


# ---------------------------------------------------------------------- the decoder's penalty


@pytest.mark.parametrize("alpha", [3.0, 500.0])
def test_penalty_is_what_it_says_and_part_of_the_loss(alpha):
    X = np.random.default_rng(0).normal(size=(90, 5))
    still = {"learning_rate_init": 1e-12, "max_iter": 1}
    model, without = small(alpha=alpha, **still).fit(X), small(alpha=0.0, **still).fit(X)
    weight = model._engine.model.decoder.output.weight.detach().numpy()
    penalty = alpha / (2 * 90) * np.square(weight).sum()
    assert model.history_["weight_penalty"] == pytest.approx([penalty], rel=1e-5)
    assert "weight_penalty" not in without.history_
    assert model.loss_curve_[0] - without.loss_curve_[0] == pytest.approx(penalty, rel=1e-3)
    assert model.history_["elbo"] == pytest.approx(without.history_["elbo"], rel=1e-6)


def test_gradient_of_the_penalty(monkeypatch):
    X, seen = np.random.default_rng(0).normal(size=(64, 3)), []

    def step(adam, learning_rate):
        used = [p for p in adam.parameters if p.grad is not None]
        seen.append([(p.detach().clone(), p.grad.clone()) for p in used])
        return torch.tensor(1.0)

    monkeypatch.setattr(Adam, "step", step)
    for alpha in (0.0, 320.0):
        small(alpha=alpha, batch_size=64, max_iter=1).fit(X)
    changed = [
        (weight, after - before)
        for (_, before), (weight, after) in zip(*seen, strict=True)
        if not torch.equal(before, after)
    ]
    assert [tuple(weight.shape) for weight, _ in changed] == [(3, 32)]  # the last layer's only
    torch.testing.assert_close(changed[0][1], 320.0 / 64 * changed[0][0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_large_alpha_makes_the_decoder_say_the_mean():
    X = structured(200, 6, 1.0)
    flat = small(alpha=1e7, max_iter=60).fit(X)
    bent = small(alpha=0.0, max_iter=60).fit(X)
    spread = [m.inverse_transform(m.transform(X)).std(0).mean() for m in (flat, bent)]
    assert spread[0] < 0.05 < 0.3 < spread[1]


def test_alpha_auto_is_the_width_over_the_variance():
    X = genotypes(120, 30)
    model = small(likelihood="binomial", max_iter=1, learning_rate_init=1e-12).fit(X)
    likelihood = model.likelihood_
    alpha = 32 / variance_of_output(likelihood, X)
    given = clone(model).set_params(alpha=alpha).fit(X)
    assert model.history_["weight_penalty"] == pytest.approx(given.history_["weight_penalty"])


def test_alpha_leaves_a_decoder_of_the_users_alone():
    X = structured(80, 5, 1.0)
    model = small(decoder=lambda n_in, n_out: nn.Linear(n_in, n_out), alpha=1e9).fit(X)
    assert "weight_penalty" not in model.history_


@pytest.mark.parametrize("alpha", [-1.0, "much", None])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match="alpha"):
        small(alpha=alpha).fit(np.eye(9))


# ---------------------------------------------------------------------- the encoder's components


def n_input_components(model):
    return model._engine.build["n_input_components"]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((40, 50), None), ((40, 51), 40), ((254, 51), 50), ((255, 51), None)],
)
def test_auto_is_fifty_components_for_few_rows_with_many_features(shape, expected):
    X = np.random.default_rng(0).normal(size=shape)
    assert n_input_components(small(max_iter=1).fit(X)) == expected
    assert n_input_components(small(max_iter=1, n_input_components=None).fit(X)) is None


def test_encoder_sees_the_components_and_nothing_else():
    X = structured(150, 60, 1.0) + 0.1 * np.random.default_rng(1).normal(size=(150, 60))
    model = small(n_input_components=3, max_iter=5, n_map_steps=0).fit(X)
    matrix = model._engine.model.posterior.body[0].weight.numpy().astype(np.float64)
    assert matrix.shape == (3, 60)
    aside = np.random.default_rng(2).normal(size=X.shape)
    aside -= aside @ np.linalg.pinv(matrix) @ matrix
    moved = X + aside * model.likelihood_.scale.numpy()
    np.testing.assert_allclose(model.transform(moved), model.transform(X), atol=1e-5)
    assert np.abs(model.transform(X + 1.0) - model.transform(X)).max() > 1e-3


def test_components_do_not_change_in_training():
    X = genotypes()
    model = small(likelihood="binomial", max_iter=4).fit(X)
    weight = model._engine.model.posterior.body[0].weight
    expected = principal_components(sample_inputs(model.likelihood_, X), 50)
    np.testing.assert_array_equal(weight.numpy(), expected)
    assert not weight.requires_grad


def test_a_users_encoder_sees_components_where_they_are_asked_for():
    X, widths = structured(60, 70, 1.0), []

    def encoder(n_in, n_out):
        widths.append(n_in)
        return nn.Linear(n_in, n_out)

    for asked in ("auto", None, 7):
        small(encoder=encoder, n_input_components=asked, max_iter=1).fit(X).transform(X)
    assert set(widths) == {70, 7}
    assert widths[-1] == 7


@pytest.mark.parametrize("hidden_layer_sizes", [(), (16,), (16, 8)])
def test_components_with_any_layers(hidden_layer_sizes):
    X = structured(60, 70, 1.0)
    model = small(hidden_layer_sizes=hidden_layer_sizes, n_input_components=4).fit(X)
    assert model.transform(X).shape == (60, 2)


@pytest.mark.parametrize("kind", [DDVAETransformer, DDVAEClusterer, DDVAEClassifier])
def test_components_are_saved_and_pickled(kind, tmp_path):
    X = genotypes(80, 90)
    y = np.arange(80) % 3
    params = {"n_clusters": 3} if kind is DDVAEClusterer else {}
    model = small(kind, likelihood="binomial", **params).fit(X, y)
    assert n_input_components(model) == 50
    path = tmp_path / "model.safetensors"
    skddvi.save(model, path)
    for other in (skddvi.load(path), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.transform(X), model.transform(X))
        torch.testing.assert_close(
            other._engine.model.posterior.body[0].weight,
            model._engine.model.posterior.body[0].weight,
        )


def test_warm_start_keeps_the_components():
    X = genotypes(80, 90)
    model = small(likelihood="binomial", warm_start=True).fit(X)
    with pytest.raises(ValueError, match="n_input_components"):
        model.set_params(n_input_components=5).fit(X)
    before = model._engine.model.posterior.body[0].weight.clone()
    model.set_params(n_input_components="auto").fit(X[::-1].copy())
    torch.testing.assert_close(before, model._engine.model.posterior.body[0].weight)


def test_missing_calls_do_not_matter_to_the_components():
    X = genotypes(100, 80)
    X[::7, ::5] = np.nan
    model = small(likelihood="binomial").fit(X)
    assert np.isfinite(model.transform(X)).all()


@pytest.mark.parametrize(
    "likelihood", ["gaussian", "bernoulli", "binomial", "poisson", "negative_binomial"]
)
def test_rows_without_any_variance(likelihood):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of a training that diverged
        model = small(likelihood=likelihood).fit(np.zeros((60, 70)))
    assert np.isfinite(model.score_samples(np.zeros((3, 70)))).all()


def test_a_sample_of_a_store_is_read_from_few_blocks(monkeypatch):
    monkeypatch.setattr(inputs, "SAMPLE_ROWS", 50)
    monkeypatch.setattr(stored, "BLOCK_BYTES", 4 * 10 * 20)
    array = np.random.default_rng(0).normal(size=(4000, 20)).astype(np.float32)
    store = Store(array)
    likelihood = GaussianLikelihood().fit(array)
    sample = sample_inputs(likelihood, StoredRows(store))
    assert sample.shape == (50, 20)
    assert store.n_read <= 10 * (2 * stored.N_MIXED_BLOCKS)


class Store:
    """Rows that count how many of them were read."""

    chunks = None

    def __init__(self, array):
        self.array, self.n_read = array, 0
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, rows):
        self.n_read += len(self.array[rows])
        return self.array[rows]


def test_divergence_under_an_enormous_alpha_names_it():
    X = np.random.default_rng(0).normal(size=(60, 6))
    with (
        pytest.warns(RuntimeWarning, match="diverged") as caught,
        pytest.raises(FloatingPointError),
    ):
        small(regularizer=lambda z, rows: z.sum() / 0.0).fit(X)
    assert not any("alpha" in str(warning.message) for warning in caught)
    with (
        pytest.warns(RuntimeWarning, match="lower alpha=1e"),
        pytest.raises(FloatingPointError, match="lower alpha=1e"),
    ):
        small(alpha=1e35).fit(X)


# ---------------------------------------------------------------------- what it is for


@pytest.mark.slow
def test_defaults_describe_new_rows_better_where_rows_are_few():
    X = genotypes(500, 400)
    rows, new = X[:200], X[200:]
    plain = {"alpha": 0.0, "n_input_components": None}
    params = {"likelihood": "binomial", "hidden_layer_sizes": (128, 128), "max_iter": 60}
    gains = []
    for seed in range(4):  # which differ by more than the margin allows one of them
        fits = (small(**params | given, random_state=seed).fit(rows) for given in ({}, plain))
        default, without = fits
        gains.append(default.score(new) - without.score(new))
        assert default.score(rows) < without.score(rows)
    assert np.mean(gains) > 3.0
