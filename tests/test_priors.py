"""The priors: densities against integrals, samples, finite differences and float64."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skddvi.priors import (
    EmpiricalPrior,
    GaussianMixturePrior,
    NormalPrior,
    PinwheelPrior,
    Prior,
    SquarePrior,
    SwissRollPrior,
    UserPrior,
    _curves,
    _kernel,
    resolve_prior,
)


class TwoLaplaces:
    """A user's prior without parts: a product of Laplace densities."""

    n_components = 2

    def sample(self, n, generator):
        u = torch.rand(2, n, 2, generator=generator, dtype=torch.float64)
        return 0.5 * (u[0].log() - u[1].log())

    def log_prob(self, z):
        return -2 * z.abs().sum(-1)


class Halves(torch.nn.Module):
    """A user's module with parts: two unit normals."""

    n_components = 2
    n_parts = 2
    part_weights = (0.25, 0.75)

    def __init__(self):
        super().__init__()
        self.register_buffer("centres", torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))

    def sample(self, n, generator, part):
        return self.centres[part] + torch.randn(n, 2, generator=generator)

    def part_log_prob(self, z):
        return NormalPrior(2).log_prob(z[:, None] - self.centres)

    def log_prob(self, z):
        weights = torch.tensor(self.part_weights, dtype=z.dtype)
        return torch.logsumexp(self.part_log_prob(z) + weights.log(), dim=-1)


class TwoNormals:
    """A user's prior with its posterior given a noised latent: a narrow and a wide axis."""

    n_components = 2
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64)

    def sample(self, n, generator):
        return self.scale * torch.randn(n, 2, generator=generator, dtype=torch.float64)

    def log_prob(self, z):
        return NormalPrior(2).log_prob(z / self.scale) - self.scale.log().sum()

    def denoise(self, y, variance):
        total = self.scale**2 + variance
        return self.scale**2 * y / total, self.scale**2 * variance / total


def make_empirical():
    rng = np.random.default_rng(0)
    return EmpiricalPrior(rng.normal(size=(60, 2)) * [1.0, 0.4])


CURVED = {"pinwheel": PinwheelPrior, "swiss_roll": SwissRollPrior, "square": SquarePrior}
PLANAR = {
    **CURVED,
    "normal": NormalPrior,
    "gaussian_mixture": lambda: resolve_prior("gaussian_mixture", 2),
    "uneven_mixture": lambda: GaussianMixturePrior(
        [[-1.0, 0.5], [1.0, 0.0], [0.0, -1.0]], [[0.3, 0.6], [0.2, 0.2], [0.5, 0.1]], [1, 2, 5]
    ),
    "empirical": make_empirical,
    "user": lambda: UserPrior(TwoLaplaces()),
    "user_parts": lambda: UserPrior(Halves()),
}
planar = pytest.mark.parametrize("make", PLANAR.values(), ids=PLANAR)
curved = pytest.mark.parametrize("make", CURVED.values(), ids=CURVED)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def grid(half_width=6.0, step=0.03):
    """Return the points (m, m, 2) of a square grid and the area of a cell."""
    x = torch.arange(-half_width, half_width + step / 2, step)
    return torch.stack(torch.meshgrid(x, x, indexing="ij"), dim=-1), step**2


def uniform_disc(n, radius, dtype=torch.float64):
    u = torch.rand(n, 2, generator=seeded(1), dtype=dtype)
    angle, r = 2 * math.pi * u[:, 0], radius * u[:, 1].sqrt()
    return torch.stack([r * angle.cos(), r * angle.sin()], dim=-1)


@planar
def test_density_integrates_to_one_and_gives_the_entropy_and_counts_of_samples(make):
    prior = make()
    points, area = grid(half_width=8.01 if "user" in prior.name else 6.0)
    log_p = prior.log_prob(points).double()
    mass = log_p.exp() * area
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-3)

    z = prior.sample(20_000, seeded())
    log_p_z = prior.log_prob(z).double()
    entropy = -float((mass * log_p).sum())
    error = float(log_p_z.std()) / math.sqrt(len(z))
    assert -float(log_p_z.mean()) == pytest.approx(entropy, abs=4 * error)

    # Counts in cells of 10 x 10 grid points against the probabilities of the cells.
    m = len(points) // 10 * 10
    low = float(points[0, 0, 0]) - 0.015
    edges = low + 0.3 * np.arange(m // 10 + 1)
    counts = np.histogram2d(*z.double().numpy().T, bins=[edges, edges])[0].ravel()
    cells = mass[:m, :m].reshape(m // 10, 10, m // 10, 10).sum((1, 3)).numpy().ravel()
    usual = cells * len(z) > 10
    observed = np.append(counts[usual], len(z) - counts[usual].sum())
    expected = np.append(cells[usual], 1 - cells[usual].sum()) * len(z)
    usual = expected > 5  # what is left outside the usual cells may be next to nothing
    statistic = ((observed - expected)[usual] ** 2 / expected[usual]).sum()
    assert stats.chi2.sf(statistic, df=usual.sum() - 1) > 1e-3


@pytest.mark.parametrize(
    ("prior", "step"),
    [
        (NormalPrior(1), 0.01),
        (NormalPrior(3), 0.2),
        (resolve_prior("gaussian_mixture", 1), 0.01),
        (resolve_prior("gaussian_mixture", 3), 0.1),
        (EmpiricalPrior([[0.0], [1.0], [1.5]]), 0.01),
        (EmpiricalPrior(np.eye(3), bandwidth=[0.5, 0.6, 0.7]), 0.15),
    ],
    ids=repr,
)
def test_density_integrates_to_one_in_other_dimensions(prior, step):
    d = prior.n_components
    x = torch.arange(-4.5, 4.5, step)
    points = torch.cartesian_prod(*[x] * d).reshape(-1, d)
    assert float(prior.log_prob(points).exp().sum() * step**d) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("n_components", [1, 2, 3, 4, 5, 9, 10, 16])
def test_named_mixture_has_ten_separate_components_and_unit_variance(n_components):
    prior = resolve_prior("gaussian_mixture", n_components)
    means, scales = np.asarray(prior.means), np.asarray(prior.scales)
    assert prior.n_parts == 10
    assert means.mean(0) == pytest.approx(0, abs=1e-12)
    assert means.var(0) + scales[0] ** 2 == pytest.approx(1)
    gaps = np.linalg.norm((means[:, None] - means) / scales[0], axis=-1)
    assert gaps[gaps > 0].min() == pytest.approx(4.3)
    assert (gaps > 0).sum() == 90


@pytest.mark.parametrize(
    ("make", "entropy"), [(PinwheelPrior, 0.91), (SwissRollPrior, 2.06), (SquarePrior, 1.37)]
)
def test_scale_and_entropy_of_the_curved_priors(make, entropy):
    z = make().sample(100_000, seeded())
    assert z.mean(0).numpy() == pytest.approx(0, abs=0.02)
    assert z.std(0).numpy() == pytest.approx(1, abs=0.03)
    assert -float(make().log_prob(z).mean()) == pytest.approx(entropy, abs=0.02)


@curved
def test_quadrature_is_exact_to_rounding_near_the_mass(make, monkeypatch):
    z = torch.cat([make().sample(300, seeded()).double(), uniform_disc(300, 3.0)])
    log_p = make().log_prob(z)
    n_nodes = _curves._n_nodes
    monkeypatch.setattr(_curves, "_n_nodes", lambda length: 2 * n_nodes(length))
    assert log_p.numpy() == pytest.approx(make().log_prob(z).numpy(), abs=1e-10)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    prior=st.one_of(
        st.builds(
            PinwheelPrior,
            n_arms=st.integers(1, 12),
            radial_std=st.floats(0.05, 0.4),
            twist=st.floats(-3, 3),
            noise=st.floats(0.03, 0.5),
        ),
        st.builds(
            SwissRollPrior,
            n_parts=st.integers(1, 12),
            n_turns=st.floats(0.1, 4),
            noise=st.floats(0.03, 0.9),
        ),
        st.builds(SquarePrior, n_parts=st.integers(1, 12), noise=st.floats(0.03, 0.9)),
    )
)
def test_any_shape_is_normalised_and_its_quadrature_exact(prior):
    z = prior.sample(200, seeded()).double()
    n_nodes = _curves._n_nodes
    try:
        _curves._n_nodes = lambda length: 2 * n_nodes(length)
        doubled = type(prior)(**constructor_arguments(prior))
    finally:
        _curves._n_nodes = n_nodes
    assert prior.log_prob(z).numpy() == pytest.approx(doubled.log_prob(z).numpy(), abs=1e-7)
    # Importance weights against a wide normal average to one.
    wide = 2.0 * torch.randn(20_000, 2, generator=seeded(), dtype=torch.float64)
    log_wide = NormalPrior(2).log_prob(wide / 2.0) - 2 * math.log(2.0)
    ratio = (prior.log_prob(wide) - log_wide).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert float(ratio.mean()) == pytest.approx(1.0, abs=5 * error)


def constructor_arguments(prior):
    code = type(prior).__init__.__code__
    return {name: getattr(prior, name) for name in code.co_varnames[1 : code.co_argcount]}


def test_the_parameter_of_a_curve_spans_its_range():
    ends = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert PinwheelPrior()._parameter(ends, 0).numpy() == pytest.approx([-3, 0, 3], abs=1e-9)
    turns = SwissRollPrior(n_parts=3, n_turns=1.5)._parameter(ends, torch.tensor([0, 1, 2]))
    assert turns.numpy() / math.pi == pytest.approx([1.5, 3.0, 4.5])
    assert SquarePrior(n_parts=8)._parameter(ends, 7).tolist() == [3.5, 3.75, 4.0]


@planar
def test_gradients_agree_with_finite_differences(make):
    prior = make()
    z = (1.5 * torch.randn(12, 2, generator=seeded(), dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(prior.log_prob, z)
    assert torch.autograd.gradcheck(prior.part_log_prob, z)


@planar
def test_parts_sum_to_the_marginal(make):
    prior = make()
    z = uniform_disc(200, 4.0)
    by_part = prior.part_log_prob(z)
    assert by_part.shape == (200, prior.n_parts)
    assert prior.part_weights.shape == (prior.n_parts,)
    weights = copy.deepcopy(prior).double().part_weights
    total = torch.logsumexp(by_part + weights.log(), dim=-1)
    assert total.numpy() == pytest.approx(prior.log_prob(z).numpy(), abs=1e-9)
    last = prior.n_parts - 1
    assert torch.equal(prior.log_prob(z, part=last), by_part[:, last])
    part = torch.arange(200) % prior.n_parts
    assert torch.equal(prior.log_prob(z, part=part), by_part[torch.arange(200), part])


@pytest.mark.parametrize("name", ["pinwheel", "swiss_roll", "square", "uneven_mixture"])
def test_samples_of_a_part_follow_the_density_of_the_part(name):
    prior = PLANAR[name]()
    points, area = grid(half_width=3.6, step=0.03)
    for part in (0, prior.n_parts - 1):
        log_p = prior.log_prob(points, part=part).double()
        mass = log_p.exp() * area
        assert float(mass.sum()) == pytest.approx(1.0, abs=1e-3)
        z = prior.sample(20_000, seeded(), part=part)
        log_p_z = prior.log_prob(z, part=part).double()
        error = float(log_p_z.std()) / math.sqrt(len(z))
        assert -float(log_p_z.mean()) == pytest.approx(-float((mass * log_p).sum()), abs=4 * error)
        mean = (mass[..., None] * points).sum((0, 1)).numpy()
        assert z.mean(0).numpy() == pytest.approx(mean, abs=0.01)
    # Drawn without a given part, the parts come with their weights.
    share = torch.bincount(prior._draw_parts(20_000, seeded()), minlength=prior.n_parts) / 20_000
    assert share.numpy() == pytest.approx(prior.part_weights.numpy(), abs=0.015)


@planar
def test_float32_agrees_with_float64(make):
    prior = make()
    z = torch.cat([prior.sample(300, seeded()), uniform_disc(300, 4.0, torch.float32)])
    single, double = z.clone().requires_grad_(), z.double().requires_grad_()
    log_p, reference = prior.log_prob(single), prior.log_prob(double)
    assert log_p.dtype == torch.float32
    assert reference.dtype == torch.float64
    assert log_p.detach().numpy() == pytest.approx(reference.detach().numpy(), abs=1e-3)
    log_p.sum().backward()
    reference.sum().backward()
    assert single.grad.numpy() == pytest.approx(double.grad.numpy(), rel=1e-3, abs=1e-2)


# --------------------------------------------------------------------------- denoising

LINE = torch.linspace(-9.0, 9.0, 3601, dtype=torch.float64)
DENOISING = {
    **{name: make for name, make in PLANAR.items() if not name.startswith("user")},
    "user_denoising": lambda: UserPrior(TwoNormals()),
    "normal, 1-D": lambda: NormalPrior(1),
    "mixture, 1-D": lambda: resolve_prior("gaussian_mixture", 1),
    "empirical, 1-D": lambda: EmpiricalPrior([[-2.0], [0.3], [1.0]], bandwidth=0.3),
    "normal, 5-D": lambda: NormalPrior(5),
    "mixture, 5-D": lambda: resolve_prior("gaussian_mixture", 5),
    "empirical, 5-D": lambda: EmpiricalPrior(np.random.default_rng(0).normal(size=(30, 5))),
}
denoising = pytest.mark.parametrize("make", DENOISING.values(), ids=DENOISING)


def noised(prior, n, seed=5):
    """Return draws of the prior seen through noise, and its variances, other for each axis."""
    shape = n, prior.n_components
    log_variance = -3.0 + 4.0 * torch.rand(shape, generator=seeded(seed), dtype=torch.float64)
    eps = torch.randn(shape, generator=seeded(seed + 1), dtype=torch.float64)
    variance = log_variance.exp()
    return prior.sample(n, seeded(seed)).double() + variance.sqrt() * eps, variance


def moments_by_integration(prior, y, variance):
    """Return E[z | y] and Var[z | y] of one point, by the rectangular rule on a grid."""
    axes = [LINE if prior.n_components == 1 else LINE[::10]] * prior.n_components
    z = torch.cartesian_prod(*axes).reshape(-1, prior.n_components)
    log_weight = prior.log_prob(z) - 0.5 * ((y - z).square() / variance).sum(-1)
    share = log_weight.softmax(0)[:, None]
    mean = (share * z).sum(0)
    return mean, (share * (z - mean).square()).sum(0)


@pytest.mark.parametrize("name", [name for name in DENOISING if "5-D" not in name])
def test_denoising_is_the_integral_over_the_posterior(name):
    prior = DENOISING[name]()
    y, variance = noised(prior, 4)
    mean, left = prior.denoise(y, variance)
    assert mean.shape == left.shape == y.shape
    for row in range(4):
        expected = moments_by_integration(prior, y[row], variance[row])
        assert mean[row].numpy() == pytest.approx(expected[0].numpy(), abs=1e-5)
        assert left[row].numpy() == pytest.approx(expected[1].numpy(), abs=1e-5)


@pytest.mark.parametrize("name", [name for name in DENOISING if "5-D" in name])
def test_denoising_in_many_dimensions_is_what_weighted_draws_say(name):
    """Draws about y, of twice the noise's variance, with the weights that make them posterior."""
    prior = DENOISING[name]()
    y, variance = noised(prior, 3)
    mean, left = prior.denoise(y, variance)
    eps = torch.randn(400_000, 5, generator=seeded(), dtype=torch.float64)
    for row in range(3):
        z = y[row] + (2.0 * variance[row]).sqrt() * eps
        log_weight = prior.log_prob(z) - 0.5 * eps.square().sum(-1)
        share = log_weight.softmax(0)[:, None]
        error = 5 * float(share.square().sum()) ** 0.5
        assert error < 0.1
        centred = z - mean[row]
        scale = left[row].sqrt()
        assert abs((share * centred).sum(0) / scale).max() < error
        assert abs((share * centred.square()).sum(0) / left[row] - 1).max() < 2 * error


@denoising
def test_denoising_of_no_noise_is_the_point_and_of_all_noise_the_prior(make):
    prior = make()
    y, _ = noised(prior, 20)
    mean, left = prior.denoise(y, torch.full_like(y, 1e-8))
    assert mean.numpy() == pytest.approx(y.numpy(), abs=1e-4)
    assert left.numpy() == pytest.approx(1e-8, rel=1e-3)
    for dtype in (torch.float32, torch.float64):
        mean, left = prior.denoise(y.to(dtype), torch.full_like(y, 1e8, dtype=dtype))
        z = prior.sample(100_000, seeded()).double()
        error = 5 * z.std(0) / math.sqrt(len(z))
        assert (abs(mean - z.mean(0)) < error + 1e-3).all()
        assert left.numpy() == pytest.approx(z.var(0).expand_as(y).numpy(), rel=0.03)


@denoising
def test_denoising_in_float32_and_under_autocast_agrees_with_float64(make):
    prior = make()
    y, variance = noised(prior, 200)
    # Across all the sizes of noise that a chain meets.
    variance = variance * 10.0 ** torch.linspace(-6, 3, 200, dtype=torch.float64)[:, None]
    y, variance = y.float(), variance.float()
    expected = prior.denoise(y.double(), variance.double())
    single = prior.denoise(y, variance)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = prior.denoise(y, variance)
    for value, same, reference in zip(single, mixed, expected, strict=True):
        assert value.dtype == same.dtype == torch.float32
        assert reference.dtype == torch.float64
        assert torch.equal(value, same)
        assert value.numpy() == pytest.approx(reference.numpy(), rel=1e-3, abs=2e-5)


@denoising
def test_the_gradient_of_denoising_is_that_of_finite_differences(make):
    prior = make()
    y, variance = (value.requires_grad_() for value in noised(prior, 3))
    assert torch.autograd.gradcheck(prior.denoise, (y, variance))


@denoising
def test_denoising_takes_any_leading_shape_and_variances_that_broadcast(make, monkeypatch):
    prior = make()
    d = prior.n_components
    y, variance = noised(prior, 12)
    expected = prior.denoise(y, variance[:4].repeat(3, 1))
    monkeypatch.setattr(_kernel, "_BLOCK_SIZE", 1)
    found = prior.denoise(y.reshape(3, 4, d), variance[:4])
    for value, reference in zip(found, expected, strict=True):
        assert torch.allclose(value.reshape(12, d), reference, rtol=1e-12, atol=1e-14)


def test_denoising_heeds_the_weights_of_the_parts():
    """Kernels of unequal parts are a mixture of Gaussians, whose moments are written otherwise."""
    prior = _kernel.KernelPrior(1, (0.25, 0.75))
    nodes = torch.tensor([[[-1.0]], [[0.5]]], dtype=torch.float64)
    scale = torch.tensor(0.3, dtype=torch.float64)
    prior._set_nodes(nodes, torch.zeros(2, 1, dtype=torch.float64), scale)
    mixture = GaussianMixturePrior([[-1.0], [0.5]], 0.3, weights=[0.25, 0.75])
    y, variance = noised(mixture, 20)
    for value, expected in zip(
        prior.denoise(y, variance), mixture.denoise(y, variance), strict=True
    ):
        assert torch.allclose(value, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("prior", "tolerance"),
    [
        (PinwheelPrior(), 1e-6),
        (PinwheelPrior(n_arms=2, radial_std=0.4, twist=5.0, noise=0.01), 1e-4),
        (PinwheelPrior(n_arms=3, radial_std=0.001, twist=0.0, noise=0.003), 1e-5),
        (PinwheelPrior(n_arms=3, radial_std=0.05, noise=0.5), 1e-5),
        (SwissRollPrior(), 1e-6),
        (SwissRollPrior(n_parts=3, noise=0.01), 1e-4),
        (SwissRollPrior(n_parts=1, n_turns=10, noise=0.9), 5e-3),
        (SquarePrior(), 1e-6),
        (SquarePrior(n_parts=1), 1e-4),
        (SquarePrior(noise=0.001), 1e-4),
    ],
    ids=repr,
)
def test_a_curve_needs_fewer_nodes_for_denoising_than_for_its_density(prior, tolerance):
    nodes, log_weights = prior._masters["nodes"], prior._masters["log_weights"]
    assert len(prior._masters["moments"]) < 0.75 * log_weights.numel()
    every = _kernel.KernelPrior(2, prior.part_weights)
    scale = prior._masters["scale"]
    every._set_nodes(nodes * scale, log_weights, scale)
    z = prior.sample(2000, seeded()).double()
    for size in (1e-3, 0.1, 1.0, 10.0):
        variance = torch.full_like(z, size * prior.noise**2)
        y = z + variance.sqrt() * torch.randn(z.shape, generator=seeded(), dtype=torch.float64)
        (mean, left), (expected_mean, expected) = (p.denoise(y, variance) for p in (prior, every))
        assert (abs(mean - expected_mean) / expected.sqrt()).max() < tolerance
        assert abs(left / expected - 1.0).max() < tolerance


def test_denoising_does_not_mind_how_far_the_samples_lie():
    """In float32 the squares of large nodes would drown what tells one from another."""
    samples = np.random.default_rng(0).normal(size=(50, 2))
    near, far = EmpiricalPrior(samples), EmpiricalPrior(samples + 1024.0)
    y, variance = (value.float() for value in noised(near, 50))
    mean, left = near.denoise(y, variance)
    far_mean, far_left = far.denoise(y + 1024.0, variance)
    assert (far_mean - 1024.0).numpy() == pytest.approx(mean.numpy(), abs=2e-3)
    assert far_left.numpy() == pytest.approx(left.numpy(), rel=1e-2)


def test_draws_of_a_user_prior_have_no_gradient():
    points = torch.zeros(5, 2, requires_grad=True)
    prior = TwoLaplaces()
    prior.sample = lambda n, generator: points[:n]
    assert not UserPrior(prior).sample(5, seeded()).requires_grad


def test_a_prior_without_a_closed_form_says_so():
    y, variance = noised(NormalPrior(2), 3)
    assert UserPrior(TwoLaplaces()).denoise(y, variance) is None

    class Wrong(TwoNormals):
        def denoise(self, y, variance):
            return y, variance.sum(-1)

    with pytest.raises(ValueError, match=r"moments of prior=Wrong .* \(3, 2\), found .* \(3,\)\]"):
        UserPrior(Wrong()).denoise(y, variance)


# --------------------------------------------------------------------------- other laws


def test_moving_to_float64_loses_no_digits():
    means, scales, weights = [[0.1, 0.2], [0.3, -0.7]], [0.1, 0.3], [0.1, 0.9]
    prior = GaussianMixturePrior(means, scales, weights).float().double()
    z = uniform_disc(50, 2.0)
    expected = sum(
        w * stats.multivariate_normal(m, s**2).pdf(z.numpy())
        for m, s, w in zip(means, scales, weights, strict=True)
    )
    assert prior.log_prob(z).numpy() == pytest.approx(np.log(expected), rel=1e-13)
    assert prior.part_weights.numpy() == pytest.approx(weights, rel=1e-15)
    assert prior.sample(3, seeded()).dtype == torch.float64


def test_empirical_density_is_the_kernel_estimate_of_scipy():
    rng = np.random.default_rng(0)
    for d in (1, 3):
        samples = rng.normal(size=(40, d))
        prior = EmpiricalPrior(samples)
        z = rng.normal(size=(20, d))
        distance = (z[:, None] - samples) / (40 ** (-1 / (d + 4)) * samples.std(0, ddof=1))
        kernel = stats.norm.pdf(distance).prod(-1) / samples.std(0, ddof=1).prod()
        expected = np.log(kernel.mean(1) * 40 ** (d / (d + 4)))
        log_p = prior.log_prob(torch.from_numpy(z)).numpy()
        assert log_p == pytest.approx(expected, rel=1e-12)
        if d == 1:
            assert log_p == pytest.approx(stats.gaussian_kde(samples.T).logpdf(z.T), rel=1e-12)


@curved
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_far_from_the_mass_point_back(make, dtype):
    prior = make()
    directions = torch.nn.functional.normalize(uniform_disc(100, 1.0, dtype), dim=1)
    for radius in (3.0, 10.0, 50.0):
        z = (radius * directions).requires_grad_()
        log_p = prior.log_prob(z)
        log_p.sum().backward()
        assert torch.isfinite(log_p).all()
        assert ((z.grad * directions).sum(1) < 0).all()
        # For isotropic noise, z + noise^2 * gradient is the mean of the curve given z.
        on_curve = z + prior.noise**2 * z.grad
        assert (on_curve.norm(dim=1) < 2.6).all()
        assert ((on_curve * directions).sum(1) > 0).all()


@planar
def test_leading_shapes_dtypes_and_blocks_of_rows(make, monkeypatch):
    prior = make()
    z = prior.sample(12, seeded())
    expected = prior.log_prob(z)
    assert torch.equal(prior.log_prob(z.reshape(3, 4, 2)).flatten(), expected)
    assert prior.log_prob(z[0]).shape == ()
    assert prior.log_prob(z[:0]).shape == (0,)
    assert prior.sample(0, seeded()).shape == (0, 2)
    part = torch.arange(4) % prior.n_parts
    assert prior.log_prob(z.reshape(3, 4, 2), part=part).shape == (3, 4)
    assert prior.log_prob(z.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(prior.log_prob(z), expected, atol=1e-5)
    monkeypatch.setattr(_kernel, "_BLOCK_SIZE_CPU", 1)
    assert torch.allclose(prior.log_prob(z), expected, atol=1e-5)


def test_use_in_inference_mode_does_not_spoil_later_gradients():
    for make in PLANAR.values():
        prior = make()
        with torch.inference_mode():
            prior.log_prob(torch.zeros(3, 2))
        z = torch.zeros(3, 2, requires_grad=True)
        prior.log_prob(z).sum().backward()
        assert torch.isfinite(z.grad).all()


@planar
def test_random_numbers_come_from_the_given_generator_alone(make):
    prior = make()
    before = torch.random.get_rng_state()
    first = prior.sample(50, seeded(3))
    assert torch.equal(first, prior.sample(50, seeded(3)))
    assert not torch.equal(first, prior.sample(50, seeded(4)))
    assert not torch.equal(prior.sample(50), prior.sample(50))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.shape == (50, 2)
    assert first.dtype == torch.float32
    if prior.name != "user":  # a user's object draws in its own dtype
        double = copy.deepcopy(prior).double().sample(50, seeded(3))
        assert torch.equal(double.float(), first)


@planar
def test_copies_and_pickles_behave_alike(make):
    prior = make()
    z = prior.sample(20, seeded())
    expected = prior.log_prob(z)
    for other in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))):
        assert other._cache == {}
        assert torch.equal(other.log_prob(z), expected)
        assert torch.equal(other.sample(20, seeded()), z)
        assert torch.equal(other.part_weights, prior.part_weights)


def test_arguments_are_stored_and_shown():
    assert repr(NormalPrior(3)) == "NormalPrior(n_components=3)"
    assert repr(PinwheelPrior(n_arms=4)) == (
        "PinwheelPrior(n_arms=4, radial_std=0.2, twist=0.6, noise=0.055)"
    )
    assert repr(SwissRollPrior()) == "SwissRollPrior(n_parts=10, n_turns=1.5, noise=0.15)"
    assert repr(SquarePrior(noise=0.2)) == "SquarePrior(n_parts=10, noise=0.2)"
    samples = np.zeros((5, 2))
    prior = EmpiricalPrior(samples, bandwidth=0.5)
    assert prior.samples is samples
    assert repr(prior) == "EmpiricalPrior(samples=array(5, 2), bandwidth=0.5)"
    mixture = GaussianMixturePrior(torch.zeros(2, 3), 1.0, weights=[1, 3])
    assert repr(mixture) == (
        "GaussianMixturePrior(means=array(2, 3), scales=1.0, weights=array(2,))"
    )
    assert mixture.part_weights.tolist() == [0.25, 0.75]


def test_resolve_prior_copies_objects_and_wraps_users():
    for name in ("normal", "gaussian_mixture", *CURVED):
        assert resolve_prior(name, 2).name == name
    assert resolve_prior("normal", 7).n_components == 7
    pinwheel = PinwheelPrior(n_arms=3)
    resolved = resolve_prior(pinwheel, 2)
    assert isinstance(resolved, PinwheelPrior)
    assert resolved is not pinwheel
    plain, module = resolve_prior(TwoLaplaces(), 2), resolve_prior(Halves(), 2)
    assert isinstance(plain, Prior)
    assert plain.n_parts == 1
    assert module.n_parts == 2
    assert "prior.centres" in dict(module.named_buffers())
    assert module.double().prior.centres.dtype == torch.float64
    z = module.sample(500, seeded(), part=1)
    assert float(z[:, 0].mean()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("prior", "n_components", "message"),
    [
        ("pinwheel", 3, "'pinwheel' lives in 2 dimensions, found n_components=3"),
        (SquarePrior(), 5, "SquarePrior lives in 2 dimensions, found n_components=5"),
        (TwoLaplaces(), 1, "TwoLaplaces lives in 2 dimensions, found n_components=1"),
        ("pinwheels", 2, "must be one of 'normal'.* found 'pinwheels'"),
        (3.0, 2, "found float without n_components, sample, log_prob"),
        (None, 2, "found NoneType without"),
        (PinwheelPrior, 2, "found the class PinwheelPrior"),
    ],
)
def test_resolve_prior_refuses(prior, n_components, message):
    with pytest.raises(ValueError, match=message):
        resolve_prior(prior, n_components)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NormalPrior(0), "n_components must be an integer of at least 1, found 0"),
        (lambda: PinwheelPrior(n_arms=2.5), "n_arms must be an integer of at least 1, found 2.5"),
        (lambda: PinwheelPrior(radial_std=1.0), "radial_std must be a number from 0.001 to 0.4"),
        (lambda: PinwheelPrior(noise=math.nan), "noise must be a number .* found nan"),
        (lambda: PinwheelPrior(twist="much"), "twist must be a number .* found 'much'"),
        (lambda: SwissRollPrior(noise=1.0), "noise must be a number from 0.001 to 0.9, found 1"),
        (lambda: SwissRollPrior(n_turns=0), "n_turns must be a number from 0.1 to 10, found 0"),
        (lambda: SquarePrior(n_parts=True), "n_parts must be an integer .* found True"),
        (lambda: SquarePrior(noise=0), "noise must be a number from 0.001 to 0.9, found 0"),
        (lambda: GaussianMixturePrior([0, 1], 1), r"means must be a matrix .* \(2,\)"),
        (lambda: GaussianMixturePrior([[0.0], [1]], [1, 2, 3]), r"scales .* found shape \(3,\)"),
        (lambda: GaussianMixturePrior([[0.0], [1]], -1.0), "scales must be above 0, found -1"),
        (lambda: GaussianMixturePrior([[0.0]], 1, [1, 2]), r"weights .* found shape \(2,\)"),
        (lambda: GaussianMixturePrior([[0.0]], 1, [0]), "weights must be above 0, found 0"),
        (lambda: GaussianMixturePrior([["a"]], 1), "means must hold numbers, found list"),
        (lambda: EmpiricalPrior([[math.nan], [0]]), "samples must be finite, found 1 NaN"),
        (lambda: EmpiricalPrior([[1.0, 2.0]]), "at least 2 rows for Scott's rule, found 1"),
        (lambda: EmpiricalPrior([[1.0, 2], [3, 2]]), "found axis 1 constant"),
        (lambda: EmpiricalPrior([[1.0]], bandwidth=0), "bandwidth must be above 0, found 0"),
        (lambda: EmpiricalPrior([[1.0]], bandwidth=[1, 2]), r"bandwidth .* found shape \(2,\)"),
        (lambda: NormalPrior(2).log_prob(torch.zeros(4, 3)), r"n_components=2 .* \(4, 3\)"),
        (lambda: NormalPrior(2).log_prob(torch.tensor(1.0)), r"n_components=2 .* \(\)"),
        (lambda: PinwheelPrior().log_prob(torch.zeros(1, 2), part=10), "0..9, found .* 10"),
        (lambda: PinwheelPrior().sample(2, part=-1), "part must lie in 0..9, found .* -1"),
        (lambda: PinwheelPrior().sample(2, part=0.5), "part must hold integers"),
        (
            lambda: PinwheelPrior().sample(2, part=torch.zeros(3, dtype=torch.long)),
            r"part must have shape \(2,\), found \(3,\)",
        ),
    ],
)
def test_bad_arguments_are_named_with_the_value_found(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_users_object_with_wrong_shapes_is_named():
    class Wrong(TwoLaplaces):
        def sample(self, n, generator):
            return torch.zeros(n)

        def log_prob(self, z):
            return z

    prior = resolve_prior(Wrong(), 2)
    with pytest.raises(ValueError, match=r"samples of prior=Wrong .* \(3, 2\), found \(3,\)"):
        prior.sample(3)
    with pytest.raises(ValueError, match=r"log density of prior=Wrong .* found \(3, 2\)"):
        prior.log_prob(torch.zeros(3, 2))


@pytest.mark.parametrize(
    "prior",
    [
        GaussianMixturePrior([[0.0, 0.0], [1.0, 2.0]], [[0.3, 0.2], [0.1, 0.5]], [0.3, 0.7]),
        PinwheelPrior(3),
        SquarePrior(4),
    ],
    ids=lambda prior: prior.name,
)
def test_denoise_in_a_part_sees_that_part_alone(prior):
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([[0.5, 0.7], [1.2, -0.3]], dtype=torch.float64)
    variance = torch.tensor([[0.3, 0.2], [0.5, 0.4]], dtype=torch.float64)
    part = torch.tensor([1, 0])
    mean, left = prior.denoise(y, variance, part)
    for row in range(2):
        z = prior.sample(200_000, generator, part=int(part[row])).double()
        share = (-0.5 * ((y[row] - z).square() / variance[row]).sum(-1)).softmax(0)[:, None]
        expected = (share * z).sum(0)
        spread = (share * (z - expected).square()).sum(0)
        torch.testing.assert_close(mean[row], expected, atol=0.02, rtol=0.0)
        torch.testing.assert_close(left[row], spread, atol=0.02, rtol=0.0)
    draws = prior.denoise(y.expand(3, 2, 2), variance, part)
    torch.testing.assert_close(draws[0], mean.expand(3, 2, 2))
