"""A fit that goes on from a file gives the model of a fit that was never interrupted."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skddvi
from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer, _checkpoint, baselines
from skddvi._engine import trainer
from skddvi.priors import NormalPrior, PinwheelPrior
from skddvi.regularizers import NeighborhoodPreservation

ROOT = Path(__file__).parents[1]
rng = np.random.default_rng(0)
X = rng.normal(size=(48, 4)) + 4.0 * rng.integers(3, size=(48, 1))
X_VAL = rng.normal(size=(20, 4))
Y = np.where(np.arange(48) % 3 == 0, (X[:, 0] > 4).astype(int), -1)
SMALL = {
    "hidden_layer_sizes": (8,),
    "batch_size": 12,
    "max_iter": 5,
    "kl_warmup": 0.5,
    "random_state": 0,
}
N_BATCHES = 4


def small(**params):
    return DDVAETransformer(**SMALL | {"n_diffusion_steps": 2, "denoiser_width": 4} | params)


class Stop:
    """A callback that stops a fit after so many epochs, or does something else then."""

    def __init__(self, n_epochs, action=lambda: True):
        self.n_left, self.action = n_epochs, action

    def setup(self, estimator, context): ...
    def teardown(self, estimator, context): ...
    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch":
            self.n_left -= 1
            return self.n_left == 0 and self.action()
        return False


def everything(model):
    """Return all that a fit has made, down to the last bit."""
    state = model._engine.model.state_dict()
    tensors = {name: tensor.numpy().tobytes() for name, tensor in state.items()}
    generator = model._engine.generator.get_state().numpy().tobytes()
    labels = getattr(model, "labels_", np.zeros(0)).tolist()
    scores = getattr(model, "restart_scores_", None)
    return (
        tensors,
        generator,
        repr(model.history_),
        labels,
        None if scores is None else list(scores),
    )


def fit(model, **given):
    """Fit without the warnings of short trainings."""
    with warnings.catch_warnings():
        for text in (".*clusters hold no training row", ".*cannot be stratified"):
            warnings.filterwarnings("ignore", text)
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, Y if isinstance(model, DDVAEClassifier) else None, **given)


def interrupted(model, n_batches, monkeypatch, **given):
    """Fit, but press Ctrl-C in that batch; return whether the fit got so far."""
    train_batch, n_calls = trainer.Loop.train_batch, [0]

    def batch(loop, indices):
        n_calls[0] += 1
        if n_calls[0] == n_batches:
            raise KeyboardInterrupt
        return train_batch(loop, indices)

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*was interrupted")
        patch.setattr(trainer.Loop, "train_batch", batch)
        with suppress(KeyboardInterrupt):
            fit(model, **given)
    return n_calls[0] >= n_batches


@pytest.fixture
def always_written(monkeypatch):
    """Write the file after every epoch, however short."""
    monkeypatch.setattr(_checkpoint, "WRITING_SHARE", np.inf)


CASES = {
    "transformer": (small(), {}),
    "float32": (small(n_diffusion_steps=0), {}),
    "early stopping": (small(early_stopping=True, n_iter_no_change=2), {"X_val": X_VAL}),
    "own split": (small(early_stopping=True, validation_fraction=0.3, sleep="latent"), {}),
    "regularizer": (small(regularizer=NeighborhoodPreservation(3), prior=PinwheelPrior()), {}),
    "bfloat16": (small(precision="bfloat16"), {}),
    "classifier": (DDVAEClassifier(**SMALL, n_diffusion_steps=2, early_stopping=True), {}),
    "clusterer": (DDVAEClusterer(3, **SMALL, n_diffusion_steps=1, n_init=2, init="kmeans"), {}),
    "GaussianVAE": (baselines.GaussianVAE(**SMALL), {}),
    "IWAE": (baselines.IWAE(**SMALL), {}),
    "flow": (baselines.InverseAutoregressiveFlowVAE(**SMALL), {}),
    "hierarchical": (baselines.HierarchicalVAE(**SMALL), {}),
    "blind chain": (baselines.UnconditionalLatentDiffusion(**SMALL, n_diffusion_steps=2), {}),
    "adversarial": (
        baselines.AdversarialAutoencoder(
            **{name: value for name, value in SMALL.items() if name != "kl_warmup"}
        ),
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fit_that_is_interrupted_again_and_again_ends_in_the_same_model(
    case, tmp_path, monkeypatch
):
    model, given = CASES[case]
    path = tmp_path / "fit.ckpt"
    plain = fit(clone(model), **given)
    model = clone(model).set_params(checkpoint=path)
    assert everything(fit(clone(model), **given)) == everything(plain)
    path.unlink()
    # In the first epoch, where there is nothing yet to go on from, in later ones, and at the first
    # batch of one.
    assert interrupted(clone(model), 2, monkeypatch, **given)
    assert not path.exists()
    n_fits = 0
    while interrupted(clone(model), N_BATCHES + 1 + n_fits % 4, monkeypatch, **given):
        n_fits += 1
        assert path.exists()
    assert n_fits >= 3
    assert everything(fit(clone(model), **given)) == everything(plain)


@pytest.mark.parametrize("n_epochs", [1, 3, 5, 6, 10])
def test_a_callback_that_stops_leaves_the_rest_to_the_next_fit(n_epochs, tmp_path):
    model = CASES["clusterer"][0]
    plain = fit(clone(model))
    model = clone(model).set_params(checkpoint=tmp_path / "fit.ckpt")
    fit(clone(model).set_callbacks(Stop(n_epochs)))
    seen = Stop(100)
    assert everything(fit(clone(model).set_callbacks(seen))) == everything(plain)
    assert seen.n_left == 100 - (2 * 5 - n_epochs)


def test_the_count_of_early_stopping_goes_on(tmp_path, monkeypatch):
    params = {"early_stopping": True, "n_iter_no_change": 3, "tol": 1e9}
    plain = small(**params).fit(X, X_val=X_VAL)
    assert plain.n_iter_ == 4
    model = small(**params, checkpoint=tmp_path / "fit.ckpt")
    clone(model).set_callbacks(Stop(2)).fit(X, X_val=X_VAL)
    assert everything(clone(model).fit(X, X_val=X_VAL)) == everything(plain)
    monkeypatch.setattr(trainer.Loop, "train_epoch", None)  # it is over, and nothing is trained
    assert everything(clone(model).fit(X, X_val=X_VAL)) == everything(plain)


def test_callbacks_see_the_whole_history(tmp_path):
    class Log(Stop):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            n_epochs.append(fitted_estimator.n_iter_)

    n_epochs, path = [], tmp_path / "fit.ckpt"
    small(checkpoint=path).set_callbacks(Stop(3)).fit(X)
    model = small(checkpoint=path).set_callbacks(Log(0)).fit(X)
    assert n_epochs == [4, 5, 5]
    assert model.n_iter_ == len(model.history_["elbo"]) == 5


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import test_checkpoint as t
t._checkpoint.WRITING_SHARE = {share}
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
model = t.clone(t.CASES[{case!r}][0]).set_params(checkpoint={path!r})
t.fit(model.set_callbacks(t.Stop({n_epochs}, kill)))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(("case", "share"), [("clusterer", "1e9"), ("transformer", "0.05")])
def test_a_fit_that_is_killed_goes_on_in_another_process(case, share, tmp_path):
    path = tmp_path / "fit.ckpt"
    code = KILLED.format(
        root=str(ROOT),
        tests=str(ROOT / "tests"),
        share=share,
        case=case,
        path=str(path),
        n_epochs=3,
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert os.listdir(tmp_path) == ["fit.ckpt"]
    model = CASES[case][0]
    plain, seen = fit(clone(model)), Stop(100)
    model = clone(model).set_params(checkpoint=path).set_callbacks(seen)
    assert everything(fit(model)) == everything(plain)
    total = 10 if case == "clusterer" else 5
    assert total - 3 <= 100 - seen.n_left < total


def test_a_divergence_is_remembered(tmp_path, monkeypatch):
    """The smaller steps after a divergence are part of the state."""
    losses, n_calls = trainer.Loop.losses, [0]

    def diverging(loop, *args):
        n_calls[0] += 1
        loss, figures, z = losses(loop, *args)
        return (loss * np.nan if n_calls[0] == 6 else loss), figures, z

    monkeypatch.setattr(trainer.Loop, "losses", diverging)
    with pytest.warns(RuntimeWarning, match="diverged"):
        plain = small().fit(X)
    n_calls[0] = 0
    model = small(checkpoint=tmp_path / "fit.ckpt")
    with pytest.warns(RuntimeWarning, match="diverged"):
        clone(model).set_callbacks(Stop(3)).fit(X)
    assert everything(model.fit(X)) == everything(plain)


# --------------------------------------------------------------------------- the file


def test_a_finished_fit_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "fit.ckpt"
    model = small(checkpoint=path).fit(X)
    before = path.read_bytes()
    monkeypatch.setattr(trainer.Loop, "train_epoch", None)  # nothing is trained
    again = small(checkpoint=str(path), verbose=1).fit(X)
    assert everything(again) == everything(model)
    assert path.read_bytes() == before


@pytest.mark.parametrize("params", [{"max_iter": 3}, {"random_state": 1}, {"n_components": 3}])
def test_a_finished_fit_makes_way_for_another(params, tmp_path):
    path = tmp_path / "fit.ckpt"
    small(checkpoint=path).fit(X)
    assert everything(small(**params, checkpoint=path).fit(X)) == everything(small(**params).fit(X))


def test_without_a_seed_an_unfinished_fit_goes_on_and_a_finished_one_makes_way(tmp_path):
    model = small(checkpoint=tmp_path / "fit.ckpt", random_state=None)
    first = clone(model).set_callbacks(Stop(2)).fit(X)
    second = clone(model).fit(X)
    assert second.n_iter_ == 5
    assert second.history_["elbo"][:2] == first.history_["elbo"]
    third = clone(model).fit(X)
    assert third.history_["elbo"] != second.history_["elbo"]


def test_a_warm_start_goes_on_from_the_model_it_started_from(tmp_path):
    start = small(warm_start=True).fit(X)
    skddvi.save(start, tmp_path / "start")
    plain = skddvi.load(tmp_path / "start").fit(X)
    path = tmp_path / "fit.ckpt"
    model = skddvi.load(tmp_path / "start").set_params(checkpoint=path)
    model.set_callbacks(Stop(2)).fit(X)
    assert model.n_iter_ == 7
    with pytest.raises(ValueError, match=r"start was warm .* and is warm"):
        model.set_callbacks().fit(X)
    with pytest.raises(ValueError, match=r"start was warm .* and is new"):
        small(checkpoint=path).fit(X)
    again = skddvi.load(tmp_path / "start").set_params(checkpoint=path).fit(X)
    assert everything(again) == everything(plain)


def test_a_search_has_a_folder_of_files(tmp_path, monkeypatch):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), small(checkpoint=tmp_path, max_iter=2)),
        {"ddvaetransformer__n_diffusion_steps": [0, 1]},
        cv=2,
    ).fit(X)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2 * 2 + 1
    assert all(file.name.startswith("DDVAETransformer-") for file in files)
    monkeypatch.setattr(trainer.Loop, "train_epoch", None)
    again = clone(search).fit(X)
    np.testing.assert_array_equal(
        again.cv_results_["mean_test_score"], search.cv_results_["mean_test_score"]
    )
    assert sorted(tmp_path.iterdir()) == files


def test_sparse_rows_and_data_frames_are_known_again(tmp_path, monkeypatch):
    counts = sparse.csr_array(rng.poisson(1.0, size=(30, 4)).astype(float))
    model = small(checkpoint=tmp_path, likelihood="poisson")
    first = clone(model).fit(counts)
    clone(model).fit(counts.toarray())
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(trainer.Loop, "train_epoch", None)
    assert everything(clone(model).fit(counts.copy())) == everything(first)


def other(value=0.0):
    X_other = X.copy()
    X_other[3, 2] += value
    return X_other


@pytest.mark.parametrize(
    ("params", "rows", "message"),
    [
        ({"max_iter": 9}, X, "max_iter was 5 and is 9"),
        ({"n_components": 3}, X, "n_components was 2 and is 3"),
        ({"hidden_layer_sizes": [8]}, X, None),
        ({"hidden_layer_sizes": (9,)}, X, r"hidden_layer_sizes was \[8\] and is \[9\]"),
        ({"random_state": 1}, X, "random_state was seed .* and is seed"),
        ({"random_state": None}, X, "random_state was seed .* and is None"),
        ({"prior": NormalPrior(2)}, X, "prior was 'normal' and is NormalPrior"),
        ({"regularizer": len}, X, "regularizer was 'auto' and is builtins.len"),
        ({"regularizer": functools.partial(max, 1)}, X, r"partial\(builtins.max, \[1\]"),
        ({"verbose": 1}, X, None),
        ({}, X[:40], "X was 48 x 4 float64 .* and is 40 x 4 float64"),
        ({}, X.astype(np.float32), "X was 48 x 4 float64 .* and is 48 x 4 float32"),
        ({}, other(1e-12), "X was 48 x 4 float64 .* and is 48 x 4 float64"),
        ({}, other(), None),
    ],
)
def test_an_unfinished_fit_is_not_taken_for_another(params, rows, message, tmp_path, capsys):
    path = tmp_path / "fit.ckpt"
    small(checkpoint=path).set_callbacks(Stop(2)).fit(X)
    before = path.read_bytes()
    model = small(checkpoint=path, **params)
    if message is None:
        assert everything(model.fit(rows)) == everything(small().fit(X))
        return
    with pytest.raises(ValueError, match=f"fit.ckpt' holds an unfinished fit.*{message}.*folder"):
        model.fit(rows)
    assert path.read_bytes() == before


def test_labels_and_held_out_rows_are_compared(tmp_path):
    model = clone(CASES["classifier"][0]).set_params(checkpoint=tmp_path / "fit.ckpt")
    clone(model).set_callbacks(Stop(2)).fit(X, Y, X_val=X_VAL)
    flipped = np.where(np.arange(48) == 0, 1 - Y, Y)
    with pytest.raises(ValueError, match=r" y was 48 int64 .* and is 48 int64"):
        clone(model).fit(X, flipped)
    with pytest.raises(ValueError, match=r"X_val was 20 x 4 float64 .* and is None"):
        clone(model).fit(X, Y)


def shorten(data):
    return data[:-9]


def alter(data):
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


def alter_header(data):
    return data.replace(b"max_iter", b"max_iten", 1)


def nothing(data):
    return b""


@pytest.mark.parametrize("damage", [shorten, alter, alter_header, nothing])
def test_a_damaged_file_is_refused_and_left_alone(damage, tmp_path):
    path = tmp_path / "fit.ckpt"
    small(checkpoint=path).set_callbacks(Stop(2)).fit(X)
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"fit.ckpt' exists, but is no checkpoint.*Delete it"):
        small(checkpoint=path).fit(X)
    assert path.read_bytes() == before


def test_a_saved_model_is_no_checkpoint_nor_the_other_way_round(tmp_path):
    model = small(max_iter=2).fit(X)
    skddvi.save(model, tmp_path / "model")
    with pytest.raises(ValueError, match="is no checkpoint of skddvi"):
        small(checkpoint=tmp_path / "model").fit(X)
    assert everything(skddvi.load(tmp_path / "model")) == everything(model)
    small(checkpoint=tmp_path / "fit.ckpt").fit(X)
    with pytest.raises(ValueError, match="does not hold a model"):
        skddvi.load(tmp_path / "fit.ckpt")


def rewritten(path, **changes):
    header, arrays = _checkpoint.read(path)
    _checkpoint.write(path, header | changes, arrays)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": _checkpoint.SCHEMA + 1}, "Upgrade skddvi"),
        ({"states": 3}, "is no checkpoint"),
        ({"states": [{"type": "dict", "items": []}]}, "is no checkpoint"),
        ({"states": [{"type": "dict", "items": [["history", {}]]}]}, "is no checkpoint"),
        ({"seed": "x"}, "is no checkpoint"),
        ({"identity": None}, "is no checkpoint"),
    ],
)
def test_a_file_that_was_made_up_is_refused(changes, message, tmp_path):
    path = tmp_path / "fit.ckpt"
    small(checkpoint=path).set_callbacks(Stop(2)).fit(X)
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=message):
        small(checkpoint=path).fit(X)


def test_another_version_does_not_go_on(tmp_path, monkeypatch):
    path = tmp_path / "fit.ckpt"
    small(checkpoint=path).set_callbacks(Stop(2)).fit(X)
    monkeypatch.setattr(_checkpoint, "__version__", "99.0.0")
    with pytest.raises(ValueError, match=r"skddvi was .* and is 99.0.0"):
        small(checkpoint=path).fit(X)


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="make the folder"):
        small(checkpoint=tmp_path / "absent" / "fit.ckpt").fit(X)


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch, always_written):
    def full(*args):
        raise OSError(28, "No space left on device")

    path = tmp_path / "fit.ckpt"
    monkeypatch.setattr(_checkpoint, "write", full)
    with pytest.warns(UserWarning, match=r"fit.ckpt' could not be written.*No space") as record:
        model = small(checkpoint=path).fit(X)
    assert len([w for w in record if "could not be written" in str(w.message)]) == 1
    assert everything(model) == everything(small().fit(X))


def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    written = []

    def slow(path, header, arrays):
        written.append(len(header["states"]))
        time.sleep(0.1)

    monkeypatch.setattr(_checkpoint, "write", slow)
    start = time.monotonic()
    small(checkpoint=tmp_path / "fit.ckpt", max_iter=40).fit(X)
    # After the first epoch, and when the fit is over.
    assert time.monotonic() - start > 2.0 or len(written) == 2


def test_the_file_holds_no_rows_and_no_code(tmp_path):
    path = tmp_path / "fit.ckpt"
    small(checkpoint=path, regularizer=len).set_params(regularizer=None).fit(X)
    header, arrays = _checkpoint.read(path)
    assert set(header["identity"]) >= {"X", "y", "X_val", "max_iter", "random_state"}
    assert json.dumps(header).count("builtins") == 0
    n_weights = sum(p.numel() for p in small().fit(X)._engine.model.parameters())
    assert sum(a.size for n, a in arrays.items() if "generator" not in n) <= 3.1 * n_weights


def test_the_parameter_is_saved_as_text(tmp_path):
    model = small(checkpoint=tmp_path / "fit.ckpt", max_iter=2).fit(X)
    skddvi.save(model, tmp_path / "model")
    assert skddvi.load(tmp_path / "model").checkpoint == str(tmp_path / "fit.ckpt")
