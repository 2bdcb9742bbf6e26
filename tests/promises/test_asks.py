"""What users ask for."""

import warnings

import numpy as np
import pytest
import torch
from _models import ESTIMATORS, X, fit, make_rows, small
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skddvi._engine.trainer import CHUNK_ROWS

# ------------------------------------------------------------------------------ what users ask for
# Saved models, seeds, n_jobs and the embedding of a row alone are tested in test_transformer.py.


class Trouble:
    """A regulariser that makes trouble from its n-th call on."""

    name = "trouble"

    def __init__(self, n_calls, what):
        self.n_calls = n_calls
        self.what = what

    def __call__(self, z, rows):
        self.n_calls -= 1
        if self.n_calls > 0:
            return z.new_zeros(())
        if self.what == "interrupt":
            raise KeyboardInterrupt
        return z.sum() * self.what


def test_ask_no_nan_in_training_and_the_last_epoch_is_kept():
    # Two batches in an epoch: the fifth call falls into the third epoch.
    params = {"batch_size": 40, "max_iter": 6}
    model = small(regularizer=Trouble(5, np.nan), **params)
    with pytest.warns(RuntimeWarning) as caught:
        model.fit(X)
    last = str(caught[-1].message)
    low, high = f"{X.min():g}", f"{X.max():g}"
    for part in ("'trouble'", "epoch 3", f"[{low}, {high}]", "learning_rate_init=", "rescale X"):
        assert part in last
    assert "stopped" in last and "kept" in last
    assert {warning.filename for warning in caught} == {__file__}
    assert model.n_iter_ == 2
    assert np.isfinite(model.loss_curve_).all()
    assert np.isfinite(model.transform(X)).all()
    with pytest.warns(RuntimeWarning):
        other = small(regularizer=Trouble(6, np.inf), **params).fit(X)
    np.testing.assert_array_equal(model.transform(X), other.transform(X))


def test_ask_no_nan_in_training_or_an_error_that_says_why():
    with pytest.raises(FloatingPointError) as caught:
        small(regularizer=Trouble(1, np.nan)).fit(X)
    for part in ("'trouble'", "epoch 1", "X in [", "learning_rate_init=0.003", "StandardScaler"):
        assert part in str(caught.value)


def test_ask_training_survives_a_learning_rate_that_is_too_high():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        model = small(learning_rate_init=10.0, max_iter=20).fit(X)
    assert np.isfinite(model.loss_curve_).all()
    assert np.isfinite(model.transform(X)).all()


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("rate", [1e30, 1e300])
def test_ask_no_nan_after_the_last_step(kind, rate):
    # One step so long that it leaves weights with which nothing is finite, and no further loss.
    with pytest.warns(RuntimeWarning), pytest.raises(FloatingPointError, match="lower learning"):
        fit(small(kind, learning_rate_init=rate, max_iter=1, batch_size=80), X)


@pytest.mark.parametrize("returned", [None, 1.0, np.float64(1.0), "z", torch.ones(2)], ids=str)
def test_ask_no_nan_a_regularizer_returns_one_number(returned):
    def spread(z, rows):
        return returned

    with pytest.raises(TypeError, match=r"regularizer 'spread' must return a tensor .* found"):
        small(regularizer=spread).fit(X)


def test_ask_interrupt_keeps_the_work():
    # Both stop in the third epoch, before and after one of its two gradient steps.
    models = []
    for n_calls in (5, 6):
        model = small(regularizer=Trouble(n_calls, "interrupt"), batch_size=40, max_iter=9)
        message = "interrupted in epoch 3; .* the last complete epoch"
        with pytest.warns(UserWarning, match=message) as caught:
            models.append(model.fit(X))
        assert caught[0].filename == __file__
        assert model.n_iter_ == len(model.history_["elbo"]) == 2
    np.testing.assert_array_equal(models[0].transform(X), models[1].transform(X))


def test_ask_interrupt_in_the_first_epoch():
    model = small(regularizer=Trouble(1, "interrupt"))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    with pytest.raises(NotFittedError):
        model.transform(X)


def test_ask_held_out_score_for_unsupervised_search():
    rows = make_rows(200)
    params = {"learning_rate_init": [1e-6, 1e-2]}
    search = GridSearchCV(small(max_iter=30), params, cv=2).fit(rows)
    assert search.best_params_ == {"learning_rate_init": 1e-2}
    scores = cross_val_score(small(max_iter=30, learning_rate_init=1e-2), rows, cv=2)
    assert scores.mean() == pytest.approx(search.best_score_)


def test_ask_y_in_a_pipeline_does_not_supervise():
    y = (X[:, 0] > 3).astype(int)
    pipeline = make_pipeline(StandardScaler(), small())
    plain = pipeline.fit_transform(X)
    np.testing.assert_array_equal(pipeline.fit_transform(X, y), plain)
    np.testing.assert_array_equal(pipeline.fit_transform(X, np.full(80, np.nan)), plain)


def test_ask_sparse_rows_are_made_dense_by_the_batch(monkeypatch):
    rows = sparse.random(5000, 300, density=0.02, format="csr", random_state=0)
    most = []
    toarray = type(rows).toarray

    def noted(self, *args, **kwargs):
        most.append(self.shape[0])
        return toarray(self, *args, **kwargs)

    monkeypatch.setattr(type(rows), "toarray", noted)
    model = small(max_iter=1).fit(rows)
    model.transform(rows)
    model.score_samples(rows)
    assert sum(most) > 5000
    assert max(most) <= CHUNK_ROWS


def test_ask_own_validation_rows_and_their_curve():
    held_out = make_rows(200)[80:]
    model = small(max_iter=20).fit(X, X_val=held_out)
    curve = model.validation_scores_
    assert len(curve) == 20
    assert curve[-1] > curve[0]
    stopped = small(max_iter=200, early_stopping=True, n_iter_no_change=2, tol=10.0)
    assert stopped.fit(X, X_val=held_out).n_iter_ < 200


def test_ask_nothing_is_said_unasked(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = small(early_stopping=True).fit(X)
        model.transform(X)
        model.score(X)
        model.sample(2)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
