"""Networks of the user's own in the place of encoder and decoder."""

import functools
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from torch import nn

import skddvi
from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer, baselines

DIGITS = load_digits().data[:120]
Y = load_digits().target[:120]
SMALL = {"hidden_layer_sizes": (16, 24), "batch_size": 30, "max_iter": 3, "random_state": 0}
CHAIN = {"n_diffusion_steps": 2, "denoiser_width": 8}


def convolutions(n_inputs, n_outputs, n_channels=4):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, n_channels, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(n_channels * 16, n_outputs),
        nn.SiLU(),
    )


def transposed(n_inputs, n_outputs):
    return nn.Sequential(
        nn.Linear(n_inputs, 4 * 16),
        nn.SiLU(),
        nn.Unflatten(1, (4, 4, 4)),
        nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1),
        nn.Flatten(),
    )


def normalised(n_inputs, n_outputs):
    """A network with what a module can have beside parameters."""
    return nn.Sequential(
        nn.Linear(n_inputs, n_outputs), nn.BatchNorm1d(n_outputs), nn.SiLU(), nn.Dropout(0.2)
    )


BOTH = {"encoder": convolutions, "decoder": transposed}


def small(**params):
    return DDVAETransformer(**SMALL | CHAIN | BOTH | params)


def everything(model):
    state = model._engine.model.state_dict()
    tensors = {name: tensor.numpy().tobytes() for name, tensor in state.items()}
    return tensors, repr(model.history_)


def test_convolutions_learn_the_digits():
    first = small(max_iter=1).fit(DIGITS)
    model = small(max_iter=12).fit(DIGITS)
    assert model.score(DIGITS) > first.score(DIGITS) + 2.0
    assert isinstance(model._engine.model.posterior.body.network[1], nn.Conv2d)
    assert isinstance(model._engine.model.decoder.body.network[3], nn.ConvTranspose2d)
    weights = model._engine.model.decoder.body.network[3].weight
    assert not torch.equal(weights, first._engine.model.decoder.body.network[3].weight)
    Z = model.transform(DIGITS)
    assert Z.shape == (120, 2)
    assert Z.dtype == np.float64
    np.testing.assert_allclose(model.transform(DIGITS[:1]), Z[:1], atol=1e-10)
    assert model.inverse_transform(Z).shape == DIGITS.shape
    assert model.sample(3, random_state=0).shape == (3, 64)
    assert model.score_samples(DIGITS[:5], n_importance_samples=40).shape == (5,)


def test_an_untrained_decoder_is_at_the_level_of_the_data():
    """What the network says is added to what any untrained decoder says."""

    def silent(n_inputs, n_outputs):
        layer = nn.Linear(n_inputs, n_outputs)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    counts = np.random.default_rng(0).poisson([1.0, 50.0, 9.0], size=(80, 3))
    params = {"likelihood": "poisson", "learning_rate_init": 1e-12, "decoder": silent}
    model = small(**params, encoder=None).fit(counts)
    decoded = model.inverse_transform(np.zeros((1, 2)))[0]
    np.testing.assert_allclose(decoded, counts.mean(0), rtol=0.1)


@pytest.mark.parametrize(
    "model",
    [
        DDVAEClassifier(**SMALL, **CHAIN, **BOTH),
        DDVAEClusterer(3, **SMALL, **CHAIN, **BOTH, init="kmeans"),
        baselines.GaussianVAE(**SMALL, **BOTH),
        baselines.IWAE(**SMALL, **BOTH),
        baselines.InverseAutoregressiveFlowVAE(**SMALL, **BOTH),
        baselines.HierarchicalVAE(**SMALL, **BOTH),
        baselines.AdversarialAutoencoder(**SMALL, **BOTH),
        baselines.UnconditionalLatentDiffusion(**SMALL, **BOTH),
    ],
    ids=lambda model: type(model).__name__,
)
def test_every_estimator_takes_them(model, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*clusters hold no training row")
        model = clone(model).fit(DIGITS, Y % 3)
    parts = model._engine.model.posterior.body, model._engine.model.decoder.body
    assert [type(part).__name__ for part in parts] == ["UserNetwork", "UserNetwork"]
    skddvi.save(model, tmp_path / "model")
    restored = skddvi.load(tmp_path / "model", **BOTH)
    np.testing.assert_array_equal(restored.transform(DIGITS), model.transform(DIGITS))
    assert np.isfinite(model.transform(DIGITS)).all()


@pytest.mark.parametrize("params", [{}, {"encoder": normalised}, {"decoder": normalised}])
def test_one_seed_one_model_and_no_trace(params):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = small(**params).fit(DIGITS)
        torch.manual_seed(1)
        state = torch.get_rng_state()
        again = small(**params).fit(DIGITS)
        assert torch.equal(torch.get_rng_state(), state)
    assert everything(again) == everything(model)
    assert everything(small(**params, random_state=1).fit(DIGITS)) != everything(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.transform(DIGITS[:1])


def test_dropout_differs_from_epoch_to_epoch():
    masks = []

    class Mask(nn.Dropout):
        def forward(self, x):
            masks.append(super().forward(torch.ones_like(x)))
            return x

    small(encoder=lambda n, m: nn.Sequential(nn.Linear(n, m), Mask())).fit(DIGITS)
    trained = [mask for mask in masks if (mask == 0.0).any()]
    assert len(trained) > 3
    assert not torch.equal(trained[0], trained[-2])


def test_running_means_are_those_of_the_weights_that_are_kept(monkeypatch):
    """Early stopping goes back to the whole of the best epoch."""
    from skddvi._engine import trainer

    validate, seen = trainer.Loop.validate, []

    def scripted(loop):
        body = loop.model.posterior.body.network[1]
        seen.append((body.running_mean.clone(), body.weight.detach().clone()))
        return validate(loop) | {"validation_elbo": -float(len(seen) != 2)}

    monkeypatch.setattr(trainer.Loop, "validate", scripted)
    model = small(encoder=normalised, early_stopping=True).fit(DIGITS, X_val=DIGITS[:20])
    body = model._engine.model.posterior.body.network[1]
    assert torch.equal(body.weight, seen[1][1])
    assert torch.equal(body.running_mean, seen[1][0])
    assert not torch.equal(body.running_mean, seen[2][0])


def test_they_go_on_from_a_checkpoint(tmp_path):
    class Stop:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context):
            return context.task_name == "epoch"

    model = small(encoder=normalised)
    plain = clone(model).fit(DIGITS)
    model.set_params(checkpoint=tmp_path / "fit.ckpt")
    assert clone(model).set_callbacks(Stop()).fit(DIGITS).n_iter_ == 1
    assert everything(clone(model).fit(DIGITS)) == everything(plain)
    clone(model).set_params(max_iter=4).set_callbacks(Stop()).fit(DIGITS)
    with pytest.raises(ValueError, match=r"encoder was .*normalised and is .*convolutions"):
        clone(model).set_params(max_iter=4, encoder=convolutions).fit(DIGITS)


def test_clone_search_and_pickling():
    encoder = functools.partial(convolutions, n_channels=2)
    search = GridSearchCV(small(max_iter=1), {"encoder": [None, encoder]}, cv=2).fit(DIGITS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    model = small(encoder=encoder).fit(DIGITS)
    assert clone(model).encoder.keywords == {"n_channels": 2}
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(other.transform(DIGITS), model.transform(DIGITS))
    assert other.encoder.func is convolutions
    assert "UserNetwork" not in repr(model)


def test_a_warm_start_keeps_its_networks():
    model = small(warm_start=True, max_iter=1).fit(DIGITS).fit(DIGITS)
    assert model.n_iter_ == 2
    with pytest.raises(ValueError, match="found encoder="):
        model.set_params(encoder=normalised).fit(DIGITS)


def test_saved_models_are_given_their_networks_again(tmp_path):
    model = small(encoder=normalised, warm_start=True).fit(DIGITS)
    path = tmp_path / "model"
    skddvi.save(model, path)
    with pytest.raises(ValueError, match=r"encoder=normalised.*load\(path, encoder=normalised\)"):
        skddvi.load(path)
    with pytest.raises(ValueError, match=r"decoder=transposed.*load\(path, decoder=transposed\)"):
        skddvi.load(path, encoder=normalised)
    with pytest.raises(ValueError, match="give the factories that the model was made with"):
        skddvi.load(path, encoder=convolutions, decoder=transposed)
    restored = skddvi.load(path, encoder=normalised, decoder=transposed)
    assert restored.encoder is normalised
    np.testing.assert_array_equal(restored.transform(DIGITS), model.transform(DIGITS))
    assert everything(restored.fit(DIGITS)) == everything(model.fit(DIGITS))
    skddvi.save(small(**dict.fromkeys(BOTH)).fit(DIGITS), path)
    with pytest.raises(ValueError, match="encoder=None, found encoder=convolutions"):
        skddvi.load(path, encoder=convolutions)
    assert skddvi.load(path).encoder is None


@pytest.mark.parametrize("name", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [
        (lambda n, m: nn.Linear(n, m + 1), ValueError, r"found \(2, {wrong}\)"),
        (lambda n, m: nn.Linear(n + 1, m), ValueError, "found one that fails on rows of shape"),
        (lambda n, m: nn.Unflatten(1, (1, n)), ValueError, "found"),
        (lambda n, m: nn.LSTM(n, m), ValueError, "found tuple"),
        (lambda n, m: np.zeros, TypeError, "must be a function .* that returns a torch.nn.Module"),
    ],
)
def test_networks_that_do_not_fit(name, factory, error, message):
    wanted = {"encoder": 24, "decoder": 64}[name]
    with pytest.raises(error, match=message.format(wrong=wanted + 1)) as caught:
        small(**{name: factory}).fit(DIGITS)
    assert str(caught.value).startswith(f"{name} must")
    if error is ValueError:
        n_inputs = {"encoder": 64, "decoder": 2}[name]
        assert f"(n, {n_inputs}) to (n, {wanted})" in str(caught.value)


def test_without_hidden_layers_the_features_are_as_wide_as_the_rows():
    widths = []

    def encoder(n_inputs, n_outputs):
        widths.append((n_inputs, n_outputs))
        return nn.Identity()

    small(hidden_layer_sizes=(), encoder=encoder, decoder=None).fit(DIGITS)
    assert widths == [(64, 64)]
