"""The training loop: what it records, what it keeps, and how it meets trouble."""

import copy
import dataclasses
import itertools
import math
import warnings

import numpy as np
import pytest
import torch

from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer
from skddvi._engine import optimizer as optimizer_module
from skddvi._engine import threads, trainer
from skddvi._engine.optimizer import DECAY, MAX_GRADIENT_NORM, SQUARE_DECAY, Adam
from skddvi._engine.trainer import TrainingDiverged
from skddvi.baselines import GaussianVAE
from skddvi.regularizers import NeighborhoodPreservation

PARAMETERS = {
    "hidden_layer_sizes": (16,),
    "denoiser_width": 8,
    "kl_warmup": 0.0,  # so that the loss is the objective from the first epoch on
    "n_diffusion_steps": 3,
    "batch_size": 32,
    "max_iter": 5,
    "random_state": 0,
}
BATCHES = 4  # of 32 among the 100 rows; the last of them has 4


def make_rows(n_rows=100, seed=0):
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(2, 6))
    rng = np.random.default_rng(seed + 1)
    return rng.normal(size=(n_rows, 2)) @ loadings + 0.4 * rng.normal(size=(n_rows, 6))


def make_model(**kwargs):
    return DDVAETransformer(**{**PARAMETERS, **kwargs})


def weights(model):
    """Return every number of the trained model, one vector."""
    state = model._engine.model.state_dict()
    return np.concatenate([np.ravel(value.numpy()) for value in state.values()])


def patch_batches(monkeypatch, action):
    """Call ``action(loop, call)`` before every mini-batch, with the number of the call from 1."""
    original, n_calls = trainer.Loop.train_batch, [0]

    def train_batch(loop, indices):
        n_calls[0] += 1
        action(loop, n_calls[0])
        return original(loop, indices)

    monkeypatch.setattr(trainer.Loop, "train_batch", train_batch)
    return n_calls


def stop_after(monkeypatch, epoch):
    """Let estimators stop after a number of epochs of a longer plan."""
    monkeypatch.setattr(
        DDVAETransformer,
        "_on_epoch",
        lambda self, *args: lambda number, _: number == epoch,
    )


def spoil_loss(monkeypatch, calls, term=None):
    """Make the loss, or one term of it, NaN in the mini-batches whose numbers are in ``calls``."""
    original, n_calls = trainer.training_loss, [0]

    def training_loss(*args, **kwargs):
        loss, terms, sleep_loss = original(*args, **kwargs)
        n_calls[0] += 1
        if n_calls[0] in calls:
            loss = loss * math.nan
            if term:
                terms = dataclasses.replace(terms, **{term: getattr(terms, term) * math.nan})
        return loss, terms, sleep_loss

    monkeypatch.setattr(trainer, "training_loss", training_loss)
    return n_calls


# --------------------------------------------------------------------------- history


@pytest.mark.parametrize(
    ("parameters", "posterior_terms"),
    [
        ({"n_diffusion_steps": 0}, ["posterior_entropy"]),
        ({"n_diffusion_steps": 0, "sleep": "conditional"}, ["posterior_entropy"]),
        ({"n_diffusion_steps": 1}, ["terminal", "last_step"]),
        ({"n_diffusion_steps": 3}, ["terminal", "chain", "last_step"]),
        ({"n_diffusion_steps": 3, "sleep": "latent"}, ["terminal", "chain", "last_step"]),
        ({"n_diffusion_steps": 3, "sleep": "off"}, ["terminal", "chain", "last_step"]),
        ({"n_diffusion_steps": 3, "sleep_weight": 0.0}, ["terminal", "chain", "last_step"]),
    ],
    ids=str,
)
def test_history_has_every_term_and_they_add_up(parameters, posterior_terms):
    model = make_model(kl_weight=1.0, **parameters)
    model.fit(make_rows(), X_val=make_rows(40, seed=1))
    history = model.history_
    bound_terms = ["reconstruction", "log_prior", *posterior_terms]
    expected = {*bound_terms, "elbo", "kl_per_dimension", "weight_penalty", "loss"}
    expected |= {f"validation_{name}" for name in [*bound_terms, "elbo", "kl_per_dimension"]}
    steps = parameters["n_diffusion_steps"]
    sleep = parameters.get("sleep", "conditional" if steps else "off")
    sleep_weight = parameters.get("sleep_weight", model.sleep_weight)
    if sleep != "off" and sleep_weight > 0:
        expected.add("sleep")
    assert set(history) == expected
    assert all(len(values) == model.n_iter_ == 5 for values in history.values())
    for prefix in ("", "validation_"):
        total = sum(np.array(history[prefix + name]) for name in bound_terms)
        assert total == pytest.approx(np.array(history[prefix + "elbo"]), rel=1e-5)
    loss = np.array(history["weight_penalty"]) - history["elbo"]
    if "sleep" in expected:
        loss += sleep_weight * np.array(history["sleep"])
    assert np.array(history["loss"]) == pytest.approx(loss, rel=1e-5)
    assert np.shape(history["kl_per_dimension"]) == (5, 2)
    assert model.loss_curve_ == history["loss"]
    assert model.validation_scores_ == history["validation_elbo"]
    # Numbers, not tensors: history can be stored as JSON.
    assert all(type(value) is float for name in bound_terms for value in history[name])


def test_a_term_is_the_mean_over_rows_whatever_the_batches():
    """The last batch has four rows, and they count as four."""
    model = make_model(max_iter=1, learning_rate_init=1e-30, n_diffusion_steps=0)
    X = make_rows()
    history = model.fit(X).history_
    # Nothing moved, so the recorded terms are those of the final model at other noise.
    repeats = [
        make_model(max_iter=1, learning_rate_init=1e-30, n_diffusion_steps=0, batch_size=size).fit(
            X
        )
        for size in (100, 96, 7)
    ]
    for other in repeats:
        expected = history["reconstruction"][0]
        assert other.history_["reconstruction"][0] == pytest.approx(expected, rel=0.02)
    assert history["elbo"][0] == pytest.approx(model.score(X), rel=0.05)


def test_the_validation_bound_is_the_bound_of_the_validation_rows():
    X_val = make_rows(400, seed=1)
    model = make_model().fit(make_rows(), X_val=X_val)
    assert model.validation_scores_[-1] == pytest.approx(model.score(X_val), abs=0.3)


def test_validation_does_not_change_the_training():
    X = make_rows()
    alone, watched = make_model().fit(X), make_model().fit(X, X_val=make_rows(40, seed=1))
    assert np.array_equal(weights(alone), weights(watched))


def test_the_learning_rate_rises_for_a_twentieth_of_the_steps_and_falls_along_a_line(monkeypatch):
    rates = []
    original = Adam.step

    def step(optimizer, learning_rate):
        rates.append(learning_rate)
        return original(optimizer, learning_rate)

    monkeypatch.setattr(Adam, "step", step)
    make_model(max_iter=20, learning_rate_init=0.01).fit(make_rows())
    n_steps = 20 * BATCHES
    line = 0.01 * (1.0 - np.arange(n_steps) / n_steps)
    line[:4] *= [0.25, 0.5, 0.75, 1.0]
    assert rates == pytest.approx(line)


@pytest.fixture
def weights_used(monkeypatch):
    """Return a list on which each step's weights of the bound and of the sleep term are put."""
    used = []
    original = trainer.training_loss

    def training_loss(*args, kl_weight, sleep_weight, **kwargs):
        used.append((kl_weight, sleep_weight))
        return original(*args, kl_weight=kl_weight, sleep_weight=sleep_weight, **kwargs)

    monkeypatch.setattr(trainer, "training_loss", training_loss)
    return used


@pytest.mark.parametrize("kl_warmup", [0.0, 0.5, 1.0])
def test_kl_warmup_raises_both_weights_from_nothing(weights_used, kl_warmup):
    model = make_model(
        kl_weight=0.7, kl_warmup=kl_warmup, n_diffusion_steps=2, sleep="auto", sleep_weight=1.5
    ).fit(make_rows())
    n_steps = 5 * BATCHES
    share = np.arange(n_steps) / n_steps
    expected = np.minimum(1.0, share / kl_warmup) if kl_warmup else np.ones(n_steps)
    expected = np.append(expected, 1.0)  # the last for the check after the last step
    kl_weights, sleep_weights = zip(*weights_used, strict=True)
    assert kl_weights == pytest.approx(0.7 * expected)
    assert sleep_weights == pytest.approx(1.5 * expected)
    assert all(value > 0.0 for value in model.history_["sleep"])  # of cold steps, too


@pytest.mark.parametrize(("n_rows", "weight"), [(100, 1.0), (24, 1.0), (16, 1.224745), (6, 2.0)])
@pytest.mark.parametrize("kl_warmup", [0.0, 0.4])
def test_auto_kl_weight_grows_with_the_features_to_a_row(weights_used, n_rows, weight, kl_warmup):
    make_model(max_iter=10, kl_warmup=kl_warmup).fit(make_rows(n_rows))  # of six features
    used = np.array([kl_weight for kl_weight, _ in weights_used])
    share = np.arange(len(used)) / (len(used) - 1)
    warmth = np.minimum(1.0, share / kl_warmup) if kl_warmup else np.ones(len(used))
    left = (share + share[1] - kl_warmup) / (1.0 - kl_warmup)
    assert used == pytest.approx(warmth * np.interp(left, [0.0, 0.5], [1.0, weight]))


@pytest.mark.parametrize("kind", [DDVAEClassifier, DDVAEClusterer, GaussianVAE])
def test_auto_kl_weight_counts_in_every_estimator(kind):
    own = {name: PARAMETERS[name] for name in ("hidden_layer_sizes", "max_iter", "random_state")}
    if kind is not GaussianVAE:
        own |= {"n_components": 2, "pretraining": 0.0}
    if kind is DDVAEClusterer:
        own |= {"n_clusters": 2}

    def embedding(n_rows, kl_weight):
        X, y = make_rows(n_rows), np.arange(n_rows) % 3 - 1
        return kind(kl_weight=kl_weight, **own).fit(X, y).transform(X)

    assert np.array_equal(embedding(24, "auto"), embedding(24, 1.0))
    assert not np.array_equal(embedding(12, "auto"), embedding(12, 1.0))


def test_only_the_bound_of_weight_one_is_called_elbo():
    model = make_model(kl_weight=0.1, sleep="off", alpha=0.0).fit(make_rows())
    history = {name: np.array(values) for name, values in model.history_.items()}
    regularisation = sum(history[n] for n in ("log_prior", "terminal", "chain", "last_step"))
    assert history["elbo"] == pytest.approx(history["reconstruction"] + regularisation, rel=1e-5)
    loss = -(history["reconstruction"] + 0.1 * regularisation)
    assert history["loss"] == pytest.approx(loss, rel=1e-5)


def test_training_raises_the_bound():
    model = make_model(max_iter=40, learning_rate_init=5e-3).fit(make_rows())
    assert model.history_["elbo"][-1] > model.history_["elbo"][0] + 1.0


# --------------------------------------------------------------------------- early stopping


def script_validation(monkeypatch, scores):
    """Make the held-out bounds of the epochs those of a list."""
    scores = iter(scores)
    validate = trainer.Loop.validate
    monkeypatch.setattr(
        trainer.Loop, "validate", lambda loop: validate(loop) | {"validation_elbo": next(scores)}
    )


def test_early_stopping_keeps_the_best_weights(monkeypatch):
    X, X_val = make_rows(), make_rows(60, seed=1)
    parameters = {"early_stopping": True, "max_iter": 20, "n_iter_no_change": 4, "tol": 0.0}
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        reference = make_model(**{**parameters, "early_stopping": False}).fit(X)
    scores = [1.0, 3.0, 2.0, 5.0, 4.0, 4.5, -1.0, 4.9, 6.0]
    script_validation(monkeypatch, scores)
    model = make_model(**parameters).fit(X, X_val=X_val)
    assert model.n_iter_ == 8
    assert model.validation_scores_ == scores[:8]
    assert np.array_equal(weights(model), weights(reference))


def test_the_model_kept_has_the_best_bound_on_the_validation_rows():
    """The learning rate is absurd, so that the bound goes up and down."""
    X, X_val = make_rows(), make_rows(60, seed=1)
    model = make_model(early_stopping=True, learning_rate_init=0.1, max_iter=20)
    model.fit(X, X_val=X_val)
    schedule = trainer.Schedule(max_iter=1, batch_size=32, learning_rate=1e-3)
    loop = trainer.Loop(
        model._engine.model, trainer_rows(X), schedule, torch.Generator(), trainer_rows(X_val)
    )
    assert np.ptp(model.validation_scores_) > 0.1
    assert loop.validate()["validation_elbo"] == max(model.validation_scores_)


def trainer_rows(X):
    from skddvi._engine.rows import Rows

    return Rows(X, torch.device("cpu"))


def test_early_stopping_holds_rows_out_itself():
    model = make_model(early_stopping=True, validation_fraction=0.2, max_iter=3).fit(make_rows())
    assert len(model.validation_scores_) == model.n_iter_ == 3


def test_a_small_gain_does_not_count():
    model = make_model(early_stopping=True, tol=1e6, n_iter_no_change=2, max_iter=10)
    # The first epoch gains on minus infinity; the two after it do not gain a million nats.
    assert model.fit(make_rows()).n_iter_ == 3


def test_held_out_rows_alone_do_not_stop_or_choose():
    X, X_val = make_rows(), make_rows(60, seed=1)
    model = make_model(learning_rate_init=0.1, max_iter=15, n_iter_no_change=1)
    model.fit(X, X_val=X_val)
    assert model.n_iter_ == 15


# --------------------------------------------------------------------------- interruption


def interrupt(loop, call, at):
    if call == at:
        raise KeyboardInterrupt


def test_an_interruption_keeps_the_last_complete_epoch(monkeypatch):
    X = make_rows()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        reference = make_model().fit(X)
    patch_batches(monkeypatch, lambda loop, call: interrupt(loop, call, 2 * BATCHES + 3))
    with pytest.warns(UserWarning, match="interrupted in epoch 3.*last complete epoch") as record:
        model = make_model().fit(X)
    assert record[0].filename == __file__
    assert model.n_iter_ == 2
    assert all(len(values) == 2 for values in model.history_.values())
    assert np.array_equal(weights(model), weights(reference))
    assert np.array_equal(model.transform(X), reference.transform(X))


def test_an_interruption_between_epochs_keeps_the_epoch_just_finished(monkeypatch):
    X = make_rows()

    def on_epoch(epoch, figures):
        if epoch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        reference = make_model().fit(X)
    monkeypatch.setattr(DDVAETransformer, "_on_epoch", lambda self, *args: on_epoch)
    with pytest.warns(UserWarning, match="interrupted"):
        model = make_model().fit(X)
    assert model.n_iter_ == 3
    assert np.array_equal(weights(model), weights(reference))


def test_an_interruption_of_the_validation_leaves_history_and_weights_in_step(monkeypatch):
    validate, n_calls = trainer.Loop.validate, [0]

    def interrupted(loop):
        n_calls[0] += 1
        if n_calls[0] == 3:
            raise KeyboardInterrupt
        return validate(loop)

    X, X_val = make_rows(), make_rows(40, seed=1)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        reference = make_model().fit(X, X_val=X_val)
    monkeypatch.setattr(trainer.Loop, "validate", interrupted)
    with pytest.warns(UserWarning, match="interrupted in epoch 3"):
        model = make_model().fit(X, X_val=X_val)
    assert model.n_iter_ == 2
    assert np.array_equal(weights(model), weights(reference))


def test_an_interruption_with_early_stopping_keeps_the_best_epoch(monkeypatch):
    X, X_val = make_rows(), make_rows(60, seed=1)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        reference = make_model().fit(X)
    script_validation(monkeypatch, [1.0, 3.0, 2.0, 2.5])
    patch_batches(monkeypatch, lambda loop, call: interrupt(loop, call, 4 * BATCHES + 1))
    with pytest.warns(UserWarning, match="interrupted in epoch 5"):
        model = make_model(early_stopping=True).fit(X, X_val=X_val)
    assert model.n_iter_ == 4
    assert np.array_equal(weights(model), weights(reference))


def test_an_interruption_of_the_first_epoch_is_passed_on(monkeypatch):
    patch_batches(monkeypatch, lambda loop, call: interrupt(loop, call, 3))
    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        model.fit(make_rows())
    assert not hasattr(model, "n_iter_")
    assert not hasattr(model, "history_")


def test_an_interrupted_warm_start_leaves_the_fitted_model_as_it_was(monkeypatch):
    X = make_rows()
    model = make_model(warm_start=True).fit(X)
    before = weights(model)
    patch_batches(monkeypatch, lambda loop, call: interrupt(loop, call, 3))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert np.array_equal(weights(model), before)
    assert model.n_iter_ == 5


# --------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("batch", [1, 3])
def test_a_divergence_is_recovered_from_with_a_warning(monkeypatch, batch):
    X = make_rows()
    n_calls = spoil_loss(monkeypatch, {2 * BATCHES + batch})
    with pytest.warns(RuntimeWarning, match="diverged") as record:
        model = make_model().fit(X)
    message = str(record[0].message)
    assert len(record) == 1
    assert record[0].filename == __file__
    for part in ("'loss'", "epoch 3", "learning_rate_init", "StandardScaler", "smaller steps"):
        assert part in message
    assert f"[{X.min():g}, {X.max():g}]" in message
    # The epoch is done again: five complete epochs, and the batches of the broken one besides.
    assert model.n_iter_ == 5
    assert n_calls[0] == 5 * BATCHES + batch + 1  # the last for the check after the last step
    assert all(len(values) == 5 for values in model.history_.values())
    assert np.isfinite(weights(model)).all()
    assert np.isfinite(model.transform(X)).all()


def test_after_a_divergence_the_steps_are_smaller(monkeypatch):
    rates = {}
    step = Adam.step

    def spy(optimizer, learning_rate):
        rates[len(rates)] = learning_rate
        return step(optimizer, learning_rate)

    monkeypatch.setattr(Adam, "step", spy)
    make_model().fit(make_rows())
    usual = list(rates.values())
    assert len(usual) == 5 * BATCHES
    rates.clear()
    spoil_loss(monkeypatch, {2 * BATCHES + 2})
    with pytest.warns(RuntimeWarning, match="diverged"):
        make_model().fit(make_rows())
    again = list(rates.values())
    # Two epochs, one batch of the broken epoch, and from its start again with smaller steps.
    smaller = [trainer.RECOVERY_FACTOR * rate for rate in usual[2 * BATCHES :]]
    assert again == pytest.approx(usual[: 2 * BATCHES + 1] + smaller)


def test_every_recovery_starts_from_the_same_state(monkeypatch):
    """Weights and the optimiser's moments are those of the last epoch, at the second trial too."""
    trials = []
    train_epoch = trainer.Loop.train_epoch

    def spy(loop):
        if loop.epoch == 2:
            trials.append([tensor.detach().clone() for tensor in loop.optimizer.state()])
        return train_epoch(loop)

    monkeypatch.setattr(trainer.Loop, "train_epoch", spy)
    # The third epoch breaks in its third batch, and again in the third of the second trial.
    spoil_loss(monkeypatch, {2 * BATCHES + 3, 2 * BATCHES + 6})
    with pytest.warns(RuntimeWarning, match="diverged"):
        make_model().fit(make_rows())
    assert len(trials) == 3
    for trial in trials[1:]:
        assert all(torch.equal(a, b) for a, b in zip(trial, trials[0], strict=True))


@pytest.mark.filterwarnings("ignore:Training diverged. the term:RuntimeWarning")
def test_divergence_for_good_keeps_what_there_was(monkeypatch):
    X = make_rows()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        reference = make_model().fit(X)
    spoil_loss(monkeypatch, range(2 * BATCHES + 2, 1000))
    with pytest.warns(RuntimeWarning, match="diverged 4 times and stopped"):
        model = make_model().fit(X)
    assert model.n_iter_ == 2
    assert np.array_equal(weights(model), weights(reference))


@pytest.mark.parametrize("term", ["reconstruction", "log_prior"])
def test_divergence_from_the_start_is_an_error(monkeypatch, term):
    X = make_rows()
    spoil_loss(monkeypatch, range(1, 1000), term=term)
    model = make_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(TrainingDiverged) as error:
            model.fit(X)
    message = str(error.value)
    for part in (f"'{term}'", "epoch 1", "learning_rate_init=0.003", "StandardScaler"):
        assert part in message
    assert f"[{X.min():g}, {X.max():g}]" in message
    assert not hasattr(model, "n_iter_")


def test_a_gradient_that_is_not_finite_is_a_divergence_too():
    """The square root has an infinite slope at zero, though its value is finite."""
    n_calls = [0]

    def root(z, rows):
        n_calls[0] += 1
        if n_calls[0] == 2 * BATCHES + 2:
            return (z * 0.0).abs().sqrt().sum()
        return 0.0 * z.sum()

    with pytest.warns(RuntimeWarning, match="the term 'gradient' was not finite in epoch 3"):
        model = make_model(regularizer=root).fit(make_rows())
    assert n_calls[0] == 5 * BATCHES + 2
    assert model.n_iter_ == 5
    assert np.isfinite(weights(model)).all()


def test_the_optimiser_never_sees_a_step_that_is_not_finite(monkeypatch):
    spoil_loss(monkeypatch, {2})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        model = make_model().fit(make_rows())
    assert np.isfinite(weights(model)).all()
    assert model.n_iter_ == 5


def test_the_optimiser_is_adam():
    """The same updates as torch's own, of parameters that are used and of one that is not."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in [(3, 2), (4,), (2,)]]
    ours, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    optimizer = Adam([(ours[:1], 1.0), (ours[1:], 10.0), ([], 1.0)])
    groups = [{"params": theirs[:1], "lr": 0.01}, {"params": theirs[1:], "lr": 0.1}]
    reference = torch.optim.Adam(groups, betas=(DECAY, SQUARE_DECAY))
    for factor in (1.0, 0.3, 100.0, 0.1):
        for parameters in (ours, theirs):
            loss = factor * ((parameters[0] - 1).square().sum() + parameters[1].pow(4).sum())
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs, MAX_GRADIENT_NORM)
        assert optimizer.step(0.01) == pytest.approx(norm.item())
        reference.step()
        reference.zero_grad()
        assert all(parameter.grad is None for parameter in ours)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-7)
    assert torch.equal(ours[2], start[2])


def test_the_optimiser_refuses_a_gradient_that_is_not_finite():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = Adam([([parameter], 1.0)])
    (parameter * torch.tensor([1.0, math.inf])).sum().backward()
    before = optimizer.snapshot()
    assert not torch.isfinite(optimizer.step(0.1))
    assert all(torch.equal(a, b) for a, b in zip(optimizer.state(), before, strict=True))
    assert parameter.grad is None


def test_large_gradients_are_cut(monkeypatch):
    squares = []
    adam = optimizer_module.adam

    def spy(parameters, gradients, *args, **kwargs):
        squares.append(sum(gradient.square().sum().item() for gradient in gradients))
        return adam(parameters, gradients, *args, **kwargs)

    monkeypatch.setattr(optimizer_module, "adam", spy)
    make_model(regularizer=lambda z, rows: 1e6 * z.square().mean(), max_iter=2).fit(make_rows())
    # Two groups of parameters, the likelihood's own and all others, are cut together.
    norms = np.sqrt(np.reshape(squares, (-1, 2)).sum(1))
    assert norms == pytest.approx(MAX_GRADIENT_NORM, rel=1e-4)


def test_an_interrupted_step_leaves_no_gradient_behind(monkeypatch):
    """It would be added to the first one of the next fit, where warm_start=True."""
    step, n_calls = Adam.step, [0]

    def interrupted(optimizer, learning_rate):
        n_calls[0] += 1
        if n_calls[0] == 2 * BATCHES + 2:
            raise KeyboardInterrupt
        return step(optimizer, learning_rate)

    X = make_rows()
    with monkeypatch.context() as patch:
        patch.setattr(Adam, "step", interrupted)
        with pytest.warns(UserWarning, match="interrupted"):
            model = make_model(warm_start=True).fit(X)
    seen = []

    def spy(optimizer, learning_rate):
        if not seen:
            gradients = [p.grad for p in optimizer.parameters if p.grad is not None]
            seen.append(torch.cat([gradient.flatten() for gradient in gradients]).clone())
        return step(optimizer, learning_rate)

    monkeypatch.setattr(Adam, "step", spy)
    clean = copy.deepcopy(model)
    for parameter in clean._engine.model.parameters():
        parameter.grad = None
    clean.fit(X)
    expected = seen.pop()
    model.fit(X)
    assert torch.equal(seen.pop(), expected)


# --------------------------------------------------------------------------- randomness


@pytest.mark.parametrize("sleep", ["conditional", "latent"])
@pytest.mark.parametrize("prior", ["normal", "pinwheel"])
def test_one_seed_gives_the_same_bits(sleep, prior):
    X = make_rows()
    first, second = (make_model(sleep=sleep, prior=prior).fit(X) for _ in range(2))
    assert np.array_equal(weights(first), weights(second))
    assert first.history_ == second.history_
    other = make_model(sleep=sleep, prior=prior, random_state=1).fit(X)
    assert not np.array_equal(weights(first), weights(other))


def test_a_seed_does_not_depend_on_what_was_drawn_elsewhere():
    """And the global generators are where they were, as the fixture of every test checks too."""
    X = make_rows()
    first = make_model(early_stopping=True).fit(X)
    state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    try:
        torch.manual_seed(17)
        np.random.seed(17)  # noqa: NPY002
        expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
        torch.manual_seed(17)
        np.random.seed(17)  # noqa: NPY002
        second = make_model(early_stopping=True).fit(X)
        second.score_samples(X, 3)
        second.sample_posterior(X, 2, random_state=3)
        second.sample(2, random_state=3)
        found = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
    assert torch.equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])
    assert np.array_equal(weights(first), weights(second))


def test_every_epoch_has_an_order_of_its_own(monkeypatch):
    orders = []
    original = trainer.Loop.train_batch

    def train_batch(loop, indices):
        orders.append(indices.tolist())
        return original(loop, indices)

    monkeypatch.setattr(trainer.Loop, "train_batch", train_batch)
    make_model(max_iter=2).fit(make_rows())
    assert [len(order) for order in orders] == 2 * [32, 32, 32, 4]
    first, second = (list(itertools.chain(*part)) for part in (orders[:BATCHES], orders[BATCHES:]))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second != list(range(100))


def test_a_warm_start_goes_on_where_it_was():
    X = make_rows()
    model = make_model(warm_start=True).fit(X)
    first = list(model.history_["elbo"])
    before = weights(model)
    model.fit(X)
    assert model.n_iter_ == 10
    assert model.history_["elbo"][:5] == first
    assert model.history_["elbo"][5] > first[0] + 0.5
    assert not np.array_equal(weights(model), before)
    cold = make_model().fit(X)
    cold.fit(X)
    assert cold.n_iter_ == 5


# --------------------------------------------------------------------------- regularisers


def spread(z, rows):
    """Mean squared latent: as a penalty it draws all of them to the origin."""
    return z.square().mean()


class Anchor:
    """Hold the latent of every row at a number of its own."""

    name = "anchor"

    def __init__(self, weight, targets):
        self.weight, self.targets = weight, torch.as_tensor(targets, dtype=torch.float32)

    def __call__(self, z, rows):
        return (z[:, 0] - self.targets[rows]).square().mean()


def test_a_function_is_a_regulariser():
    X = make_rows()
    model = make_model(regularizer=spread, max_iter=20, alpha=0.0).fit(X)
    plain = make_model(max_iter=20, alpha=0.0).fit(X)
    assert set(model.history_) - set(plain.history_) == {"spread"}
    assert len(model.history_["spread"]) == 20
    bound, penalty = np.array(model.history_["elbo"]), np.array(model.history_["spread"])
    sleep = model.sleep_weight * np.array(model.history_["sleep"])
    assert np.array(model.history_["loss"]) == pytest.approx(-bound + sleep + penalty, rel=1e-5)


def test_an_object_has_a_weight_and_a_name():
    X = make_rows()
    targets = np.where(np.arange(100) % 2, 1.5, -1.5)
    # Rows with a random sign each: only their index tells where they belong.
    X[:, 0] += 2.0 * targets
    regularizer = Anchor(weight=20.0, targets=targets)
    model = make_model(regularizer=regularizer, max_iter=60, learning_rate_init=0.01).fit(X)
    history = {name: np.array(values) for name, values in model.history_.items()}
    penalty = 20.0 * history["anchor"] + history["weight_penalty"]
    loss = -history["elbo"] + model.sleep_weight * history["sleep"] + penalty
    assert history["loss"] == pytest.approx(loss, rel=1e-4)
    assert np.corrcoef(model.transform(X)[:, 0], targets)[0, 1] > 0.9


def test_a_list_holds_functions_and_objects():
    X = make_rows()
    anchor = Anchor(weight=0.5, targets=np.zeros(100))
    model = make_model(regularizer=[spread, anchor], sleep="off", alpha=0.0).fit(X)
    history = {name: np.array(values) for name, values in model.history_.items()}
    expected = -history["elbo"] + history["spread"] + 0.5 * history["anchor"]
    assert history["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_regulariser_pulls():
    X = make_rows()
    strong = Anchor(weight=50.0, targets=np.zeros(100))
    pulled = make_model(regularizer=strong, max_iter=30, learning_rate_init=0.01).fit(X)
    free = make_model(max_iter=30, learning_rate_init=0.01).fit(X)
    assert abs(pulled.transform(X)[:, 0]).mean() < 0.5 * abs(free.transform(X)[:, 0]).mean()


def test_the_users_regulariser_is_not_changed():
    regularizer = NeighborhoodPreservation(n_neighbors=5)
    make_model(regularizer=regularizer).fit(make_rows())
    assert vars(regularizer) == vars(NeighborhoodPreservation(n_neighbors=5))


def neighbour_recall(model, X, n_neighbors=10):
    from sklearn.neighbors import NearestNeighbors

    def neighbours(points):
        return (
            NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(return_distance=False)
        )

    pairs = zip(neighbours(X), neighbours(model.transform(X)), strict=True)
    return np.mean([len(set(a) & set(b)) / n_neighbors for a, b in pairs])


def test_neighborhood_preservation_keeps_neighbours():
    """Ten dimensions do not fit into two; what is kept of them is what the penalty asks for."""
    X = np.random.default_rng(0).normal(size=(200, 10))
    parameters = {"batch_size": 200, "max_iter": 80, "learning_rate_init": 0.01}
    parameters["hidden_layer_sizes"] = (64,)
    plain = make_model(**parameters).fit(X)
    regularizer = NeighborhoodPreservation(n_neighbors=10, weight=50.0)
    kept = make_model(regularizer=regularizer, **parameters).fit(X)
    penalty = kept.history_["neighborhood_preservation"]
    assert np.mean(penalty[-5:]) < np.mean(penalty[:5]) - 0.25
    assert neighbour_recall(kept, X) > neighbour_recall(plain, X) + 0.05


def test_recovery_in_the_first_epoch_is_told(monkeypatch):
    update, failures = trainer.Loop.update, [True]

    def fail_once(self):
        if failures:
            failures.pop()
            raise trainer._NotFiniteError("reconstruction")
        return update(self)

    monkeypatch.setattr(trainer.Loop, "update", fail_once)
    with pytest.warns(RuntimeWarning, match=r"'reconstruction'.*epoch 1.*starts again"):
        make_model(max_iter=2).fit(make_rows())


# --------------------------------------------------------------------------- threads


def test_a_small_step_takes_one_thread_and_the_limit_ends_with_the_training(monkeypatch):
    seen = []

    def look(z, rows):
        seen.append(torch.get_num_threads())
        return z.sum() * 0.0

    def fail(z, rows):
        raise ZeroDivisionError

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        make_model(regularizer=look, max_iter=1).fit(make_rows())
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            make_model(regularizer=fail, max_iter=1).fit(make_rows())
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(threads, "WORK_OF_A_THREAD", 1)
        seen.clear()
        make_model(regularizer=look, max_iter=1).fit(make_rows())
        assert set(seen) == {2}
    finally:
        torch.set_num_threads(before)
