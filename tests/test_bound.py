"""The evidence bounds (4) and (7) and the sleep term (5), against closed forms.

The model is linear-Gaussian, so its evidence and posterior are known; see ``_linear_gaussian``.
Where draws are compared with a number, the tolerance is a multiple of the standard error of their
mean, and that is asserted to be small, so that the comparison says something.
"""

import numpy as np
import pytest
import torch
from _linear_gaussian import (
    draw_rows,
    evidence,
    evidence_by_quadrature,
    exact_posterior,
    gaussian_of,
    log_weights,
    make_model,
    noise_schedule,
    perturb,
    predict,
    set_posterior,
    step_std,
    unknown,
)
from scipy.stats import norm
from sklearn.neighbors import KNeighborsClassifier

from skddvi import DDVAETransformer
from skddvi._engine.engine import Engine
from skddvi._engine.objective import importance_weighted_bound, training_loss
from skddvi.likelihoods import GaussianLikelihood
from skddvi.noising import VarianceExploding
from skddvi.priors import (
    EmpiricalPrior,
    GaussianMixturePrior,
    NormalPrior,
    PinwheelPrior,
    SquarePrior,
    SwissRollPrior,
    UserPrior,
)

# A mean of draws may be this many standard errors from its expectation.
N_SIGMA = 4.5
BETAS = [0.1, 0.4, 0.9]
# An exploding process of small steps: its importance weights have a finite variance.
GENTLE = VarianceExploding(sigma_min=0.4, sigma_max=4.0)
PROCESSES = ["cosine", "linear", "even", "variance_exploding", GENTLE]
CHAINS = [
    (0, "cosine"),
    *((n_steps, noising) for n_steps in (1, 2, 8) for noising in PROCESSES),
    (3, BETAS),
]
chains = pytest.mark.parametrize(("n_steps", "noising"), CHAINS, ids=str)


class Logistic:
    """A user's prior: independent logistic latents with a location and a scale."""

    def __init__(self, n_components, loc=0.4, scale=0.5):
        self.n_components, self.loc, self.scale = n_components, loc, scale

    def sample(self, n_samples, generator):
        shape = n_samples, self.n_components
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        return self.loc + self.scale * torch.special.logit(uniform, eps=1e-12)

    def log_prob(self, z):
        u = (z - self.loc) / self.scale
        return (-u - 2 * torch.nn.functional.softplus(-u) - np.log(self.scale)).sum(-1)


class Normal:
    """A user's prior: a normal with any location and scale, and nothing known of its posterior."""

    n_components = 2

    def __init__(self, loc, scale):
        self.loc, self.scale = torch.tensor(loc, dtype=torch.float64), scale

    def sample(self, n_samples, generator):
        noise = torch.randn(n_samples, 2, generator=generator, dtype=torch.float64)
        return self.loc + self.scale * noise

    def log_prob(self, z):
        u = (z - self.loc) / self.scale
        return (-0.5 * (u.square() + np.log(2 * np.pi)) - np.log(self.scale)).sum(-1)


class DenoisedNormal(Normal):
    """The same with its posterior given a noised latent."""

    def denoise(self, y, variance):
        precision = 1 / self.scale**2 + 1 / variance
        return (self.loc / self.scale**2 + y / variance) / precision, 1 / precision


def near_model(n_steps, noising, **kwargs):
    """Return a model with a posterior near the exact one, and rows; weights of small variance."""
    model = make_model(n_steps=n_steps, noising=noising, **kwargs)
    set_posterior(model, inflation=1.5)
    # Little under the exploding process, whose y_T of any size the denoiser sees as it is.
    perturb(model, encoder=0.03, denoiser=0.03 if noising == "variance_exploding" else 0.12)
    return model, draw_rows(model, 3)


def standard_error(draws):
    return draws.std(axis=0) / np.sqrt(len(draws))


def k_bound(log_weight, k):
    """Return independent estimates of bound (7) with k draws each, (n_draws // k, n)."""
    grouped = torch.from_numpy(log_weight).unflatten(0, (-1, k)).transpose(0, 1)
    return importance_weighted_bound(grouped).numpy()


# --------------------------------------------------------------------------- exactness


@chains
def test_importance_weights_are_unbiased(n_steps, noising):
    model, x = near_model(n_steps, noising)
    weight = np.exp(log_weights(model, x, 100_000) - evidence(model, x))
    assert (standard_error(weight) < 0.03).all()
    assert (abs(weight.mean(0) - 1) < N_SIGMA * standard_error(weight)).all()


PRIORS = {
    "normal, 1-D": lambda: NormalPrior(1),
    "gaussian mixture": lambda: GaussianMixturePrior([[-1, 0], [1, 0.5]], [0.3, 0.5], [0.3, 0.7]),
    "pinwheel": lambda: PinwheelPrior(n_arms=5),
    "swiss roll": SwissRollPrior,
    "square": SquarePrior,
    "empirical, 1-D": lambda: EmpiricalPrior([[-1.0], [0.2], [1.5]], bandwidth=0.2),
    "user's, 1-D": lambda: UserPrior(Logistic(1)),
    "user's, 2-D": lambda: UserPrior(Logistic(2)),
}


@pytest.mark.parametrize(("n_steps", "noising"), [(0, None), (2, "cosine"), (3, GENTLE)], ids=str)
@pytest.mark.parametrize("name", PRIORS)
def test_importance_weights_are_unbiased_under_every_prior(name, n_steps, noising):
    prior = PRIORS[name]()
    model = make_model(prior, n_steps, noising, variance=1.0, gain=0.6)
    # A Gaussian must be wide to cover a curve; the chain follows it.
    set_posterior(model, inflation=1.3 if n_steps else 2.0, scale=(1.3, 1.2))
    perturb(model, encoder=0.02, denoiser=0.1)
    x = draw_rows(model, 3)
    wide = {"half_width": 12.0, "step": 0.1} if name.startswith("user's") else {}
    n_draws = 40_000 if n_steps else 100_000
    weight = np.exp(log_weights(model, x, n_draws) - evidence_by_quadrature(model, x, **wide))
    assert (standard_error(weight) < 0.03).all()
    assert (abs(weight.mean(0) - 1) < N_SIGMA * standard_error(weight)).all()


@chains
def test_log_ratio_is_the_ratio_of_the_densities_along_the_path(n_steps, noising):
    """The path is drawn again from the same noise, and each density written down on its own."""
    model = make_model(n_steps=n_steps, noising=noising)
    set_posterior(model)
    perturb(model, encoder=0.5, denoiser=0.7)
    posterior, x = model.posterior, draw_rows(model, 4)
    condition = model.infer(x)
    noise = torch.randn(
        4, posterior.noise_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    draw = posterior.draw(condition, noise)
    loc, scale = posterior.loc.numpy(), posterior.scale.numpy()
    u = (draw.z.detach().numpy() - loc) / scale
    if n_steps == 0:
        mean, log_std = (value.detach().numpy() for value in condition)
        expected = -norm.logpdf(
            draw.z.detach().numpy(), loc + scale * mean, scale * np.exp(log_std)
        )
    else:
        schedule = alpha, sigma, (mean_y, mean_z, std) = noise_schedule(noising, n_steps)
        eps = noise.numpy().reshape(4, n_steps + 1, 2)
        mean, variance = gaussian_of(posterior, condition)
        log_first, log_last = (condition[i].detach().numpy() for i in (1, 4))
        start = condition[0].detach().numpy()
        assert start == pytest.approx(alpha[-1] * mean, abs=1e-9)
        y = start + np.exp(log_first) * eps[:, n_steps]
        expected = norm.logpdf(y, alpha[-1] * u, sigma[-1])
        expected -= norm.logpdf(y, start, np.exp(log_first))
        for t in range(n_steps, 1, -1):
            zhat = predict(posterior, torch.from_numpy(y), t, condition).detach().numpy()
            spread = step_std(schedule, t, variance)
            before = mean_y[t] * y + mean_z[t] * zhat + spread * eps[:, t - 1]
            expected += norm.logpdf(before, mean_y[t] * y + mean_z[t] * u, std[t])
            expected -= norm.logpdf(before, mean_y[t] * y + mean_z[t] * zhat, spread)
            y = before
        zhat = predict(posterior, torch.from_numpy(y), 1, condition).detach().numpy()
        last_std = np.sqrt(unknown(schedule, 1, variance)) * np.exp(log_last)
        assert u == pytest.approx(zhat + last_std * eps[:, 0], abs=1e-9)
        expected -= norm.logpdf(u, zhat, last_std) - np.log(scale)
    assert draw.log_ratio.detach().numpy() == pytest.approx(expected.sum(-1), rel=1e-9)


@chains
def test_the_exact_posterior_makes_every_weight_the_evidence(n_steps, noising):
    """No step loses anything where the posterior is Gaussian: no variance between the draws."""
    model = make_model(n_steps=n_steps, noising=noising, orthogonal=True)
    set_posterior(model)
    x = draw_rows(model, 5)
    log_weight = log_weights(model, x, 50)
    assert log_weight == pytest.approx(np.tile(evidence(model, x), (50, 1)), abs=1e-8)


def path_divergence(schedule, exact_variance, variance, last_std, terminal_std):
    """KL of an untrained chain from the exact one, for one standardised latent, in nats.

    Both are normals of (y_T, ..., y_1, z) with the same means: that of the exact posterior of
    variance ``exact_variance``, and the chain whose own posterior has ``variance``.
    """
    alpha, sigma, (mean_y, mean_z, _) = schedule
    n_steps = len(alpha) - 1
    # The posterior: y_T, ..., y_1, z as linear maps of the T + 1 noises.
    row = np.zeros(n_steps + 1)
    row[0] = terminal_std
    rows = [row]
    for t in range(n_steps, 0, -1):
        snr = (alpha[t] / sigma[t]) ** 2
        gain = variance * snr / (1 + variance * snr) / alpha[t]
        row = (mean_y[t] + mean_z[t] * gain) * row
        row[n_steps - t + 1] = step_std(schedule, t, variance) if t > 1 else last_std
        rows.append(row)
    q = np.array(rows) @ np.array(rows).T
    # The exact one: z first, then cov(y_s, y_t) = alpha_s alpha_t v + alpha_t / alpha_s sigma_s^2.
    p = np.empty_like(q)
    for i, t in enumerate(range(n_steps, -1, -1)):
        for j, s in enumerate(range(n_steps, -1, -1)):
            early, late = min(s, t), max(s, t)
            signal = alpha[s] * alpha[t] * exact_variance
            p[i, j] = signal + alpha[late] / alpha[early] * sigma[early] ** 2
    ratio = np.linalg.solve(p, q)
    return 0.5 * (np.trace(ratio) - len(p) - np.linalg.slogdet(ratio)[1])


@pytest.mark.parametrize(("n_steps", "noising"), [c for c in CHAINS if c[0] > 0], ids=str)
def test_the_gap_of_bound_4_is_the_divergence_between_the_paths(n_steps, noising):
    model = make_model(n_steps=n_steps, noising=noising, orthogonal=True)
    set_posterior(model, inflation=0.5)
    with torch.no_grad():
        # The spreads of y_T and of the last step, too, are not those of the encoder's Gaussian.
        model.posterior.head.bias[4:8] = torch.tensor([0.2, -0.1, -0.3, 0.1])
    x = draw_rows(model, 2)
    gap = evidence(model, x) - log_weights(model, x, 40_000)
    schedule = noise_schedule(noising, n_steps)
    condition = model.infer(x)
    _, variance = gaussian_of(model.posterior, condition)
    log_first, log_last = (condition[i].detach().numpy() for i in (1, 4))
    last_std = np.sqrt(unknown(schedule, 1, variance)) * np.exp(log_last)
    expected = sum(
        path_divergence(
            schedule, 2.0 * variance[0, k], variance[0, k], last_std[0, k], np.exp(log_first[0, k])
        )
        for k in range(2)
    )
    assert expected > 0.1
    assert (standard_error(gap) < 0.02 * max(1.0, expected)).all()
    assert (abs(gap.mean(0) - expected) < N_SIGMA * standard_error(gap)).all()


@pytest.mark.parametrize("name", ["pinwheel", "swiss roll", "square", "gaussian mixture"])
def test_an_untrained_chain_of_many_steps_draws_from_prior_times_evidence(name):
    """Where the evidence is that of the likelihood, the gap of its bound goes to zero."""
    gaps = []
    for n_steps in (4, 32):
        model = make_model(PRIORS[name](), n_steps, variance=1.0, orthogonal=True)
        set_posterior(model, loc=(0.1, 0.0), scale=(1.1, 0.9))
        x = draw_rows(model, 4)
        gaps.append(evidence_by_quadrature(model, x) - log_weights(model, x, 4000))
    few, many = gaps
    assert (many.mean(0) > -N_SIGMA * standard_error(many)).all()
    assert many.mean() < 0.15
    assert many.mean() < 0.3 * few.mean()


# --------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("size", [0.1, 1.0])
@chains
def test_no_posterior_lifts_a_bound_above_the_evidence(n_steps, noising, size):
    for seed in range(2):
        model = make_model(n_steps=n_steps, noising=noising, seed=seed)
        set_posterior(model)
        perturb(model, encoder=size, denoiser=5 * size, seed=seed)
        x = draw_rows(model, 3)
        log_weight = log_weights(model, x, 20_000, seed=seed)
        bounds = [k_bound(log_weight, k) for k in (1, 10, 1000)]
        for bound in bounds:
            limit = evidence(model, x) + N_SIGMA * standard_error(bound)
            assert (bound.mean(0) < limit).all()
        assert (np.diff([bound.mean(0) for bound in bounds], axis=0) > 0).all()


@pytest.mark.parametrize(("n_steps", "noising"), [(0, None), (2, "cosine"), (8, "linear")], ids=str)
def test_the_bound_grows_with_its_draws_to_the_evidence(n_steps, noising):
    model, x = near_model(n_steps, noising)
    # Fresh draws for every K: nested groups of the same draws would grow whatever the weights.
    bounds, errors = [], []
    for seed, k in enumerate([1, 8, 64, 2000]):
        estimates = k_bound(log_weights(model, x, max(8000, 20 * k), seed=seed), k)
        bounds.append(estimates.mean(0))
        errors.append(standard_error(estimates))
    step_error = np.hypot(errors[1:], errors[:-1])
    assert (np.diff(bounds, axis=0) > -N_SIGMA * step_error).all()
    gaps = evidence(model, x) - np.array(bounds)
    assert (gaps[0] > 0.1).all()
    assert (abs(gaps[-1]) < 0.02).all()


def in_other_units(model, prior):
    """Return the model whose latents are prior.loc + prior.scale z, with a user's prior."""
    other = make_model(UserPrior(prior), n_steps=4)
    other.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for module in (other.posterior, other.decoder):
            module.loc.mul_(prior.scale).add_(prior.loc)
            module.scale.mul_(prior.scale)
    return other


def test_a_prior_of_any_location_and_scale_gives_the_same_bound():
    """Latents a + 100 z decoded by W (z - a) / 100: the same model in other units."""
    model = make_model(n_steps=4)
    set_posterior(model)
    perturb(model, encoder=0.3, denoiser=0.5)
    other = in_other_units(model, DenoisedNormal([30.0, -500.0], 100.0))
    x = draw_rows(model, 4)
    assert log_weights(other, x, 20) == pytest.approx(log_weights(model, x, 20), abs=1e-8)


def test_a_prior_of_unknown_posterior_is_followed_as_a_normal_of_its_moments():
    """Exactly so where it is that normal, and whatever it is while nothing is learned."""
    model = make_model(n_steps=4)
    set_posterior(model, loc=(0.0, 0.0), scale=(1.0, 1.0))
    perturb(model, encoder=0.3, denoiser=0.5)
    x = draw_rows(model, 4)
    prior = Normal([30.0, -500.0], 100.0)
    other = in_other_units(model, prior)
    expected = log_weights(model, x, 20)
    assert log_weights(other, x, 20) == pytest.approx(expected, abs=1e-8)
    # A logistic prior's draws are those of the normal; only its density in the weights differs.
    logistic = make_model(UserPrior(Logistic(2)), n_steps=4)
    logistic.load_state_dict(model.state_dict(), strict=False)
    condition = model.infer(x)
    noise = torch.randn(9, 4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draw, same = (each.posterior.draw(condition, noise) for each in (logistic, model))
    assert torch.allclose(draw.z, same.z, rtol=0, atol=1e-9)
    assert torch.allclose(draw.log_ratio, same.log_ratio, rtol=0, atol=1e-9)


def test_an_untrained_model_takes_the_scale_of_a_users_prior():
    model = make_model(UserPrior(Normal([30.0, -500.0], 100.0)), n_steps=4)
    for module in (model.posterior, model.decoder):
        assert module.loc.numpy() == pytest.approx([30.0, -500.0], abs=3.0)
        assert module.scale.numpy() == pytest.approx([100.0, 100.0], rel=0.03)


def test_the_scores_are_the_bounds():
    """``Engine.bound`` reuses a fixed set of draws; it may not stray far from the expectation."""
    model, x = near_model(4, "cosine")
    engine = Engine(
        NormalPrior(2),
        GaussianLikelihood(0.4).fit(x.numpy()),
        noise_schedule("cosine", 4),
        hidden_layer_sizes=(),
        denoiser_width=6,
        activation="tanh",
        device="cpu",
        seed=0,
    )
    engine.model = model
    log_weight = log_weights(model, x, 40_000)
    rows = x.numpy()
    assert engine.bound(rows, 1, 512) == pytest.approx(log_weight.mean(0), abs=0.1)
    assert engine.bound(rows, 1, 32) == pytest.approx(log_weight.mean(0), abs=0.4)
    assert engine.bound(rows, 1000, 1) == pytest.approx(evidence(model, x), abs=0.05)
    # Repeats are estimates of their own: with four draws, more than (4) and less than the evidence.
    of_four = k_bound(log_weight, 4).mean(0)
    assert engine.bound(rows, 4, 256) == pytest.approx(of_four, abs=0.1)
    assert (of_four > log_weight.mean(0) + 0.05).all()


# --------------------------------------------------------------------------- the sleep term


@torch.no_grad()
def path_cross_entropy(model, schedule, x, z, generator):
    """Return -log q(y_0..T | x) for paths drawn from r given z, (n,); no shortcut of any kind."""
    posterior = model.posterior
    alpha, sigma, (mean_y, mean_z, std) = schedule
    n_steps = len(alpha) - 1
    condition = model.infer(x)
    u = (z - posterior.loc) / posterior.scale
    eps = torch.randn(n_steps + 1, *u.shape, generator=generator, dtype=torch.float64)

    def log_normal(value, mean, std):
        return torch.distributions.Normal(mean, std).log_prob(value).sum(-1)

    variance = torch.from_numpy(gaussian_of(posterior, condition)[1])
    y = alpha[-1] * u + sigma[-1] * eps[n_steps]
    total = log_normal(y, condition[0], condition[1].exp())
    for t in range(n_steps, 1, -1):
        before = mean_y[t] * y + mean_z[t] * u + std[t] * eps[t - 1]
        zhat = predict(posterior, y, t, condition)
        spread = step_std(schedule, t, variance)
        total = total + log_normal(before, mean_y[t] * y + mean_z[t] * zhat, spread)
        y = before
    last_std = unknown(schedule, 1, variance).sqrt() * condition[4].exp()
    last = log_normal(u, predict(posterior, y, 1, condition), last_std)
    return -(total + last)


def dreams(model, n_rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = model.prior.sample(n_rows, generator)
    return z, model.likelihood.sample(model.decoder(z), generator)


@pytest.mark.parametrize(("n_steps", "noising"), [c for c in CHAINS if c[0] > 0], ids=str)
def test_the_sleep_loss_is_the_cross_entropy_of_the_path_up_to_its_constant(n_steps, noising):
    model = make_model(n_steps=n_steps, noising=noising)
    set_posterior(model)
    perturb(model, encoder=0.05, denoiser=0.1 if noising == "variance_exploding" else 0.3)
    z, x = dreams(model, 60_000)
    condition = model.infer(x)
    generator = torch.Generator().manual_seed(1)
    loss = model.posterior.sleep_loss(condition, z, generator).detach()
    schedule = noise_schedule(noising, n_steps)
    full = path_cross_entropy(model, schedule, x, z, generator)
    # The constant: the entropy of the steps of r, which the closed form leaves out.
    constant = 2 * (np.log(schedule[2][2][2:]) + 0.5 * np.log(2 * np.pi * np.e)).sum()
    difference = (full - constant - loss).numpy()
    error = standard_error(difference)
    assert error < 0.02 * max(1.0, loss.numpy().std())
    assert abs(difference.mean()) < N_SIGMA * error


def test_the_sleep_loss_of_the_gaussian_posterior_is_its_cross_entropy():
    model = make_model(n_steps=0)
    set_posterior(model)
    perturb(model, encoder=0.3, denoiser=0.0)
    z, x = dreams(model, 5)
    mean, log_std = model.infer(x)
    u = (z - model.posterior.loc) / model.posterior.scale
    expected = -torch.distributions.Normal(mean, log_std.exp()).log_prob(u).sum(-1)
    loss = model.posterior.sleep_loss((mean, log_std), z, None)
    assert loss.detach().numpy() == pytest.approx(expected.detach().numpy())


def least_divergence(schedule, t, variance):
    """E KL(r(y_{t-1} | y_t, z) || q(y_{t-1} | y_t, x)) where zhat is E[z | y_t, x], t >= 2."""
    _, _, (_, mean_z, std) = schedule
    spread = step_std(schedule, t, variance)
    squares = std[t] ** 2 + mean_z[t] ** 2 * unknown(schedule, t, variance)
    return np.log(spread / std[t]) + 0.5 * squares / spread**2 - 0.5


@chains
def test_the_sleep_loss_is_stationary_and_least_at_the_exact_posterior(n_steps, noising):
    """At the exact posterior the predictions are E[z | y_t, x] and every spread is the true one."""
    model = make_model(n_steps=n_steps, noising=noising, orthogonal=True)
    set_posterior(model)
    posterior = model.posterior
    z, x = dreams(model, 4000)

    def loss():
        condition = model.infer(x)
        return posterior.sleep_loss(condition, z, torch.Generator().manual_seed(1))

    least = loss()
    # Its value there is known: the entropies of Gaussians, and the variances of z given y_t.
    _, covariance = exact_posterior(model, x)
    variance = np.diag(covariance) / posterior.scale.numpy() ** 2
    entropy = 0.5 * np.log(2 * np.pi * np.e * variance)
    if n_steps:
        schedule = alpha, sigma, _ = noise_schedule(noising, n_steps)
        snr = (alpha[1:] / sigma[1:])[:, None] ** 2
        of_z = variance / (1 + variance * snr)
        entropy = 0.5 * np.log(2 * np.pi * np.e * (sigma[-1] ** 2 + alpha[-1] ** 2 * variance))
        entropy += 0.5 * np.log(2 * np.pi * np.e * of_z[0])
        entropy += sum(least_divergence(schedule, t, variance) for t in range(2, n_steps + 1))
    values = least.detach().numpy()
    assert abs(values.mean() - entropy.sum()) < N_SIGMA * standard_error(values)

    heads = {"head": posterior.head.bias}
    if n_steps:
        heads["output"] = posterior.denoiser.output.bias
    for parameter in heads.values():
        for index in range(min(len(parameter), 8 if n_steps else 4)):
            changes = []
            for sign in (1.0, -1.0):
                with torch.no_grad():
                    parameter[index] += 0.3 * sign
                    changes.append((loss() - least).numpy())
                    parameter[index] -= 0.3 * sign
            # Every change costs, and the two directions about the same: the slope is zero.
            mean_change = 0.5 * (changes[0] + changes[1])
            slope = 0.5 * (changes[0] - changes[1])
            assert mean_change.mean() > 0
            assert abs(slope.mean()) < N_SIGMA * standard_error(slope) + 0.5 * mean_change.mean()


@pytest.mark.parametrize("n_steps", [0, 1])
def test_dreams_are_rows_of_the_model_with_the_latents_that_made_them(n_steps):
    """At the exact posterior the sleep term is then the entropy of z, and of y_1, given the row."""
    model = make_model(n_steps=n_steps, orthogonal=True)
    set_posterior(model)
    x = draw_rows(model, 40_000)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        sleep_loss = training_loss(
            model, x, generator=generator, kl_weight=1.0, sleep="conditional", sleep_weight=1.0
        )[2]
    _, covariance = exact_posterior(model, x)
    variance = np.diag(covariance) / model.posterior.scale.numpy() ** 2
    entropy = 0.5 * np.log(2 * np.pi * np.e * variance).sum()
    if n_steps:
        _, sigma, _ = noise_schedule("cosine", 1)
        entropy += 2 * 0.5 * np.log(2 * np.pi * np.e * sigma[1] ** 2)
    # The standard deviation of one dream's loss is that of half a chi-square.
    assert sleep_loss.item() == pytest.approx(entropy, abs=4.5 * np.sqrt((n_steps + 1) / 20_000))


@pytest.mark.parametrize("sleep", ["conditional", "latent"])
def test_sleep_teaches_the_posterior_alone(sleep):
    model = make_model(n_steps=4, variance="learned", hidden_layer_sizes=(4,))
    perturb(model, encoder=0.1, denoiser=0.5)
    x = draw_rows(model, 6)
    generator = torch.Generator().manual_seed(0)
    loss, terms, sleep_loss = training_loss(
        model, x, generator=generator, kl_weight=0.7, sleep=sleep, sleep_weight=0.3
    )
    expected = -(terms.reconstruction + 0.7 * terms.regularisation).mean() + 0.3 * sleep_loss
    assert loss.item() == pytest.approx(expected.item())
    sleep_loss.backward()
    touched = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }
    denoiser = {f"posterior.{name}" for name, _ in model.posterior.named_parameters()}
    denoiser = {name for name in denoiser if "denoiser" in name}
    encoder = {"posterior.body.0.weight", "posterior.body.0.bias"}
    encoder |= {"posterior.head.weight", "posterior.head.bias"}
    if sleep == "conditional":
        assert touched == denoiser | encoder
    else:
        # The denoiser sees no row, so the encoder learns nothing from a latent dream.
        assert touched == denoiser | {"posterior.no_context"}


def test_latent_sleep_is_least_for_the_denoiser_of_the_prior():
    """Without a row the best prediction is E[z | y_t], and for a normal prior that is linear."""
    model = make_model(n_steps=8)
    with torch.no_grad():
        model.posterior.loc.zero_()
        model.posterior.scale.fill_(1.0)
    z = model.prior.sample(20_000, torch.Generator().manual_seed(0))

    def loss():
        return model.posterior.latent_sleep_loss(z, torch.Generator().manual_seed(1)).detach()

    untrained = loss().numpy()
    schedule = noise_schedule("cosine", 8)
    expected = 2 * sum(least_divergence(schedule, t, 1.0) for t in range(2, 9))
    assert abs(untrained.mean() - expected) < N_SIGMA * standard_error(untrained)
    for seed in range(3):
        perturb(model, encoder=0.0, denoiser=0.5, seed=seed)
        assert loss().numpy().mean() > expected


# --------------------------------------------------------------------------- after training


def ppca_rows(n_rows, seed):
    """Rows of a probabilistic PCA with unequal noise, in two units."""
    rng = np.random.default_rng(0)
    weight, noise = rng.normal(size=(6, 2)), rng.uniform(0.5, 0.9, 6)
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, 2)) @ weight.T + noise * rng.normal(size=(n_rows, 6)) + 4.0
    return rows * [1.0, 1.0, 1.0, 100.0, 100.0, 100.0]


@pytest.fixture(scope="module", params=[0, 8], ids=["T=0", "T=8"])
def trained(request):
    return DDVAETransformer(
        hidden_layer_sizes=(),
        denoiser_width=32,
        n_diffusion_steps=request.param,
        batch_size=100,
        max_iter=40,
        learning_rate_init=0.01,
        random_state=0,
    ).fit(ppca_rows(2000, seed=1))


@pytest.mark.slow
def test_a_trained_bound_is_close_to_the_evidence(trained):
    X = ppca_rows(1000, seed=2)
    exact = evidence(trained._engine.model, X)
    gap = exact - trained.score_samples(X)
    tight_gap = exact - trained.score_samples(X, n_importance_samples=1000)
    assert abs(tight_gap.mean()) < 0.05
    assert -0.01 < gap.mean() < 0.15
    # Up to the noise of the draws, which all rows share.
    assert tight_gap.mean() < gap.mean() + 0.01
    assert trained.score(X) == pytest.approx(exact.mean(), abs=0.15)


def test_posterior_draws_cannot_be_told_from_exact_ones(trained):
    """Classifier two-sample test (Lopez-Paz and Oquab 2017): accuracy one half is chance."""
    X = ppca_rows(4000, seed=3)
    mean, covariance = exact_posterior(trained._engine.model, X)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    drawn = (trained.sample_posterior(X, random_state=0)[0] - mean) @ whiten.T
    exact = np.random.default_rng(0).normal(size=drawn.shape)

    def accuracy(drawn, exact):
        # With the rows among the features, a posterior wrong for some of them is found out too.
        features = np.hstack([np.vstack([drawn, exact]), np.tile(mean, (2, 1))])
        label = np.repeat([0, 1], len(drawn))
        order = np.random.default_rng(1).permutation(len(label))
        train, test = order[: len(drawn)], order[len(drawn) :]
        classifier = KNeighborsClassifier(n_neighbors=50).fit(features[train], label[train])
        return classifier.score(features[test], label[test])

    assert accuracy(drawn, exact) < 0.55
    # The test would see a mean half a standard deviation off, or a spread of half the size.
    assert accuracy(drawn + np.array([0.5, 0.0]), exact) > 0.55
    assert accuracy(0.5 * drawn, exact) > 0.55
