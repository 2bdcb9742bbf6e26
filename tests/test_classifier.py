"""DDVAEClassifier: its contract, its sums over classes, and what labels may look like."""

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits, make_moons
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skddvi import DDVAEClassifier, DDVAETransformer
from skddvi._engine import semisupervised
from skddvi._engine.class_engine import ClassEngine, guided_latents
from skddvi._engine.engine import _score_noise
from skddvi._engine.objective import bound_terms
from skddvi._engine.posteriors import DiffusionPosterior
from skddvi._engine.rows import Rows
from skddvi._engine.semisupervised import (
    UNLABELLED,
    likely_pairs,
    propagation,
    sum_over_classes,
    training_pairs,
)
from skddvi._engine.trainer import Loop, Schedule
from skddvi._labels import encode_labels
from skddvi._propagation import guess_classes, spread_labels
from skddvi.priors import GaussianMixturePrior, PinwheelPrior

ROOT = Path(__file__).parents[1]
N_CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
SCHEDULE = Schedule(max_iter=1, batch_size=10, learning_rate=1e-3)


def make_rows(n_rows=90, seed=0):
    """Return rows of three classes and their codes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_rows) % N_CLASSES
    return rng.normal(size=(n_rows, 5)) + 4.0 * np.eye(5)[y], y


def few_labels(y, n_a_class, seed=0, unlabeled=-1):
    """Return y with all but a few labels of each class taken away."""
    rng = np.random.default_rng(seed)
    few = np.full_like(y, unlabeled)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))[:n_a_class]
        few[rows] = label
    return few


def small(**params):
    defaults = {
        "n_components": 3,
        "hidden_layer_sizes": (16,),
        "denoiser_width": 8,
        "n_diffusion_steps": 3,
        "max_iter": 3,
        "random_state": 0,
    }
    return DDVAEClassifier(**defaults | params)


@pytest.fixture(scope="module")
def fitted():
    X, y = make_rows()
    return small(max_iter=60, batch_size=15, learning_rate_init=0.01).fit(X, few_labels(y, 5))


# ----------------------------------------------------------------------- sums over classes


def random_log_q(n_rows, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(scale=1.0, size=(n_rows, n_classes)), requires_grad=True)
    return logits, torch.log_softmax(logits, -1)


def values_at(table, pairs):
    return table[pairs.rows, pairs.classes]


def test_without_tolerance_the_sum_over_classes_is_exact():
    logits, log_q = random_log_q(6, 4)
    table = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table.requires_grad_()
    labels = torch.tensor([UNLABELLED, 2, UNLABELLED, UNLABELLED, 0, UNLABELLED])
    pairs = training_pairs(log_q, labels, 0.0, torch.Generator().manual_seed(0))
    assert len(pairs.rows) == 4 * 4 + 2
    found = sum_over_classes(values_at(table, pairs), pairs)
    wanted = (log_q.exp() * table).sum(-1)
    wanted = torch.where(
        labels == UNLABELLED, wanted, table.gather(1, labels.clamp(0)[:, None])[:, 0]
    )
    torch.testing.assert_close(found, wanted)
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)
    for tensor in (logits, table):
        a, b = (
            torch.autograd.grad((weights * total).sum(), tensor, retain_graph=True)[0]
            for total in (found, wanted)
        )
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("tolerance", [0.1, 0.4])
def test_thinned_sum_and_its_gradients_are_unbiased(tolerance):
    logits, log_q = random_log_q(3, 12, seed=1)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(3, 12, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.full((3,), UNLABELLED)
    exact = (log_q.exp() * table).sum(-1)
    wanted = torch.cat(
        [
            exact.detach(),
            *(
                g.flatten()
                for g in torch.autograd.grad(exact.sum(), (logits, table), retain_graph=True)
            ),
        ]
    )
    draws, n_pairs = [], 0
    for _ in range(4000):
        pairs = training_pairs(log_q, labels, tolerance, generator)
        n_pairs += len(pairs.rows)
        total = sum_over_classes(values_at(table, pairs), pairs)
        gradients = torch.autograd.grad(total.sum(), (logits, table), retain_graph=True)
        draws.append(torch.cat([total.detach(), *(g.flatten() for g in gradients)]))
    draws = torch.stack(draws)
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - wanted).abs() <= 5.0 * error + 1e-12).all()
    assert draws.std(0)[:3].max() > 0.0  # it is an estimate
    assert n_pairs / 4000 / 3 <= 1.0 + 1.0 / tolerance


@pytest.mark.parametrize("n_classes", [2, 10, 1000])
def test_number_of_pairs_does_not_grow_with_the_classes(n_classes):
    log_q = torch.full((200, n_classes), -np.log(n_classes))
    labels = torch.full((200,), UNLABELLED)
    pairs = training_pairs(log_q, labels, 0.1, torch.Generator().manual_seed(0))
    assert len(pairs.rows) <= 200 * min(n_classes, 12)
    assert torch.equal(pairs.rows[pairs.best], torch.arange(200))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_class_of_no_probability_at_all_leaves_the_gradient_finite(share, monkeypatch):
    log_q = torch.tensor([[0.0, -200.0, -3.1]]).log_softmax(-1).requires_grad_()
    assert log_q.exp()[0, 1] == 0.0
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, share))
    pairs = training_pairs(log_q, torch.tensor([-1]), 0.3, torch.Generator().manual_seed(0))
    (1e4 * pairs.weights.sum()).backward()
    assert torch.isfinite(log_q.grad).all()


def test_probabilities_of_classes_have_all_their_digits_in_mixed_precision(fitted):
    model = fitted._engine.model
    inputs = model.likelihood.encode(torch.from_numpy(make_rows()[0]).float())
    with torch.autocast("cpu", torch.bfloat16):
        both = model.features(inputs).log_q, model.log_class_probabilities(inputs)
    assert {log_q.dtype for log_q in both} == {torch.float32}
    for log_q in both:
        assert log_q.exp().sum(-1).detach().numpy() == pytest.approx(1.0, abs=1e-6)


def test_a_labelled_row_has_one_pair_of_weight_one():
    _, log_q = random_log_q(5, 4)
    labels = torch.tensor([3, 0, UNLABELLED, 1, 2])
    for pairs in (
        training_pairs(log_q, labels, 0.3, torch.Generator().manual_seed(0)),
        likely_pairs(log_q, labels),
    ):
        for row in (0, 1, 3, 4):
            assert pairs.classes[pairs.rows == row].tolist() == [labels[row]]
            assert pairs.weights[pairs.rows == row].tolist() == [1.0]


def by_class(model, X, n_draws):
    """Return log q(l|x) and log p(x, z, l) + log_ratio, (n, C) and (n_draws, n, C), by class."""
    engine = model._engine
    net = engine._model_in(np.float64)
    x = torch.as_tensor(X)
    with torch.no_grad():
        features = net.features(net.likelihood.encode(x))
        noise = _score_noise(n_draws, net.posterior.noise_size)[:, None].expand(-1, len(x), -1)
        columns = []
        for code in range(N_CLASSES):
            classes = torch.full((len(x),), code)
            condition = net.condition(features, torch.arange(len(x)), classes)
            terms = bound_terms(net, x, condition, noise, classes)
            columns.append(terms.log_weight + net.log_class_weights[code])
        return features.log_q, torch.stack(columns, -1)


def test_score_samples_is_the_sum_over_classes(fitted):
    X, _ = make_rows(20, seed=3)
    log_q, log_weight = by_class(fitted, X, 32)
    kept = log_q.exp() >= 1e-4
    q = torch.where(kept, log_q.exp(), 0.0)
    q = q / q.sum(-1, keepdim=True)
    bound = torch.where(kept, q * (log_weight - q.log()), 0.0).sum(-1).mean(0)
    np.testing.assert_allclose(fitted.score_samples(X), bound, rtol=1e-6)
    tighter = torch.where(kept, log_weight, -torch.inf).logsumexp(dim=(0, 2)) - np.log(32)
    np.testing.assert_allclose(fitted.score_samples(X, 32), tighter, rtol=1e-6)
    assert (tighter > bound).all()


def test_score_samples_in_blocks(fitted, monkeypatch):
    X, _ = make_rows(20, seed=3)
    whole = fitted.score_samples(X), fitted.score_samples(X, 3)
    monkeypatch.setattr("skddvi._engine.class_engine.DRAW_BYTES", 2**14)
    np.testing.assert_allclose(fitted.score_samples(X), whole[0], rtol=1e-9)
    np.testing.assert_allclose(fitted.score_samples(X, 3), whole[1], rtol=1e-9)


def test_held_out_bound_is_that_of_score_samples_with_one_draw():
    X, y = make_rows()
    model = small(max_iter=60, batch_size=15).fit(X, y, X_val=X)
    # Other noise, so only about the same.
    bound = model.score_samples(X).mean()
    assert model.validation_scores_[-1] == pytest.approx(bound, abs=0.5)
    labelled = small().fit(X, y, X_val=X[:30], y_val=y[:30])
    assert labelled.history_["validation_class_entropy"] == [0.0] * 3
    accuracy = labelled.history_["validation_accuracy"][-1]
    assert accuracy == pytest.approx(labelled.score(X[:30], y[:30]))


def test_elbo_is_the_sum_of_its_terms(fitted):
    history = fitted.history_
    terms = ["reconstruction", "log_prior", "terminal", "chain", "last_step"]
    terms += ["class_prior", "class_entropy"]
    np.testing.assert_allclose(sum(np.array(history[t]) for t in terms), history["elbo"], rtol=1e-5)


# ----------------------------------------------------------------------- guidance


class OverlappingModel:
    prior = GaussianMixturePrior([[-0.5], [0.7]], [1.0, 0.6])
    log_class_weights = torch.tensor([0.3, 0.7]).log()


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 4.0])
def test_guided_latents_have_their_density(scale):
    model = OverlappingModel()
    n = 20_000
    z = guided_latents(
        model, torch.zeros(n, dtype=torch.int64), scale, torch.Generator().manual_seed(0)
    )
    grid = torch.linspace(-6, 6, 20_001, dtype=torch.float64)[:, None]
    joint = model.prior.part_log_prob(grid) + model.log_class_weights
    log_p = joint.log_softmax(-1)[:, 0]
    density = (model.prior.part_log_prob(grid)[:, 0] + (scale - 1.0) * log_p).exp()
    density /= density.sum()
    mean = float((density * grid[:, 0]).sum())
    std = float((density * (grid[:, 0] - mean).square()).sum().sqrt())
    assert float(z.mean()) == pytest.approx(mean, abs=5 * std / n**0.5)
    assert float(z.std()) == pytest.approx(std, rel=0.03)


def test_sample_of_a_class_is_classified_as_it(fitted):
    for label in fitted.classes_:
        X = fitted.sample(50, y=label, guidance_scale=2.0, random_state=0)
        assert X.shape == (50, 5)
        assert (fitted.predict(X) == label).mean() > 0.8
    y = np.arange(30) % N_CLASSES
    assert (fitted.predict(fitted.sample(30, y=y, random_state=0)) == y).mean() > 0.8
    free = fitted.sample(20, random_state=1)
    np.testing.assert_array_equal(free, fitted.sample(20, random_state=1))
    assert len(np.unique(fitted.predict(fitted.sample(60, random_state=0)))) == N_CLASSES


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"y": 7}, r"y holds labels .* have not: \[7\]; the classes are \[0, 1, 2\]"),
        ({"y": [0, 1]}, "n_samples=3 of them, found 2"),
        ({"y": [0, None, 1]}, "y holds 1 missing labels"),
        ({"y": [[0], [0, 1], [0]]}, "inhomogeneous"),
        (
            {"guidance_scale": -1.0},
            "guidance_scale must be a finite number of at least 0, found -1",
        ),
        ({"guidance_scale": np.inf}, "guidance_scale must be a finite"),
    ],
)
def test_sample_refuses(fitted, params, message):
    with pytest.raises(ValueError, match=message):
        fitted.sample(3, **params)


def test_impossible_guidance_ends(monkeypatch):
    class Same(OverlappingModel):
        prior = GaussianMixturePrior([[0.0], [0.0]], 1.0)

    monkeypatch.setattr("skddvi._engine.class_engine.MAX_ROUNDS", 20)
    with pytest.raises(ValueError, match="guidance_scale=1000 leaves next to nothing"):
        guided_latents(Same(), torch.zeros(2, dtype=torch.int64), 1e3, torch.Generator())


# ----------------------------------------------------------------------- the contract


@pytest.mark.parametrize("n_diffusion_steps", [0, 1, 3])
def test_shapes(n_diffusion_steps):
    X, y = make_rows()
    model = small(n_diffusion_steps=n_diffusion_steps).fit(X, few_labels(y, 4))
    assert model.predict_proba(X).shape == (90, N_CLASSES)
    assert model.transform(X).shape == (90, 3)
    assert model.sample_posterior(X, 4, random_state=0).shape == (4, 90, 3)
    assert model.inverse_transform(model.transform(X)).shape == X.shape
    assert model.score_samples(X).shape == (90,)
    assert model.get_feature_names_out()[0] == "ddvaeclassifier0"


def test_neighbours_are_looked_for_among_standardised_rows_too():
    X, y = make_rows()
    X = PCA(random_state=0).fit_transform(X * [5.0, 4.0, 1.0, 1.0, 1.0])
    model = small(max_iter=1).fit(X, y)
    assert model.likelihood_.unit is not None  # what the encoder sees is not standardised
    standardised = model._engine.standardize(X)
    np.testing.assert_allclose(standardised, (X - X.mean(0)) / X.std(0), atol=1e-5)


def test_probabilities(fitted):
    X, _ = make_rows(40, seed=5)
    p = fitted.predict_proba(X)
    np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-12)
    # A probability near one is rounded, which its logarithm shows.
    np.testing.assert_allclose(np.log(p), fitted.predict_log_proba(X), rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[p.argmax(1)])
    single = fitted.predict_proba(X.astype(np.float32))
    assert (p.dtype, single.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(single, p, atol=1e-5)
    assert fitted.transform(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("method", ["predict_proba", "transform", "score_samples"])
def test_a_row_does_not_depend_on_the_others(fitted, method):
    X, _ = make_rows(12, seed=6)
    ask = getattr(fitted, method)
    whole = ask(X)
    np.testing.assert_allclose(np.concatenate([ask(row[None]) for row in X]), whole, rtol=1e-9)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_allclose(ask(X[order]), whole[order], rtol=1e-9)


def test_draws_from_the_posterior_follow_the_class_probabilities():
    X, y = make_rows()
    prior = GaussianMixturePrior(10.0 * np.eye(3), 1.0)
    model = small(max_iter=1, prior=prior).fit(X, few_labels(y, 2))
    model._engine.model.classifier.bias.data += torch.tensor([2.0, 0.0, 1.0])
    model._engine.model.classifier.weight.data.zero_()
    model._engine.model.posterior.head.weight.data.zero_()
    draws = model.sample_posterior(X[:5], 2000, random_state=0)
    np.testing.assert_array_equal(draws, model.sample_posterior(X[:5], 2000, random_state=0))
    # An untrained posterior lies in the class's part of the prior.
    part = model.prior_.part_log_prob(torch.as_tensor(draws)).argmax(-1).numpy()
    shares = np.stack([(part == c).mean(0) for c in range(N_CLASSES)], -1)
    np.testing.assert_allclose(shares, model.predict_proba(X[:5]), atol=0.05)


def test_same_seed_same_bits():
    X, y = make_rows()
    few = few_labels(y, 3)
    one, other = (small().fit(X, few) for _ in range(2))
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    assert one.loss_curve_ == other.loss_curve_
    assert not np.array_equal(
        small(random_state=1).fit(X, few).predict_proba(X), one.predict_proba(X)
    )


def test_class_prior():
    X, y = make_rows()
    few = np.where(y == 0, 0, few_labels(y, 4))
    np.testing.assert_allclose(small().fit(X, few).class_prior_, np.array([31, 5, 5]) / 41)
    prior = GaussianMixturePrior(np.eye(3) * 4, 1.0, weights=[0.5, 0.25, 0.25])
    np.testing.assert_allclose(small(prior=prior).fit(X, few).class_prior_, [0.5, 0.25, 0.25])


@pytest.mark.parametrize(
    ("prior", "n_components"),
    [
        ("gaussian_mixture", 16),
        ("pinwheel", 2),
        ("swiss_roll", 2),
        ("square", 2),
        (PinwheelPrior(3), 2),
        (GaussianMixturePrior(np.eye(3) * 5, 1.0), 3),
    ],
)
def test_priors_have_a_part_for_each_class(prior, n_components):
    X, y = make_rows()
    model = small(prior=prior, n_components="auto").fit(X, y)
    assert (model.prior_.n_parts, model.prior_.n_components) == (3, n_components)
    assert model.transform(X).shape == (90, n_components)


@pytest.mark.parametrize(
    ("prior", "n_parts"),
    [(PinwheelPrior(4), 4), ("normal", 1), (GaussianMixturePrior(np.eye(2), 1.0), 2)],
)
def test_promise_13_parts_and_classes_that_do_not_match(prior, n_parts):
    X, y = make_rows()
    with pytest.raises(ValueError, match=f"n_parts={n_parts} and 3 classes"):
        small(prior=prior, n_components="auto").fit(X, y)


def test_promise_13_a_planar_prior_in_three_dimensions():
    X, y = make_rows()
    with pytest.raises(ValueError, match="lives in 2 dimensions, found n_components=3"):
        small(prior="pinwheel", n_components=3).fit(X, y)


@pytest.mark.slow
def test_the_picture_of_a_curved_prior_has_a_class_an_arm():
    X, y = make_rows(150)
    model = small(prior="pinwheel", n_components=2, max_iter=60, batch_size=15)
    model.fit(X, few_labels(y, 5))
    arm = model.prior_.part_log_prob(torch.as_tensor(model.transform(X))).argmax(-1)
    assert (arm.numpy() == y).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_components", 0),
        ("n_components", "two"),
        ("classification_weight", -1.0),
        ("label_smoothing", 1.0),
        ("consistency_weight", -1.0),
        ("pretraining", -0.5),
        ("propagation_weight", -1.0),
        ("n_neighbors", 0),
        ("class_tolerance", -0.1),
        ("class_tolerance", 2.0),
    ],
)
def test_promise_14_bad_parameters(name, value):
    X, y = make_rows(20)
    with pytest.raises(ValueError, match=name):
        small(**{name: value}).fit(X, y)


def test_promise_14_methods_before_fit():
    X, y = make_rows(5)
    for method in ("predict", "predict_proba", "predict_log_proba", "transform", "score_samples"):
        with pytest.raises(NotFittedError):
            getattr(small(), method)(X)
    with pytest.raises(NotFittedError):
        small().score(X, y)
    with pytest.raises(NotFittedError):
        small().sample(2)


def test_label_smoothing_and_weights_reach_the_loss():
    X, y = make_rows()
    few = few_labels(y, 4)
    plain = small(max_iter=40).fit(X, few)
    smooth = small(max_iter=40, label_smoothing=0.3).fit(X, few)
    rows = few >= 0
    assert smooth.predict_proba(X[rows]).max(1).mean() < plain.predict_proba(X[rows]).max(1).mean()
    unheard = small(max_iter=1, classification_weight=0.0, sleep="off").fit(X, few)
    other = small(max_iter=1, classification_weight=5.0, sleep="off").fit(X, few)
    assert unheard.loss_curve_[0] < other.loss_curve_[0]


def test_warm_start_goes_on_with_the_same_classes_only():
    X, y = make_rows()
    model = small(warm_start=True).fit(X, few_labels(y, 3))
    model.fit(X, few_labels(y, 3))
    assert model.n_iter_ == 6
    with pytest.raises(ValueError, match=r"classes \[0, 1, 2\], found \[0, 1\] in y"):
        model.fit(X[y < 2], y[y < 2])


def test_regularizers_see_one_latent_a_row():
    X, y = make_rows(40)
    seen = []

    def spread(z, rows):
        seen.append((z.shape, len(rows)))
        return z.square().mean()

    model = small(regularizer=spread, max_iter=1).fit(X, few_labels(y, 3))
    assert seen == [((40, 3), 40)]
    assert len(model.history_["spread"]) == 1


def test_memory_of_a_step_is_bounded(monkeypatch):
    X, y = make_rows()
    few = few_labels(y, 2)
    most = small(max_iter=1, class_tolerance=0.0).fit(X, few).history_["pairs"][0]
    monkeypatch.setattr("skddvi._engine.semisupervised.PAIR_ENTRIES", 64 * X.shape[1])
    fewer = small(max_iter=1, class_tolerance=0.0).fit(X, few).history_["pairs"][0]
    assert fewer < most
    assert fewer <= 2.2


def test_pickle_in_a_new_process(fitted, tmp_path):
    X, _ = make_rows(10)
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps(fitted))
    np.save(tmp_path / "X.npy", X)
    code = (
        "import pickle, sys, numpy as np, pathlib\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "model = pickle.loads((folder / 'model.pickle').read_bytes())\n"
        "np.save(folder / 'p.npy', model.predict_proba(np.load(folder / 'X.npy')))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), fitted.predict_proba(X))


@pytest.mark.slow
def test_ask_n_jobs_pipeline_and_grid_search():
    X, y = make_rows(60)
    pipeline = make_pipeline(
        StandardScaler(), PCA(n_components=4), small(max_iter=40, batch_size=10)
    )
    search = GridSearchCV(
        pipeline, {"ddvaeclassifier__label_smoothing": [0.0, 0.1]}, cv=2, n_jobs=2
    ).fit(X, y)
    assert search.best_score_ > 0.7
    assert search.predict(X).shape == (60,)


def test_set_output_pandas():
    X, y = make_rows(30)
    X = pd.DataFrame(X, columns=list("abcde"))
    model = small().set_output(transform="pandas").fit(X, y)
    Z = model.transform(X)
    assert list(Z.columns) == [f"ddvaeclassifier{k}" for k in range(3)]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X[list("bacde")])


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_an_output_that_is_set_for_all_reaches_nothing_within(output):
    X, y = make_rows(30)
    expected = small().fit(X, y).predict_proba(X)
    with config_context(transform_output=output):
        model = small().fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_clone_keeps_parameters():
    prior = PinwheelPrior(3)
    model = small(prior=prior, unlabeled="?", class_tolerance=0.2)
    assert clone(model).get_params().keys() == model.get_params().keys()
    assert clone(model).unlabeled == "?"


# ----------------------------------------------------------------------- labels


LABELS = {
    "int": st.integers(0, 4).map(int),
    "negative int": st.sampled_from([-3, -2, 5]),
    "str": st.sampled_from(["a", "bb", "-1", "ü"]),
    "bool": st.booleans(),
    "float": st.sampled_from([0.0, 1.0, 7.0]),
}


@st.composite
def partly_labelled(draw):
    kind = draw(st.sampled_from(sorted(LABELS)))
    values = draw(st.lists(LABELS[kind], min_size=4, max_size=12))
    known = draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    return kind, values, known


@settings(max_examples=200, deadline=None)
@given(partly_labelled(), st.sampled_from(["list", "array", "object", "pandas"]))
def test_labels_of_every_kind(case, container):
    kind, values, known = case
    marks = {"int": -1, "negative int": -1, "float": -1.0}
    mark = None if container == "object" or kind not in marks else marks[kind]
    if mark is None:
        container = "object"  # where None stands for no label
    labelled = [value for value, is_known in zip(values, known, strict=True) if is_known]
    assume(kind not in marks or set(labelled) != {1} or all(known))  # with -1, two classes
    y = [value if is_known else mark for value, is_known in zip(values, known, strict=True)]
    wrapped = {
        "list": lambda: y,
        "array": lambda: np.array(y),
        "object": lambda: np.array(y, dtype=object),
        "pandas": lambda: pd.Series(y),
    }[container]()
    if len(set(labelled)) < 2:
        with pytest.raises(ValueError, match=r"no labelled sample|at least 2 classes"):
            encode_labels(wrapped, "auto")
        return
    codes, classes = encode_labels(wrapped, "auto")
    assert classes.tolist() == sorted(set(labelled))
    assert [classes[code] if code >= 0 else None for code in codes] == [
        value if is_known else None for value, is_known in zip(values, known, strict=True)
    ]


@pytest.mark.parametrize(
    ("y", "unlabeled", "classes", "mask"),
    [
        ([0, 1, -1, 1], "auto", [0, 1], [0, 0, 1, 0]),
        ([0.0, 1.0, -1.0, 1.0], "auto", [0, 1], [0, 0, 1, 0]),
        ([0, 1, -1, 1], None, [-1, 0, 1], [0, 0, 0, 0]),
        ([-1, 1, -1, 1], -1, None, None),
        ([-1, 1, 2, 1], -1, [1, 2], [1, 0, 0, 0]),
        (["a", "?", "b", "a"], "?", ["a", "b"], [0, 1, 0, 0]),
        (["a", "?", "b", "a"], "auto", ["?", "a", "b"], [0, 0, 0, 0]),
        (["a", None, "b", np.nan], "auto", ["a", "b"], [0, 1, 0, 1]),
        ([True, False, None, True], "auto", [False, True], [0, 0, 1, 0]),
        ([0.0, 1.0, np.nan, 1.0], np.nan, [0, 1], [0, 0, 1, 0]),
        ([0, 1, 9, 1], 9, [0, 1], [0, 0, 1, 0]),
        ([-1, 0, None, 1], "auto", [-1, 0, 1], [0, 0, 1, 0]),
        (pd.Series([0, 1, pd.NA, 1], dtype="Int64"), "auto", [0, 1], [0, 0, 1, 0]),
        (pd.Series(["a", "b", None, "b"], dtype="string"), "auto", ["a", "b"], [0, 0, 1, 0]),
        (pd.Categorical(["a", "b", None, "b"]), "auto", ["a", "b"], [0, 0, 1, 0]),
    ],
)
def test_promise_12_what_stands_for_no_label(y, unlabeled, classes, mask):
    if isinstance(y, list) and any(value is None for value in y):
        y = np.array(y, dtype=object)
    if classes is None:
        with pytest.raises(ValueError, match="1 class among the labelled rows: 1"):
            encode_labels(y, unlabeled)
        return
    codes, found = encode_labels(y, unlabeled)
    assert found.tolist() == classes
    np.testing.assert_array_equal(codes == UNLABELLED, np.array(mask, dtype=bool))


@pytest.mark.parametrize(
    ("y", "unlabeled"),
    [
        ([0, 1, None, 1], None),
        ([0, 1, None, -1], -1),
        (["a", "b", None, "?"], "?"),
        (pd.Series([0, 1, pd.NA, 1], dtype="Int64"), -1),
        (pd.Series(["a", "b", None, "?"], dtype="string"), "?"),
    ],
)
def test_promise_12_missing_labels_beside_the_mark(y, unlabeled):
    with pytest.raises(ValueError, match=r"y holds 1 missing labels .* unlabeled does not name"):
        encode_labels(y, unlabeled)


@pytest.mark.parametrize("unlabeled", [[-1], np.array([-1, 0]), {}, pd.Series([-1])])
def test_promise_12_the_mark_is_a_scalar(unlabeled):
    X, y = make_rows(6)
    with pytest.raises(ValueError, match="unlabeled must be 'auto', None or a scalar, found"):
        small(unlabeled=unlabeled).fit(X, y)


def test_promise_12_minus_one_and_plus_one_are_two_classes():
    X, y = make_rows(30)
    y = np.where(y == 0, 1, -1)
    with pytest.warns(UserWarning, match="exactly -1 and"):
        model = small().fit(X, y)
    assert model.classes_.tolist() == [-1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert small(unlabeled=None).fit(X, y).classes_.tolist() == [-1, 1]


def test_promise_12_strings_with_a_mark():
    X, y = make_rows(30)
    names = np.array(["cat", "dog", "eel"])[y]
    names[::2] = "?"
    model = small(unlabeled="?").fit(X, names)
    assert model.classes_.tolist() == ["cat", "dog", "eel"]
    assert set(model.predict(X)) <= {"cat", "dog", "eel"}


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.5, 1.5, 2.5, 3.5], "Unknown label type"),
        ([0.0, 1.0, np.nan, 1.0], "contains NaN: 1 of 4 labels"),
        (np.array(["a", 1, "b", 2], dtype=object), "one kind, found int and str"),
        ([[0, 1], [1, 0], [0, 0], [1, 1]], "1d array"),
        (None, "requires y to be passed"),
        (np.zeros(4, dtype="V4"), "one label a row, found records"),
    ],
)
def test_labels_that_cannot_be(y, message):
    X, _ = make_rows(4)
    with pytest.raises(ValueError, match=message):
        small().fit(X, y)


@pytest.mark.parametrize(
    ("y", "unlabeled", "message"),
    [
        ([-1] * 6, "auto", "no labelled sample: every y equals unlabeled=-1"),
        ([None] * 6, "auto", "no labelled sample: every y equals unlabeled=None"),
        (["?"] * 6, "?", r"no labelled sample: every y equals unlabeled='\?'"),
        ([3] * 6, "auto", "at least 2 classes, found 1 class .* 3"),
        ([3, 3, 3, -1, -1, -1], "auto", "at least 2 classes, found 1 class .* 3"),
    ],
)
def test_promise_11_no_or_one_class(y, unlabeled, message):
    X, _ = make_rows(6)
    with pytest.raises(ValueError, match=message):
        small(unlabeled=unlabeled).fit(X, np.array(y))


def test_promise_11_no_unlabelled_row_is_supervised():
    X, y = make_rows(120)
    model = small(max_iter=30, batch_size=15).fit(X[:90], y[:90])
    assert model.score(X[90:], y[90:]) > 0.9
    assert model.history_["pairs"] == [1.0] * 30
    assert model.history_["class_entropy"] == [0.0] * 30


def test_held_out_labels_must_be_known():
    X, y = make_rows(30)
    with pytest.raises(
        ValueError, match=r"y_val holds labels that the training rows have not: \[7\]"
    ):
        small().fit(X, y, X_val=X[:3], y_val=[0, 7, 1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small().fit(X, y, X_val=X[:3], y_val=[0, 1])
    with pytest.raises(ValueError, match="y_val without X_val"):
        small().fit(X, y, y_val=[0, 1])
    some = small().fit(X, y, X_val=X[:3], y_val=[0, -1, 1])
    assert len(some.history_["validation_accuracy"]) == 3


# ----------------------------------------------------------------------- the split


def test_promise_07_the_split_is_stratified(monkeypatch):
    X, y = make_rows(90)
    seen = {}
    make = ClassEngine.loop_maker

    def spy(engine, labels, held_out, guesses, **weights):
        seen.update(labels=labels, held_out=held_out)
        return make(engine, labels, held_out, guesses, **weights)

    monkeypatch.setattr(ClassEngine, "loop_maker", spy)
    small(early_stopping=True, validation_fraction=0.2).fit(X, few_labels(y, 10))
    kinds, counts = np.unique(seen["held_out"], return_counts=True)
    assert dict(zip(kinds.tolist(), counts.tolist(), strict=True)) == {-1: 12, 0: 2, 1: 2, 2: 2}


@pytest.mark.parametrize("n_a_class", [1, 2])
def test_promise_07_too_few_labels_to_stratify(n_a_class):
    X, y = make_rows(30)
    for seed in range(5):
        with pytest.warns(UserWarning, match="cannot be stratified"):
            model = small(early_stopping=True, random_state=seed).fit(X, few_labels(y, n_a_class))
        assert model.classes_.tolist() == [0, 1, 2]
        assert len(model.validation_scores_) == 3


def test_promise_06_tiny_data():
    for n_rows in (2, 3, 4):
        X, _ = make_rows(n_rows)
        model = small(batch_size=1).fit(X, np.arange(n_rows) % 2)
        assert np.isfinite(model.predict_proba(X)).all()
        one_label = small(batch_size=1).fit(X, np.r_[0, 1, [-1] * (n_rows - 2)])
        assert np.isfinite(one_label.score_samples(X)).all()


def test_early_stopping_keeps_the_best_epoch():
    X, y = make_rows(90)
    model = small(
        max_iter=60, early_stopping=True, n_iter_no_change=4, learning_rate_init=0.02
    ).fit(X, few_labels(y, 10))
    assert model.n_iter_ < 60 or model.history_["validation_accuracy"][-1] > 0.5
    assert len(model.history_["validation_classification"]) == model.n_iter_


# ----------------------------------------------------------------------- what it is for


def compare(X, y, n_a_class, alone, **params):
    """Return accuracies on rows without a label of DDVAEClassifier and of labels alone, by seed."""
    ours, labels_only = [], []
    for seed in range(3):
        few = few_labels(y, n_a_class, seed)
        labelled = few >= 0
        model = DDVAEClassifier(random_state=seed, **params).fit(X, few)
        ours.append(model.score(X[~labelled], y[~labelled]))
        alone.fit(X[labelled], y[labelled])
        labels_only.append(alone.score(X[~labelled], y[~labelled]))
    return ours, labels_only


@pytest.mark.slow
def test_two_moons_with_few_labels():
    X, y = make_moons(300, noise=0.08, random_state=0)
    params = {"hidden_layer_sizes": (64, 64), "max_iter": 60}
    ours, labels_only = compare(X, y, 4, LogisticRegression(), **params)
    assert np.mean(ours) > np.mean(labels_only), (ours, labels_only)


@pytest.mark.slow
def test_digits_with_few_labels():
    X, y = load_digits(return_X_y=True)
    params = {"hidden_layer_sizes": (128,), "max_iter": 30, "consistency_weight": 10.0}
    ours, labels_only = compare(X[:700], y[:700], 5, LogisticRegression(max_iter=1000), **params)
    assert np.mean(ours) > np.mean(labels_only), (ours, labels_only)


def test_consistency_asks_for_more_than_a_random_direction(fitted):
    X, y = make_rows()
    engine = fitted._engine
    loop = engine.loop_maker(
        few_labels(y, 5),
        None,
        None,
        weight=1.0,
        smoothing=0.0,
        consistency_weight=1.0,
        propagation_weight=0.0,
        tolerance=0.3,
    )(engine.model, Rows(X.astype(np.float32), torch.device("cpu")), SCHEDULE, GENERATOR, None)
    inputs = engine.model.likelihood.encode(torch.as_tensor(X, dtype=torch.float32))
    log_q = engine.model.log_class_probabilities(inputs).detach()
    found = loop.consistency(inputs, log_q).item()
    size = semisupervised.CONSISTENCY_RADIUS * inputs.norm(dim=-1).mean()
    noise = torch.randn(50, *inputs.shape, generator=GENERATOR)
    moved = inputs + size * torch.nn.functional.normalize(noise, dim=-1)
    random = np.mean([loop.divergence(rows, log_q).item() for rows in moved])
    assert found > 1.5 * random > 0.0
    assert loop.divergence(inputs, log_q).item() == pytest.approx(0.0, abs=1e-6)


def test_consistency_can_be_left_out():
    X, y = make_rows(40)
    assert "consistency" in small(consistency_weight=1.0).fit(X, y).history_
    assert "consistency" not in small().fit(X, y).history_
    # Rows that do not vary have no direction.
    still = small(consistency_weight=1.0).fit(np.ones((20, 3)), y[:20])
    assert np.isfinite(still.loss_curve_).all()


# ----------------------------------------------------------------------- propagated labels


def make_blobs(n_a_blob=30, n_blobs=4, seed=0):
    """Return rows around centres that are far apart, and their blobs."""
    y = np.repeat(np.arange(n_blobs), n_a_blob)
    noise = np.random.default_rng(seed).normal(size=(len(y), n_blobs))
    return noise + 50.0 * np.eye(n_blobs)[y], y


def test_labels_reach_all_of_their_group_and_no_other():
    X, y = make_blobs()
    codes = np.full(len(y), UNLABELLED)
    codes[[0, 1, 35, 65]] = [0, 0, 1, 2]  # none in the last blob
    guesses = spread_labels(X, codes, 3, 10)
    assert guesses.shape == (len(y), 3)
    np.testing.assert_allclose(guesses.sum(1), 1.0, rtol=1e-5)
    reached = y < 3
    np.testing.assert_allclose(guesses[reached], np.eye(3)[y[reached]], atol=1e-6)
    np.testing.assert_allclose(guesses[~reached], 1.0 / 3.0, rtol=1e-5)
    assert np.array_equal(guesses, spread_labels(X, codes, 3, 10))


def test_labels_spread_in_the_layout_of_the_graph(monkeypatch):
    X, y = make_blobs()
    monkeypatch.setattr("skddvi._propagation.layout", lambda graph, start, rng: X)
    codes = np.full(len(y), UNLABELLED)
    codes[[0, 35, 65, 95]] = 0, 1, 2, 3
    guesses = spread_labels(np.random.default_rng(0).normal(size=X.shape), codes, 4, 10)
    assert np.array_equal(guesses.argmax(1), y)


def test_a_row_between_two_labels_is_unsure():
    X = np.linspace(0.0, 1.0, 61)[:, None] * np.ones((1, 3))
    codes = np.full(61, UNLABELLED)
    codes[[0, 60]] = 0, 1
    guesses = spread_labels(X, codes, 2, 6)
    assert guesses[5, 0] > 0.7
    assert guesses[55, 1] > 0.7
    assert 0.3 < guesses[30, 0] < 0.7


@pytest.mark.parametrize("n_rows", [2, 3, 5])
def test_labels_spread_over_very_few_or_equal_rows(n_rows):
    codes = np.full(n_rows, UNLABELLED)
    codes[:2] = 0, 1
    for X in (np.eye(n_rows), np.ones((n_rows, 2))):
        guesses = spread_labels(X, codes, 2, 15)
        np.testing.assert_allclose(guesses.sum(1), 1.0, rtol=1e-5)


def test_propagation_counts_unlabelled_rows_by_their_certainty():
    log_q = torch.log(torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]]))
    guesses = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.1, 0.9], [1.0, 0.0]])
    labels = torch.tensor([UNLABELLED, UNLABELLED, UNLABELLED, 1])
    certainty = 1.0 + (0.1 * np.log(0.1) + 0.9 * np.log(0.9)) / np.log(2.0)
    error = -np.log(0.7) - certainty * (0.1 * np.log(0.6) + 0.9 * np.log(0.4))
    assert float(propagation(guesses, log_q, labels)) == pytest.approx(error / 4, rel=1e-5)


def test_propagation_can_be_left_out():
    X, y = make_rows(40)
    few = few_labels(y, 3)
    assert len(small().fit(X, few).history_["propagation"]) == 3
    assert len(small(pretraining=0.0).fit(X, few).history_["propagation"]) == 3
    assert "propagation" not in small(propagation_weight=0.0).fit(X, few).history_
    # Without unlabelled rows there is nothing to guess.
    assert "propagation" not in small().fit(X, y).history_


def test_neighbours_are_looked_for_in_several_views(monkeypatch):
    X, y = make_rows(40)
    few, seen, fits = few_labels(y, 3), [], []

    def record(views, *args):
        seen.append(views)
        return guess_classes(views, *args)

    class Pretraining(DDVAETransformer):
        def _fit_new(self, *args):
            engine, history = super()._fit_new(*args)
            fits.append((self, engine, history))
            return engine, history

    monkeypatch.setattr("skddvi.classifier.guess_classes", record)
    monkeypatch.setattr("skddvi.classifier.DDVAETransformer", Pretraining)
    model = small(max_iter=8, warm_start=True, activation="tanh").fit(X, few)
    pretraining, engine, history = fits[0]
    assert len(history["loss"]) == 4
    assert pretraining.activation == "tanh"
    for view, wanted in zip(seen[0], (engine.embed(X), (X - X.mean(0)) / X.std(0), X), strict=True):
        np.testing.assert_allclose(view, wanted, rtol=1e-4, atol=1e-4)
    # A warm start looks at the fitted model's latents and pretrains nothing.
    latents = model.transform(X)
    model.fit(X, few)
    np.testing.assert_array_equal(seen[1][0], latents)
    counts = np.random.default_rng(0).poisson(2.0, size=X.shape)
    small(pretraining=0.0, likelihood="poisson").fit(counts, few)
    assert len(seen[2]) == 1
    assert len(fits) == 1
    monkeypatch.setattr("skddvi.classifier.VIEW_ENTRIES", X.size - 1)
    assert "propagation" not in small(pretraining=0.0).fit(X, few).history_
    small().fit(X, few)
    assert len(seen[3]) == 1


def test_the_encoder_starts_from_the_pretrained_one(monkeypatch):
    X, y = make_rows(40)
    fits = []

    class Pretraining(DDVAETransformer):
        def _fit_new(self, *args):
            fits.append(super()._fit_new(*args))
            return fits[-1]

    monkeypatch.setattr("skddvi.classifier.DDVAETransformer", Pretraining)
    model = small(learning_rate_init=1e-12).fit(X, few_labels(y, 3))
    own, pretrained = (each.model.posterior.body[0] for each in (model._engine, fits[0][0]))
    torch.testing.assert_close(own.weight, pretrained.weight, atol=1e-6, rtol=0.0)


def test_an_interruption_of_the_pretraining_ends_the_fit(monkeypatch):
    X, y = make_rows(40)
    train_epoch, n_epochs = Loop.train_epoch, []

    def interrupted(loop):
        n_epochs.append(1)
        if len(n_epochs) == 3:
            raise KeyboardInterrupt
        return train_epoch(loop)

    monkeypatch.setattr(Loop, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(max_iter=10).fit(X, few_labels(y, 3))
    assert len(n_epochs) == 3


def test_the_pretraining_does_not_warn_of_the_rows_again():
    _, y = make_rows(40)
    X = np.random.default_rng(0).choice([0.0, 1.0, 2.0, 9.0], size=(40, 5))
    with pytest.warns(UserWarning, match="looks like genotype dosages") as caught:
        small().fit(X, few_labels(y, 3))
    assert len(caught) == 1


def test_guesses_of_views_that_disagree_are_unsure():
    X, y = make_blobs()
    codes = np.full(len(y), UNLABELLED)
    codes[[0, 35, 65, 95]] = 0, 1, 2, 3
    misleading = np.roll(X, 30, axis=0)
    misleading[codes != UNLABELLED] = X[codes != UNLABELLED]
    both = guess_classes([X, misleading], codes, 4, 10)
    one, other = (spread_labels(view, codes, 4, 10) for view in (X, misleading))
    np.testing.assert_allclose(both, (one + other) / 2)
    assert np.median(both.max(1)) < 0.6 < np.median(one.max(1))


@pytest.mark.slow
def test_propagation_mends_what_the_bound_would_defend():
    X, y = load_digits(return_X_y=True)
    X, y = X[:500], y[:500]
    few = few_labels(y, 3)
    params = {"hidden_layer_sizes": (64,), "max_iter": 10, "random_state": 0}
    left = few < 0
    scores = [
        DDVAEClassifier(propagation_weight=weight, **params).fit(X, few).score(X[left], y[left])
        for weight in (0.0, 10.0)
    ]
    assert scores[1] > scores[0] + 0.01, scores


def test_held_out_terms_in_blocks(monkeypatch):
    X, y = make_rows()
    whole = small(max_iter=1).fit(X, y, X_val=X, y_val=few_labels(y, 2))
    monkeypatch.setattr(semisupervised, "PAIR_ENTRIES", 1000)  # none of a training step
    blocks = small(max_iter=1).fit(X, y, X_val=X, y_val=few_labels(y, 2))
    for name in ("validation_elbo", "validation_class_prior", "validation_accuracy"):
        np.testing.assert_allclose(blocks.history_[name], whole.history_[name], rtol=1e-5)


@pytest.mark.parametrize("sleep", ["conditional", "latent", "off"])
def test_forms_of_sleep(sleep):
    X, y = make_rows(40)
    history = small(sleep=sleep, max_iter=1).fit(X, few_labels(y, 3)).history_
    assert ("sleep" in history) == (sleep != "off")


def test_latent_sleep_is_of_classes_in_their_proportions(monkeypatch):
    X, _ = make_rows(300)
    y = (np.arange(300) % 10 == 0).astype(int)
    seen, sleep_loss = [], DiffusionPosterior.latent_sleep_loss

    def record(posterior, z, generator):
        seen.append(z)
        return sleep_loss(posterior, z, generator)

    monkeypatch.setattr(DiffusionPosterior, "latent_sleep_loss", record)
    params = {"n_components": 2, "prior": "gaussian_mixture", "sleep": "latent", "max_iter": 8}
    model = small(**params).fit(X, y)
    by_class = model.prior_.part_log_prob(torch.cat(seen)).numpy()
    by_class += np.log(model.class_prior_)
    assert len(by_class) >= 2400
    # A tenth, where equal classes would give a half.
    assert abs((by_class.argmax(1) == 1).mean() - 0.1) < 0.04
