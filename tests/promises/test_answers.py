"""What users ask for, of the answers that a fitted model gives."""

import ast
import pickle
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from _models import DOSAGES, ESTIMATORS, X, fit, labels, make_rows, small
from sklearn.datasets import make_blobs

import skddvi
from skddvi import metrics
from skddvi._engine.rows import Rows
from skddvi._engine.trainer import CHUNK_ROWS

ROOT = Path(__file__).parents[2]
BLOBS, GROUPS = make_blobs(120, n_features=6, centers=3, random_state=0)


def answers(model, rows):
    """Return what depends on rows, of every kind of model."""
    found = [model.transform(rows), model.score_samples(rows)]
    if hasattr(model, "predict_proba"):
        found.append(model.predict_proba(rows))
    return found


# ------------------------------------------------------------------------------ rows and seeds


def test_ask_same_row_same_embedding(each):
    rows = make_rows(30, seed=5)
    whole = answers(each, rows)
    for again, first in zip(answers(each, rows), whole, strict=True):
        np.testing.assert_array_equal(again, first)
    order = np.random.default_rng(0).permutation(30)
    parts = [answers(each, part) for part in (rows[:1], rows[1:3], rows[3:])]
    one_by_one = [answers(each, row[None]) for row in rows]
    for i, first in enumerate(whole):
        np.testing.assert_allclose(answers(each, rows[order])[i], first[order], atol=1e-7)
        np.testing.assert_allclose(np.concatenate([part[i] for part in parts]), first, atol=1e-7)
        np.testing.assert_allclose(np.concatenate([one[i] for one in one_by_one]), first, atol=1e-7)


def test_ask_seeds_hold(each):
    # That the global random states are left alone is what a fixture asserts of every test.
    again = fit(type(each)(**each.get_params()), X)
    for one, other in zip(answers(again, X), answers(each, X), strict=True):
        np.testing.assert_array_equal(one, other)
    assert pickle.dumps(again.history_) == pickle.dumps(each.history_)
    other = fit(type(each)(**each.get_params()).set_params(random_state=1), X)
    assert np.abs(other.transform(X) - each.transform(X)).max() > 1e-3


def test_ask_n_jobs_no_process_is_started_and_no_thread_stays(each, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a process")

    for name in ("fork", "posix_spawn"):
        monkeypatch.setattr(f"os.{name}", forbidden)
    before, n_threads = threading.active_count(), torch.get_num_threads()
    torch.set_num_threads(2)  # one to spare
    try:
        fit(type(each)(**each.get_params()), X).transform(X)
    finally:
        torch.set_num_threads(n_threads)
    assert threading.active_count() == before


# ------------------------------------------------------------------------------ clusters, labels


def test_ask_clusters_are_found_and_none_is_empty():
    model = small("clusterer", n_clusters=3, max_iter=30).fit(BLOBS)
    assert metrics.matched_accuracy(GROUPS, model.labels_) > 0.95
    assert model.n_clusters_effective_ == 3
    np.testing.assert_allclose(model.weights_.sum(), 1.0)
    assert model.weights_.min() > 0.2


def test_ask_clusters_restarts_are_chosen_by_the_held_out_bound_never_by_labels():
    held_out = BLOBS[::4]
    params = {"n_clusters": 3, "n_init": 2, "max_iter": 4}
    model = small("clusterer", **params).fit(BLOBS, X_val=held_out)
    assert model.score(held_out) == pytest.approx(max(model.restart_scores_), rel=1e-6)
    assert len(set(model.restart_scores_)) == 2
    told = small("clusterer", **params).fit(BLOBS, GROUPS, X_val=held_out)
    np.testing.assert_array_equal(told.labels_, model.labels_)
    np.testing.assert_array_equal(told.transform(BLOBS), model.transform(BLOBS))


def test_ask_clusters_that_are_empty_are_warned_about():
    rows = np.repeat(X[:3], 10, axis=0)
    with pytest.warns(UserWarning, match=r"clusters hold no training row; lower n_clusters to"):
        model = small("clusterer", n_clusters=8).fit(rows)
    assert model.n_clusters_effective_ < 8
    assert len(np.unique(model.labels_)) == model.n_clusters_effective_


@pytest.mark.parametrize("kind", ["clusterer", "classifier"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ask_hard_and_soft_labels_agree(kind, dtype):
    rows = BLOBS.astype(dtype)
    own = {"n_clusters": 5} if kind == "clusterer" else {}
    model = small(kind, max_iter=10, **own).fit(rows, labels(len(rows)))
    shares = model.predict_proba(rows)
    names = getattr(model, "classes_", np.arange(5))
    np.testing.assert_array_equal(model.predict(rows), names[shares.argmax(axis=1)])
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-5)
    if kind == "clusterer":
        np.testing.assert_array_equal(model.labels_, model.predict(rows))
        np.testing.assert_array_equal(model.fit_predict(rows), model.labels_)


# ------------------------------------------------------------------------------ comparisons


def test_ask_which_embedding_is_better():
    model = small(max_iter=2)
    report = metrics.embedding_report(model.fit_transform(BLOBS), BLOBS, GROUPS)
    figures = {"trustworthiness", "continuity", "knn_recall", "knn_accuracy", "ari", "nmi"}
    assert figures <= set(report)
    stability = metrics.stability_report(model, BLOBS, GROUPS, seeds=3)
    for name in figures:
        assert stability[name].sd > 0  # over seeds
        assert 0 < stability[name].mean <= 1
    # Held-out rows: neighbours among the training rows' embeddings.
    train, test = model.transform(BLOBS[:80]), model.transform(BLOBS[80:])
    assert 0 < metrics.knn_accuracy(train, GROUPS[:80], test, GROUPS[80:]) <= 1


def test_ask_plots_are_not_over_read():
    page = (ROOT / "doc" / "what_this_plot_cannot_tell_you.rst").read_text(encoding="utf-8")
    assert "The prior makes the shape" in page
    assert "state the prior, the likelihood, the seed" in page
    assert "what_this_plot_cannot_tell_you" in (ROOT / "doc" / "index.rst").read_text("utf-8")


def test_ask_is_it_worth_it_has_a_benchmark_over_the_number_of_steps():
    script = (ROOT / "benchmarks" / "diffusion_steps.py").read_text(encoding="utf-8")
    steps = ast.literal_eval(re.search(r"^STEPS = (.*)$", script, re.M).group(1))
    assert {"0", "1", "2", "5", "10", "20", "50"} <= set(steps)
    page = (ROOT / "doc" / "benchmarks.rst").read_text(encoding="utf-8")
    assert "tables/diffusion_steps.txt" in page
    rivals = (ROOT / "benchmarks" / "posteriors.py").read_text(encoding="utf-8")
    for name in ("GaussianVAE", "InverseAutoregressiveFlowVAE", "AdversarialAutoencoder", "mmd"):
        assert name in rivals


# ------------------------------------------------------------------------------ speed and memory


def test_ask_speed_nothing_is_compiled_and_no_loader_is_used():
    for path in Path(skddvi.__file__).parent.rglob("*.py"):
        code = ast.unparse(ast.parse(path.read_text(encoding="utf-8")))
        assert not re.search(r"DataLoader|torch\.compile|torch\.jit|num_workers", code), path


def test_ask_speed_of_a_training_is_published():
    for table in ("ancestry", "mnist"):
        text = (ROOT / "doc" / "tables" / f"{table}.txt").read_text(encoding="utf-8")
        assert re.search(r"fit.*s", text.splitlines()[0]), text


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_ask_memory_rows_are_read_in_batches_and_not_kept(kind, monkeypatch):
    rows = make_rows(CHUNK_ROWS + 3, 60)
    sizes = []
    batch = Rows.batch

    def noted(self, indices):
        found = batch(self, indices)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Rows, "batch", noted)
    own = {
        "clusterer": {"init": "kmeans", "agreement_weight": 0.0},
        "classifier": {"pretraining": 0.0, "propagation_weight": 0.0},
    }.get(kind, {})
    model = fit(small(kind, max_iter=1, n_diffusion_steps=1, **own), rows)
    assert len(model.transform(rows)) == len(rows)
    model.score_samples(rows[:100])
    assert max(sizes) <= CHUNK_ROWS
    assert len(pickle.dumps(model)) < rows.nbytes / 10


# ------------------------------------------------------------------------------ missing genotypes


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_ask_missing_genotypes_are_not_read_as_the_reference(kind):
    rows = DOSAGES.copy()
    rows[np.random.default_rng(0).random(rows.shape) < 0.1] = np.nan
    model = fit(small(kind, likelihood="binomial", max_iter=20, learning_rate_init=0.01), rows)
    called, missing = DOSAGES[:20].copy(), DOSAGES[:20].copy()
    called[:, 4], missing[:, 4] = 0.0, np.nan
    assert np.abs(model.transform(missing) - model.transform(called)).max() > 1e-4
    # A call that is missing adds nothing to the likelihood of the others.
    z = torch.zeros(20, 10)
    likelihood = model.likelihood_
    whole = likelihood.log_prob(torch.tensor(called).float(), z)
    without = likelihood.log_prob(torch.tensor(missing).float(), z)
    alone = np.full_like(called, np.nan)
    alone[:, 4] = 0.0
    of_the_call = likelihood.log_prob(torch.tensor(alone).float(), z)
    assert (of_the_call < 0).all()
    torch.testing.assert_close(without + of_the_call, whole)


# ------------------------------------------------------------------------------ y


@pytest.mark.parametrize("kind", ["transformer", "clusterer"])
def test_ask_y_does_not_supervise(kind):
    plain = small(kind).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for y in (np.arange(80) % 3, np.full(80, np.nan), ["a"] * 80):
            np.testing.assert_array_equal(small(kind).fit(X, y).transform(X), plain.transform(X))
