"""Penalties that a second thread computes beside the rest."""

import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from skddvi import DDVAETransformer
from skddvi._engine import trainer
from skddvi._neighbors import fuzzy_graph, layout, nearest_neighbors
from skddvi.likelihoods import GaussianLikelihood
from skddvi.regularizers import NeighborhoodPreservation

X = np.random.default_rng(0).normal(size=(60, 4)) + np.repeat([[0.0], [4.0], [8.0]], 20, axis=0)


@contextmanager
def threads(n_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Watched(NeighborhoodPreservation):
    """Notes in which thread it is, and how many threads torch takes there."""

    seen = ()

    def penalty_of_rows(self, rows):
        Watched.seen = (*Watched.seen, (threading.get_ident(), torch.get_num_threads()))
        return super().penalty_of_rows(rows)


class Called(NeighborhoodPreservation):
    """Is asked for the penalty as any other regulariser is."""

    def __call__(self, z, rows):
        return super().__call__(z, rows)


class Failing(NeighborhoodPreservation):
    def penalty_of_rows(self, rows):
        raise ArithmeticError("no penalty today")


def fitted(regularizer, **params):
    defaults = {"max_iter": 3, "batch_size": 20, "hidden_layer_sizes": (16,), "random_state": 0}
    return DDVAETransformer(regularizer=regularizer, **(defaults | params)).fit(X)


@pytest.fixture
def seen():
    Watched.seen = ()
    yield lambda: Watched.seen
    Watched.seen = ()


def test_a_spare_thread_computes_the_penalty(seen):
    with threads(2):
        fitted(Watched())
        assert torch.get_num_threads() == 2
    identities, n_threads = zip(*seen(), strict=True)
    assert len(seen()) == 9
    assert len(set(identities)) == 1
    assert threading.get_ident() not in identities
    assert set(n_threads) == {1}
    assert not any(thread.ident in identities for thread in threading.enumerate())


def test_without_a_spare_thread_there_is_none(seen):
    with threads(1):
        fitted(Watched())
    assert {identity for identity, _ in seen()} == {threading.get_ident()}


def test_networks_of_the_users_are_not_used_by_two_threads(seen):
    with threads(2):
        fitted(Watched(), encoder=torch.nn.Linear)
    assert {identity for identity, _ in seen()} == {threading.get_ident()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("prior", ["normal", "gaussian_mixture", "square"])
def test_a_spare_thread_changes_nothing(prior, precision):
    models = []
    for n_threads in (1, 2, 2):
        with threads(n_threads):
            regularizer = NeighborhoodPreservation()
            models.append(fitted(regularizer, prior=prior, precision=precision))
    for model in models[1:]:
        np.testing.assert_array_equal(model.transform(X), models[0].transform(X))
        assert model.history_ == models[0].history_


def test_gradients_are_those_of_the_whole_loss():
    beside, called = fitted(NeighborhoodPreservation()), fitted(Called())
    np.testing.assert_allclose(beside.transform(X), called.transform(X), atol=1e-4)
    assert beside.history_.keys() == called.history_.keys()
    for name, values in beside.history_.items():
        np.testing.assert_allclose(values, called.history_[name], rtol=1e-4, atol=1e-4)
    assert np.abs(fitted(None).transform(X) - called.transform(X)).max() > 0.01


@pytest.mark.parametrize("n_threads", [1, 2])
def test_errors_come_out_and_leave_no_thread(n_threads):
    before = threading.active_count()
    with threads(n_threads), pytest.raises(ArithmeticError, match="no penalty today"):
        fitted(Failing())
    assert threading.active_count() == before


def test_an_error_in_the_rest_waits_for_the_penalty(monkeypatch):
    events, restore = [], trainer.Loop.restore

    class Slow(NeighborhoodPreservation):
        def penalty_of_rows(self, rows):
            threading.Event().wait(0.2)
            events.append("penalty")
            return super().penalty_of_rows(rows)

    class Refusing:
        name = "refusing"

        def __call__(self, z, rows):
            raise ArithmeticError("no latents today")

    def noted(loop, snapshot):
        events.append("restore")
        restore(loop, snapshot)

    monkeypatch.setattr(trainer.Loop, "restore", noted)
    with threads(2), pytest.raises(ArithmeticError, match="no latents today"):
        fitted([Slow(), Refusing()])
    assert events == ["penalty", "restore"]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_penalties_of_any_kind(n_threads):
    class Constant(NeighborhoodPreservation):
        def penalty_of_rows(self, rows):
            return torch.tensor(1.0)

    class Number(NeighborhoodPreservation):
        def penalty_of_rows(self, rows):
            return 1.0

    with threads(n_threads):
        model = fitted(Constant())
        plain = fitted(None, n_map_steps=0)  # which the regulariser is without
        np.testing.assert_array_equal(model.transform(X), plain.transform(X))
        assert model.history_["neighborhood_preservation"] == pytest.approx([1.0] * 3)
        with pytest.raises(TypeError, match="'neighborhood_preservation' must return a tensor"):
            fitted(Number())


@pytest.mark.parametrize("n_threads", [1, 2])
def test_weights_that_no_number_holds(n_threads):
    with threads(n_threads), pytest.warns(RuntimeWarning), pytest.raises(FloatingPointError):
        fitted(NeighborhoodPreservation(weight=1e39))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_parameters_may_be_frozen_in_the_middle(n_threads):
    class Freezing(torch.nn.Linear):
        n_passes = 0

        def forward(self, x):
            self.n_passes += self.training
            self.requires_grad_(self.n_passes < 3)
            return super().forward(x)

    with threads(n_threads):
        model = fitted(NeighborhoodPreservation(), encoder=Freezing)
    assert np.isfinite(model.transform(X)).all()


class Remembering:
    """A prior that a second thread would disturb, and whether one did."""

    n_components = 2
    busy = disturbed = False

    def sample(self, n, generator):
        return torch.randn(n, 2, generator=generator)

    def log_prob(self, z):
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)

    def denoise(self, y, variance):
        Remembering.disturbed |= Remembering.busy
        Remembering.busy = True
        threading.Event().wait(0.001)
        Remembering.busy = False
        return y / (1.0 + variance), variance / (1.0 + variance)


def test_priors_of_the_users_are_not_used_by_two_threads(seen):
    with threads(2):
        fitted(Watched(), prior=Remembering())
    assert {identity for identity, _ in seen()} == {threading.get_ident()}
    assert not Remembering.disturbed


class OwnGaussian(GaussianLikelihood):
    """A likelihood of the user's."""


def test_likelihoods_of_the_users_are_not_used_by_two_threads(seen):
    with threads(2):
        fitted(Watched(), likelihood=OwnGaussian())
    assert {identity for identity, _ in seen()} == {threading.get_ident()}


class Noisy(torch.nn.Module):
    """A normal prior that says something else each time while it is trained."""

    n_components, n_calls = 2, 0

    def sample(self, n, generator):
        return torch.randn(n, 2, generator=generator)

    def log_prob(self, z):
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)

    def denoise(self, y, variance):
        self.n_calls += self.training
        return y / (1.0 + variance) + 0.01 * self.n_calls, variance / (1.0 + variance)


def test_latents_are_shown_without_the_noise_of_a_users_prior():
    shown = []

    class Looking:
        name = "looking"

        def attach(self, view):
            self.view = view

        def __call__(self, z, rows):
            x = self.view.rows(rows)
            shown.append([self.view.embed(x).detach() for _ in range(2)])
            return z.sum() * 0.0

    fitted(Looking(), prior=Noisy())
    for one, other in shown:
        assert torch.equal(one, other)
    assert len(shown) == 9


@pytest.mark.parametrize(
    "fit",
    [
        "DDVAETransformer(max_iter=2, regularizer=NeighborhoodPreservation())",
        "DDVAEClusterer(3, max_iter=2)",
        "DDVAEClassifier(max_iter=2)",
    ],
)
def test_a_fit_may_outlive_the_main_thread(fit):
    code = f"""
import threading
import numpy as np, torch
from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer
from skddvi.regularizers import NeighborhoodPreservation

torch.set_num_threads(2)

def late():
    threading.main_thread().join()
    {fit}.fit(np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3 - 1)
    print("fitted")

threading.Thread(target=late).start()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "fitted\n", ended.stderr


def test_a_penalty_that_is_not_finite_is_named():
    class Infinite(NeighborhoodPreservation):
        def penalty_of_rows(self, rows):
            return super().penalty_of_rows(rows) * np.inf

    with threads(2), pytest.warns(RuntimeWarning), pytest.raises(FloatingPointError) as caught:
        fitted(Infinite())
    assert "'neighborhood_preservation' was not finite" in str(caught.value)


def test_a_layout_is_the_same_with_a_spare_thread():
    graph, layouts = fuzzy_graph(*nearest_neighbors(X, 5)), []
    for n_threads in (1, 2):
        with threads(n_threads):
            layouts.append(layout(graph, X[:, :2], np.random.default_rng(0), n_steps=20))
    np.testing.assert_array_equal(*layouts)
