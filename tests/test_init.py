"""What a training starts from: a layout of the rows' neighbourhoods, or random weights alone."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits
from test_regularizers import unseen, view_of
from test_stored import Store

from skddvi import DDVAETransformer, baselines
from skddvi._engine.rows import Rows
from skddvi._engine.stored import StoredRows
from skddvi._engine.trainer import Loop, Schedule, Term, TrainingView, train
from skddvi._neighbors import transported
from skddvi.metrics import knn_accuracy, latent_nll
from skddvi.priors import NormalPrior, PinwheelPrior, SquarePrior, SwissRollPrior
from skddvi.regularizers import NeighborhoodPreservation, _start
from skddvi.regularizers._start import START_SHARE, NeighborStart
from skddvi.transformer import AUTO_INIT_ROWS

SMALL = {
    "hidden_layer_sizes": (16,),
    "n_diffusion_steps": 2,
    "denoiser_width": 8,
    "max_iter": 10,
    "random_state": 0,
}
rng = np.random.default_rng(0)
PRIOR = SwissRollPrior()
X = rng.normal(size=(500, 6)) + 4.0 * rng.integers(3, size=(500, 1))


def embedding(rows=X, **params):
    return DDVAETransformer(**SMALL | params).fit_transform(rows)


def test_auto_looks_at_the_number_of_rows():
    enough, few = X[:AUTO_INIT_ROWS], X[: AUTO_INIT_ROWS - 1]
    np.testing.assert_array_equal(embedding(enough), embedding(enough, init="neighbors"))
    np.testing.assert_array_equal(embedding(few), embedding(few, init="random"))
    assert not np.array_equal(embedding(enough), embedding(enough, init="random"))
    assert not np.array_equal(embedding(few), embedding(few, init="neighbors"))


def test_auto_leaves_the_layout_to_the_regularizer():
    own = {"regularizer": [NeighborhoodPreservation()]}
    np.testing.assert_array_equal(embedding(**own), embedding(**own, init="random"))


def test_the_term_is_recorded_until_it_is_over():
    model = DDVAETransformer(**SMALL).fit(X)
    start = model.history_["start"]
    assert len(start) == model.n_iter_ == 10
    # In the second epoch, in which it ends, it is the mean of the rows that it saw.
    assert 0.5 * start[0] < start[1] < start[0]
    assert start[2:] == [0.0] * 8
    assert "start" not in DDVAETransformer(**SMALL, init="random").fit(X).history_


def test_the_weight_falls_along_a_line():
    term = Term("start", 6.0, None, 0.5)
    assert [term.weight_at(x) for x in (0.0, 0.25, 0.375, 0.5, 0.75)] == [6.0, 3.0, 1.5, 0.0, 0.0]
    assert [term.is_over(x) for x in (0.0, 0.499, 0.5, 0.75)] == [False, False, True, True]
    lasting = Term("lasting", 6.0, None)
    assert lasting.weight_at(0.9) == 6.0
    assert not lasting.is_over(1.0)


def test_the_loss_has_the_term_times_its_weight():
    # One batch an epoch: of the first steps the weights are known.
    n_epochs = 20
    params = SMALL | {"max_iter": n_epochs, "batch_size": len(X), "kl_warmup": 0.0, "alpha": 0.0}
    history = DDVAETransformer(**params, sleep="off", init="neighbors").fit(X).history_
    weight = X.shape[1] / 8
    factors = [max(0.0, weight * (1 - i / n_epochs / START_SHARE)) for i in range(n_epochs)]
    assert sum(factor > 0 for factor in factors) == 3
    expected = np.multiply(factors, history["start"]) - np.array(history["elbo"])
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)


def test_a_warm_start_goes_on_from_the_model():
    model = DDVAETransformer(**SMALL, warm_start=True).fit(X)
    history = model.fit(X).history_["start"]
    assert np.isnan(history[10:]).all()
    assert not np.isnan(history[:10]).any()


def view_with(n_rows=40, **parts):
    """Return a view of rows that are their own features and, but for masking, their own latents."""
    parts = vars(view_of(lambda x: x, n_rows)) | parts
    return TrainingView(**{"sample_prior": PRIOR.sample} | parts)


def start_on(view, n_sampled, monkeypatch):
    monkeypatch.setattr(_start, "N_START_ROWS", n_sampled)
    start = NeighborStart(n_neighbors=5).fit(np.zeros((view.n_rows, 2)))
    start.attach(view)
    return start


def test_a_sample_stands_for_many_rows(monkeypatch):
    seen = []
    view = view_with(embed=lambda x, masked=None: seen.append(x) or unseen(x, masked))
    all_rows = view.rows(torch.arange(40))
    start = start_on(view, 12, monkeypatch)
    assert len(start.neighbors_) == 12
    sample = {tuple(row.tolist()) for each in seen for row in each}  # all of it once, for places
    assert len(sample) == 12
    assert sample <= {tuple(row.tolist()) for row in all_rows}
    # Whatever the batch, it is of the sample that features are taken, and there are as many rows.
    seen.clear()
    start(torch.zeros(25, 2), torch.arange(15, 40))
    (crossed,) = seen
    assert crossed.shape == (25, 2)
    seen.clear()
    monkeypatch.setattr(_start, "N_STEP_ROWS", 20)
    start(torch.zeros(25, 2), torch.arange(15, 40))
    assert seen[0].shape == (20, 2)
    values = {value for row in sample for value in row}
    assert {value for row in crossed.tolist() for value in row} <= values


def test_places_of_the_sample_are_remembered(monkeypatch):
    view = view_with()
    start = start_on(view, 12, monkeypatch)
    before = start._memory.clone()
    sample = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:12]
    others = torch.tensor([i for i in range(40) if i not in set(sample.tolist())])
    start.remember(torch.full((28, 2), 50.0), others)
    assert torch.equal(start._memory, before)
    start.remember(torch.full((2, 2), 50.0), torch.stack([others[0], sample[3]]))
    moved = (start._memory != before).any(1)
    assert moved.nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("prior", [PinwheelPrior(), SquarePrior()])
def test_points_are_transported_to_the_prior_by_short_ways(prior):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(10, 2)).repeat(60, axis=0) + 0.1 * rng.normal(size=(600, 2))
    generator = torch.Generator().manual_seed(0)
    target, others, draws = prior.sample(1800, generator).double().numpy().reshape(3, 600, 2)
    moved = transported(Z, target, np.random.default_rng(1))
    missing, before = (latent_nll(each, draws) - latent_nll(others, draws) for each in (moved, Z))
    assert missing < 0.05 * before
    squares = cdist(Z, target, "sqeuclidean")
    shortest = squares[linear_sum_assignment(squares)].mean()
    assert ((moved - Z) ** 2).sum(1).mean() < 1.2 * shortest
    assert squares.mean() > 2.0 * shortest  # of ways at random


@pytest.mark.parametrize("d", [1, 3])
def test_points_are_transported_in_any_dimension(d):
    rng = np.random.default_rng(0)
    Z, target = rng.uniform(size=(500, d)), 5.0 + rng.standard_gamma(2.0, size=(500, d))
    moved = transported(Z, target, rng)
    for axis in (*np.eye(d), rng.normal(size=d)):
        quantiles = [
            np.quantile(each @ axis, (0.05, 0.25, 0.5, 0.75, 0.95)) for each in (moved, target)
        ]
        np.testing.assert_allclose(*quantiles, atol=0.15 * (target @ axis).std())


def test_places_start_where_the_prior_has_its_mass(monkeypatch):
    loc, scale = torch.tensor([5.0, -20.0]), torch.tensor([3.0, 0.5])

    def sample(n, generator):
        return loc + scale * PRIOR.sample(n, generator)

    many = sample(10000, torch.Generator().manual_seed(4))
    view = view_with(n_rows=300, loc=many.mean(0), scale=many.std(0), sample_prior=sample)
    given = []

    def recording(Z, *args):
        given.append(Z)
        return transported(Z, *args)

    monkeypatch.setattr(_start, "transported", recording)
    start = start_on(view, 300, monkeypatch)
    draws = ((sample(1300, torch.Generator().manual_seed(5)) - view.loc) / view.scale).numpy()
    places = start._memory.numpy()
    assert latent_nll(places, draws[300:]) < latent_nll(draws[:300], draws[300:]) + 0.1
    # By short ways from the layout, whose points are rows', in their order.
    squares = cdist(given[0], places, "sqeuclidean")
    shortest = squares[linear_sum_assignment(squares)].mean()
    assert np.diag(squares).mean() < 1.2 * shortest
    plain = NeighborStart(n_neighbors=5).fit(np.zeros((300, 2)))
    plain.has_shape_ = False
    plain.attach(view)
    np.testing.assert_allclose(given[0], plain._memory.numpy(), rtol=1e-6)
    assert np.array_equal(start_on(view, 300, monkeypatch)._memory.numpy(), places)


def test_the_normal_prior_leaves_the_layout_as_it_is(monkeypatch):
    moved = []
    monkeypatch.setattr(_start, "transported", lambda Z, *args: moved.append(len(Z)) or Z)
    for prior in ("normal", NormalPrior(2)):
        embedding(prior=prior, max_iter=1)
    assert not moved
    embedding(prior="square", max_iter=1)
    assert moved == [len(X)]


def test_rows_in_a_store_are_read_once_for_the_start(monkeypatch):
    rows = X.astype(np.float32)
    stored = StoredRows(rows)
    start = NeighborStart(n_neighbors=5).fit(stored)
    n_read = []

    def read(indices):
        n_read.append(len(indices))
        return torch.from_numpy(rows[indices.numpy(), :2])

    start.attach(view_with(len(rows), rows=read))
    start.penalty_of_rows(torch.arange(10))
    assert n_read == [len(rows)]
    monkeypatch.setattr(_start, "N_START_ENTRIES", 60)
    assert NeighborStart().fit(stored).n_sampled_ == 10


@pytest.mark.parametrize(("n_entries", "starts"), [(2**24, True), (6 * AUTO_INIT_ROWS - 1, False)])
def test_auto_looks_at_how_much_of_a_store_may_be_kept(n_entries, starts, monkeypatch):
    monkeypatch.setattr(_start, "N_START_ENTRIES", n_entries)
    model = DDVAETransformer(**SMALL).fit(Store(X))
    assert ("start" in model.history_) == starts


@pytest.mark.parametrize(("n_epochs", "prior"), [(1, "normal"), (1, "pinwheel"), (4, "normal")])
def test_a_fit_goes_on_in_the_start_and_after_it(n_epochs, prior, tmp_path):
    params = SMALL | {"max_iter": 20, "prior": prior, "checkpoint": str(tmp_path / "fit")}
    expected = embedding(max_iter=20, prior=prior)
    n_left = n_epochs * math.ceil(len(X) / 64) + 1

    def stopping(*args):
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise KeyboardInterrupt
        return train_batch(*args)

    train_batch = Loop.train_batch
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="interrupted"):
        patch.setattr(Loop, "train_batch", stopping)
        DDVAETransformer(**params).fit(X)
    model = DDVAETransformer(**params).fit(X)
    np.testing.assert_array_equal(model.transform(X), expected)


def test_early_stopping_waits_for_the_end():
    params = SMALL | {"max_iter": 40, "early_stopping": True, "n_iter_no_change": 1, "tol": 1e9}
    assert DDVAETransformer(**params, init="random").fit(X).n_iter_ == 2
    assert DDVAETransformer(**params, init="neighbors").fit(X).n_iter_ == 6  # of 40, 15 %


def test_a_term_on_the_latents_may_end_too():
    rows = Rows(X.astype(np.float32), torch.device("cpu"))
    engine = DDVAETransformer(**SMALL).fit(X)._engine
    term = Term("size", 3.0, lambda z, rows: z.square().mean(), 0.5)
    schedule = Schedule(2, len(X), 1e-3, sleep="off", terms=(term,))
    generator = torch.Generator().manual_seed(0)
    history = train(engine.model, rows, schedule, generator=generator)
    assert history["size"][0] > 0.0
    assert history["size"][1] == 0.0
    expected = 3.0 * np.array(history["size"]) - np.array(history["elbo"])
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["GaussianVAE", "AdversarialAutoencoder"])
def test_baselines_start_alike(name):
    params = {"hidden_layer_sizes": (16,), "max_iter": 10, "random_state": 0}
    model = getattr(baselines, name)(**params).fit(X)
    assert model.history_["start"][0] > 0.0
    assert model.history_["start"][-1] == 0.0


def test_a_start_that_diverges_is_named():
    model = DDVAETransformer(**SMALL | {"learning_rate_init": 1e20})
    with pytest.raises(FloatingPointError, match='set init="random"'), pytest.warns(RuntimeWarning):
        model.fit(X)


@pytest.mark.parametrize("value", ["pca", None, np.zeros((3, 2))])
def test_a_start_that_cannot_be(value):
    with pytest.raises(ValueError, match="init"):
        DDVAETransformer(init=value).fit(X)


def test_groups_are_kept_together():
    rows, y = load_digits(return_X_y=True)
    params = {"hidden_layer_sizes": (128, 128), "max_iter": 30}
    accuracy = {"random": [], "neighbors": []}
    for init, found in accuracy.items():
        for seed in range(2):
            model = DDVAETransformer(init=init, random_state=seed, **params).fit(rows[:600])
            Z, Z_new = model.transform(rows[:600]), model.transform(rows[600:])
            found.append(knn_accuracy(Z, y[:600], Z_new, y[600:]))
    assert np.mean(accuracy["neighbors"]) > np.mean(accuracy["random"]) + 0.03, accuracy
