"""scikit-learn's callbacks on the epochs of a fit, and their like for versions without them."""

import copy
import pickle

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.fixes import parse_version

import skddvi
from skddvi import DDVAETransformer

X = np.random.default_rng(0).normal(size=(50, 4))
has_callbacks = pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.9"), reason="needs scikit-learn 1.9"
)


def small(**params):
    defaults = {"hidden_layer_sizes": (8,), "n_diffusion_steps": 2, "max_iter": 4}
    return DDVAETransformer(**{"random_state": 0} | defaults | params)


class Log:
    """A callback that notes what it is told."""

    def __init__(self):
        self.events = []
        self.bounds = []
        self.latents = []

    def setup(self, estimator, context):
        self.events.append(("setup", context.task_name, context.max_subtasks))

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.events.append(("end", context.task_name, context.task_id))
        if context.task_name == "epoch":
            assert context.parent.task_name == "fit"
            self.bounds.append(fitted_estimator.history_["elbo"][-1])
            assert fitted_estimator.n_iter_ == context.task_id + 1
            assert len(fitted_estimator.loss_curve_) == context.task_id + 1
        self.latents.append(fitted_estimator.transform(X))

    def teardown(self, estimator, context):
        self.events.append(("teardown", context.task_name, context.max_subtasks))


class StopAfter(Log):
    """A callback that stops the training."""

    def __init__(self, n_epochs):
        super().__init__()
        self.n_epochs = n_epochs

    def on_fit_task_end(self, estimator, context):
        return context.task_name == "epoch" and context.task_id + 1 == self.n_epochs


def test_callbacks_are_told_of_every_epoch():
    log = Log()
    model = small(max_iter=2).set_callbacks(log).fit(X)
    assert log.events == [
        ("setup", "fit", 2),
        ("begin", "fit", 0),
        *(("begin", "epoch", 0), ("end", "epoch", 0)),
        *(("begin", "epoch", 1), ("end", "epoch", 1)),
        ("end", "fit", 0),
        ("teardown", "fit", 2),
    ]
    assert log.bounds == model.history_["elbo"]
    np.testing.assert_array_equal(log.latents[-1], model.transform(X))
    np.testing.assert_array_equal(log.latents[1], log.latents[2])
    assert not np.array_equal(log.latents[0], log.latents[1])


def test_callbacks_do_not_change_the_fit():
    plain, watched = small().fit(X), small().set_callbacks(Log()).fit(X)
    np.testing.assert_array_equal(watched.transform(X), plain.transform(X))
    assert watched.history_ == plain.history_
    assert small().set_callbacks(Log()).set_callbacks().fit(X).n_iter_ == 4


def test_ask_a_callback_of_the_user_can_stop_the_training(capsys):
    model = small(verbose=1).set_callbacks(Log(), StopAfter(2)).fit(X)
    assert model.n_iter_ == len(model.history_["elbo"]) == 2
    assert capsys.readouterr().out.count("Epoch") == 2


@pytest.mark.parametrize("hook", ["setup", "on_fit_task_begin", "on_fit_task_end"])
def test_callbacks_are_torn_down_after_an_error(hook):
    class Bad(Log):
        pass

    def fail(self, *args, **kwargs):
        raise ZeroDivisionError("in the callback")

    setattr(Bad, hook, fail)
    good, model = Log(), small()
    with pytest.raises(ZeroDivisionError, match="in the callback"):
        model.set_callbacks(good, Bad()).fit(X)
    assert good.events[-1][0] == "teardown"
    assert not hasattr(model, "_callback_fit_ctx")
    assert model.set_callbacks().fit(X).n_iter_ == 4


@pytest.mark.parametrize("value", [3, Log, print])
def test_what_is_no_callback_is_refused(value):
    with pytest.raises(TypeError, match="callbacks must be instances"):
        small().set_callbacks(value)


def test_models_with_callbacks_are_copied_pickled_and_saved(tmp_path):
    model = small().set_callbacks(Log()).fit(X)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.transform(X), model.transform(X))
    skddvi.save(model, tmp_path / "model")
    restored = skddvi.load(tmp_path / "model")
    assert not hasattr(restored, "_skl_callbacks")
    np.testing.assert_array_equal(restored.transform(X), model.transform(X))
    assert not hasattr(clone(model), "n_iter_")


@has_callbacks
def test_scikit_learns_own_callbacks_work():
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring=None)
    pipeline = make_pipeline(StandardScaler(), small())
    pipeline[-1].set_callbacks(monitor)
    pipeline.fit(X)
    rows = monitor.get_logs().data
    epochs = [row["task_id"] for row in rows if row["task_name"] == "epoch"]
    assert sorted(epochs) == [0, 1, 2, 3]
