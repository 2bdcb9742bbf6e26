import copy
import itertools
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse, stats
from scipy.special import expit, softmax
from sklearn.datasets import load_diabetes, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from skddvi.likelihoods import (
    BernoulliLikelihood,
    BinomialLikelihood,
    GaussianLikelihood,
    Likelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    resolve_likelihood,
)
from skddvi.likelihoods._counts import _sampling_std

NAMES = ["gaussian", "bernoulli", "binomial", "poisson", "negative_binomial"]
COUNTS = ["poisson", "negative_binomial"]
N_ROWS, N_FEATURES = 40, 6


def data(name, n_rows=N_ROWS, seed=0):
    """Rows with features of different frequency or scale, in float64."""
    rng = np.random.default_rng(seed)
    shape = (n_rows, N_FEATURES)
    frequency = np.linspace(0.2, 0.8, N_FEATURES)
    if name == "gaussian":
        return rng.normal(np.arange(N_FEATURES), 10.0 ** np.arange(-2, N_FEATURES - 2), shape)
    if name == "bernoulli":
        return rng.binomial(1, frequency, shape).astype(float)
    if name == "binomial":
        return rng.binomial(2, frequency, shape).astype(float)
    return rng.negative_binomial(2, 0.1, shape).astype(float)


def outputs(n_rows=N_ROWS, seed=1, dtype=torch.float64, leading=()):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(*leading, n_rows, N_FEATURES)), dtype=dtype)


def fitted(name, X=None):
    """Likelihood in float64 with learned parameters away from their start."""
    likelihood = resolve_likelihood(name).fit(data(name) if X is None else X).double()
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter += torch.linspace(-1, 1, len(parameter), dtype=torch.float64)
    return likelihood


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def reference_log_prob(likelihood, X, output):
    """The same log-density by scipy.stats, from the documented parametrisation."""
    output = output.detach().numpy()
    if likelihood.name == "gaussian":
        scale = likelihood.scale.numpy()
        centre = likelihood.center.numpy() + likelihood.center_tail.numpy()
        variance = np.exp(likelihood.log_variance.detach().numpy()) + 1e-6
        return stats.norm(centre + scale * output, scale * np.sqrt(variance)).logpdf(X)
    if likelihood.name == "bernoulli":
        return stats.bernoulli(expit(output)).logpmf(X)
    if likelihood.name == "binomial":
        return stats.binom(2, expit(output)).logpmf(X)
    rate = X.sum(axis=1, keepdims=True) * softmax(output, axis=-1)
    if likelihood.name == "poisson":
        return stats.poisson(rate).logpmf(X)
    theta = 1 / (np.exp(-likelihood.log_theta.detach().numpy()) + 1e-3)
    return stats.nbinom(theta, theta / (theta + rate)).logpmf(X)


# --------------------------------------------------------------------------- log-densities


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_log_prob_agrees_with_scipy(name, leading):
    X, likelihood = data(name), fitted(name)
    output = outputs(leading=leading)
    result = likelihood.log_prob(torch.tensor(X), output)
    assert result.shape == (*leading, N_ROWS)
    expected = reference_log_prob(likelihood, X, output).sum(axis=-1)
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.float64])
def test_float32_agrees_with_float64(name, x_dtype):
    double = fitted(name)
    single = copy.deepcopy(double).float()
    x, output = torch.tensor(data(name)), outputs()
    low = single.log_prob(x.to(x_dtype), output.float())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), double.log_prob(x, output), rtol=1e-5, atol=1e-4)
    encoded = single.encode(x.to(x_dtype))
    assert encoded.dtype == torch.float32
    torch.testing.assert_close(encoded.double(), double.encode(x), rtol=1e-4, atol=1e-4)
    for method in (single.mean, lambda o: single.sample(o, generator())):
        assert method(output.float()).dtype == torch.float32
        assert method(output).dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(name):
    likelihood = fitted(name)
    x, output = torch.tensor(data(name)[:3]), outputs(3).requires_grad_()
    parameters = tuple(likelihood.parameters())
    # gradcheck perturbs its inputs in place, so the parameters need not be passed on.
    assert torch.autograd.gradcheck(
        lambda output, *_: likelihood.log_prob(x, output), (output, *parameters)
    )


@pytest.mark.parametrize("name", ["bernoulli", "binomial"])
def test_probabilities_of_all_rows_sum_to_one(name):
    values = [0.0, 1.0] if name == "bernoulli" else [0.0, 1.0, 2.0]
    x = torch.tensor(list(itertools.product(values, repeat=N_FEATURES)), dtype=torch.float64)
    total = fitted(name).log_prob(x, outputs(1).expand(len(x), -1)).exp().sum()
    assert total.item() == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-8, 1e8), shift=st.floats(-5, 5))
def test_gaussian_log_prob_follows_the_units(scale, shift):
    # The density of scale * X is that of X divided by scale, feature by feature.
    X, output = data("gaussian"), outputs()
    before = GaussianLikelihood().fit(X).double().log_prob(torch.tensor(X), output)
    Y = scale * (X + shift)
    after = GaussianLikelihood().fit(Y).double().log_prob(torch.tensor(Y), output)
    expected = before - N_FEATURES * np.log(scale)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-3)


def test_gaussian_variance_fixed_and_floor():
    X, output = data("gaussian"), outputs()
    likelihood = GaussianLikelihood(variance=0.25).fit(X).double()
    assert not list(likelihood.parameters())
    scale = likelihood.scale.numpy()
    expected = stats.norm(likelihood.mean(output).numpy(), 0.5 * scale).logpdf(X).sum(axis=1)
    np.testing.assert_allclose(likelihood.log_prob(torch.tensor(X), output).numpy(), expected)

    learned = GaussianLikelihood().fit(X)
    torch.nn.init.constant_(learned.log_variance, -1000.0)
    log_prob = learned.log_prob(torch.tensor(X), output.float())
    assert torch.isfinite(log_prob).all()
    log_prob.sum().backward()
    assert torch.isfinite(learned.log_variance.grad).all()


def test_bernoulli_soft_targets_are_cross_entropy():
    X = np.random.default_rng(0).random((N_ROWS, N_FEATURES))
    output = outputs()
    p = expit(output.numpy())
    expected = (X * np.log(p) + (1 - X) * np.log1p(-p)).sum(axis=1)
    result = BernoulliLikelihood().fit(X).log_prob(torch.tensor(X), output)
    np.testing.assert_allclose(result.numpy(), expected)


def test_bernoulli_extreme_logits_are_finite():
    likelihood = fitted("bernoulli")
    x, output = torch.tensor([[0.0, 1.0] * 3]), torch.full((1, N_FEATURES), 1e4)
    assert likelihood.log_prob(x, output).item() == pytest.approx(-3e4)


# --------------------------------------------------------------------------- dosages


def test_missing_calls_are_masked():
    X = data("binomial")
    missing = np.random.default_rng(3).random(X.shape) < 0.3
    missing[0] = True  # a row without any call
    X[missing] = np.nan
    likelihood = fitted("binomial", X)
    likelihood.check(X)
    x, output = torch.tensor(X), outputs(leading=(2,)).requires_grad_()
    result = likelihood.log_prob(x, output)
    filled = np.where(missing, 0.0, X)
    terms = np.where(missing, 0.0, reference_log_prob(likelihood, filled, output))
    np.testing.assert_allclose(result.detach().numpy(), terms.sum(axis=-1), atol=1e-12)
    assert (result[:, 0] == 0).all()

    result.sum().backward()
    assert (output.grad[:, torch.tensor(missing)] == 0).all()
    assert (output.grad[:, torch.tensor(~missing)] != 0).all()
    encoded = likelihood.encode(x)
    assert (encoded[torch.tensor(missing)] == 0).all()
    torch.testing.assert_close(
        encoded.sum(dim=0), torch.zeros(N_FEATURES).double(), atol=1e-4, rtol=0
    )


def test_column_without_any_call():
    X = data("binomial")
    X[:, 2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        likelihood = BinomialLikelihood().fit(X)
    assert likelihood.mean(likelihood.initial_output())[2] == 1.0
    assert torch.isfinite(likelihood.encode(torch.tensor(X))).all()


@pytest.mark.parametrize("n_trials", [1, 2, 4])
def test_binomial_with_other_ploidy(n_trials):
    X = np.random.default_rng(0).binomial(n_trials, 0.4, (N_ROWS, N_FEATURES)).astype(float)
    likelihood, output = BinomialLikelihood(n_trials=n_trials).fit(X), outputs()
    expected = stats.binom(n_trials, expit(output.numpy())).logpmf(X).sum(axis=1)
    np.testing.assert_allclose(likelihood.log_prob(torch.tensor(X), output).numpy(), expected)
    assert likelihood.sample(output, generator()).max() <= n_trials


def test_imputed_dosages_interpolate_the_calls():
    likelihood, output = fitted("binomial"), outputs(1)
    at = [likelihood.log_prob(torch.full((1, 6), v).double(), output) for v in (0.999999, 1.0)]
    torch.testing.assert_close(*at, atol=1e-4, rtol=0)


# --------------------------------------------------------------------------- moments and starts


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_mean_and_variance(name):
    likelihood, n_draws = fitted(name), 20_000
    output = outputs(1)
    library = 50.0 if name in COUNTS else None
    draws = likelihood.sample(output.expand(n_draws, -1), generator(), library=library).numpy()
    mean = likelihood.mean(output, library=library)[0].detach().numpy()
    if name == "gaussian":
        log_variance = likelihood.log_variance.detach().numpy()
        variance = likelihood.scale.numpy() ** 2 * (np.exp(log_variance) + 1e-6)
    elif name in ("bernoulli", "binomial"):
        n_trials = 1 if name == "bernoulli" else 2
        variance = mean * (1 - mean / n_trials)
    elif name == "poisson":
        variance = mean
    else:
        theta = 1 / (np.exp(-likelihood.log_theta.detach().numpy()) + 1e-3)
        variance = mean + mean**2 / theta
    error = np.abs(draws.mean(axis=0) - mean) / np.sqrt(variance / n_draws)
    assert error.max() < 5
    np.testing.assert_allclose(draws.var(axis=0), variance, rtol=0.1)
    likelihood.check(draws)


@pytest.mark.parametrize("name", NAMES)
def test_initial_output_predicts_the_training_mean(name):
    X = data(name)
    likelihood = resolve_likelihood(name).fit(X)
    library = X.sum(axis=1).mean() if name in COUNTS else None
    mean = likelihood.mean(likelihood.initial_output(), library=library)
    np.testing.assert_allclose(mean.numpy(), X.mean(axis=0), rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_initial_output_is_finite_for_extreme_frequencies(name):
    X = data(name)
    X[:, 0], X[:, 1] = 0, 1
    X[:3] = 0
    assert torch.isfinite(resolve_likelihood(name).fit(X).initial_output()).all()


@pytest.mark.parametrize("name", NAMES)
def test_encoded_training_rows_have_unit_scale(name):
    likelihood, X = fitted(name), data(name)
    encoded = likelihood.encode(torch.tensor(X))
    assert encoded.mean(dim=0).abs().max() < 1e-5
    assert encoded.square().mean().sqrt().item() == pytest.approx(1, abs=1e-5)


# --------------------------------------------------------------------------- scaling


def component_scores(n_rows=300, n_components=8, seed=0):
    """Principal components of three groups of rows in noise."""
    rng = np.random.default_rng(seed)
    centres = np.array([8.0, 5.0, 3.0])[:, None] * rng.standard_normal((3, 12))
    rows = centres[rng.integers(3, size=n_rows)] + rng.standard_normal((n_rows, 12))
    return PCA(n_components, random_state=0).fit_transform(rows)


def whether_components(X):
    return GaussianLikelihood().fit(X).unit is not None


def test_principal_components_keep_their_scales():
    X = component_scores()
    likelihood = GaussianLikelihood().fit(X).double()
    unit = np.sqrt(X.var(axis=0).mean())
    assert likelihood.unit.item() == likelihood.input_scale.item() == pytest.approx(unit, rel=1e-6)
    encoded = likelihood.encode(torch.tensor(X))
    np.testing.assert_allclose(encoded.numpy(), X / unit, rtol=1e-5, atol=1e-5)
    # What they are divided by is for the encoder alone.
    own = GaussianLikelihood(scaling="features").fit(X).double()
    x, output = torch.tensor(X), torch.zeros(X.shape, dtype=torch.float64)
    assert torch.equal(likelihood.log_prob(x, output), own.log_prob(x, output))
    assert torch.equal(likelihood.mean(output), own.mean(output))


@pytest.mark.parametrize("scaling", ["features", "common"])
@pytest.mark.parametrize("make", [component_scores, lambda: data("gaussian")])
def test_the_scaling_that_was_asked_for(scaling, make):
    X = make()
    likelihood = GaussianLikelihood(scaling=scaling).fit(X)
    spread = likelihood.encode(torch.tensor(X)).std(dim=0, correction=0).numpy()
    expected = X.std(0) / np.sqrt(X.var(0).mean()) if scaling == "common" else 1.0
    np.testing.assert_allclose(spread, expected, rtol=1e-4)
    # A refit decides again.
    likelihood.scaling = "features"
    assert likelihood.fit(X).unit is None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), unit=st.floats(1e-8, 1e8))
def test_components_are_known_in_any_unit_and_by_a_part_of_their_rows(seed, unit):
    X = unit * component_scores(600, seed=seed)
    part = np.random.default_rng(seed).permutation(600)[:400]
    assert whether_components(X)
    assert whether_components(X[part])
    assert whether_components(sparse.csr_matrix(X))


def test_components_beyond_the_rank_do_not_matter():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 6)) * [8, 5, 3, 2, 1, 1] @ rng.standard_normal((6, 20))
    scores = PCA(random_state=0).fit_transform(X)
    assert scores.shape == (40, 20)
    assert scores.std(axis=0)[6:].max() < 1e-10
    assert whether_components(scores)


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("scaling", ["auto", "common"])
def test_constant_columns_have_no_share_in_the_common_scale(scaling, unit):
    X = unit * np.column_stack([component_scores(), np.zeros(300)])
    likelihood = GaussianLikelihood(scaling=scaling).fit(X)
    encoded = likelihood.encode(torch.tensor(X))[:, :-1]
    assert encoded.square().mean().sqrt().item() == pytest.approx(1.0, rel=1e-4)
    assert GaussianLikelihood(scaling="common").fit(np.ones((3, 2))).unit == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardised_rows_of_wild_scales(dtype):
    X = (component_scores() * 10.0 ** np.array([9, 9, 9, 9, 9, 9, 9, -29])).astype(dtype)
    likelihood = GaussianLikelihood(scaling="common").fit(X)
    standardised = likelihood.standardize(torch.tensor(X))
    np.testing.assert_allclose(standardised.std(dim=0, correction=0).numpy(), 1.0, rtol=1e-4)
    for name in COUNTS:
        likelihood, x = fitted(name), torch.tensor(data(name))
        assert torch.equal(likelihood.standardize(x), likelihood.encode(x))


@pytest.mark.parametrize(
    "X",
    [
        load_wine().data,
        load_iris().data,
        load_diabetes().data,
        load_digits().data,
        StandardScaler().fit_transform(load_wine().data),
        StandardScaler(with_std=False).fit_transform(load_wine().data),
        PCA(random_state=0).fit_transform(load_wine().data)[:, ::-1],
        PCA(random_state=0).fit_transform(load_wine().data) + 100.0,
        data("gaussian"),
        np.zeros((5, 3)),
        np.ones((1, 3)),
        component_scores()[:, :1],
        # Unrelated measurements: few of them, and in units far apart.
        component_scores()[:, [0, 1, 2, 4]],
        component_scores(seed=1) * np.geomspace(1.0, 0.01, 8),
    ],
    ids=[
        *("wine", "iris", "diabetes", "digits", "standardised", "centred", "reversed"),
        *("shifted", "rising", "constant", "one row", "one component", "four", "far apart"),
    ],
)
def test_anything_else_is_standardised(X):
    assert not whether_components(X)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_in_units_of_their_sampling_noise(name):
    rng = np.random.default_rng(0)
    library = rng.lognormal(np.log(200), 0.4, 20_000)
    shares = np.array([0.001, 0.004, 0.025, 0.07, 0.1, 0.8])
    rates = library[:, None] * shares
    rates[:, 3] *= rng.choice([0.3, 1.7], len(library))  # two kinds of rows
    likelihood = resolve_likelihood(name).fit(rng.poisson(rates))
    encoded = likelihood.encode(torch.tensor(rng.poisson(rates)))
    spread = encoded.std(dim=0).numpy()
    alike = spread[[0, 1, 2, 4, 5]]
    # The most frequent feature is less noisy than what counts as a unit at least.
    np.testing.assert_allclose(alike[:4], alike[0], rtol=0.1)
    assert alike[4] < alike[0]
    assert spread[3] > 1.4 * alike[0]


@settings(max_examples=15, deadline=None)
@given(rate=st.floats(0.05, 1e3), size=st.floats(0.3, 3.0))
def test_sampling_noise_is_that_of_samples(rate, size):
    draws = np.random.default_rng(0).poisson(rate * size, 1_000_000)
    expected = np.log1p(draws / size).std()
    found = _sampling_std(np.array([rate, 2e3]), np.array([size]))[0]
    assert found == pytest.approx(expected, rel=0.02, abs=2e-3)


def test_library_of_means_and_samples():
    X = data("poisson", n_rows=500)
    library = X.sum(axis=1)
    likelihood = PoissonLikelihood().fit(X).double()
    assert likelihood.mean(outputs(1)).sum().item() == pytest.approx(np.median(library))
    sizes = torch.linspace(1, 100, N_ROWS).double()
    torch.testing.assert_close(likelihood.mean(outputs(), library=sizes).sum(dim=-1), sizes)
    totals = likelihood.sample(outputs(4000), generator()).sum(dim=-1).numpy()
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(
        np.quantile(totals, quantiles), np.quantile(library, quantiles), rtol=0.1
    )


def test_dispersion_starts_at_the_moment_estimate():
    rng = np.random.default_rng(0)
    shares, theta = np.full(N_FEATURES, 1 / N_FEATURES), np.array([0.3, 1, 2, 4, 8, 16])
    mean = rng.uniform(500, 1500, (5000, 1)) * shares
    X = rng.poisson(mean * rng.gamma(theta, 1 / theta, mean.shape))
    estimate = NegativeBinomialLikelihood().fit(X).log_theta.exp().detach().numpy()
    assert (np.diff(estimate) > 0).all()
    assert (np.abs(np.log(estimate / theta)) < 1).all()


# --------------------------------------------------------------------------- awkward data


def all_finite(likelihood, X):
    likelihood.fit(X)
    x = torch.tensor(X, dtype=torch.float32)
    output = outputs(len(X), dtype=torch.float32).requires_grad_()
    log_prob = likelihood.log_prob(x, output)
    log_prob.sum().backward()
    values = [likelihood.encode(x), log_prob, likelihood.mean(output), likelihood.initial_output()]
    values += [likelihood.sample(output, generator()), output.grad]
    values += [parameter.grad for parameter in likelihood.parameters()]
    return all(torch.isfinite(value).all() for value in values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("constant", [0.0, 1.0])
@pytest.mark.parametrize("n_rows", [1, 2, N_ROWS])
def test_constant_columns_and_empty_rows(name, constant, n_rows):
    X = data(name, n_rows=n_rows)
    X[:, 1] = constant
    X[0] = 0
    assert all_finite(resolve_likelihood(name), X)
    assert all_finite(resolve_likelihood(name), np.full_like(X, constant))


def test_constant_column_has_scale_one():
    X = data("gaussian")
    X[:, 2] = 0.1  # its mean over 40 rows is not exactly 0.1
    likelihood = GaussianLikelihood().fit(X)
    assert likelihood.scale[2] == 1
    assert likelihood.encode(torch.tensor(X))[:, 2].abs().max() < 1e-12


def test_row_of_zeros_has_library_one():
    likelihood, x = fitted("poisson"), torch.zeros(1, N_FEATURES)
    # sum_j rate_j = library = 1, and every count is zero
    assert likelihood.log_prob(x, outputs(1)).item() == pytest.approx(-1)
    assert likelihood.encode(x).isfinite().all()


@settings(max_examples=30, deadline=None)
@given(exponents=hnp.arrays(int, N_FEATURES, elements=st.integers(-28, 28)))
def test_wild_scales_stay_finite(exponents):
    X = np.random.default_rng(0).normal(3, 1, (N_ROWS, N_FEATURES)) * 10.0**exponents
    likelihood = GaussianLikelihood()
    assert all_finite(likelihood, X)
    encoded = likelihood.encode(torch.tensor(X, dtype=torch.float32))
    assert encoded.abs().max() < 10
    std = encoded.std(dim=0, correction=0).numpy()
    np.testing.assert_allclose(std, 1, rtol=1e-4)
    back = likelihood.mean(encoded).numpy()
    np.testing.assert_allclose(back, X, rtol=1e-4)


def test_values_beyond_float32_stay_finite():
    X = np.random.default_rng(0).normal(size=(N_ROWS, 2)) * [1e-60, 1e60]
    likelihood = GaussianLikelihood().fit(X)
    assert torch.isfinite(likelihood.encode(torch.tensor(X))[:, 0]).all()
    assert torch.isfinite(likelihood.mean(torch.zeros(1, 2))).all()


def test_large_offset_keeps_its_precision():
    # float32 alone would lose the spread of 1 beside the mean of 1e6
    X = 1e6 + np.random.default_rng(0).normal(size=(N_ROWS, 1))
    likelihood = GaussianLikelihood().fit(X)
    expected = (X - X.mean()) / X.std()
    np.testing.assert_allclose(likelihood.encode(torch.tensor(X)).numpy(), expected, atol=1e-4)
    back = likelihood.double().mean(torch.tensor(expected)).numpy()
    np.testing.assert_allclose(back, X, rtol=1e-12)


def test_offset_beyond_the_resolution_of_float32():
    X = 1e9 + np.random.default_rng(0).normal(size=(N_ROWS, N_FEATURES))
    likelihood = GaussianLikelihood()
    assert all_finite(likelihood, X)
    assert likelihood.encode(torch.tensor(X, dtype=torch.float32)).abs().max() <= 2


@pytest.mark.parametrize("cls", [PoissonLikelihood, NegativeBinomialLikelihood])
def test_large_counts_keep_their_precision(cls):
    rng = np.random.default_rng(0)
    # Rows in proportion, so that the densities are of the size of what rounding may cost.
    rates = rng.uniform(0.5, 2.0, size=(N_ROWS, 1)) * rng.gamma(2.0, 1e6, size=50)
    X = rng.poisson(rates).astype(np.float32)
    likelihood = cls().fit(X)
    output = likelihood.initial_output().expand(N_ROWS, -1)
    found = likelihood.log_prob(torch.tensor(X), output)
    expected = likelihood.log_prob(torch.tensor(X).double(), output.double())
    assert found.dtype == torch.float32
    # In float32 throughout it would be a few nats.
    np.testing.assert_allclose(found.detach(), expected.detach(), atol=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_every_container_and_dtype_gives_the_same_fit(name, tmp_path, monkeypatch):
    X = np.rint(data(name))  # whole numbers survive every dtype
    several_blocks = 3 * N_FEATURES
    monkeypatch.setattr("skddvi.likelihoods._statistics._BLOCK_ENTRIES", several_blocks)
    path = tmp_path / "X.npy"
    np.save(path, X)
    read_only = X.copy()
    read_only.setflags(write=False)
    inputs = [
        sparse.csr_matrix(X),
        sparse.csr_array(X),
        np.asfortranarray(X),
        read_only,
        np.load(path, mmap_mode="r"),
        X.astype(np.float32),
        X.astype(np.int64),
    ]
    reference = resolve_likelihood(name).fit(X).state_dict()
    for other in inputs:
        likelihood = resolve_likelihood(name)
        likelihood.check(other)
        for key, value in likelihood.fit(other).state_dict().items():
            torch.testing.assert_close(value, reference[key], rtol=1e-6, atol=1e-6)
    assert inputs[0].format == "csr"


@pytest.mark.parametrize("name", NAMES)
def test_sparse_data_are_not_densified(name):
    rng = np.random.default_rng(0)
    places = rng.integers(4000, size=2000), rng.permutation(5000)[:2000]
    X = sparse.csr_matrix((np.ones(2000), places), shape=(4000, 5000))
    dense_bytes = 8 * X.shape[0] * X.shape[1]
    tracemalloc.start()
    try:
        likelihood = resolve_likelihood(name)
        likelihood.check(X)
        likelihood.fit(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < dense_bytes / 2


@pytest.mark.parametrize("name", NAMES)
def test_integer_rows(name):
    likelihood, X = resolve_likelihood(name).fit(data(name)), np.rint(data(name))
    output = outputs(dtype=torch.float32)
    x = torch.tensor(X)
    torch.testing.assert_close(likelihood.encode(x.long()), likelihood.encode(x))
    torch.testing.assert_close(
        likelihood.log_prob(x.long(), output), likelihood.log_prob(x, output)
    )


# --------------------------------------------------------------------------- checks and messages


@pytest.mark.parametrize("name", NAMES)
def test_check_accepts_good_data_silently(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve_likelihood(name).check(data(name))


@pytest.mark.parametrize("name", ["gaussian", "bernoulli", "poisson", "negative_binomial"])
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_matrix])
def test_missing_values_are_counted(name, container):
    X = data(name)
    X[0, 4], X[2, 1], X[3, 1] = np.nan, np.inf, np.nan
    message = rf"{name}.*3 NaN or inf values, the first in columns \[1, 4\].*SimpleImputer"
    with pytest.raises(ValueError, match=message):
        resolve_likelihood(name).check(container(X))


def test_dosages_outside_the_range_are_named():
    X = np.tile(data("binomial"), (20, 1))
    X.ravel()[:412] = -1
    with pytest.raises(ValueError, match=r"values outside 0\.\.2: 412 entries equal -1;.*NaN"):
        BinomialLikelihood().check(X)
    X.ravel()[500:530], X.ravel()[600], X.ravel()[700:702] = 9, 255, 3
    message = (
        r"0\.\.2: 412 entries equal -1, 30 entries equal 9, 2 entries equal 3 and other values"
    )
    with pytest.raises(ValueError, match=message):
        BinomialLikelihood().check(X.astype(np.int16))
    with pytest.raises(ValueError, match=r"1 entry equals inf"):
        BinomialLikelihood().check(np.array([[0.0, np.inf, np.nan]]))
    with pytest.raises(ValueError, match=r"n_trials=4 .* outside 0\.\.4: 1 entry equals 5"):
        BinomialLikelihood(n_trials=4).check(np.array([[4, 5]]))
    with pytest.raises(ValueError, match="and other values"):
        BinomialLikelihood().check(np.random.default_rng(0).normal(10, 1, (400, 6)))


def test_imputed_dosages_are_accepted():
    BinomialLikelihood().check(np.array([[0.0, 0.37, 2 + 1e-7], [np.nan, 1.99, -1e-8]]))


@pytest.mark.parametrize("name", ["gaussian", "negative_binomial"])
@pytest.mark.parametrize("code", [-1, 9, 255])
def test_coded_missing_calls_raise_a_warning(name, code):
    X = data("binomial").astype(np.int16)
    X[3, 3] = code
    likelihood = resolve_likelihood(name)
    with pytest.warns(UserWarning, match=rf"0, 1, 2 and {code}, .*dosages.*'binomial'"):
        if name != "gaussian" and code < 0:
            with pytest.raises(ValueError, match="counts >= 0"):
                likelihood.check(X)
        else:
            likelihood.check(X)


@pytest.mark.parametrize("values", [[-1, 1], [-1, 0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 9, -1]])
def test_other_small_integers_raise_no_warning(values):
    X = np.random.default_rng(0).choice(values, (200, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianLikelihood().check(X)


def test_bernoulli_names_the_range():
    X = data("bernoulli")
    X[0, 0] = 300
    message = r"likelihood='bernoulli' needs X in \[0, 1\], found \[0, 300\];.*MinMaxScaler"
    with pytest.raises(ValueError, match=message):
        BernoulliLikelihood().check(X)
    X[0, 0] = 1 + 1e-12  # rounding of a scaler
    BernoulliLikelihood().check(X)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_must_be_counts(name):
    X, likelihood = data(name), resolve_likelihood(name)
    X[0, :2] = [-3, -1]
    with pytest.raises(ValueError, match=rf"{name}.*counts >= 0, found 2 negative.*lowest -3;"):
        likelihood.check(X)
    with pytest.warns(UserWarning, match=rf"{name}.*raw counts.*not integers"):
        likelihood.check(np.log1p(data(name)))


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"likelihood must be one of \[.*got 'normal'"):
        resolve_likelihood("normal")
    with pytest.raises(TypeError, match=r"instance of .*Likelihood, got <class"):
        resolve_likelihood(GaussianLikelihood)
    for variance in ("fixed", 0, -1.0, np.inf, None):
        with pytest.raises(ValueError, match="variance must be 'learned' or a positive number"):
            GaussianLikelihood(variance=variance)
    for scaling in ("feature", None, True):
        with pytest.raises(ValueError, match="scaling must be one of"):
            GaussianLikelihood(scaling=scaling)
    for n_trials in (0, 1.5, "2", None):
        with pytest.raises(ValueError, match="n_trials must be a positive integer"):
            BinomialLikelihood(n_trials=n_trials)


# --------------------------------------------------------------------------- life cycle


@pytest.mark.parametrize("name", NAMES)
def test_draws_use_the_given_generator_only(name):
    likelihood, output = fitted(name), outputs()
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = likelihood.sample(output, generator(7))
    assert torch.equal(first, likelihood.sample(output, generator(7)))
    assert not torch.equal(first, likelihood.sample(output, generator(8)))
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert not likelihood.sample(output.requires_grad_(), generator()).requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_copies_are_equal_and_independent(name):
    likelihood = fitted(name)
    x, output = torch.tensor(data(name)), outputs()
    expected = likelihood.log_prob(x, output)
    loaded = resolve_likelihood(name).double()
    loaded.load_state_dict(likelihood.state_dict())
    copies = [
        copy.deepcopy(likelihood),
        pickle.loads(pickle.dumps(likelihood)),
        resolve_likelihood(likelihood),
        loaded,
    ]
    for other in copies:
        assert repr(other) == repr(likelihood)
        assert other.n_features == N_FEATURES
        assert torch.equal(other.log_prob(x, output), expected)
        assert torch.equal(other.encode(x), likelihood.encode(x))
        with torch.no_grad():
            for value in (*other.parameters(), *other.buffers()):
                value.fill_(1.0)
    assert torch.equal(likelihood.log_prob(x, output), expected)


@pytest.mark.parametrize("name", NAMES)
def test_fit_can_be_repeated(name):
    likelihood = resolve_likelihood(name).fit(data(name)[:, :3])
    assert likelihood.fit(data(name)).n_features == N_FEATURES
    fresh = resolve_likelihood(name).fit(data(name)).state_dict()
    for key, value in likelihood.state_dict().items():
        assert torch.equal(value, fresh[key])


def test_names_and_arguments():
    assert [resolve_likelihood(name).name for name in NAMES] == NAMES
    accepting = [name for name in NAMES if resolve_likelihood(name).accepts_missing]
    assert accepting == ["binomial"]
    assert issubclass(NegativeBinomialLikelihood, Likelihood)
    shown = "GaussianLikelihood(variance=0.5, scaling='auto')"
    assert repr(GaussianLikelihood(variance=0.5)) == shown
