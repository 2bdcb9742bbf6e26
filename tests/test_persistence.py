"""Saved models: the round trip, what cannot be saved, and files that are not as they should be."""

import ast
import builtins
import copy
import hashlib
import json
import os
import pickle
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

import skddvi
from skddvi import DDVAETransformer, baselines, persistence
from skddvi._engine import device as device_module
from skddvi._engine.engine import Engine
from skddvi.likelihoods import BinomialLikelihood, GaussianLikelihood
from skddvi.noising import VarianceExploding, VariancePreserving
from skddvi.priors import (
    EmpiricalPrior,
    GaussianMixturePrior,
    NormalPrior,
    PinwheelPrior,
    SquarePrior,
    SwissRollPrior,
)
from skddvi.regularizers import NeighborhoodPreservation

DATA = Path(__file__).parent / "data"
X = np.random.default_rng(0).normal(size=(60, 5)) * [1, 10, 0.1, 5, 2] + [0, 100, 0, 3, 1]
COUNTS = np.random.default_rng(1).poisson(3.0, size=(60, 5)).astype(float)
CALLS = np.minimum(COUNTS, 2.0)
CALLS[::7, 1] = np.nan


def small(**params):
    defaults = {
        "hidden_layer_sizes": (8,),
        "denoiser_width": 4,
        "n_diffusion_steps": 2,
        "max_iter": 2,
        "random_state": 0,
    }
    return DDVAETransformer(**defaults | params)


CASES = {
    "default": ({}, X),
    "gaussian posterior": ({"n_diffusion_steps": 0}, X),
    "one step": ({"n_diffusion_steps": 1}, X),
    "linear networks": ({"hidden_layer_sizes": (), "activation": "identity"}, X),
    "one component": ({"n_components": 1, "prior": "gaussian_mixture"}, X),
    "normal prior": ({"n_components": 3, "prior": NormalPrior(3)}, X),
    "mixture prior": ({"prior": GaussianMixturePrior(torch.eye(2), [0.3, 0.2], (1, 2))}, X),
    "pinwheel": ({"prior": PinwheelPrior(n_arms=3, twist=-1)}, X),
    "swiss roll": ({"prior": SwissRollPrior(n_parts=2, noise=0.3)}, X),
    "square": ({"prior": SquarePrior(n_parts=3)}, X),
    "empirical": ({"prior": EmpiricalPrior(X[:, :2].copy(), bandwidth=[1.0, 5.0])}, X),
    "fixed variance": ({"likelihood": GaussianLikelihood(variance=0.5)}, X),
    "common scale": ({"likelihood": GaussianLikelihood(scaling="common")}, X),
    "bernoulli": ({"likelihood": "bernoulli"}, CALLS[:, 2:] / 2),
    "binomial": ({"likelihood": BinomialLikelihood(n_trials=2)}, CALLS),
    "poisson": ({"likelihood": "poisson"}, COUNTS),
    "negative binomial": ({"likelihood": "negative_binomial"}, sparse.csr_array(COUNTS)),
    "betas": ({"noising": np.array([0.3, 0.9])}, X),
    "list of betas": ({"noising": [0.3, 0.9]}, X),
    "exploding": ({"noising": VarianceExploding(sigma_max=5.0)}, X),
    "preserving": ({"noising": VariancePreserving(np.array([0.3, 0.9]))}, X),
    "regularizer": ({"regularizer": [NeighborhoodPreservation(4, weight=0.1)]}, X),
    "early stopping": ({"early_stopping": True, "validation_fraction": 0.2}, X),
    "numpy scalars": (
        {
            "max_iter": np.int64(2),
            "learning_rate_init": np.float32(1e-3),
            "early_stopping": np.bool_(True),
            "hidden_layer_sizes": np.array([8]),
            "prior": np.str_("pinwheel"),
        },
        X,
    ),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return the file of a small model; no test may change it."""
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    skddvi.save(small(warm_start=True, prior=PinwheelPrior(n_arms=3)).fit(X), path)
    return path


def saved(model, folder):
    """Return the model as it comes back from a file."""
    skddvi.save(model, folder / "model.safetensors")
    return skddvi.load(folder / "model.safetensors")


def assert_same_results(one, other, rows):
    """Assert that two models give the same to the last bit."""
    latents = one.transform(rows)
    # An autoencoder without a bound has no importance samples.
    several = {} if one._schedule(rows, None).criterion != "elbo" else {"n_importance_samples": 40}
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(
            one.transform(rows.astype(dtype)), other.transform(rows.astype(dtype))
        )
    for ask in (
        lambda model: model.score_samples(rows),
        lambda model: model.score_samples(rows[:5], **several),
        lambda model: model.sample(4, random_state=1),
        lambda model: model.sample_posterior(rows, 3, random_state=1),
        lambda model: model.inverse_transform(latents),
    ):
        np.testing.assert_array_equal(ask(one), ask(other))


def plain(value):
    """Return a value such that equal ones compare equal: objects by what they hold."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [plain(item) for item in value]
    return type(value), joblib.hash(value)


# ------------------------------------------------------------------------------ the round trip


@pytest.mark.parametrize("case", CASES)
def test_ask_saved_models_come_back_to_the_last_bit(case, tmp_path):
    params, rows = CASES[case]
    model = small(**params).fit(rows)
    restored = saved(model, tmp_path)
    assert type(restored) is DDVAETransformer
    assert_same_results(model, restored, rows)
    expected = model.get_params()
    if case == "numpy scalars":
        expected["prior"] = "pinwheel"
    assert plain(restored.get_params()) == plain(expected)
    for name in ("history_", "loss_curve_", "validation_scores_", "n_iter_", "n_features_in_"):
        assert plain(getattr(restored, name)) == plain(getattr(model, name)), name
    assert repr(restored.prior_) == repr(model.prior_)
    assert repr(restored.likelihood_) == repr(model.likelihood_)
    # Saved again it is the same file, and it can be cloned and fitted as the first could.
    skddvi.save(restored, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert plain(clone(restored).get_params()) == plain(expected)


@pytest.mark.parametrize("prior", ["normal", PinwheelPrior(n_arms=3)], ids=["name", "object"])
def test_ask_a_saved_model_goes_on_alike(prior, tmp_path):
    model = small(warm_start=True, prior=prior, random_state=np.random.RandomState(3)).fit(X)
    restored = saved(model, tmp_path)
    assert_same_results(model.fit(X), restored.fit(X), X)
    assert restored.n_iter_ == 4
    assert plain(restored.history_) == plain(model.history_)
    with pytest.raises(ValueError, match="warm_start=True goes on with the fitted model"):
        restored.set_params(prior=PinwheelPrior(n_arms=4)).fit(X)


def test_ask_saved_models_keep_the_names_of_features_and_the_output(tmp_path):
    names = ["größe", "数", "a b", "\U0001f9ec", 'it\'s "5"']
    frame = pd.DataFrame(X, columns=names)
    model = small().fit(frame).set_output(transform="pandas")
    restored = saved(model, tmp_path)
    assert restored.feature_names_in_.tolist() == names
    assert restored.feature_names_in_.dtype == object
    pd.testing.assert_frame_equal(restored.transform(frame), model.transform(frame))
    with pytest.raises(ValueError, match="feature names"):
        restored.transform(frame[names[::-1]])


def test_ask_a_random_state_is_saved_with_its_state(tmp_path):
    random_state = np.random.RandomState(5)
    random_state.normal()  # leaves a second draw behind, which is part of the state
    model = small(random_state=random_state).fit(X)
    restored = saved(model, tmp_path)
    assert restored.random_state is not random_state
    np.testing.assert_array_equal(restored.random_state.normal(size=5), random_state.normal(size=5))
    model.random_state = np.random.RandomState(np.random.PCG64(0))
    with pytest.raises(TypeError, match="random_state=RandomState is no type"):
        skddvi.save(model, tmp_path / "other")


def test_a_model_that_asked_for_metadata_can_be_saved(tmp_path):
    with config_context(enable_metadata_routing=True):
        model = small(max_iter=1).set_fit_request(X_val=True).fit(X)
        restored = saved(model, tmp_path)
    np.testing.assert_array_equal(restored.transform(X), model.transform(X))


def test_values_that_json_does_not_know(tmp_path):
    model = small().fit(X)
    model.history_["odd"] = [np.nan, -np.inf, 10**20, np.float16(0.1), (1, None), {2: "ü"}]
    model.extra_ = np.array([["a", None], [1, 2.5]], dtype=object)
    model.text_ = np.array(["ä", "bcd"])
    model.big_endian_ = np.arange(3, dtype=">f8")
    model.columns_ = np.asfortranarray(X[:3])
    model.scalar_ = np.array(3.0)
    restored = saved(model, tmp_path)
    assert repr(restored.history_["odd"]) == repr(model.history_["odd"])
    for name in ("extra_", "text_", "big_endian_", "columns_", "scalar_"):
        expected, value = getattr(model, name), getattr(restored, name)
        np.testing.assert_array_equal(value, expected)
        assert value.shape == expected.shape
        assert value.dtype.kind == expected.dtype.kind
        assert value.flags.writeable


def test_ask_a_saved_model_is_smaller_than_its_training_rows(tmp_path):
    rows = np.random.default_rng(0).normal(size=(3000, 20))
    model = small(max_iter=1, batch_size=3000).fit(rows)
    skddvi.save(model, tmp_path / "model")
    joblib.dump(model, tmp_path / "joblib")
    for size in (
        (tmp_path / "model").stat().st_size,
        (tmp_path / "joblib").stat().st_size,
        len(pickle.dumps(model)),
    ):
        assert size < rows.nbytes / 10


def test_the_file_is_a_safetensors_file(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        assert "engine.weights.posterior.head.weight" in file.keys()  # noqa: SIM118
        header = json.loads(file.metadata()["skddvi"].partition(" ")[2])
    assert header["schema"] == persistence.SCHEMA
    assert header["version"] == skddvi.__version__
    assert header["class"] == "DDVAETransformer"


@pytest.mark.parametrize(
    "params",
    [
        {"regularizer": skddvi.regularizers.NeighborhoodPreservation(weight=1_000_000)},
        {"noising": skddvi.noising.VarianceExploding(1, 200_000)},
    ],
    ids=["weight", "noise"],
)
def test_large_numbers_that_are_no_sizes(params, tmp_path):
    model = small(**params).fit(X)
    skddvi.save(model, tmp_path / "a.safetensors")
    loaded = skddvi.load(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(loaded.transform(X), model.transform(X))


def test_a_model_loaded_in_inference_mode_can_be_trained_further(tmp_path):
    model = small(warm_start=True).fit(X)
    skddvi.save(model, tmp_path / "a.safetensors")
    with torch.inference_mode():
        loaded = skddvi.load(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(loaded.fit(X).transform(X), model.fit(X).transform(X))


def test_every_building_block_can_be_saved():
    modules = (skddvi.priors, skddvi.likelihoods, skddvi.noising, skddvi.regularizers)
    public = {name for module in modules for name in module.__all__ if name[0].isupper()}
    # The adapter of a user's object, the base classes, and what a regulariser is shown.
    without = {"UserPrior", "Prior", "Likelihood", "NoisingProcess", "TrainingView"}
    assert set(persistence.BUILDING_BLOCKS) == (public - without) | {"MixturePrior"}
    estimators = {name for name in skddvi.__all__ if name.startswith("DDVAE")}
    assert set(persistence.ESTIMATORS) == estimators | set(baselines.__all__)


@pytest.mark.parametrize("name", baselines.__all__)
def test_baselines_come_back(name, tmp_path):
    options = {"InverseAutoregressiveFlowVAE": {"n_flows": 2, "flow_width": 5}}
    options["AdversarialAutoencoder"] = {"critic": "wasserstein", "critic_width": 5}
    options["UnconditionalLatentDiffusion"] = {"n_diffusion_steps": 2, "denoiser_width": 4}
    options["HierarchicalVAE"] = {"auxiliary_width": 5}
    shared = {"hidden_layer_sizes": 4, "max_iter": 2, "random_state": 0, "warm_start": True}
    model = getattr(baselines, name)(prior="pinwheel", **shared, **options.get(name, {}))
    restored = saved(model.fit(X), tmp_path)
    assert type(restored) is type(model)
    assert_same_results(model, restored, X)
    # It goes on as the other does, critic and all.
    assert_same_results(model.fit(X), restored.fit(X), X)


def test_clusterers_and_classifiers_come_back(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = np.where(X[:, 0] > 0, "right", "left")
    y[::3] = "?"
    small = {"hidden_layer_sizes": 4, "max_iter": 2, "random_state": 0}
    for model in (
        skddvi.DDVAEClusterer(n_clusters=2, **small).fit(X),
        skddvi.DDVAEClusterer(n_clusters=2, n_components=2, prior="square", **small).fit(X),
        skddvi.DDVAEClassifier(unlabeled="?", **small).fit(X, y),
        skddvi.DDVAEClassifier(unlabeled="?", prior="pinwheel", **small).fit(X, y),
    ):
        skddvi.save(model, tmp_path / "model")
        restored = skddvi.load(tmp_path / "model")
        for method in ("predict", "predict_proba", "transform", "score_samples"):
            np.testing.assert_array_equal(getattr(restored, method)(X), getattr(model, method)(X))
        draws = (each.sample(5, random_state=0) for each in (restored, model))
        np.testing.assert_array_equal(
            *[draw[0] if isinstance(draw, tuple) else draw for draw in draws]
        )
        assert pickle.loads(pickle.dumps(model)).predict(X).tolist() == model.predict(X).tolist()


class Moved(NormalPrior):
    """A prior of which something is learned and something is not."""

    def __init__(self, n_components):
        super().__init__(n_components)
        self.shift = torch.nn.Parameter(torch.zeros(n_components))
        self.kept = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def part_log_prob(self, z):
        return super().part_log_prob(z - self.shift.to(z.dtype) * self.kept.to(z.dtype))


class Labelling(DDVAETransformer):
    """An estimator with a learned attribute of its own."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return super().fit(X)


def test_another_estimator_needs_only_an_entry_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(persistence.ESTIMATORS, "Labelling", (Labelling, Engine))
    monkeypatch.setitem(persistence.BUILDING_BLOCKS, "Moved", Moved)
    model = Labelling(prior=Moved(2), hidden_layer_sizes=4, max_iter=2, random_state=0)
    model.fit(X, np.where(X[:, 0] > 0, "größer", "kleiner"))
    restored = saved(model, tmp_path)
    assert type(restored) is Labelling
    assert restored.classes_.tolist() == ["größer", "kleiner"]
    assert restored.prior_.shift.abs().min() > 0
    assert restored.prior_.shift.requires_grad
    assert not restored.prior_.kept.requires_grad
    assert_same_results(model, restored, X)


# ------------------------------------------------------------------------------ what is refused


class OwnPrior(NormalPrior):
    """A user's prior."""


class OwnLikelihood(GaussianLikelihood):
    """A user's likelihood."""


class OwnNoising:
    """A user's noising process."""

    def coefficients(self, n_steps):
        return VarianceExploding().coefficients(n_steps)


class Laplace:
    """A user's prior that is no Prior."""

    n_components = 2

    def sample(self, n, generator):
        return torch.randn(n, 2, generator=generator)

    def log_prob(self, z):
        return -z.abs().sum(-1)


@pytest.mark.parametrize(
    "params",
    [
        {"prior": OwnPrior(2)},
        {"prior": Laplace()},
        {"likelihood": OwnLikelihood()},
        {"noising": OwnNoising()},
        {"regularizer": lambda z, rows: z.square().mean()},
        {"regularizer": [NeighborhoodPreservation(3), lambda z, rows: z.square().mean()]},
    ],
    ids=lambda params: next(iter(params)),
)
def test_ask_code_of_the_user_is_not_saved(params, tmp_path):
    model = small(**params).fit(X)
    name, value = next(iter(params.items()))
    kind = "function" if name == "regularizer" else type(value).__name__
    with pytest.raises(TypeError, match=rf"^{name}.*={kind} is no type .*joblib\.dump") as caught:
        skddvi.save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    if name == "regularizer":
        assert "set_params(regularizer=None)" in str(caught.value)
        latents = model.transform(X)
        restored = saved(model.set_params(regularizer=None), tmp_path)
        np.testing.assert_array_equal(restored.transform(X), latents)
    else:
        restored = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(restored.transform(X), model.transform(X))


def test_other_estimators_and_unfitted_ones_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"one of DDVAETransformer.*found PCA; .*joblib"):
        skddvi.save(PCA().fit(X), tmp_path / "model")
    with pytest.raises(TypeError, match="found Own"):
        skddvi.save(type("Own", (DDVAETransformer,), {})().fit(X), tmp_path / "model")
    with pytest.raises(NotFittedError):
        skddvi.save(small(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_and_no_other(name, path, tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.write_bytes(path.read_bytes())

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="no space left"):
        skddvi.save(small().fit(X), target)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert target.read_bytes() == path.read_bytes()


def test_a_save_replaces_the_file_that_a_link_points_to(path, tmp_path):
    target, link = tmp_path / "model", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    skddvi.save(skddvi.load(path), str(link))
    assert link.is_symlink()
    assert target.read_bytes() == path.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "model"]
    with pytest.raises(OSError):
        skddvi.save(skddvi.load(path), tmp_path)
    with pytest.raises(FileNotFoundError):
        skddvi.save(skddvi.load(path), tmp_path / "absent" / "model")


# ------------------------------------------------------------------------------ bad files


FOREIGN = {
    "empty": b"",
    "text": b"x,y\n1,2\n" * 50,
    "pickle": pickle.dumps(X),
    "zeros": bytes(500),
    "long header": b"\xff" * 500,
    "safetensors": safetensors.numpy.save({"X": X}, metadata={"other": "x" * 100}),
    "claims to be ours": safetensors.numpy.save({"X": X}, metadata={"skddvi": "x" * 100}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_ask_foreign_files_are_refused(kind, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(ValueError, match=r"/file' is not a model saved by skddvi\.save.*joblib"):
        skddvi.load(path)


def test_ask_missing_files_are_the_systems_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        skddvi.load(tmp_path / "absent")
    with pytest.raises(IsADirectoryError):
        skddvi.load(tmp_path)


OURS = r"is not a model saved|cut off or altered|does not hold a model"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_ask_damaged_files_are_refused(path, data):
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3), label="flips")):
        # The header, where damage would tell most, as often as the rest.
        end = data.draw(st.sampled_from([8, 200, 5000, len(content)]))
        content[data.draw(st.integers(0, end - 1))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans(), label="cut"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    content += data.draw(st.sampled_from([b"", b"\0", b"more"]))
    damaged = path.with_name("damaged")
    damaged.write_bytes(content)
    if content == path.read_bytes():
        assert skddvi.load(damaged).n_iter_ == 2
        return
    with pytest.raises(ValueError, match=OURS) as caught:
        skddvi.load(damaged)
    assert str(damaged) in str(caught.value)


def rewritten(path, folder, change, arrays=None):
    """Return a file whose header was changed and whose checksum is right again."""
    with safetensors.safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["skddvi"].partition(" ")[2])
    header = change(header) or header
    text = f"sha256:{'0' * 64} {json.dumps(header)}"
    arrays = arrays or safetensors.numpy.load_file(path)
    content = safetensors.numpy.save(arrays, metadata={"skddvi": text})
    digest = hashlib.sha256(content).hexdigest()
    other = folder / "rewritten"
    other.write_bytes(content.replace(b"0" * 64, digest.encode(), 1))
    return other


def test_ask_newer_schemas_are_refused_with_the_remedy(path, tmp_path):
    newer = rewritten(path, tmp_path, lambda h: h.update(schema=2, version="9.1.0"))
    with pytest.raises(ValueError, match=r"saved by skddvi 9\.1\.0 in schema 2; .* Upgrade"):
        skddvi.load(newer)
    same = rewritten(path, tmp_path, lambda h: None)
    assert skddvi.load(same).n_iter_ == 2


def places(value, at=()):
    """Yield the places of all values in nested JSON."""
    yield at
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from places(item, (*at, key))


def put(header, place, value):
    for key in place[:-1]:
        header = header[key]
    if value is KeyError:
        del header[place[-1]]
    else:
        header[place[-1]] = value


ODD_VALUES = [
    *(None, True, 0, -1, 1, 2, 3, 7, 10**6, 10**12, 2**70, 0.5, -1e300, "", "x", "cuda", "a\0"),
    *([], {}, [1, 2], [[]], {"type": "object", "index": 0}, {"type": "object", "index": -1}),
    *({"type": "array", "name": "absent"}, {"type": "__init__"}, {"type": "float", "value": "nan"}),
    *({"type": "tuple", "items": [10**9, 10**9]}, {"type": "dict", "items": [[[], 1]]}),
    {"type": "items", "dtype": "object", "shape": [10**9, 10**9], "items": []},
    {"class": "OwnPrior", "arguments": {}},
    KeyError,
]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(data=st.data())
def test_ask_files_made_on_purpose_give_an_error_of_ours_or_a_model(path, data):
    def change(header):
        for _ in range(data.draw(st.integers(1, 2))):
            every = [place for place in places(header) if place]
            groups = sorted({place[0] for place in every})
            group = data.draw(st.sampled_from(groups))
            place = data.draw(st.sampled_from([place for place in every if place[0] == group]))
            put(header, place, copy.deepcopy(data.draw(st.sampled_from(ODD_VALUES))))

    other = rewritten(path, path.parent, change)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a device that is not there
        try:
            model = skddvi.load(other)
        except ValueError as error:
            assert str(other) in str(error)
        else:
            assert isinstance(model, DDVAETransformer)


@pytest.mark.parametrize(
    ("part", "name"),
    [("attributes", "transform"), ("attributes", "_engine"), ("attributes", "prior")],
)
def test_a_file_cannot_replace_methods(part, name, path, tmp_path):
    other = rewritten(path, tmp_path, lambda h: h[part].update({name: 1}))
    with pytest.raises(ValueError, match="does not hold a model"):
        skddvi.load(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["objects"][0].update({"class": "os.system"}),
        lambda h: h["objects"][0].update({"class": "DDVAETransformer"}),
        lambda h: h.update({"class": "NormalPrior"}),
        lambda h: h["objects"][0]["arguments"].update(n_arms=10**9),
        lambda h: h["engine"]["build"]["items"].append(["generator", None]),
        lambda h: put(h, ("engine", "build", "items", 2, 1), 10**9),
        lambda h: h["parameters"].update(device=None),
        lambda h: h["attributes"].pop("_structure"),
        lambda h: h["attributes"].update(_structure=3),
    ],
)
def test_a_file_cannot_name_other_code_or_sizes(change, path, tmp_path):
    assert skddvi.load(path).prior.n_arms == 3
    other = rewritten(path, tmp_path, change)
    for device in (None, "cpu"):
        with pytest.raises(ValueError, match="does not hold a model"):
            skddvi.load(other, device)


def test_weights_of_another_shape_or_dtype_are_refused(path, tmp_path):
    for change in (lambda a: a[:-1], lambda a: a.astype(np.float64), lambda a: a[None]):
        arrays = safetensors.numpy.load_file(path)
        name = "engine.weights.posterior.head.weight"
        arrays[name] = np.ascontiguousarray(change(arrays[name]))
        other = rewritten(path, tmp_path, lambda h: None, arrays)
        with pytest.raises(ValueError, match="does not hold a model"):
            skddvi.load(other)


def test_ask_nothing_is_executed_or_unpickled_at_load(path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("executed")

    for owner, name in [
        *((builtins, name) for name in ("eval", "exec", "compile")),
        *((pickle, name) for name in ("load", "loads", "Unpickler")),
        (torch, "load"),
        (joblib, "load"),
    ]:
        monkeypatch.setattr(owner, name, forbidden)
    model = skddvi.load(path)
    monkeypatch.undo()
    assert model.n_iter_ == 2
    folder = Path(skddvi.__file__).parent
    for name in ("persistence.py", "_codec.py", "_container.py"):
        tree = ast.parse((folder / name).read_text(encoding="utf-8"))
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        imports = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert not (names | imports) & {"pickle", "joblib", "eval", "exec", "importlib"}


# ------------------------------------------------------------------------------ devices


@pytest.fixture
def path_of_a_cuda_model(tmp_path, monkeypatch):
    """Return the file of a model whose device is said to be CUDA, on a machine without it."""
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 0)
    model = small(warm_start=True).fit(X)
    model.device = model._structure["device"] = "cuda"  # no tensor is there: the name is tested
    skddvi.save(model, tmp_path / "cuda")
    return tmp_path / "cuda"


def test_promise_15_a_model_saved_on_cuda_loads_on_the_cpu(path_of_a_cuda_model):
    with pytest.warns(UserWarning, match=r"was on device='cuda', which is not .*the CPU") as caught:
        model = skddvi.load(path_of_a_cuda_model)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert model.device == "cuda"
    np.testing.assert_array_equal(model.transform(X), small().fit(X).transform(X))


def test_promise_15_a_device_given_to_load(path_of_a_cuda_model):
    model = skddvi.load(path_of_a_cuda_model, device="cpu")
    assert model.device == "cpu"
    assert model.fit(X).n_iter_ == 4
    with pytest.raises(RuntimeError, match="device='cuda:3' is not available"):
        skddvi.load(path_of_a_cuda_model, device="cuda:3")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_promise_15_between_devices(tmp_path):
    model = small(device="cuda", warm_start=True).fit(X)
    skddvi.save(model, tmp_path / "model")
    restored = skddvi.load(tmp_path / "model")
    assert {p.device.type for p in restored._engine.model.parameters()} == {"cuda"}
    assert_same_results(model, restored, X)
    on_cpu = skddvi.load(tmp_path / "model", device="cpu")
    assert {p.device.type for p in on_cpu._engine.model.parameters()} == {"cpu"}
    np.testing.assert_allclose(on_cpu.transform(X), model.transform(X), atol=1e-5)


# ------------------------------------------------------------------------------ released schemas


def test_files_of_schema_1_stay_loadable():
    """The numbers stand beside the file; ``make_schema_1.py`` there wrote both."""
    model = skddvi.load(DATA / "schema_1.safetensors")
    expected = json.loads((DATA / "schema_1.json").read_text())
    rows = np.array(expected["X"])
    assert model.feature_names_in_.tolist() == expected["names"]
    frame = pd.DataFrame(rows, columns=expected["names"])
    for name, value in {
        "transform": model.transform(frame),
        "score_samples": model.score_samples(frame),
        "inverse_transform": model.inverse_transform(np.array(expected["transform"])),
        "log_prior": model.prior_.log_prob(torch.tensor(expected["transform"])).numpy(),
        "elbo": model.history_["elbo"],
    }.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-8, err_msg=name)
