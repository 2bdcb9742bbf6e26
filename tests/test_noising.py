"""The noising processes: coefficients against iterated steps and against Bayes' rule."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skddvi.noising import (
    NoisingProcess,
    VarianceExploding,
    VariancePreserving,
    posterior_coefficients,
    resolve_noising,
    transition_coefficients,
)

NAMES = ["cosine", "linear", "even", "variance_exploding"]
betas_arrays = st.lists(st.floats(1e-5, 0.999), min_size=1, max_size=20)
processes = st.one_of(
    st.tuples(st.sampled_from(NAMES), st.integers(1, 1000)),
    st.tuples(betas_arrays, st.none()).map(lambda pair: (pair[0], len(pair[0]))),
)


class Halving(NoisingProcess):
    """A user's process: half of the signal is lost at every step."""

    def coefficients(self, n_steps):
        alpha = 0.5 ** np.arange(n_steps + 1)
        return alpha, np.sqrt(1 - alpha**2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(processes)
def test_coefficients_start_clean_and_the_snr_falls(case):
    noising, n_steps = case
    alpha, sigma = resolve_noising(noising, n_steps).coefficients(n_steps)
    assert alpha.shape == sigma.shape == (n_steps + 1,)
    assert alpha.dtype == sigma.dtype == np.float64
    assert alpha[0] == 1
    assert sigma[0] == 0
    assert np.isfinite(alpha).all()
    assert (sigma[1:] > 0).all()
    assert (np.diff(alpha[1:] / sigma[1:]) < 0).all()
    if noising != "variance_exploding":
        assert alpha**2 + sigma**2 == pytest.approx(1, abs=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(processes)
def test_iterated_steps_give_the_coefficients(case):
    noising, n_steps = case
    alpha, sigma = resolve_noising(noising, n_steps).coefficients(n_steps)
    a, s = transition_coefficients(alpha, sigma)
    factor, variance = 1.0, 0.0
    for t in range(n_steps):
        factor, variance = a[t] * factor, a[t] ** 2 * variance + s[t] ** 2
        assert factor == pytest.approx(alpha[t + 1], rel=1e-9)
        assert variance == pytest.approx(sigma[t + 1] ** 2, rel=1e-9)


def test_betas_are_the_variances_of_the_steps():
    betas = [0.01, 0.3, 0.9]
    a, s = transition_coefficients(*VariancePreserving(betas).coefficients(3))
    assert s**2 == pytest.approx(betas)
    assert a**2 == pytest.approx(1 - np.array(betas))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(processes)
def test_posterior_coefficients_satisfy_bayes_rule(case):
    noising, n_steps = case
    alpha, sigma = resolve_noising(noising, n_steps).coefficients(n_steps)
    a, s = transition_coefficients(alpha, sigma)
    on_y, on_z, std = posterior_coefficients(alpha, sigma)
    assert (on_y[0], std[0]) == (0, 0)
    assert on_z[0] == pytest.approx(1)
    for t in range(2, n_steps + 1):
        # Conditioning of the joint normal of (y_{t-1}, y_t) given z on y_t.
        mean = np.array([alpha[t - 1], a[t - 1] * alpha[t - 1]])
        before = sigma[t - 1] ** 2
        cov = before * np.array([[1, a[t - 1]], [a[t - 1], a[t - 1] ** 2]])
        cov[1, 1] += s[t - 1] ** 2
        gain = cov[0, 1] / cov[1, 1]
        i = t - 1
        assert on_y[i] == pytest.approx(gain, rel=1e-9)
        assert on_z[i] == pytest.approx(mean[0] - gain * mean[1], rel=1e-6, abs=1e-12)
        assert std[i] ** 2 == pytest.approx(cov[0, 0] - gain * cov[0, 1], rel=1e-6, abs=1e-12)


def test_posterior_coefficients_are_those_of_ho_et_al():
    betas = np.array([0.1, 0.2, 0.3, 0.4])
    abar = np.cumprod(1 - betas)
    on_y, on_z, std = posterior_coefficients(*VariancePreserving(betas).coefficients(4))
    before, after = np.append(1, abar[:-1]), abar
    assert on_y == pytest.approx(np.sqrt(1 - betas) * (1 - before) / (1 - after))
    assert on_z == pytest.approx(np.sqrt(before) * betas / (1 - after))
    assert std**2 == pytest.approx((1 - before) / (1 - after) * betas)


def test_cosine_schedule():
    def f(u):
        return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2

    for n_steps in (2, 8, 50):
        alpha, _ = VariancePreserving().coefficients(n_steps)
        time = np.arange(n_steps) / n_steps
        assert alpha[:-1] ** 2 == pytest.approx(f(time) / f(0))
        assert alpha[-1] ** 2 == pytest.approx(0.001 * alpha[-2] ** 2)
    assert VariancePreserving().coefficients(1)[0] ** 2 == pytest.approx([1, 0.001])


@pytest.mark.parametrize("n_steps", [1, 2, 10, 1000])
def test_linear_schedule_ends_in_noise_for_any_number_of_steps(n_steps):
    alpha, _ = VariancePreserving("linear").coefficients(n_steps)
    assert alpha[-1] == pytest.approx(np.exp(-0.5 * (20 + 0.1) / 2))


@pytest.mark.parametrize(
    ("n_steps", "squares"), [(1, [0.9]), (2, [0.3, 0.9]), (4, [0.3, 0.5, 0.7, 0.9])]
)
def test_even_schedule_rises_by_equal_amounts(n_steps, squares):
    alpha, sigma = resolve_noising("even", n_steps).coefficients(n_steps)
    assert sigma[1:] ** 2 == pytest.approx(squares)
    assert alpha**2 + sigma**2 == pytest.approx(1)


def test_variance_exploding_grows_geometrically():
    alpha, sigma = VarianceExploding(sigma_min=0.01, sigma_max=100.0).coefficients(5)
    assert (alpha == 1).all()
    assert sigma == pytest.approx([0, 0.01, 0.1, 1, 10, 100])
    assert VarianceExploding().coefficients(1)[1].tolist() == [0, 10]


@pytest.mark.parametrize("noising", [*NAMES, Halving()])
def test_no_steps_leave_the_latent_alone(noising):
    alpha, sigma = resolve_noising(noising, 0).coefficients(0)
    assert (alpha.tolist(), sigma.tolist()) == ([1], [0])
    assert all(len(c) == 0 for c in posterior_coefficients(alpha, sigma))


def test_resolving_copies_and_survives_pickling():
    user = Halving()
    resolved = resolve_noising(user, 4)
    assert isinstance(resolved, Halving)
    assert resolved is not user
    betas = np.array([0.1, 0.2])
    resolved = resolve_noising(betas, 2)
    betas[:] = 7
    assert resolved.coefficients(2)[0] == pytest.approx(np.sqrt([1, 0.9, 0.72]))
    for process in (VariancePreserving("linear"), VarianceExploding(0.1, 3.0)):
        for other in (copy.deepcopy(process), pickle.loads(pickle.dumps(process))):
            assert repr(other) == repr(process)
            assert np.array_equal(other.coefficients(5), process.coefficients(5))
    assert repr(VarianceExploding()) == "VarianceExploding(sigma_min=0.05, sigma_max=10.0)"


class Returns:
    """A user's object that returns what it is given."""

    def __init__(self, *coefficients):
        self.result = coefficients

    def coefficients(self, n_steps):
        return self.result


@pytest.mark.parametrize(
    ("noising", "message"),
    [
        ("cosin", "must be one of 'cosine', 'linear', 'even', 'variance_.*', .* found 'cosin'"),
        (None, "noising must be a name, an array .* found None"),
        ([0.1, 0.2, 0.3], "gives 3 betas, one per step, found n_diffusion_steps=2"),
        ([0.1, 1.0], "betas between 0 and 1, both excluded, found 1 outside, the first 1.0"),
        ([0.0, -0.5], "found 2 outside, the first 0.0"),
        ([0.1, np.nan], "found 1 outside, the first nan"),
        ([[0.1, 0.2]], r"1-D array of betas, found shape \(1, 2\)"),
        (0.5, "noising must be a name, an array .* found 0.5"),
        (VariancePreserving("quadratic"), "schedule must be .* or an array .* found 'quadratic'"),
        (VarianceExploding, "found the class VarianceExploding"),
        (VarianceExploding(2.0, 1.0), "0 < sigma_min < sigma_max, found sigma_min=2.0"),
        (VarianceExploding(0.0, 1.0), "found sigma_min=0.0"),
        (VarianceExploding(0.1, np.inf), "sigma_max=inf"),
        (Returns([1, 0.5, 0.1]), r"coefficients\(2\) must return two arrays"),
        (Returns([1, 0.5], [0, 0.5]), r"shape \(3,\), found alpha \(2,\) and sigma \(2,\)"),
        (Returns([0.9, 0.5, 0.1], [0, 0.5, 0.9]), "start at alpha=1 and sigma=0, found alpha=0.9"),
        (Returns([1, 0.5, 0.1], [0, 0.5, np.inf]), "finite alpha and sigma"),
        (Returns([1, 0.5, -0.1], [0, 0.5, 0.9]), "found alpha down to -0.1"),
        (Returns([1, 0.5, 0.1], [0, 0.0, 0.9]), "sigma down to 0.0"),
        (Returns([1, 0.5, 0.5], [0, 0.5, 0.5]), "must fall at every step, found 1 at t=1 and 1"),
        (Returns([1, 0.5, 0.5], [0, 0.5, 0.4]), "found 1 at t=1 and 1.5625 at t=2"),
    ],
)
def test_bad_processes_are_named_with_the_value_found(noising, message):
    with pytest.raises(ValueError, match=message):
        resolve_noising(noising, 2)


@pytest.mark.parametrize("n_steps", [-1, 2.0, True, None])
def test_bad_numbers_of_steps(n_steps):
    with pytest.raises(ValueError, match=f"n_steps must be an integer of at least 0.*{n_steps}"):
        resolve_noising("cosine", n_steps)
