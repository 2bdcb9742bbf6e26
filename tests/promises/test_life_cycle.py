"""Promises 13 to 15: sizes, the life cycle of an estimator, devices."""

import numpy as np
import pytest
from _models import ASK, X, fit, small
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

from skddvi import DDVAETransformer
from skddvi._engine import device as device_module
from skddvi.priors import GaussianMixturePrior, NormalPrior
from skddvi.regularizers import NeighborhoodPreservation

# ------------------------------------------------------------------------------ 13. sizes


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prior": "pinwheel", "n_components": 3}, "'pinwheel' lives in 2 .* n_components=3"),
        ({"prior": "swiss_roll", "n_components": 1}, "'swiss_roll' lives in 2 .* n_components=1"),
        ({"prior": "square", "n_components": 4}, "'square' lives in 2 .* n_components=4"),
        ({"prior": NormalPrior(5)}, "NormalPrior lives in 5 dimensions, found n_components=2"),
        (
            {"prior": GaussianMixturePrior(np.eye(3), 0.1)},
            "GaussianMixturePrior lives in 3 dimensions, found n_components=2",
        ),
        ({"noising": [0.1, 0.2]}, "noising gives 2 betas, .* n_diffusion_steps=3"),
        ({"regularizer": NeighborhoodPreservation(100)}, "n_neighbors must be .* in 1..79 .* 100"),
        ({"hidden_layer_sizes": (16, 0)}, r"hidden_layer_sizes .* at least 1, found \(16, 0\)"),
        ({"hidden_layer_sizes": (16, 2.5)}, r"hidden_layer_sizes .* found \(16, 2.5\)"),
        ({"hidden_layer_sizes": [8, [8]]}, r"hidden_layer_sizes .* found \(8, \[8\]\)"),
        ({"hidden_layer_sizes": np.array(8)}, r"hidden_layer_sizes .* found \(array\(8\),\)"),
    ],
    ids=str,
)
def test_promise_13_sizes_that_cannot_work(params, message):
    model = small(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X)


def test_promise_13_latents_of_another_dimension(fitted):
    with pytest.raises(ValueError, match="Z has 3 columns, but the model has n_components=2"):
        fitted.inverse_transform(np.ones((4, 3)))


# ------------------------------------------------------------------------------ 14. life cycle

BAD = [
    ("n_components", 0),
    ("n_components", 1.5),
    ("prior", "banana"),
    ("prior", 3),
    ("likelihood", "banana"),
    ("likelihood", None),
    ("noising", "banana"),
    ("noising", 3),
    ("n_diffusion_steps", -1),
    ("sleep", "banana"),
    ("sleep", True),
    ("sleep_weight", -0.1),
    ("kl_weight", np.nan),
    ("kl_weight", "banana"),
    ("kl_warmup", 1.5),
    ("init", "pca"),
    ("regularizer", "banana"),
    ("hidden_layer_sizes", "banana"),
    ("hidden_layer_sizes", 0),
    ("denoiser_width", 0),
    ("activation", "banana"),
    ("n_input_components", 0),
    ("n_input_components", "banana"),
    ("n_refinements", -1),
    ("n_refinements", "auto"),
    ("n_map_steps", -1),
    ("n_map_steps", 1.5),
    ("encoder", "banana"),
    ("decoder", 3),
    ("alpha", -1.0),
    ("alpha", "banana"),
    ("alpha", np.inf),
    ("batch_size", 0),
    ("batch_size", "banana"),
    ("learning_rate_init", 0.0),
    ("max_iter", 0),
    ("max_iter", "banana"),
    ("tol", -1),
    ("early_stopping", "yes"),
    ("validation_fraction", 0.0),
    ("validation_fraction", 1.0),
    ("n_iter_no_change", 0),
    ("warm_start", "yes"),
    ("checkpoint", 3),
    ("checkpoint", True),
    ("precision", "float16"),
    ("device", 0),
    ("random_state", "seed"),
    ("verbose", "loud"),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_promise_14_bad_parameters(name, value):
    model = small(**{name: value})  # silent
    assert getattr(model, name) is value
    repr(model)
    with pytest.raises(InvalidParameterError) as caught:
        model.fit(X)
    assert f"The {name!r} parameter of DDVAETransformer must be" in str(caught.value)
    assert f"Got {value!r} instead" in str(caught.value)
    with pytest.raises(NotFittedError):
        model.transform(X)


@pytest.mark.parametrize("kind", ["transformer", "clusterer", "classifier"])
def test_promise_14_a_failed_fit_leaves_what_was_there(kind):
    model = fit(small(kind), X)
    before, attributes = model.transform(X), set(vars(model))
    bad = X[:30, :3].copy()
    bad[0, 0] = np.nan
    model.set_params(max_iter=1)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(bad, np.array(list("abc") * 10))
    np.testing.assert_array_equal(model.transform(X), before)
    assert set(vars(model)) == attributes
    assert model.n_features_in_ == 6
    if kind == "classifier":
        np.testing.assert_array_equal(model.classes_, [0, 1])


def test_promise_14_every_parameter_has_a_bad_value_here():
    assert {name for name, _ in BAD} == set(DDVAETransformer().get_params())


@pytest.mark.parametrize(
    "random_state", [-1, 2**62, "seed", 1.5, np.random.default_rng(0)], ids=str
)
def test_promise_14_seeds_that_are_none(each, random_state):
    for draw in (each.sample, lambda **seed: each.sample_posterior(X[:3], **seed)):
        with pytest.raises(
            ValueError, match=r"random_state must be None, an integer in 0\.\.2\*\*32"
        ):
            draw(random_state=random_state)


@pytest.mark.parametrize(
    "params",
    [
        {"batch_size": np.int64(9), "denoiser_width": np.int32(8), "max_iter": np.int16(4)},
        {"n_components": np.int64(2), "n_diffusion_steps": np.uint8(3), "n_iter_no_change": True},
        {"hidden_layer_sizes": np.int64(16), "verbose": False, "early_stopping": np.bool_(False)},
        {"learning_rate_init": np.float32(2e-3), "kl_weight": 1, "sleep_weight": np.int64(2)},
    ],
    ids=str,
)
def test_promise_14_numbers_of_numpy(params):
    plain = {
        name: value.item() if hasattr(value, "item") else value for name, value in params.items()
    }
    found, wanted = small(**params).fit(X), small(**plain).fit(X)
    np.testing.assert_allclose(found.transform(X), wanted.transform(X), atol=1e-6)
    assert small(batch_size=True, denoiser_width=True).fit(X[:5]).n_iter_ == 4


@pytest.mark.parametrize("method", ["inverse_transform", "sample", *ASK])
def test_promise_14_methods_before_fit(method):
    ask = ASK.get(method, lambda model, rows: getattr(model, method)(2))
    with pytest.raises(NotFittedError, match="This DDVAETransformer instance is not fitted yet"):
        ask(small(), X)


def test_promise_14_set_params_does_not_alter_the_fitted_model():
    model = small().fit(X)
    before = model.transform(X), model.score_samples(X), model.sample(3, random_state=0)
    model.set_params(
        n_components=3,
        prior="square",
        likelihood="poisson",
        noising="linear",
        n_diffusion_steps=0,
        hidden_layer_sizes=(3,),
        activation="tanh",
        precision="bfloat16",
        device="nowhere",
        random_state=5,
        kl_weight=0.0,
    )
    after = model.transform(X), model.score_samples(X), model.sample(3, random_state=0)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.prior_.name == "normal"
    assert model.inverse_transform(before[0]).shape == X.shape
    assert len(model.get_feature_names_out()) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_components", 3),
        ("prior", "pinwheel"),
        ("likelihood", "poisson"),
        ("noising", np.array([0.1, 0.2, 0.3])),
        ("n_diffusion_steps", 0),
        ("hidden_layer_sizes", (3,)),
        ("denoiser_width", 7),
        ("activation", "tanh"),
        ("device", "auto"),
    ],
)
def test_promise_14_warm_start_of_another_model(name, value):
    model = small(warm_start=True).fit(X)
    old = getattr(model, name)
    before = model.transform(X)
    with pytest.raises(ValueError, match="warm_start=True goes on with the fitted model") as caught:
        model.set_params(**{name: value}).fit(X)
    assert f"which has {name}={old!r}, found {name}={value!r}" in str(caught.value)
    np.testing.assert_array_equal(model.transform(X), before)
    model.set_params(**{name: old}, learning_rate_init=1e-4, max_iter=1).fit(X)
    assert model.n_iter_ == 5


def test_promise_14_warm_start_with_other_columns():
    model = small(warm_start=True).fit(X)
    with pytest.raises(ValueError, match="X has 5 features, but DDVAETransformer is expecting 6"):
        model.fit(X[:, :5])


def test_promise_14_regularizers_need_names_of_their_own():
    def elbo(z, rows):
        return z.sum()

    first, second = (lambda z, rows: z.sum()), (lambda z, rows: z.sum())
    for regularizer, name in [(elbo, "elbo"), ([first, second], "<lambda>")]:
        with pytest.raises(ValueError, match=f"name of its own for history_, found '{name}' taken"):
            small(regularizer=regularizer).fit(X)
    with pytest.raises(ValueError, match=r"regularizer must be callable .* found 3"):
        small(regularizer=[first, 3]).fit(X)


# ------------------------------------------------------------------------------ 15. devices


@pytest.mark.parametrize("name", ["cuda", "cuda:99", "mps", "banana", "meta"])
def test_promise_15_missing_device(name, monkeypatch):
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 0)
    model = small(device=name)
    message = f"device={name!r} is not available; the devices here are cpu. .*device='cpu'"
    with pytest.raises(RuntimeError, match=message):
        model.fit(X)


@pytest.mark.parametrize("name", ["mps", "mps:0"])
def test_promise_15_a_device_without_float64(name, monkeypatch):
    monkeypatch.setattr(device_module.torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RuntimeError, match=rf"device='{name}' .* MPS has no float64.*device='cpu'"):
        small(device=name).fit(X)
    assert device_module.resolve_device("auto").type == "cpu"


def test_promise_15_devices_are_listed(monkeypatch):
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RuntimeError, match="the devices here are cpu, cuda:0, cuda:1"):
        small(device="cuda:2").fit(X)


def test_promise_15_forked_worker(monkeypatch):
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device_module.torch.cuda, "_is_in_bad_fork", lambda: True)
    message = "device='cuda' cannot be used in a forked process; .*loky.*device='cpu'"
    with pytest.raises(RuntimeError, match=message):
        small(device="cuda").fit(X)


def test_promise_15_auto_is_the_cpu_where_there_is_no_other(monkeypatch, fitted):
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 0)
    model = small(device="auto").fit(X)
    np.testing.assert_array_equal(model.transform(X), fitted.transform(X))
