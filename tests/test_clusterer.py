"""DDVAEClusterer: its contract, its prior, its start, and the scan over numbers of clusters."""

import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import is_clusterer
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skddvi import ClusterNumberScan, DDVAEClusterer, _neighbors, cluster_number_scan
from skddvi._neighbors import (
    NeighborAgreement,
    fuzzy_graph,
    layout,
    nearest_neighbors,
)
from skddvi.mixture_prior import SCALE_FLOOR, WEIGHT_FLOOR, MixturePrior
from skddvi.priors import NormalPrior, PinwheelPrior, SquarePrior, UserPrior, resolve_prior

ROOT = Path(__file__).parents[1]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(n_rows=200, n_clusters=4, seed=0, n_features=4):
    """Return rows and classes of round groups that do not overlap."""
    angles = np.arange(n_clusters)[:, None] * np.arange(1, n_features + 1)
    centers = 10.0 * np.cos(2.4 * angles + np.arange(n_features))
    return make_blobs(n_rows, centers=centers, random_state=seed)


def small(n_clusters=4, **params):
    """Return a model that is fitted in a fraction of a second."""
    defaults = {
        "n_components": 3,
        "hidden_layer_sizes": (32,),
        "denoiser_width": 16,
        "n_diffusion_steps": 1,
        "batch_size": 100,
        "learning_rate_init": 5e-3,
        "max_iter": 10,
        "random_state": 0,
    }
    return DDVAEClusterer(n_clusters, **defaults | params)


X, y = blobs()
X.flags.writeable = False


@pytest.fixture(scope="module")
def fitted():
    """Return a fitted model; no test may change it."""
    return small().fit(X)


@pytest.fixture(scope="module")
def trained():
    """Return a model trained until it describes the rows; no test may change it."""
    return small(max_iter=150).fit(X)


# ------------------------------------------------------------------------------ the prior


def scattered(shape="normal", n_components=2, n_parts=3):
    """Return a mixture prior whose components differ in everything."""
    prior = MixturePrior(resolve_prior(shape, n_components), n_parts)
    rng = np.random.default_rng(0)
    prior.set_components(
        rng.normal(size=(n_parts, n_components)),
        rng.uniform(0.6, 1.0, size=(n_parts, n_components)),
        rng.uniform(1.0, 5.0, size=n_parts),
    )
    return prior


# Wide enough for a coarse grid.
SHAPES = ["normal", PinwheelPrior(n_arms=3, noise=0.2), SquarePrior(n_parts=2, noise=0.3)]


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_density_integrates_to_one(shape):
    prior = scattered(shape)
    x = torch.arange(-5.5, 5.5, 0.08)
    points = torch.stack(torch.meshgrid(x, x, indexing="ij"), dim=-1)
    mass = prior.part_log_prob(points).exp().sum((0, 1)) * 0.08**2
    np.testing.assert_allclose(mass, 1.0, atol=2e-3)
    assert float(prior.log_prob(points).exp().sum() * 0.08**2) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("n_components", [1, 3])
@torch.no_grad()
def test_density_integrates_to_one_in_other_dimensions(n_components):
    prior = scattered(n_components=n_components)
    step = {1: 0.01, 3: 0.15}[n_components]
    points = torch.cartesian_prod(*[torch.arange(-6.0, 6.0, step)] * n_components)
    mass = prior.log_prob(points.reshape(-1, n_components)).exp().sum() * step**n_components
    assert float(mass) == pytest.approx(1.0, abs=2e-3)


def test_normal_components_are_those_of_torch():
    prior, z = scattered(), torch.randn(50, 2, generator=seeded())
    components = torch.distributions.Independent(
        torch.distributions.Normal(prior.centers, prior.scales), 1
    )
    weights = torch.distributions.Categorical(prior.part_weights)
    expected = torch.distributions.MixtureSameFamily(weights, components).log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), expected)
    posterior = (components.log_prob(z[:, None]) + prior.part_weights.log()).softmax(-1)
    torch.testing.assert_close(prior.responsibilities(z), posterior)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_the_learned_parameters_agree_with_finite_differences(shape):
    prior = scattered(shape).double()
    prior.learn()
    z = 1.5 * torch.randn(20, 2, generator=seeded(), dtype=torch.float64)
    learned = [prior.logits, prior.centers, prior.log_excess_scales]
    gradients = torch.autograd.grad(prior.log_prob(z).sum(), learned)
    step = 1e-5
    for parameter, gradient in zip(learned, gradients, strict=True):
        flat = parameter.detach().view(-1)
        for i in range(len(flat)):
            value, ends = float(flat[i]), []
            for sign in (1, -1):
                flat[i] = value + sign * step
                ends.append(float(prior.log_prob(z).sum().detach()))
            flat[i] = value
            expected = (ends[0] - ends[1]) / (2 * step)
            assert float(gradient.view(-1)[i]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_have_the_moments_of_their_component(shape):
    prior = scattered(shape)
    for part in range(prior.n_parts):
        z = prior.sample(20_000, seeded(), part)
        error = prior.scales[part] / 20_000**0.5
        assert ((z.mean(0) - prior.centers[part]).abs() < 6 * error).all()
        torch.testing.assert_close(z.std(0), prior.scales[part].detach(), rtol=0.03, atol=0)
    counts = prior.responsibilities(prior.sample(20_000, seeded(1))).mean(0)
    torch.testing.assert_close(counts.detach(), prior.part_weights, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_at_first_the_mixture_is_its_shape(shape):
    base = resolve_prior(shape, 2)
    prior, z = MixturePrior(base, 5), torch.randn(30, 2, generator=seeded())
    expected = base.log_prob(prior.shape_loc + prior.shape_scale * z)
    expected = expected + prior.shape_scale.log().sum()
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-4, atol=1e-4)


def test_only_weights_centers_and_spreads_are_learned():
    class Learnable(torch.nn.Module):
        n_components = 2

        def __init__(self):
            super().__init__()
            self.width = torch.nn.Parameter(torch.ones(()))

        def sample(self, n, generator):
            return torch.randn(n, 2, generator=generator)

        def log_prob(self, z):
            return torch.distributions.Normal(0.0, self.width).log_prob(z).sum(-1)

    prior = MixturePrior(UserPrior(Learnable()), 2)
    prior.learn()
    learned = {name for name, p in prior.named_parameters() if p.requires_grad}
    assert learned == {"logits", "centers", "log_excess_scales"}


def test_components_that_are_set_and_renumbered():
    prior = MixturePrior(NormalPrior(2), 3)
    centers, scales = [[0, 1], [2, 3], [4, 5]], [[1, 2], [0, 3], [0.5, 1e-9]]
    prior.set_components(centers, scales, [6, 2, 0])
    np.testing.assert_allclose(prior.centers.detach(), centers)
    np.testing.assert_allclose(prior.scales.detach(), np.maximum(scales, SCALE_FLOOR), rtol=2e-3)
    np.testing.assert_allclose(prior.part_weights[:2], [0.75, 0.25], rtol=1e-3)
    assert 0.5 * WEIGHT_FLOOR < float(prior.part_weights[2]) < 2 * WEIGHT_FLOOR
    prior.permute([2, 0, 1])
    assert prior.centers[:, 0].tolist() == [4.0, 0.0, 2.0]
    assert prior.part_weights.argmax() == 1
    assert prior.scales[1, 1].item() == pytest.approx(2.0)


def test_a_copy_in_float64_has_the_same_density():
    prior, z = scattered(SHAPES[1]), torch.randn(9, 2, generator=seeded())
    double = pickle.loads(pickle.dumps(prior)).double()
    assert double.log_prob(z.double()).dtype == torch.float64
    assert double.sample(3, seeded()).dtype == torch.float64
    torch.testing.assert_close(double.log_prob(z.double()).float(), prior.log_prob(z))


# ------------------------------------------------------------------------------ the start


def test_the_weights_of_a_neighbourhood_add_up_to_log2_of_its_size():
    Z = np.random.default_rng(0).normal(size=(60, 3))
    distances, indices = nearest_neighbors(Z, 8)
    assert distances.shape == indices.shape == (60, 8)
    assert not (indices == np.arange(60)[:, None]).any()
    graph = fuzzy_graph(distances, indices).toarray()
    np.testing.assert_allclose(graph, graph.T, atol=1e-12)
    assert graph.max() <= 1.0 + 1e-12
    assert graph[np.arange(60), indices[:, 0]] == pytest.approx(1.0)
    # A row that is among the neighbours of none of its own keeps what it gave them.
    chosen = np.zeros((60, 60), dtype=bool)
    np.put_along_axis(chosen, indices, True, axis=1)
    lonely = [i for i in range(60) if not chosen[:, i].any()]
    assert lonely
    np.testing.assert_allclose(graph[lonely].sum(1), 3.0, rtol=1e-6)


def test_neighbours_are_all_others_where_there_are_fewer():
    assert nearest_neighbors(np.eye(4), 15)[1].shape == (4, 3)


def test_equal_rows_have_a_finite_graph_and_layout():
    Z = np.repeat(np.eye(3), 20, axis=0)
    graph = fuzzy_graph(*nearest_neighbors(Z, 5))
    assert np.isfinite(graph.data).all()
    assert np.isfinite(layout(graph, Z, np.random.default_rng(0))).all()


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_layout_descends_along_the_forces_of_all_edges(d):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 5))
    graph = fuzzy_graph(*nearest_neighbors(rows, 6))
    found = layout(graph, rows[:, :d], np.random.default_rng(1), n_steps=3)

    weights, rng = graph.toarray(), np.random.default_rng(1)
    order = rng.permutation(len(rows))
    z = rows[:, :d] - rows[:, :d].mean(0)
    z *= _neighbors.LAYOUT_SCALE / z.std()
    mean = square = 0.0
    for step in range(3):
        difference = z[:, None] - z
        pull = 2.0 * weights / (1.0 + (difference**2).sum(-1))
        gradient = (pull[..., None] * difference).sum(1)
        for shift in rng.integers(len(z), size=_neighbors.N_REPULSIONS):
            others = np.empty_like(order)
            others[order] = np.roll(order, -shift)
            difference = z - z[others]
            squared = (difference**2).sum(1, keepdims=True)
            push = 2.0 * _neighbors.REPULSION / _neighbors.N_REPULSIONS * weights.sum(1)[:, None]
            gradient -= (push * difference / ((1e-3 + squared) * (1.0 + squared))).clip(-4, 4)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        scale = np.sqrt(square / (1.0 - 0.99 ** (step + 1))) + 1e-6
        direction = mean / (1.0 - 0.9 ** (step + 1)) / scale
        z = z - _neighbors.LAYOUT_RATE * (1.0 - step / 3) * direction
    np.testing.assert_allclose(found, z, rtol=1e-3, atol=1e-3)


def test_the_layout_opens_gaps_and_keeps_neighbours():
    rng = np.random.default_rng(0)
    angle = np.linspace(0, np.pi, 150)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    moons = np.concatenate([arc, [1.0, 0.4] - arc]) + 0.04 * rng.normal(size=(300, 2))
    graph = fuzzy_graph(*nearest_neighbors(moons, 10))
    points = layout(graph, moons, rng)
    assert points.shape == (300, 2)
    which = np.arange(300) // 150

    def gap(Z):
        """Distance between the arcs over that of nearest neighbours."""
        d = np.linalg.norm(Z[:, None] - Z[None], axis=-1)
        np.fill_diagonal(d, np.inf)
        return d[which[:, None] != which[None]].min() / np.median(d.min(1))

    assert gap(points) > 1.5 * gap(moons)
    assert (which[nearest_neighbors(points, 1)[1][:, 0]] == which).all()


def test_agreement_is_what_its_docstring_says():
    prior = scattered()
    memory = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    neighbors = np.array([[1, 2], [0, 3], [1, 3], [0, 2]])
    agreement = NeighborAgreement(prior, neighbors, memory, weight=2.0)
    z, rows = torch.randn(2, 2, generator=seeded()), torch.tensor([2, 0])
    own = prior.responsibilities(z).detach().numpy()
    expected = -(np.log(own[0] @ [0, 1, 0]) + np.log(own[1] @ [0, 0.5, 0.5])) / 2
    assert agreement(z, rows).item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(agreement.memory[2], 0.9 * memory[2] + 0.1 * own[0], rtol=1e-5)
    np.testing.assert_array_equal(agreement.memory[1], memory[1])


# ------------------------------------------------------------------------------ clusters


@pytest.mark.parametrize("seed", range(2))
def test_groups_of_different_sizes_are_found_in_the_plane(seed):
    X, y = make_blobs([120, 80, 60, 40], n_features=8, cluster_std=1.5, random_state=0)
    X = X + 2 * np.sin(X / 2)
    params = {"n_diffusion_steps": 4, "hidden_layer_sizes": (64,), "max_iter": 40}
    model = DDVAEClusterer(4, n_components=2, random_state=seed, **params).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95


@pytest.mark.parametrize("seed", range(4))
def test_separate_groups_are_found(seed):
    X, y = blobs(300, n_clusters=5, seed=seed)
    model = small(5, n_components=5, max_iter=20, random_state=seed).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95
    new, y_new = blobs(200, n_clusters=5, seed=seed + 100)
    assert adjusted_rand_score(y_new, model.predict(new)) > 0.95
    np.testing.assert_allclose(model.weights_, 0.2, atol=0.05)


@pytest.mark.parametrize("init", ["neighbors", "gaussian_mixture", "kmeans"])
def test_every_start_finds_them(init):
    assert adjusted_rand_score(y, small(init=init).fit(X).labels_) > 0.95


def test_default_arguments_find_them():
    rows, classes = blobs(150)
    model = DDVAEClusterer(n_clusters=4, random_state=0)
    assert adjusted_rand_score(classes, model.fit_predict(rows)) > 0.95


def test_the_joint_training_moves_clusters_and_raises_the_bound():
    start = small(max_iter=20, pretraining=0.5, agreement_weight=0.0)
    placed = []

    class Spy(DDVAEClusterer):
        def _place_clusters(self, engine, X, seed):
            result = super()._place_clusters(engine, X, seed)
            placed.append(engine.model.prior.centers.detach().clone())
            placed.append(engine.bound(X, 1, 8).mean())
            return result

    model = Spy(**start.get_params()).fit(X)
    centers, bound = placed
    assert len(model.history_["loss"]) == model.n_iter_ == 20
    moved = np.abs(np.sort(model.cluster_centers_, 0) - np.sort(centers.numpy(), 0)).max()
    assert moved > 0.01
    assert model.score(X) > bound


def test_the_agreement_is_recorded_from_the_joint_training_on():
    model = small(max_iter=20).fit(X)
    agreement = np.array(model.history_["neighbor_agreement"])
    assert np.isnan(agreement[:10]).all()
    assert np.isfinite(agreement[10:]).all()


def test_what_the_labels_are(fitted):
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (200, 4)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    np.testing.assert_array_equal(fitted.labels_, probabilities.argmax(1))
    np.testing.assert_array_equal(fitted.labels_, fitted.predict(X))
    assert fitted.labels_.dtype == np.int64
    np.testing.assert_array_equal(small().fit_predict(X), fitted.labels_)
    counts = np.bincount(fitted.labels_, minlength=4)
    assert (np.diff(counts) <= 0).all()
    assert fitted.n_clusters_effective_ == 4


def test_what_the_clusters_are(trained):
    assert trained.weights_.shape == (4,)
    assert trained.weights_.sum() == pytest.approx(1.0)
    assert trained.cluster_centers_.shape == trained.covariances_.shape == (4, 3)
    assert (trained.covariances_ > 0).all()
    np.testing.assert_array_equal(trained.prior_.centers.detach(), trained.cluster_centers_)
    draws = trained.sample_posterior(X, 20, random_state=0)
    for k in range(4):
        own = draws[:, trained.labels_ == k].reshape(-1, 3)
        spread = np.sqrt(trained.covariances_[k])
        assert (np.abs(own.mean(0) - trained.cluster_centers_[k]) < 0.5 * spread).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_probabilities_of_a_row_depend_on_no_other(fitted, dtype):
    rows = X.astype(dtype)
    whole = fitted.predict_proba(rows)
    assert whole.dtype == dtype
    tolerance = {"rtol": 0, "atol": 1e-10 if dtype is np.float64 else 1e-5}
    alone = np.concatenate([fitted.predict_proba(rows[i : i + 1]) for i in range(8)])
    np.testing.assert_allclose(alone, whole[:8], **tolerance)
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_allclose(fitted.predict_proba(rows[order]), whole[order], **tolerance)
    np.testing.assert_array_equal(fitted.predict_proba(rows), whole)


def test_a_row_between_two_groups_belongs_to_both():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 2))
    rows[150:, 0] += 3.5
    model = small(2, n_components=2).fit(rows)
    between = model.predict_proba([[1.75, 0.0], [-1.0, 0.0], [4.5, 0.0]]).max(1)
    assert between[0] < between[1:].min()


def test_sample_of_a_cluster(trained):
    for cluster in range(4):
        rows = trained.sample(300, random_state=0, cluster=cluster)
        assert rows.shape == (300, 4)
        assert (trained.predict(rows) == cluster).mean() > 0.98
    rows = trained.sample(2000, random_state=0)
    shares = np.bincount(trained.predict(rows), minlength=4) / 2000
    np.testing.assert_allclose(shares, trained.weights_, atol=0.03)
    np.testing.assert_array_equal(trained.sample(5, random_state=3), trained.sample(5, 3))


@pytest.mark.parametrize("cluster", [-1, 4, 1.0, "a"])
def test_a_cluster_that_there_is_not(fitted, cluster):
    with pytest.raises(ValueError, match=r"cluster must be an integer in 0\.\.3 or None, found"):
        fitted.sample(3, cluster=cluster)


def test_latents_and_back(trained):
    Z = trained.transform(X)
    assert Z.shape == (200, 3)
    residual = trained.inverse_transform(Z) - X
    assert residual.var() < 0.02 * X.var()
    assert trained.score(X) == pytest.approx(trained.score_samples(X).mean())
    assert list(trained.get_feature_names_out()) == [f"ddvaeclusterer{i}" for i in range(3)]


def test_a_picture_in_two_dimensions():
    models = [small(n_components=2, random_state=seed).fit(X) for seed in range(5)]
    assert models[0].transform(X).shape == (200, 2)
    # One fit in four or five merges or cuts a group.
    agreement = [adjusted_rand_score(y, model.labels_) for model in models]
    assert np.median(agreement) > 0.95


def test_empty_clusters_are_counted_and_warned_about():
    rows = np.repeat([[0.0, 0.0], [9.0, 9.0]], 20, axis=0)
    with pytest.warns(UserWarning, match="hold no training row") as caught:
        model = small(6, max_iter=6).fit(rows)
    assert caught[-1].filename == __file__
    n_found = len(np.unique(model.labels_))
    assert model.n_clusters_effective_ == n_found < 6
    message = str(caught[-1].message)
    assert f"{6 - n_found} of n_clusters=6" in message
    assert f"n_clusters to {n_found}" in message
    assert model.labels_.max() == n_found - 1  # the empty ones come last
    assert model.weights_.shape == (6,)


def test_no_warning_without_an_empty_cluster():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small().fit(X)


def test_more_clusters_than_rows():
    with pytest.raises(ValueError, match="n_samples=5 should be >= n_clusters=8"):
        small(8).fit(X[:5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of five clusters of one row each may be empty
        assert small(5, max_iter=2).fit(X[:5]).labels_.shape == (5,)


def test_one_cluster():
    model = small(1).fit(X)
    assert (model.labels_ == 0).all()
    assert "neighbor_agreement" not in model.history_


@pytest.mark.parametrize("shape", ["pinwheel", PinwheelPrior(n_arms=3)])
def test_a_shape_with_arms(shape):
    model = small(prior=shape, n_components=2, max_iter=20).fit(X)
    assert type(model.prior_.shape) is PinwheelPrior
    # Rows of one group settle in several arms, so that some of them are taken for a neighbour's.
    assert adjusted_rand_score(y, model.labels_) > 0.4
    assert np.isfinite(model.score(X))


def test_a_shape_of_the_users_own():
    models = [
        small(prior=Laplace(), n_components=2, max_iter=20, random_state=seed).fit(X)
        for seed in range(6)
    ]
    # In two dimensions one fit in four leaves two of the four groups in one cluster.
    found = [adjusted_rand_score(y, model.labels_) for model in models]
    assert np.median(found) > 0.95 and min(found) > 0.6
    for model in models:
        assert type(model.prior_.shape) is UserPrior
        assert np.isfinite(model.score(X))


class Laplace:
    """A prior of a user's own."""

    n_components = 2

    def sample(self, n, generator):
        u = torch.rand(2, n, 2, generator=generator)
        return u[0].log() - u[1].log()

    def log_prob(self, z):
        return -(z.abs() + np.log(2.0)).sum(-1)


# ------------------------------------------------------------------------------ fits


def test_restarts_keep_the_best_held_out_bound():
    held_out = blobs(100, seed=5)[0]
    model = small(n_init=3, max_iter=6).fit(X, X_val=held_out)
    assert model.restart_scores_.shape == (3,)
    assert len(set(model.restart_scores_)) == 3
    assert model.score(held_out) == pytest.approx(model.restart_scores_.max(), rel=1e-6)
    assert model.labels_.shape == (200,)


def test_restarts_hold_out_rows_of_their_own():
    model = small(n_init=2, max_iter=3, validation_fraction=0.25).fit(X)
    assert "validation_elbo" in model.history_
    assert model.labels_.shape == (200,)
    assert small(max_iter=3).fit(X).restart_scores_ is None


def test_restarts_of_few_rows_are_compared_by_those():
    model = small(n_init=2, max_iter=3, validation_fraction=0.99)
    with pytest.warns(UserWarning, match="restarts are compared by the training rows"):
        model.fit(X[:20])
    assert model.restart_scores_.shape == (2,)
    assert "validation_elbo" not in model.history_


def test_one_restart_is_the_first_of_several():
    one = small(max_iter=3).fit(X, X_val=X[:50])
    several = small(n_init=2, max_iter=3).fit(X, X_val=X[:50])
    assert several.restart_scores_[0] == pytest.approx(one.score(X[:50]), rel=1e-6)


def test_same_seed_same_bits():
    one, other = small(max_iter=4).fit(X), small(max_iter=4).fit(X)
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    np.testing.assert_array_equal(one.cluster_centers_, other.cluster_centers_)
    different = small(max_iter=4, random_state=1).fit(X)
    assert not np.array_equal(one.cluster_centers_, different.cluster_centers_)


def test_warm_start_goes_on_with_the_joint_training():
    model = small(warm_start=True, max_iter=10).fit(X)
    labels = model.labels_
    model.set_params(max_iter=5).fit(X)
    assert model.n_iter_ == 15
    assert np.isfinite(model.history_["neighbor_agreement"][-5:]).all()
    assert adjusted_rand_score(labels, model.labels_) > 0.95
    with pytest.raises(ValueError, match="n_clusters=4, found n_clusters=3"):
        model.set_params(n_clusters=3).fit(X)


def test_without_pretraining_and_with_one_epoch():
    assert small(pretraining=0.0, max_iter=2).fit(X).n_iter_ == 2
    assert small(max_iter=1).fit(X).n_iter_ == 1


def test_an_interruption_of_the_pretraining_ends_the_fit():
    calls = []

    def interrupt(z, rows):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return z.sum() * 0.0

    with pytest.warns(UserWarning, match="interrupted") as caught:
        model = small(regularizer=interrupt, max_iter=20).fit(X)
    assert caught[0].filename == __file__
    assert model.n_iter_ == 3
    assert model.labels_.shape == (200,)
    assert "neighbor_agreement" not in model.history_


def test_verbose(capsys):
    small(verbose=1, max_iter=2).fit(X)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Pretraining, Epoch 1/1", "Epoch 1/1"]


def test_sparse_rows_are_refused():
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        small().fit(sparse.csr_matrix(X))


def test_y_is_ignored_and_it_is_a_clusterer(fitted):
    assert is_clusterer(fitted)
    np.testing.assert_array_equal(small().fit(X, y).labels_, fitted.labels_)


# ------------------------------------------------------------------------------ around it


def test_pipeline_and_pandas():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abcd"))
    pipeline = make_pipeline(StandardScaler(), small()).set_output(transform="pandas")
    frame = pipeline.fit(table).transform(table)
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == [f"ddvaeclusterer{i}" for i in range(3)]
    assert pipeline.predict(table).shape == (200,)
    assert adjusted_rand_score(y, pipeline[-1].labels_) > 0.95


IN_ANOTHER_PROCESS = """
import json, pickle, sys
import numpy as np
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skddvi import DDVAEClusterer

folder = sys.argv[1]
X = np.load(folder + "/X.npy")
with open(folder + "/model.pickle", "rb") as file:
    restored = pickle.load(file)
np.save(folder + "/P.npy", restored.predict_proba(X))

model = DDVAEClusterer(hidden_layer_sizes=(16,), max_iter=4, random_state=0, n_diffusion_steps=0)
pipeline = make_pipeline(StandardScaler(), PCA(3), model).fit(X)
search = GridSearchCV(
    pipeline, {"ddvaeclusterer__n_clusters": [2, 4]}, n_jobs=2, cv=2, error_score="raise"
).fit(X)
print(json.dumps(search.cv_results_["mean_test_score"].tolist()))
"""


@pytest.mark.slow
def test_ask_n_jobs_pickle_and_grid_search_in_another_process(tmp_path, fitted):
    np.save(tmp_path / "X.npy", X)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(fitted))
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_ANOTHER_PROCESS, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "P.npy"), fitted.predict_proba(X))
    scores = json.loads(process.stdout)
    assert len(set(scores)) == 2
    assert np.isfinite(scores).all()


# ------------------------------------------------------------------------------ the scan


def test_scan_finds_the_number_of_clusters():
    calls = []
    scan = cluster_number_scan(
        small(max_iter=50),
        X,
        [2, 4],
        n_seeds=2,
        callback=lambda done, all_fits, figures: calls.append((done, all_fits, figures)),
    )
    assert scan.scores.shape == scan.n_clusters_effective.shape == (2, 2)
    assert scan.stability.shape == (2, 1)
    assert scan.best_n_clusters == 4
    assert scan.stability[1, 0] > 0.95
    assert [call[:2] for call in calls] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert calls[3][2]["n_clusters"] == 4
    assert calls[3][2]["seed"] == 1
    assert calls[3][2]["score"] == scan.scores[1, 1]


def test_scan_can_be_stopped_and_says_what_it_does(capsys):
    model = small(max_iter=2)
    scan = cluster_number_scan(
        model, X, range(2, 5), n_seeds=1, verbose=1, callback=lambda done, *_: done == 2
    )
    assert scan.n_clusters.tolist() == [2, 3]
    assert scan.stability.shape == (2, 0)
    assert scan.best_n_clusters in (2, 3)
    assert not hasattr(model, "labels_")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Fit 1/3: n_clusters=2, seed 0: held-out bound")


@pytest.mark.parametrize(
    ("numbers", "params", "message"),
    [
        ([], {}, "n_clusters_range must hold at least one number"),
        ([0], {}, "n_clusters_range must be an integer of at least 1, found 0"),
        ([2], {"random_state": None}, "random_state must be an integer, .* found None"),
        ([2], {"n_seeds": 0}, "n_seeds must be an integer of at least 1, found 0"),
        ([2], {"n_seeds": 2, "callback": lambda *_: True}, "before one number of clusters"),
    ],
)
def test_scan_refuses(numbers, params, message):
    with pytest.raises(ValueError, match=message):
        cluster_number_scan(small(max_iter=1), X, numbers, **params)


def test_best_number_is_the_most_stable_of_those_with_a_good_bound():
    def best(scores, stability):
        scores, stability = np.array(scores, dtype=float), np.array(stability)[:, None]
        effective = np.zeros(scores.shape, dtype=int)
        return ClusterNumberScan(np.array([2, 3, 4]), scores, stability, effective).best_n_clusters

    assert best([[-9, -9], [-5, -5.2], [-5.1, -4.9]], [1.0, 0.9, 0.5]) == 3
    assert best([[-9, -9], [-7, -7], [-5.1, -4.9]], [1.0, 0.9, 0.5]) == 4
    assert best([[-5, -5], [-5, -5.0], [-5, -5]], [0.9, 0.9, 0.5]) == 2
    assert best([[-9, -9], [-5.2, -5.1], [-5.2, -4.9]], [1.0, 1.0, 0.997]) == 4


def test_plot_of_a_scan():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    scan = ClusterNumberScan(
        n_clusters=np.array([2, 3]),
        scores=np.array([[-2.0, -1.5], [-1.0, -1.1]]),
        stability=np.array([[0.8], [0.9]]),
        n_clusters_effective=np.array([[2, 2], [3, 3]]),
    )
    ax = Figure().add_subplot()
    assert scan.plot(ax=ax) is ax
    bound, stability = ax.figure.axes
    np.testing.assert_array_equal(bound.lines[0].get_ydata(), [-1.75, -1.05])
    np.testing.assert_array_equal(stability.lines[0].get_ydata(), [0.8, 0.9])
    assert scan.plot().figure is not ax.figure


@pytest.mark.parametrize("init", ["neighbors", "gaussian_mixture", "kmeans"])
def test_latents_that_lie_apart_or_together_can_be_placed(init, monkeypatch):
    """A mixture cannot be fitted to every set of latents; there is a way around that."""

    def refuse(self, X, y=None):
        raise ValueError("Fitting the mixture model failed")

    monkeypatch.setattr("sklearn.mixture.GaussianMixture.fit_predict", refuse)
    model = small(init=init, max_iter=4).fit(X)
    assert model.labels_.shape == (200,)
    assert np.isfinite(model.score_samples(X)).all()
