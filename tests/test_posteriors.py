"""What a posterior draws, and what an estimator makes of it: shapes, determinism, spread."""

import numpy as np
import pytest
import torch
from _linear_gaussian import (
    draw_rows,
    exact_posterior,
    gaussian_of,
    make_model,
    noise_schedule,
    perturb,
    predict,
    set_posterior,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, normaltest

from skddvi import DDVAETransformer
from skddvi._engine.objective import bound_terms, kl_per_dimension
from skddvi._engine.posteriors import LOG_VARIANCE_BOUNDS
from skddvi.mixture_prior import MixturePrior
from skddvi.priors import GaussianMixturePrior, NormalPrior, resolve_prior

PROCESSES = ["cosine", "linear", "even", "variance_exploding", [0.1, 0.4, 0.9]]


def draws_of(model, x, n_draws, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = n_draws, len(x), model.posterior.noise_size
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return model.posterior.draw(model.infer(x), noise)


def vague_model(prior, n_steps, noising="cosine"):
    """Return an untrained model whose encoder says of every row that it tells nothing."""
    model = make_model(prior, n_steps, noising)
    with torch.no_grad():
        model.posterior.head.weight.zero_()
        model.posterior.head.bias.zero_()
        model.posterior.head.bias[2:4] = LOG_VARIANCE_BOUNDS[1]
    return model


# --------------------------------------------------------------------------- the untrained chain


@pytest.mark.parametrize("noising", PROCESSES, ids=str)
@pytest.mark.parametrize("n_steps", [1, 2, 8])
def test_an_untrained_chain_draws_what_prior_and_evidence_say(n_steps, noising):
    """Whatever the process and however few its steps: exactly so under a normal prior."""
    n_steps = n_steps if isinstance(noising, str) else len(noising)
    model = make_model(n_steps=n_steps, noising=noising)
    set_posterior(model)
    x = draw_rows(model, 3)
    posterior = model.posterior
    mean, variance = gaussian_of(posterior, model.infer(x))
    loc, scale = posterior.loc.numpy(), posterior.scale.numpy()
    mean, std = loc + scale * mean, scale * np.sqrt(variance)
    z = draws_of(model, x, 20_000).z.numpy()
    standardised = (z - mean) / std
    assert abs(standardised.mean(0)).max() < 4.5 / np.sqrt(len(z))
    # The standard error of a standard deviation is 1 / sqrt(2 n).
    assert abs(standardised.std(0) - 1).max() < 4.5 / np.sqrt(2 * len(z))
    for row in range(3):
        for axis in range(2):
            assert kstest(standardised[:, row, axis], "norm").pvalue > 1e-4
        assert normaltest(z[:, row] @ [0.6, -0.8]).pvalue > 1e-4
        assert abs(np.corrcoef(z[:, row].T)[0, 1]) < 4.5 / np.sqrt(len(z))


@pytest.mark.parametrize("noising", PROCESSES, ids=str)
def test_the_chain_starts_wide_and_ends_where_the_data_say(noising):
    """The spread of z given y_t falls with t by the known rule, which the last step ends on."""
    n_steps = 8 if isinstance(noising, str) else len(noising)
    model = make_model(n_steps=n_steps, noising=noising)
    set_posterior(model)
    x = draw_rows(model, 3)
    condition = model.infer(x)
    _, variance = gaussian_of(model.posterior, condition)
    log_first, log_last = (condition[i].detach().numpy() for i in (1, 4))
    alpha, sigma, (_, mean_z, std) = noise_schedule(noising, n_steps)
    marginal = np.sqrt(alpha[-1] ** 2 * variance + sigma[-1] ** 2)
    assert np.exp(log_first) == pytest.approx(marginal)
    assert (log_last == 0).all()
    y = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chain = model.posterior._chain(condition)
    for t in range(1, n_steps + 1):
        spread = model.posterior.predict(y, chain[t], condition)[1].detach().numpy()
        unknown = 1 / (1 / variance + (alpha[t] / sigma[t]) ** 2)
        assert spread == pytest.approx(np.sqrt(std[t] ** 2 + mean_z[t] ** 2 * unknown))
    # The last step has no spread but what is unknown of z.
    assert (std[1], mean_z[1]) == pytest.approx((0.0, 1.0))


def test_an_untrained_prediction_is_the_mean_of_z_given_the_noised_latent():
    model = make_model(n_steps=8)
    set_posterior(model)
    x = draw_rows(model, 4)
    condition = model.infer(x)
    mean, variance = gaussian_of(model.posterior, condition)
    alpha, sigma, _ = noise_schedule("cosine", 8)
    y = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in range(1, 9):
        precision = 1 / variance + (alpha[t] / sigma[t]) ** 2
        expected = (mean / variance + alpha[t] / sigma[t] ** 2 * y.numpy()) / precision
        found = predict(model.posterior, y, t, condition)
        assert found.detach().numpy() == pytest.approx(expected, abs=1e-9)


def two_points(scale=0.05):
    return GaussianMixturePrior([[-1.0, 0.0], [1.0, 0.0]], [[scale, scale]] * 2)


def slope_between(prior):
    """Return the slopes of mean and variance of z in an observation between two parts, (2,)."""
    posterior = make_model(prior, n_steps=4).posterior
    u = torch.tensor([[0.02, 0.0]], dtype=torch.float64, requires_grad=True)
    moments = posterior._denoise(u, torch.full((1, 2), 0.1, dtype=torch.float64))
    return [torch.autograd.grad(m[0, 0], u, retain_graph=True)[0][0, 0].item() for m in moments]


def test_gradients_are_cut_where_an_observation_lies_between_parts_of_the_prior():
    """The slope of the mean is Var[z | y] / variance, about 10 here: training takes 1."""
    posterior = make_model(two_points(), n_steps=4).posterior
    u = torch.tensor([[0.02, 0.0]], dtype=torch.float64)
    variance = torch.full((1, 2), 0.1, dtype=torch.float64)
    mean, left = posterior._denoise(u, variance)
    low, high = (posterior._denoise(u + torch.tensor([[h, 0.0]]), variance) for h in (-1e-6, 1e-6))
    true_slopes = [((b - a) / 2e-6)[0, 0].item() for a, b in zip(low, high, strict=True)]
    steepness = (left / variance)[0, 0].item()
    assert true_slopes[0] == pytest.approx(steepness, rel=1e-5)
    assert steepness > 5.0
    # Both are divided by how much too steep the mean is.
    expected = [slope / steepness for slope in true_slopes]
    assert slope_between(two_points()) == pytest.approx(expected, rel=1e-5)
    # The values are those of the prior.
    expected = posterior.prior.denoise(
        posterior._unstandardise(u), variance * posterior.scale.square()
    )
    assert torch.equal(mean, posterior._standardise(expected[0]))


@pytest.mark.parametrize("prior", [NormalPrior(2), two_points(scale=0.8)], ids=["normal", "wide"])
def test_gradients_are_whole_where_no_slope_is_steep(prior):
    posterior = make_model(prior, n_steps=4).posterior
    assert posterior.damps == (not isinstance(prior, NormalPrior))
    u = torch.tensor([[0.3, -0.2]], dtype=torch.float64, requires_grad=True)
    variance = torch.full((1, 2), 0.1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda u: posterior._denoise(u, variance), u)


def test_gradients_of_a_prior_that_is_learned_are_whole():
    prior = MixturePrior(NormalPrior(2), 2)
    prior.set_components([[-1.0, 0.0], [1.0, 0.0]], [[0.05, 0.05]] * 2, [1.0, 1.0])
    slope, _ = slope_between(prior)
    assert slope > 5.0
    prior.freeze()
    assert slope_between(prior)[0] == slope


@pytest.mark.parametrize("noising", PROCESSES, ids=str)
def test_the_denoiser_sees_residuals_of_unit_scale(noising):
    """Over the rows of the model: m and y_t / alpha_t are observations of one z, each its own."""
    n_steps = 8 if isinstance(noising, str) else len(noising)
    model = make_model(n_steps=n_steps, noising=noising, orthogonal=True)
    set_posterior(model)
    seen = []
    model.posterior.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    draws_of(model, draw_rows(model, 12_000), 1)
    assert len(seen) == n_steps
    residuals = torch.stack(seen)[:, 0].numpy()
    assert abs(residuals.mean(1)).max() < 4.5 / np.sqrt(12_000)
    assert abs(residuals.std(1) - 1).max() < 4.5 / np.sqrt(24_000)


def test_the_denoiser_sees_noised_prior_draws_of_unit_scale():
    """The exploding process is what tells: preserving variance is its own scale."""
    model = make_model(n_steps=8, noising="variance_exploding")
    posterior = model.posterior
    seen = []
    posterior.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = draw_rows(model, 1)
    condition = [part.expand(4000, -1) for part in model.infer(x)]
    generator = torch.Generator().manual_seed(0)
    u, eps = torch.randn(2, 4000, 2, generator=generator, dtype=torch.float64)
    chain = posterior._chain(condition)
    for t in range(1, 9):
        y = posterior.alpha[t] * u + posterior.sigma[t] * eps
        posterior.predict(y, chain[t], condition)
        at_t = posterior._at_steps(torch.full((4000,), t), condition)
        posterior.predict(y, at_t, condition)
    assert len(seen) == 16
    assert abs(torch.stack(seen).std(1) - 1).max() < 4.5 / np.sqrt(8000)


def test_one_step_for_all_rows_or_one_for_each_is_the_same():
    model = make_model(n_steps=8)
    perturb(model, encoder=0.5, denoiser=0.7)
    x = draw_rows(model, 8)
    posterior = model.posterior
    condition = model.infer(x)
    y = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = torch.tensor([3, 1, 8, 2, 7, 4, 6, 5])
    found = posterior.predict(y, posterior._at_steps(steps, condition), condition)
    for row, t in enumerate(steps.tolist()):
        expected = posterior.predict(y, posterior._chain(condition)[t], condition)
        for part, whole in zip(found, expected, strict=True):
            assert torch.allclose(part[row], whole[row], rtol=0, atol=1e-12)


def test_a_weak_signal_keeps_its_digits_in_float32():
    """1 - 1 / (1 + v SNR) would have lost them, and 1 / alpha_t makes that loss large."""
    model = vague_model(NormalPrior(2), 24, [0.5] * 24)
    x = draw_rows(model, 4)
    y = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    condition = model.infer(x)
    expected = predict(model.posterior, y.double(), 24, condition).detach().numpy()
    assert abs(expected).max() > 1e-4
    model.float()
    condition = model.infer(x.float())
    found = predict(model.posterior, y, 24, condition).detach().numpy()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("noising", [[0.999] * 8, [1e-4] * 8, [0.5] * 8], ids=str)
def test_a_process_may_lose_all_of_the_signal_or_hardly_any(noising):
    X = np.random.default_rng(0).normal(size=(80, 5))
    model = DDVAETransformer(
        noising=noising,
        n_diffusion_steps=len(noising),
        hidden_layer_sizes=(8,),
        denoiser_width=8,
        max_iter=2,
        random_state=0,
    ).fit(X)
    for dtype in (np.float32, np.float64):
        assert np.isfinite(model.score_samples(X.astype(dtype))).all()
        assert np.isfinite(model.transform(X.astype(dtype))).all()


@pytest.mark.parametrize("n_steps", [0, 1, 2, 8])
def test_the_noise_free_path_is_that_of_the_draws_without_noise(n_steps):
    """Its end is the mean of the posterior as long as the denoiser is untrained."""
    model = make_model(n_steps=n_steps)
    set_posterior(model)
    x = draw_rows(model, 4)
    posterior = model.posterior
    condition = model.infer(x)
    mode = posterior.mode(condition).detach().numpy()
    mean, _ = exact_posterior(model, x)
    assert mode == pytest.approx(mean, abs=1e-9)
    perturb(model, encoder=0.5, denoiser=0.7)
    condition = model.infer(x)
    silence = torch.zeros(4, posterior.noise_size, dtype=torch.float64)
    expected = posterior.draw(condition, silence).z
    assert torch.allclose(posterior.mode(condition), expected, rtol=0, atol=1e-12)
    if n_steps:
        assert not torch.allclose(expected, torch.from_numpy(mode), atol=0.01)


# --------------------------------------------------------------------------- curved priors


@pytest.mark.parametrize("name", ["pinwheel", "swiss_roll", "square", "gaussian_mixture"])
def test_an_untrained_chain_of_a_row_that_tells_nothing_draws_from_the_prior(name):
    """Mean, covariance and parts at any number of steps, the whole shape at many."""
    prior = resolve_prior(name, 2)
    expected = prior.sample(20_000, torch.Generator().manual_seed(0)).double()
    shares = torch.bincount(prior.part_log_prob(expected).argmax(-1), minlength=10) / 20_000
    divergences = []
    for n_steps in (5, 20):
        model = vague_model(prior, n_steps)
        draw = draws_of(model, draw_rows(model, 1), 4000)
        z = draw.z[:, 0]
        assert abs(z.mean(0) - expected.mean(0)).max() < 0.06
        assert abs(torch.cov(z.T) - torch.cov(expected.T)).max() < 0.08
        part = prior.part_log_prob(z).argmax(-1)
        assert abs(torch.bincount(part, minlength=10) / 4000 - shares).max() < 0.03
        # The divergence of the paths, which is no less than that of the draws.
        divergences.append(-(prior.log_prob(z) + draw.log_ratio[:, 0]).mean())
    assert divergences[1] < 0.7
    assert divergences[1] < 0.2 * divergences[0]


# --------------------------------------------------------------------------- terms


@pytest.mark.parametrize(
    ("n_steps", "names"),
    [
        (0, {"posterior_entropy"}),
        (1, {"terminal", "last_step"}),
        (2, {"terminal", "chain", "last_step"}),
        (8, {"terminal", "chain", "last_step"}),
    ],
)
def test_terms_have_one_number_for_each_draw_row_and_dimension(n_steps, names):
    model = make_model(n_steps=n_steps)
    x = draw_rows(model, 4)
    draw = draws_of(model, x, 3)
    assert set(draw.terms) == names
    assert draw.z.shape == (3, 4, 2)
    assert all(term.shape == (3, 4, 2) for term in draw.terms.values())
    assert draw.log_ratio.shape == (3, 4)
    total = sum(term.numpy() for term in draw.terms.values()).sum(-1)
    assert draw.log_ratio.numpy() == pytest.approx(total)
    assert model.posterior.noise_size == 2 * (n_steps + 1)


def test_the_divergence_by_dimension_finds_a_collapsed_one():
    model = make_model(n_steps=4)
    set_posterior(model, loc=(0.0, 0.0), scale=(1.0, 1.0))
    with torch.no_grad():
        # The rows say next to nothing of the second latent: its posterior is its prior.
        model.posterior.head.weight[[1, 3]] = 0.0
        model.posterior.head.bias[[1, 3]] = torch.tensor([0.0, 6.0]).double()
    x = draw_rows(model, 500)
    condition = model.infer(x)
    noise = torch.randn(
        500, model.posterior.noise_size, generator=torch.Generator().manual_seed(0)
    ).double()
    found = kl_per_dimension(model, bound_terms(model, x, condition, noise))
    assert found.shape == (2,)
    assert not found.requires_grad
    assert found[0] > 0.7
    assert abs(found[1]) < 0.05


def test_draws_of_a_row_do_not_depend_on_the_rows_beside_it():
    model = make_model(n_steps=8)
    perturb(model, encoder=0.5, denoiser=0.7)
    x = draw_rows(model, 5)
    condition = model.infer(x)
    noise = torch.randn(
        6, 5, model.posterior.noise_size, generator=torch.Generator().manual_seed(0)
    ).double()
    whole = model.posterior.draw(condition, noise)
    for row in range(5):
        alone = model.posterior.draw([part[[row]] for part in condition], noise[:, [row]])
        assert torch.allclose(alone.z, whole.z[:, [row]], rtol=0, atol=1e-12)
        assert torch.allclose(alone.log_ratio, whole.log_ratio[:, [row]], rtol=0, atol=1e-9)


# --------------------------------------------------------------------------- fitted estimators


def rows_of_three_groups(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.array([[3.0, 0, 0, 1], [-3.0, 1, 0, 0], [0, 3.0, -2, 0]])
    return centres[rng.integers(3, size=n_rows)] + 0.5 * rng.normal(size=(n_rows, 4))


@pytest.fixture(scope="module", params=[0, 1, 8], ids=lambda n: f"T={n}")
def fitted(request):
    return DDVAETransformer(
        n_diffusion_steps=request.param,
        hidden_layer_sizes=(32,),
        denoiser_width=16,
        max_iter=15,
        batch_size=50,
        learning_rate_init=0.01,
        random_state=0,
    ).fit(rows_of_three_groups(500))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    order=st.permutations(range(12)),
    cuts=st.sets(st.integers(1, 11)),
    dtype=st.sampled_from([np.float64, np.float32]),
)
def test_a_row_gives_the_same_in_any_order_and_any_batch(fitted, order, cuts, dtype):
    X = rows_of_three_groups(12, seed=1).astype(dtype)
    tolerance = 1e-7 if dtype == np.float64 else 1e-4
    for method in (fitted.transform, fitted.score_samples):
        whole = method(X)
        assert whole.dtype == dtype
        shuffled = np.concatenate([method(batch) for batch in np.split(X[order], sorted(cuts))])
        assert shuffled == pytest.approx(whole[order], rel=tolerance, abs=tolerance)


def test_a_large_batch_gives_what_its_rows_give(fitted):
    """More rows than are computed at a time."""
    X = rows_of_three_groups(9000, seed=2)
    Z = fitted.transform(X)
    assert fitted.transform(X[4000:4200]) == pytest.approx(Z[4000:4200], abs=1e-9)
    assert fitted.transform(X[[8999]]) == pytest.approx(Z[[8999]], abs=1e-9)


def test_transform_draws_nothing(fitted):
    X = rows_of_three_groups(10, seed=1)
    assert np.array_equal(fitted.transform(X), fitted.transform(X))
    assert np.array_equal(fitted.score_samples(X), fitted.score_samples(X))


def test_posterior_draws_lie_around_the_noise_free_latents(fitted):
    X = rows_of_three_groups(40, seed=1)
    draws = fitted.sample_posterior(X, 1000, random_state=0)
    assert draws.shape == (1000, 40, 2)
    assert draws.dtype == np.float64
    spread = draws.std(0)
    assert (spread > 1e-3).all()
    # A row says something of its latents: their spread is far below that of all the rows.
    assert spread.mean() < 0.6 * fitted.transform(rows_of_three_groups(500)).std(0).mean()
    assert abs(draws.mean(0) - fitted.transform(X)).mean() < 0.5 * spread.mean()
    # A second half of the draws says the same of the spread as the first.
    assert draws[:500].std(0) == pytest.approx(draws[500:].std(0), rel=0.35)


def test_posterior_draws_are_as_random_as_they_are_asked_to_be(fitted):
    X = rows_of_three_groups(5, seed=1)
    first = fitted.sample_posterior(X, 3, random_state=0)
    assert np.array_equal(first, fitted.sample_posterior(X, 3, random_state=0))
    assert not np.array_equal(first, fitted.sample_posterior(X, 3, random_state=1))
    # Every draw and every row has noise of its own.
    same = np.repeat(X[:1], 5, axis=0)
    draws = fitted.sample_posterior(same, 3, random_state=0)
    assert len(np.unique(draws[..., 0])) == 15


def test_float32_rows_give_what_float64_rows_give(fitted):
    X = rows_of_three_groups(50, seed=1).astype(np.float32)
    for method in (fitted.transform, fitted.score_samples):
        single, double = method(X), method(X.astype(np.float64))
        assert single.dtype == np.float32
        assert double.dtype == np.float64
        assert single == pytest.approx(double, rel=1e-5, abs=1e-5)


def test_posterior_draws_of_float32_rows_are_those_of_float64_rows(fitted):
    """One seed, the same draws: only the arithmetic differs."""
    X = rows_of_three_groups(5, seed=1).astype(np.float32)
    single = fitted.sample_posterior(X, 4, random_state=0)
    double = fitted.sample_posterior(X.astype(np.float64), 4, random_state=0)
    assert single.dtype == np.float32
    assert single == pytest.approx(double, abs=1e-5)


def test_many_posterior_draws_do_not_need_the_memory_of_all_rows(fitted, monkeypatch):
    """Rows are taken up in chunks, so that a sparse matrix is never dense as a whole."""
    from skddvi._engine import rows

    seen = []
    batch = rows.Rows.batch
    monkeypatch.setattr(
        rows.Rows, "batch", lambda self, index: seen.append(batch(self, index)) or seen[-1]
    )
    fitted.sample_posterior(rows_of_three_groups(9000, seed=2), 1, random_state=0)
    assert max(len(part) for part in seen) <= 4096


def test_latent_sleep_leaves_the_encoder_alone():
    model = make_model(n_steps=8, hidden_layer_sizes=(4,))
    z = model.prior.sample(20, torch.Generator().manual_seed(0))
    loss = model.posterior.latent_sleep_loss(z, torch.Generator().manual_seed(1))
    assert loss.shape == (20,)
    loss.sum().backward()
    untouched = {
        name for name, parameter in model.posterior.named_parameters() if parameter.grad is None
    }
    assert untouched == {"body.0.weight", "body.0.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("n_steps", [0, 1])
def test_latent_sleep_is_nothing_without_steps_between(n_steps):
    model = make_model(n_steps=n_steps)
    z = model.prior.sample(5, torch.Generator().manual_seed(0))
    loss = model.posterior.latent_sleep_loss(z, torch.Generator().manual_seed(1))
    assert torch.equal(loss, torch.zeros(5, dtype=torch.float64))
