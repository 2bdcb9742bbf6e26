"""Regularisers: the seam, and the preservation of neighbourhoods."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.stats import ks_2samp
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.neighbors import KernelDensity
from sklearn.utils._param_validation import InvalidParameterError

from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer, baselines
from skddvi._engine.stored import StoredRows
from skddvi._neighbors import aligned, fuzzy_graph, nearest_neighbors, smoothed, strongest_edges
from skddvi.likelihoods import GaussianLikelihood
from skddvi.metrics import knn_accuracy, latent_nll
from skddvi.priors import SquarePrior, SwissRollPrior
from skddvi.regularizers import NeighborhoodPreservation, PriorCoverage
from skddvi.regularizers._coverage import N_REMEMBERED
from skddvi.regularizers._neighborhood import N_OTHERS
from skddvi.transformer import AUTO_COVERAGE_ROWS

SMALL = {
    "hidden_layer_sizes": (16,),
    "n_diffusion_steps": 2,
    "denoiser_width": 8,
    "kl_warmup": 0.0,
    "max_iter": 4,
    "random_state": 0,
}
rng = np.random.default_rng(0)
X = rng.normal(size=(80, 6)) + 4.0 * rng.integers(3, size=(80, 1))


def small(estimator=DDVAETransformer, **params):
    return estimator(**SMALL | params)


PRIOR_MEAN, PRIOR_STD = torch.tensor([3.0, -1.0]), torch.tensor([2.0, 0.5])


def unseen(x, masked=None):
    """Return rows with what is masked at the mean, zero."""
    return x if masked is None else x.masked_fill(masked, 0.0)


def view_of(embed, n_rows=40):
    """Return a view whose rows are their own features, embedded by a function of what is seen."""
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(n_rows, 2)).astype(np.float32))
    return SimpleNamespace(
        n_rows=n_rows,
        rows=lambda indices: rows[indices],
        features=lambda x: x,
        embed=lambda x, masked=None: embed(unseen(x, masked)),
        loc=PRIOR_MEAN,
        scale=PRIOR_STD,
        seed=0,
    )


# ------------------------------------------------------------------------------ the seam


def test_terms_are_weighted_and_recorded():
    def spread(z, rows):
        assert rows.dtype == torch.int64 and rows.shape == z.shape[:1]
        return z.square().mean()

    model = small(regularizer=[NeighborhoodPreservation(4, weight=2.0), spread]).fit(X)
    for name in ("neighborhood_preservation", "spread"):
        assert len(model.history_[name]) == 4
    history = small(regularizer=spread, kl_warmup=0.0, sleep="off", max_iter=1).fit(X).history_
    loss = history["spread"][0] - history["elbo"][0] + history["weight_penalty"][0]
    np.testing.assert_allclose(history["loss"][0], loss, rtol=1e-5)
    assert "spread" not in small(max_iter=1).fit(X).history_


def test_without_weight_nothing_changes():
    model = small(regularizer=NeighborhoodPreservation(4, weight=0.0)).fit(X)
    np.testing.assert_array_equal(model.transform(X), small().fit(X).transform(X))


def test_what_a_view_shows():
    class Look:
        def attach(self, view):
            self.view = view
            type(self).shown = view

        def __call__(self, z, rows):
            return z.sum() * 0.0

    small(regularizer=Look(), prior="square").fit(X)
    view = Look.shown
    assert view.n_rows == 80
    np.testing.assert_array_equal(view.rows(torch.tensor([3, 70])), X[[3, 70]])
    features = view.features(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(features, X - X.mean(0), atol=1e-5)
    common = GaussianLikelihood(scaling="common")
    small(regularizer=Look(), likelihood=common).fit(X)
    features = Look.shown.features(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(features, X - X.mean(0), atol=1e-5)
    rows = torch.from_numpy(X)
    assert view.embed(rows).shape == (80, 2)
    # What is masked is as if it had its mean.
    masked = torch.zeros(rows.shape, dtype=torch.bool)
    masked[::2, 1:3] = True
    means = rows.mean(0).expand_as(rows)
    torch.testing.assert_close(
        view.embed(rows, masked), view.embed(torch.where(masked, means, rows))
    )
    assert view.loc.shape == view.scale.shape == (2,)


# ------------------------------------------------------------------------------ neighbourhoods


def test_new_rows_lie_among_their_kind():
    digits, labels = load_digits(return_X_y=True)
    digits = digits / 16.0
    params = {"hidden_layer_sizes": (128,), "likelihood": "bernoulli", "max_iter": 25}
    params |= {"batch_size": 64}
    accuracies, bounds = [], []
    for regularizer in (None, NeighborhoodPreservation()):
        model = small(regularizer=regularizer, **params).fit(digits[:1200])
        train, test = model.transform(digits[:1200]), model.transform(digits[1200:])
        accuracies.append(knn_accuracy(train, labels[:1200], test, labels[1200:]))
        bounds.append(model.score(digits[1200:]))
    assert accuracies[1] > accuracies[0] + 0.1
    assert bounds[1] > bounds[0] - 1.0


@pytest.mark.parametrize(
    ("place", "expected"),
    # All in one place: a neighbour is one of 257. At the neighbours' places it depends on others.
    [("one", math.log(1 + N_OTHERS)), ("far", math.log(1 + N_OTHERS))],
)
def test_penalty_where_it_is_known(place, expected):
    far = torch.tensor([1e4, 1e4])
    view = view_of(lambda x: (far if place == "far" else view.loc).expand(len(x), 2))
    regularizer = NeighborhoodPreservation(5)
    regularizer.attach(view)
    if place == "one":
        regularizer._memory.zero_()
    penalty = regularizer(torch.zeros(8, 2), torch.arange(8))
    assert penalty.item() == pytest.approx(expected, rel=2e-3)


def test_penalty_falls_towards_neighbors_and_rises_towards_others():
    # Two groups: a row is told from strangers best where its own group lies.
    penalties = []
    for side in (-1.0, 1.0):
        view = view_of(lambda x, side=side: PRIOR_MEAN + PRIOR_STD * side * x.sign())
        rows = torch.cat([torch.full((20, 2), -1.0), torch.ones(20, 2)])
        rows += 0.01 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
        view.rows = lambda indices, rows=rows: rows[indices]
        regularizer = NeighborhoodPreservation(5, masking=0.0)
        regularizer.attach(view)
        regularizer._memory.copy_(rows.sign())
        penalties.append(regularizer(torch.zeros(40, 2), torch.arange(40)).item())
    assert penalties[1] == pytest.approx(math.log(1 + N_OTHERS / 2), rel=0.05)
    assert penalties[0] > penalties[1] + 5.0


def test_penalty_is_what_its_docstring_says():
    view = view_of(lambda x: x)
    regularizer = NeighborhoodPreservation(4, masking=0.75)
    regularizer.attach(view)
    rows, memory = torch.tensor([3, 17, 5, 30, 22, 8]), regularizer._memory.double().numpy().copy()
    draw = {"generator": torch.Generator().manual_seed(view.seed)}
    nearest, weights = regularizer.neighbors_.numpy(), regularizer.weights_.double().numpy()
    chosen = torch.multinomial(regularizer.weights_[rows], 1, **draw)[:, 0].tolist()
    shares, swapped = torch.rand(6, **draw).tolist(), torch.rand(6, 2, **draw).numpy()
    masked = torch.rand(6, 1, **draw) * 0.75
    masked = (torch.rand(6, 2, **draw) < masked).numpy()
    assert masked.any() and not masked.all()
    strangers = torch.randint(40, (N_OTHERS,), **draw).tolist()

    def similarity(place, row):
        return 1.0 / (1.0 + 25.0 * ((place - memory[row]) ** 2).sum())

    penalties = []
    for n, i in enumerate(rows.tolist()):
        j, u = nearest[i, chosen[n]], shares[n]
        crossed = np.where(swapped[n] < u, *(view.rows([row])[0].numpy() for row in (j, i)))
        crossed[masked[n]] = 0.0
        place = (crossed - view.loc.numpy()) / view.scale.numpy()
        others = sum(similarity(place, row) for row in strangers)
        for centre, part in ((i, 1.0 - u), (j, u)):
            for neighbor, weight in zip(nearest[centre], weights[centre], strict=True):
                near = similarity(place, neighbor)
                penalties.append(-part * weight * math.log(near / (near + others)))
    assert regularizer(torch.zeros(6, 2), rows).item() == pytest.approx(
        sum(penalties) / 6, rel=1e-4
    )


def test_gradient_does_not_reach_the_places_that_are_remembered():
    view = view_of(lambda x: x * slope)
    slope = torch.tensor([1.0, 2.0], requires_grad=True)
    regularizer = NeighborhoodPreservation(5)
    regularizer.attach(view)
    z = torch.zeros(8, 2, requires_grad=True)
    regularizer(z, torch.arange(8)).backward()
    assert slope.grad.abs().sum() > 0 and torch.isfinite(slope.grad).all()
    assert z.grad is None
    assert not regularizer._memory.requires_grad


def test_memory_moves_towards_what_was_seen_and_can_be_kept():
    view = view_of(lambda x: x)
    regularizer = NeighborhoodPreservation(5)
    regularizer.attach(view)
    before = regularizer._memory.clone()
    z = torch.full((2, 2), 5.0)
    regularizer(z, torch.tensor([3, 7]))
    expected = 0.9 * before[[3, 7]] + 0.1 * (z - view.loc) / view.scale
    torch.testing.assert_close(regularizer._memory[[3, 7]], expected)
    others = [i for i in range(40) if i not in (3, 7)]
    assert torch.equal(regularizer._memory[others], before[others])
    state = {name: value.clone() for name, value in regularizer.state_dict().items()}
    first = regularizer(z, torch.tensor([3, 7]))
    regularizer.load_state_dict(state)
    assert torch.equal(regularizer(z, torch.tensor([3, 7])), first)


def test_a_warm_start_does_not_turn_the_picture():
    model = small(warm_start=True, regularizer=NeighborhoodPreservation(5), max_iter=20).fit(X)
    before = model.transform(X)
    after = model.fit(X).transform(X)
    for axis in range(2):
        assert np.corrcoef(before[:, axis], after[:, axis])[0, 1] > 0.9


COUNTS = np.random.default_rng(1).poisson(2.0, size=(80, 6)).astype(float)
CALLS = np.minimum(COUNTS, 2.0)
CALLS[::7, 1] = np.nan


@pytest.mark.parametrize(
    ("rows", "params"),
    [
        (X, {"n_components": 1}),
        (X, {"n_components": 8}),
        (X[:, :1], {"n_components": 3}),
        (np.ones((30, 4)), {}),
        (np.repeat(X[:10], 8, axis=0), {"prior": "pinwheel"}),
        (X.astype(np.float32), {"precision": "bfloat16"}),
        (sparse.csr_matrix(COUNTS), {"likelihood": "negative_binomial"}),
        (CALLS, {"likelihood": "binomial"}),
        (X[:7], {"early_stopping": True, "validation_fraction": 0.2}),
    ],
    ids=["1-D", "8-D", "one feature", "equal", "doubles", "bfloat16", "counts", "calls", "few"],
)
def test_rows_of_any_kind(rows, params):
    model = small(regularizer=NeighborhoodPreservation(4), **params)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        model.fit(rows)
    assert np.isfinite(model.history_["neighborhood_preservation"]).all()
    assert np.isfinite(model.transform(rows)).all()
    again = small(regularizer=NeighborhoodPreservation(4), **params).fit(rows)
    np.testing.assert_array_equal(model.transform(rows), again.transform(rows))


@pytest.mark.parametrize(
    ("estimator", "params"),
    [
        (DDVAEClusterer, {"n_clusters": 3, "n_components": 2, "n_init": 2}),
        (DDVAEClassifier, {}),
        (baselines.InverseAutoregressiveFlowVAE, {}),
        (baselines.AdversarialAutoencoder, {}),
        (baselines.HierarchicalVAE, {}),
        (baselines.IWAE, {}),
        (DDVAETransformer, {"n_diffusion_steps": 0}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_estimator_takes_it(estimator, params):
    taken = {name: SMALL[name] for name in SMALL if name in estimator().get_params()}
    model = estimator(**taken | {"regularizer": NeighborhoodPreservation(4)} | params)
    labels = np.where(np.arange(80) % 4 == 0, (X[:, 0] > 4).astype(int), -1)
    model.fit(X, labels) if estimator is DDVAEClassifier else model.fit(X)
    penalty = np.array(model.history_["neighborhood_preservation"])
    assert np.isfinite(penalty).all() and (penalty > 0).all()


@pytest.mark.parametrize("n_neighbors", [0, 80, True, 2.5, "a"])
def test_neighbors_that_cannot_be(n_neighbors):
    with pytest.raises(
        ValueError, match=r'n_neighbors must be "auto" or in 1\.\.79 for 80 rows, found'
    ):
        NeighborhoodPreservation(n_neighbors).fit(X)


@pytest.mark.parametrize(("n_rows", "expected"), [(80, 30), (31, 30), (30, 29), (3, 2)])
def test_what_is_chosen_by_default(n_rows, expected):
    rows = X[:n_rows]
    given = small(regularizer=NeighborhoodPreservation(expected, masking=0.5)).fit(rows)
    chosen = small(regularizer=NeighborhoodPreservation()).fit(rows)
    np.testing.assert_array_equal(chosen.transform(rows), given.transform(rows))


@pytest.mark.parametrize("n_neighbors", [1, 79])
def test_the_fewest_and_the_most_neighbors(n_neighbors):
    model = small(regularizer=NeighborhoodPreservation(n_neighbors)).fit(X)
    assert np.isfinite(model.history_["neighborhood_preservation"]).all()


def test_the_weight_follows_the_number_of_features():
    for n_features, weight in [(4, 0.5), (80, 10.0), (784, 30.0)]:
        assert NeighborhoodPreservation().fit(np.zeros((40, n_features))).weight_ == weight
    assert NeighborhoodPreservation(weight=3.0).fit(X).weight_ == 3.0
    given = NeighborhoodPreservation().fit(np.zeros((40, 80)))
    assert given.weight == "auto"
    automatic = small(regularizer=given).fit(X)
    fixed = small(regularizer=NeighborhoodPreservation(weight=X.shape[1] / 8)).fit(X)
    np.testing.assert_array_equal(automatic.transform(X), fixed.transform(X))
    assert given.weight_ == 10.0


def test_text_that_is_no_weight():
    with pytest.raises(ValueError, match="weight must be a number or \"auto\", found 'x'"):
        small(regularizer=NeighborhoodPreservation(weight="x")).fit(X)


@pytest.mark.parametrize("masking", [-0.1, 1.1, math.nan, "a", None])
def test_masking_that_is_no_share(masking):
    with pytest.raises(ValueError, match=r"masking must be in 0\.\.1, found"):
        small(regularizer=NeighborhoodPreservation(4, masking=masking)).fit(X)


@pytest.mark.parametrize("masking", [0, 1])
def test_the_least_and_the_most_masking(masking):
    model = small(regularizer=NeighborhoodPreservation(4, masking=masking)).fit(X)
    assert np.isfinite(model.history_["neighborhood_preservation"]).all()


def test_a_search_reaches_its_parameters():
    model = small(regularizer=NeighborhoodPreservation()).set_params(regularizer__n_neighbors=5)
    assert clone(model).regularizer.n_neighbors == 5
    assert model.get_params()["regularizer__weight"] == "auto"


@pytest.mark.parametrize("power", [-60, 60])
def test_the_unit_of_the_rows_does_not_matter(power):
    penalty = [
        small(regularizer=NeighborhoodPreservation(4)).fit(rows).history_
        for rows in (X, X * 2.0**power)
    ]
    name = "neighborhood_preservation"
    np.testing.assert_allclose(penalty[1][name], penalty[0][name], rtol=1e-3)


@pytest.mark.parametrize(
    ("rows", "n_neighbors"),
    [(X[:2], 1), (np.eye(3), 2), (np.ones((5, 2)), 4), (np.ones((20, 2)), 19), (X * 1e20, 4)],
    ids=["two", "corners", "five equal", "twenty equal", "huge"],
)
@pytest.mark.parametrize("n_components", [1, 2])
def test_rows_that_come_together(rows, n_neighbors, n_components):
    regularizer = NeighborhoodPreservation(n_neighbors)
    model = small(regularizer=regularizer, n_components=n_components).fit(rows)
    assert np.isfinite(model.history_["neighborhood_preservation"]).all()
    assert np.isfinite(model.transform(rows)).all()


def test_the_default_dtype_of_torch_does_not_matter():
    expected = small(regularizer=NeighborhoodPreservation(4)).fit(X).transform(X)
    torch.set_default_dtype(torch.float64)
    try:
        found = small(regularizer=NeighborhoodPreservation(4)).fit(X).transform(X)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found, expected)


def test_latents_are_shown_without_the_noise_of_the_users_networks():
    def encoder(n_inputs, n_outputs):
        return torch.nn.Sequential(torch.nn.Linear(n_inputs, n_outputs), torch.nn.Dropout(0.5))

    class Look:
        name = "look"

        def attach(self, view):
            self.view = view

        def __call__(self, z, rows):
            x = self.view.rows(rows)
            assert torch.equal(self.view.embed(x), self.view.embed(x))
            return z.sum() * 0.0

    assert small(encoder=encoder, regularizer=Look()).fit(X).history_["look"] == [0.0] * 4


def test_names_of_held_out_terms_are_taken():
    def penalty(z, rows):
        return z.square().mean()

    penalty.name = "validation_elbo"
    with pytest.raises(ValueError, match="found 'validation_elbo' taken"):
        small(regularizer=penalty).fit(X)


def test_a_weight_that_is_too_much_is_named():
    regularizer = NeighborhoodPreservation(4, weight=1e38)
    message = r"lower the weight 1e\+38 of 'neighborhood_preservation'"
    with pytest.warns(RuntimeWarning, match=message), pytest.raises(ArithmeticError, match=message):
        small(regularizer=regularizer).fit(X)


def test_dropout_of_the_users_networks_is_drawn_from_the_seed():
    def encoder(n_inputs, n_outputs):
        return torch.nn.Sequential(torch.nn.Linear(n_inputs, n_outputs), torch.nn.Dropout(0.5))

    def fit():
        return small(encoder=encoder, regularizer=NeighborhoodPreservation(4)).fit(X).transform(X)

    # That the global source is left alone is checked for every test.
    np.testing.assert_array_equal(fit(), fit())


def test_rows_in_a_store_are_refused():
    with pytest.raises(ValueError, match="give the rows as an array in memory"):
        NeighborhoodPreservation(4).fit(StoredRows(X))


@pytest.mark.parametrize("regularizer", [None, NeighborhoodPreservation(4), PriorCoverage()])
@pytest.mark.parametrize("n_calls", [3, 9])
def test_one_batch_that_is_not_finite_is_recovered_from(regularizer, n_calls):
    class Once(torch.nn.Module):
        def __init__(self, n_inputs, n_outputs):
            super().__init__()
            self.layer, self.n_calls = torch.nn.Linear(n_inputs, n_outputs), 0

        def forward(self, x):
            self.n_calls += self.training
            return self.layer(x) * (float("nan") if self.n_calls == n_calls else 1.0)

    model = small(encoder=Once, regularizer=regularizer, batch_size=20, sleep="off")
    with pytest.warns(RuntimeWarning, match="Training diverged") as told:
        model.fit(X)
    assert len(told) == 1 and model.n_iter_ == 4
    assert np.isfinite(model.transform(X)).all()


# ------------------------------------------------------------------------------ its parts


def test_strongest_edges():
    graph = fuzzy_graph(*nearest_neighbors(X, 6))
    ends, weights = strongest_edges(graph, 4)
    dense = graph.toarray()
    for i in range(len(X)):
        best = np.sort(dense[i])[::-1][:4]
        np.testing.assert_allclose(weights[i], best / best.sum(), rtol=1e-6)
        np.testing.assert_allclose(dense[i, ends[i]], best, rtol=1e-12)
    few = sparse.csr_matrix(np.array([[0.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(strongest_edges(few, 3)[1], [[1, 0, 0], [1, 0, 0]])


def test_aligned_undoes_a_turn():
    angle = 2.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    Z = X[:, :2]
    np.testing.assert_allclose(aligned(Z @ turn + 7.0, Z), Z - Z.mean(0), atol=1e-12)
    mirrored = Z * [1.0, -1.0]
    np.testing.assert_allclose(aligned(mirrored, Z), Z - Z.mean(0), atol=1e-12)


def test_smoothed_joins_what_the_graph_joins():
    groups = np.repeat([0, 1], 20)
    # Group 1 lies in two places, with group 0 between them.
    Z = np.where(groups == 0, 0.0, np.where(np.arange(40) % 2, 5.0, -4.0))[:, None]
    graph = sparse.csr_matrix((groups[:, None] == groups).astype(float))
    found = smoothed(graph, Z, 40)
    np.testing.assert_allclose(found[groups == 0], 0.0, atol=1e-9)
    np.testing.assert_allclose(found[groups == 1], 0.5, atol=1e-6)


# ------------------------------------------------------------------------------ coverage


def test_coverage_is_the_prior_under_a_kernel_density_of_what_was_seen():
    view = view_of(None)
    draws = []

    def sample_prior(n, generator):
        draws.append(view.loc + view.scale * torch.randn(n, 2, generator=generator))
        return draws[-1]

    view.sample_prior = sample_prior
    regularizer = PriorCoverage(bandwidth=0.3)
    regularizer.attach(view)
    generator, seen = torch.Generator().manual_seed(1), np.empty((0, 2))
    # More than is remembered: of the last call's latents, the oldest are forgotten.
    for n in (16, 300, N_REMEMBERED, 8):
        z = torch.randn(n, 2, generator=generator)
        found = regularizer(z, torch.arange(n)).item()
        seen = np.concatenate([z, seen])
        density = KernelDensity(bandwidth=0.3).fit(seen / view.scale.numpy())
        at_draws = density.score_samples((draws[-1] / view.scale).numpy())
        expected = view.scale.log().sum().item() - at_draws.mean()
        assert found == pytest.approx(expected, rel=1e-5)
        seen = seen[:N_REMEMBERED]


@pytest.mark.parametrize("prior", ["gaussian_mixture", "pinwheel"])
def test_a_classifiers_prior_has_its_classes_in_their_proportions(prior):
    class Look:
        name = "look"

        def attach(self, view):
            z = view.sample_prior(2000, torch.Generator().manual_seed(0))
            type(self).draws = z.numpy()

        def __call__(self, z, rows):
            return z.sum() * 0.0

    y = (np.arange(80) % 10 == 0).astype(int)
    model = small(DDVAEClassifier, prior=prior, n_components=2, regularizer=Look()).fit(X, y)
    expected = model._engine.sample(2000, 0)[1]
    for axis in range(2):
        test = ks_2samp(Look.draws[:, axis], expected[:, axis], method="asymp")
        assert test.pvalue > 1e-4


def test_coverage_moves_a_batch_as_if_the_remembered_moved_too():
    view = view_of(None)
    u = view.loc + view.scale * torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    view.sample_prior = lambda n, generator: u
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(1))
    gradients = []
    for n_times in (1, 3):  # the same latents, seen once and three times
        regularizer = PriorCoverage()
        regularizer.attach(view)
        for _ in range(n_times):
            batch = z.clone().requires_grad_()
            regularizer(batch, torch.arange(20)).backward()
        gradients.append(batch.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_coverage_fills_the_prior():
    # Latents that are free to move, all of them on one side of a square.
    prior, generator = SquarePrior(), torch.Generator().manual_seed(0)
    draws = prior.sample(2000, generator).numpy()
    view = view_of(None)
    view.sample_prior, view.loc, view.scale = prior.sample, torch.zeros(2), torch.ones(2)
    regularizer = PriorCoverage()
    regularizer.attach(view)
    z = torch.rand(300, 2, generator=generator) - torch.tensor([1.0, 0.5])
    z.requires_grad_()
    before = latent_nll(z.detach().numpy(), draws)
    optimizer = torch.optim.Adam([z], 0.05)
    for _ in range(150):
        for rows in torch.randperm(300, generator=generator).split(100):
            optimizer.zero_grad()
            regularizer(z[rows], rows).backward()
            optimizer.step()
    floor = latent_nll(prior.sample(300, generator).numpy(), draws)
    assert before > floor + 10.0
    assert latent_nll(z.detach().numpy(), draws) < floor + 0.6


def test_the_weight_of_coverage_follows_the_number_of_features():
    for n_features, weight in [(64, 0.25), (784, 3.0)]:
        assert PriorCoverage().fit(np.zeros((20, n_features))).weight_ == weight
    given = PriorCoverage(weight=5.0)
    assert given.fit(X).weight_ == 5.0 and given.weight == 5.0


def test_coverage_can_be_kept():
    view = view_of(None)
    view.sample_prior = lambda n, generator: torch.randn(n, 2, generator=generator)
    regularizer = PriorCoverage()
    regularizer.attach(view)
    z = torch.zeros(3, 2)
    regularizer(z, torch.arange(3))
    state = {name: value.clone() for name, value in regularizer.state_dict().items()}
    first = regularizer(z + 1.0, torch.arange(3))
    regularizer.load_state_dict(state)
    assert torch.equal(regularizer(z + 1.0, torch.arange(3)), first)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weight": "x"}, "weight must be a number or \"auto\", found 'x'"),
        ({"bandwidth": 0.0}, r"bandwidth must be a number from 0\.001 to 10\.0, found 0\.0"),
        ({"bandwidth": True}, "bandwidth must be a number from .* found True"),
        ({"bandwidth": np.inf}, "bandwidth must be a number from .* found inf"),
        ({"bandwidth": "a"}, "bandwidth must be a number from .* found 'a'"),
    ],
)
def test_coverage_that_cannot_be(params, message):
    with pytest.raises(ValueError, match=message):
        small(regularizer=PriorCoverage(**params)).fit(X)


def spread(z, rows):
    return z.square().mean()


MANY = np.random.default_rng(0).normal(size=(AUTO_COVERAGE_ROWS, 3))


@pytest.mark.parametrize(
    ("params", "n_rows", "covers"),
    [
        ({"prior": "square"}, AUTO_COVERAGE_ROWS, True),
        ({"prior": SwissRollPrior()}, AUTO_COVERAGE_ROWS, True),
        ({"prior": "square", "regularizer": [spread, "auto"]}, AUTO_COVERAGE_ROWS, True),
        ({"prior": "gaussian_mixture"}, AUTO_COVERAGE_ROWS, False),
        ({"prior": "square", "n_diffusion_steps": 0}, AUTO_COVERAGE_ROWS, False),
        ({"prior": "square"}, AUTO_COVERAGE_ROWS - 1, False),
        ({"prior": "square", "regularizer": None}, AUTO_COVERAGE_ROWS, False),
        ({"prior": "square", "regularizer": spread}, AUTO_COVERAGE_ROWS, False),
        ({"regularizer": [spread, "auto"]}, AUTO_COVERAGE_ROWS, False),
        ({}, AUTO_COVERAGE_ROWS, False),
    ],
)
def test_a_curved_prior_is_filled_unless_told_otherwise(params, n_rows, covers):
    model = small(init="random", batch_size=512, **params).fit(MANY[:n_rows])
    assert ("prior_coverage" in model.history_) == covers
    given = params.get("regularizer")
    assert ("spread" in model.history_) == (given is spread or isinstance(given, list))


def test_a_curved_prior_is_filled_as_if_the_term_were_given():
    params = {"prior": "square", "init": "random", "batch_size": 512}
    by_default, given = (
        small(**params, **more).fit(MANY) for more in ({}, {"regularizer": PriorCoverage()})
    )
    assert by_default.history_ == given.history_


@pytest.mark.parametrize("estimator", [DDVAEClusterer, DDVAEClassifier, baselines.GaussianVAE])
def test_others_have_no_term_but_what_they_are_given(estimator):
    with pytest.raises(InvalidParameterError, match=r"'regularizer' parameter .* must be"):
        estimator(regularizer="auto").fit(X, X[:, 0] > 4)
    assert "PriorCoverage" not in estimator.__doc__


@pytest.mark.parametrize("regularizer", ["banana", ["auto", "banana"]])
def test_text_that_is_no_regularizer_without_validation(regularizer):
    message = r"must be callable .* found 'banana'"
    with (
        config_context(skip_parameter_validation=True),
        pytest.raises(ValueError, match=message),
    ):
        small(regularizer=regularizer).fit(X)


@pytest.mark.parametrize(
    ("estimator", "params"),
    [
        (DDVAETransformer, {"n_components": 1}),
        (DDVAETransformer, {"n_components": 5, "precision": "bfloat16"}),
        (DDVAETransformer, {"n_diffusion_steps": 0, "prior": "pinwheel"}),
        (DDVAEClusterer, {"n_clusters": 3, "n_components": 2, "n_init": 2}),
        (DDVAEClassifier, {"prior": "pinwheel"}),
        (baselines.InverseAutoregressiveFlowVAE, {}),
        (baselines.AdversarialAutoencoder, {}),
        (baselines.HierarchicalVAE, {}),
        (baselines.IWAE, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_estimator_takes_coverage(estimator, params):
    taken = {name: SMALL[name] for name in SMALL if name in estimator().get_params()}
    model = estimator(**taken | {"regularizer": PriorCoverage()} | params)
    labels = np.where(np.arange(80) % 4 == 0, (X[:, 0] > 4).astype(int), -1)
    model.fit(X, labels) if estimator is DDVAEClassifier else model.fit(X)
    assert np.isfinite(model.history_["prior_coverage"]).all()
    assert np.isfinite(model.transform(X)).all()
