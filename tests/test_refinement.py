"""Corrections of what the encoder says of a row by what the decoder says of it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from _linear_gaussian import draw_rows, exact_posterior, make_model, parts, perturb
from _linear_gaussian import evidence as log_evidence
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skddvi import DDVAETransformer, load, save
from skddvi._engine import refinement, trainer
from skddvi._engine.networks import ACTIVATIONS, Decoder
from skddvi._engine.objective import bound_terms, importance_weighted_bound, noise_shape
from skddvi._engine.refinement import climb, evidence
from skddvi._engine.user_networks import UserDecoder
from skddvi.likelihoods import resolve_likelihood
from skddvi.priors import PinwheelPrior, UserPrior
from skddvi.regularizers import NeighborhoodPreservation

SMALL = {
    "hidden_layer_sizes": (16,),
    "denoiser_width": 8,
    "batch_size": 32,
    "max_iter": 5,
    "init": "random",
    "random_state": 0,
}
COUNTS = {"poisson", "negative_binomial"}


class Laplace:
    """A user's prior with a density that has a kink."""

    n_components = 2

    def sample(self, n_samples, generator):
        uniform = 2.0 * torch.rand(n_samples, 2, generator=generator, dtype=torch.float64) - 1.0
        return -uniform.sign() * (1.0 - uniform.abs()).log()

    def log_prob(self, z):
        return -z.abs().sum(-1) - 2.0 * np.log(2.0)


class Flat(Laplace):
    """A user's prior whose density is the same everywhere that it looks at."""

    def log_prob(self, z):
        return torch.zeros(len(z), dtype=torch.float64)


def bent_rows(n_rows, seed=0):
    """Rows on a surface of two dimensions that bends through twenty."""
    rng = np.random.default_rng(9)
    first, second = rng.normal(size=(2, 12)), rng.normal(size=(12, 20))
    rng = np.random.default_rng(seed)
    rows = np.tanh(2.0 * rng.normal(size=(n_rows, 2)) @ first) @ second
    return rows + 0.3 * rng.normal(size=rows.shape)


X = bent_rows(200)


def shake(model, size, seed=0):
    """Give the corrections random weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.refiners.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(size * noise * parameter.shape[-1] ** -0.5)


# ------------------------------------------------------------------------- what the decoder says


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden_layer_sizes", [(), (7, 5)])
def test_the_decoder_is_linearised_as_automatic_differentiation_does(
    activation, hidden_layer_sizes
):
    generator = torch.Generator().manual_seed(0)
    loc, scale = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([2.0, 0.3, 1.0])
    decoder = Decoder(loc, scale, hidden_layer_sizes, activation, torch.zeros(4), generator)
    z, std = torch.randn(2, 6, 3, generator=generator)
    check_linearised(decoder, loc, scale, z, std.exp())


def check_linearised(decoder, loc, scale, z, std):
    """Compare with the Jacobian of each row, in units of std of the standardised latents."""
    with torch.no_grad():
        output, tangents = decoder.linearised(z, std)
    torch.testing.assert_close(output, decoder(z).detach())
    assert tangents.shape == (z.shape[1], *output.shape)
    for row in range(len(z)):
        slope = torch.autograd.functional.jacobian(lambda z: decoder(z[None])[0], z[row])
        expected = slope.T * (scale * std[row])[:, None]
        torch.testing.assert_close(tangents[:, row], expected, atol=1e-5, rtol=1e-4)


def test_a_decoder_of_the_users_is_linearised_without_its_noise():
    def factory(n_inputs, n_outputs):
        layers = nn.Linear(n_inputs, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(0.5)
        return nn.Sequential(*layers, nn.Linear(9, n_outputs))

    generator = torch.Generator().manual_seed(0)
    loc, scale = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.3])
    decoder = UserDecoder(loc, scale, factory, torch.zeros(4), generator).train()
    z = torch.randn(6, 2, generator=generator)
    first = decoder.linearised(z, torch.ones(6, 2))
    assert decoder.training
    assert decoder.body.network[1].num_batches_tracked == 0
    torch.testing.assert_close(decoder.linearised(z, torch.ones(6, 2)), first)
    check_linearised(decoder.eval(), loc, scale, z, torch.full((6, 2), 0.7))


def rows_for(name, rng, n_rows=40):
    if name == "gaussian":
        return rng.normal(size=(n_rows, 5)) * [1, 10, 100, 0.1, 1]
    if name == "binomial":
        return np.where(rng.random((n_rows, 5)) < 0.2, np.nan, rng.integers(0, 3, (n_rows, 5)))
    if name in COUNTS:
        return rng.poisson(4.0, (n_rows, 5)).astype(float)
    return rng.uniform(0.05, 0.95, (n_rows, 5))


@pytest.mark.parametrize(
    "name", ["gaussian", "bernoulli", "binomial", "poisson", "negative_binomial"]
)
def test_gradient_and_curvature_are_those_of_the_likelihood(name):
    """The curvature is that of log p(x|output), which a decoder that is linear there keeps."""
    rows = rows_for(name, np.random.default_rng(0))
    model = make_model(hidden_layer_sizes=(7,))
    likelihood = resolve_likelihood(name).fit(rows).double()
    x = torch.from_numpy(rows[:4])
    place = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    std = torch.full((4, 2), 0.6, dtype=torch.float64)
    with torch.no_grad():
        found = refinement._slopes(model.posterior, model.decoder, likelihood, place, std, x)
        output, tangents = model.decoder.linearised(model.posterior._unstandardise(place), std)
    for row in range(4):

        def log_prob(output, row=row):
            return likelihood.log_prob(x[row : row + 1], output[None])[0]

        score = torch.autograd.functional.jacobian(log_prob, output[row])
        hessian = torch.autograd.functional.hessian(log_prob, output[row])
        along = tangents[:, row]
        torch.testing.assert_close(found[0][row], along @ score)
        torch.testing.assert_close(found[1][row], -along @ hessian @ along.T)


def test_the_step_leads_to_the_largest_likelihood_of_a_linear_decoder(monkeypatch):
    monkeypatch.setattr(refinement, "DAMPING", 0.0)
    model = make_model(n_steps=0)
    perturb(model, encoder=0.5, denoiser=0.0)
    x = draw_rows(model, 9)
    statistics = model.posterior.statistics(model.likelihood.encode(x))
    std, features = evidence(model.posterior, model.decoder, model.likelihood, statistics, x)
    place, _, step, *_ = features.split(2, dim=-1)
    weight, bias, variance, center, scale = parts(model)
    target = (x.numpy() - center) / scale - bias
    root = np.sqrt(variance)[:, None]
    best = np.linalg.lstsq(weight / root, target.T / root, rcond=None)[0].T
    reached = place + std * step.sinh()
    best = (best - model.posterior.loc.numpy()) / model.posterior.scale.numpy()
    np.testing.assert_allclose(reached.detach(), best, rtol=1e-8)


@settings(max_examples=20, deadline=None)
@given(block=st.integers(1, 200), seed=st.integers(0, 5))
def test_rows_do_not_depend_on_their_block(block, seed):
    model = make_model(hidden_layer_sizes=(7,))
    x = draw_rows(model, 11, seed=seed)
    statistics = model.posterior.statistics(model.likelihood.encode(x))
    given = model.posterior, model.decoder, model.likelihood
    expected = evidence(*given, statistics, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinement, "TANGENT_NUMBERS", block)
        torch.testing.assert_close(evidence(*given, statistics, x), expected)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    moved = evidence(*given, statistics[order], x[order])
    torch.testing.assert_close(moved, tuple(each[order] for each in expected))


@pytest.mark.parametrize(
    "prior",
    [None, PinwheelPrior(), UserPrior(Laplace()), UserPrior(Flat())],
    ids=["normal", "pinwheel", "Laplace", "flat"],
)
@pytest.mark.parametrize("hidden_layer_sizes", [(), (7,)])
def test_a_climb_never_descends(hidden_layer_sizes, prior):
    model = make_model(prior, hidden_layer_sizes=hidden_layer_sizes)
    x = draw_rows(model, 50)
    generator = torch.Generator().manual_seed(1)
    z = model.prior.sample(50, generator).double()
    far = 0.02 if isinstance(prior, PinwheelPrior) else 0.5  # its ridges are thin
    z = z + far * torch.randn(50, 2, generator=generator, dtype=torch.float64)

    def log_joint(z):
        with torch.no_grad():
            return model.likelihood.log_prob(x, model.decoder(z)) + model.prior.log_prob(z)

    reached = climb(model, z, x, n_steps=3)
    gain = log_joint(reached) - log_joint(z)
    assert (gain > -1e-8).all()
    assert (gain > 1e-8).double().mean() > 0.8


def test_a_climb_ends_at_the_exact_posterior_of_a_linear_model():
    model = make_model()
    x = draw_rows(model, 9)
    reached = climb(model, torch.zeros(9, 2, dtype=torch.float64), x, n_steps=30)
    np.testing.assert_allclose(reached, exact_posterior(model, x)[0], atol=1e-6)


@pytest.mark.parametrize("hidden_layer_sizes", [(), (7,)])
def test_a_climb_does_not_depend_on_the_batch(hidden_layer_sizes):
    """Also at the top, where rounding says whether the last step was one upwards."""
    model = make_model(hidden_layer_sizes=hidden_layer_sizes)
    x = draw_rows(model, 400)
    z = torch.zeros(400, 2, dtype=torch.float64)
    z[200:] = climb(model, z[200:], x[200:], n_steps=6)
    together = climb(model, z, x, n_steps=3)
    alone = torch.cat([climb(model, z[i : i + 1], x[i : i + 1], n_steps=3) for i in range(400)])
    torch.testing.assert_close(alone, together, atol=1e-8, rtol=0.0)


# ----------------------------------------------------------------------------- the correction


@pytest.mark.parametrize("prior", [None, PinwheelPrior()], ids=["normal", "pinwheel"])
@pytest.mark.parametrize("n_steps", [0, 3])
def test_an_untrained_correction_is_none(n_steps, prior):
    model = make_model(prior, n_steps, hidden_layer_sizes=(7,), n_refinements=2)
    x = draw_rows(model, 6)
    statistics = model.posterior.statistics(model.likelihood.encode(x))
    expected = model.posterior.condition_on(statistics)
    for found, one in zip(model.infer(x), expected, strict=True):
        assert torch.equal(found, one)
    shake(model, 0.5)
    assert not torch.equal(model.infer(x)[0], expected[0])
    model.refines = False
    assert torch.equal(model.infer(x)[0], expected[0])


@pytest.mark.parametrize("n_steps", [0, 3])
@pytest.mark.parametrize("size", [0.3, 2.0])
def test_a_corrected_bound_is_a_bound(n_steps, size):
    """Whatever the corrections are; and its limit is the evidence."""
    model = make_model(n_steps=n_steps, n_refinements=2)
    x = draw_rows(model, 20)
    shake(model, size)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        condition = model.infer(x)
        shape = noise_shape(model.posterior, len(x), 4000)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        log_weight = bound_terms(model, x, condition, noise).log_weight.numpy()
    error = log_weight.std(0) / len(log_weight) ** 0.5
    exact = log_evidence(model, x)
    assert (log_weight.mean(0) <= exact + 4.5 * error).all()
    tight = importance_weighted_bound(torch.from_numpy(log_weight)).numpy()
    assert (tight <= exact + 4.5 * np.exp(log_weight - tight).std(0) / 4000**0.5).all()
    assert (tight > log_weight.mean(0)).all()


def test_gradients_reach_the_encoder_and_the_correction():
    model = make_model(hidden_layer_sizes=(7,), n_refinements=1)
    perturb(model, encoder=0.5, denoiser=0.5)
    shake(model, 0.3)
    x = draw_rows(model, 6)
    noise = torch.zeros(6, model.posterior.noise_size, dtype=torch.float64)
    bound_terms(model, x, model.infer(x), noise).log_weight.sum().backward()
    for name in ("posterior.head.weight", "refiners.0.network.inputs.weight"):
        assert model.get_parameter(name).grad.abs().max() > 1e-6, name
    # The decoder is told of by what it says of draws alone.
    weight = model.decoder.output.weight
    found, weight.grad = weight.grad, None
    condition = [each.detach() for each in model.infer(x)]
    bound_terms(model, x, condition, noise).log_weight.sum().backward()
    torch.testing.assert_close(found, weight.grad)


# ----------------------------------------------------------------------------- the training


def test_corrections_begin_late_and_a_warm_start_goes_on_with_them(monkeypatch):
    seen = []
    own_loss = trainer.Loop.own_loss

    def watched(loop, indices):
        result = own_loss(loop, indices)
        seen.append(loop.model.refines)
        return result

    monkeypatch.setattr(trainer.Loop, "own_loss", watched)
    model = DDVAETransformer(**SMALL, n_refinements=1, warm_start=True).fit(X)
    assert seen == [step >= 0.4 * 35 for step in range(35)]
    assert model._engine.model.refines
    seen.clear()
    model.fit(X)
    assert seen == [True] * 35
    with pytest.raises(ValueError, match="n_refinements=1"):
        model.set_params(n_refinements=2).fit(X)


def test_a_fit_that_ends_before_they_begin_has_none():
    corrected = DDVAETransformer(**SMALL | {"batch_size": 200, "max_iter": 1}, n_refinements=1)
    model = corrected.fit(X)._engine.model
    assert model.refines
    assert not model.refiners[0].is_trained()


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (X, {}, (0, 10)),
        (np.tile(X, (1, 5)), {}, (0, 10)),
        (np.tile(X, (1, 6)), {}, (0, 0)),
        (np.tile(X, (26, 1)), {}, (0, 0)),
        (X, {"n_components": 3}, (0, 10)),
        (X, {"n_components": 4}, (0, 0)),
        (X, {"n_diffusion_steps": 0}, (0, 0)),
        (X, {"regularizer": [NeighborhoodPreservation(n_neighbors=5)]}, (0, 0)),
        (X, {"decoder": lambda n, m: nn.Linear(n, m)}, (0, 0)),
        (X, {"decoder": lambda n, m: nn.Linear(n, m), "n_refinements": 2}, (2, 0)),
        (X[:50], {"n_diffusion_steps": 0, "n_refinements": 1, "n_map_steps": 2}, (1, 2)),
    ],
)
def test_how_many_there_are(rows, options, expected):
    model = DDVAETransformer(**SMALL | {"max_iter": 1} | options).fit(rows)
    fitted = model._engine.model
    assert (len(fitted.refiners), fitted.n_map_steps) == expected
    assert np.isfinite(model.score_samples(rows)).all()
    assert np.isfinite(model.transform(rows)).all()


def test_transform_climbs_and_nothing_else_does():
    models = [DDVAETransformer(**SMALL, n_map_steps=n).fit(X) for n in (0, 10)]
    path, climbed = (model.transform(X) for model in models)
    assert np.array_equal(models[0].score_samples(X), models[1].score_samples(X))
    draws = [model.sample_posterior(X, 3, random_state=0) for model in models]
    assert np.array_equal(*draws)
    model, x = models[0]._engine.model.double(), torch.from_numpy(X)

    def log_joint(Z):
        z = torch.from_numpy(Z)
        with torch.no_grad():
            return model.likelihood.log_prob(x, model.decoder(z)) + model.prior.log_prob(z)

    gain = log_joint(climbed) - log_joint(path)
    assert gain.min() > -1e-6
    assert gain.mean() > 0.01


@pytest.mark.parametrize("name", ["bernoulli", "binomial", "poisson", "negative_binomial"])
def test_each_likelihood_trains_with_them(name):
    rows = rows_for(name, np.random.default_rng(0), n_rows=60)
    model = DDVAETransformer(likelihood=name, **SMALL, n_refinements=1).fit(rows)
    assert model._engine.model.refiners[0].is_trained()
    Z = model.transform(rows)
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(model.transform(rows[order]), Z[order], atol=1e-9)
    np.testing.assert_allclose(model.transform(rows[7:8]), Z[7:8], atol=1e-9)


def test_a_saved_model_has_them(tmp_path):
    model = DDVAETransformer(**SMALL, n_refinements=2).fit(X)
    path = tmp_path / "model.safetensors"
    save(model, path)
    np.testing.assert_array_equal(load(path).transform(X), model.transform(X))


@pytest.mark.slow
def test_the_bound_of_other_rows_gains():
    gains = []
    for seed in range(3):
        fits = [
            DDVAETransformer(n_refinements=n, random_state=seed).fit(bent_rows(800, seed))
            for n in (0, 1)
        ]
        held_out = bent_rows(800, seed + 100)
        gains.append(fits[1].score(held_out) - fits[0].score(held_out))
    assert np.mean(gains) > 0.1, gains


def test_a_layout_is_turned_to_what_the_encoder_alone_says_at_first():
    """Before the first step the decoder has nothing to say, nor is a regulariser shown any."""
    seen = []

    class Watcher:
        name = "watcher"

        def attach(self, view):
            rows = torch.arange(view.n_rows)
            seen.append(view.embed(view.rows(rows)))

        def __call__(self, z, rows):
            return 0.0 * z.sum()

    for n_refinements in (0, 1):
        options = SMALL | {"max_iter": 1, "regularizer": Watcher()}
        DDVAETransformer(**options, n_refinements=n_refinements).fit(X)
    assert torch.equal(*seen)


# ----------------------------------------------------------------------------- round about


def test_inference_mode_changes_nothing():
    model = DDVAETransformer(**SMALL, n_refinements=1).fit(X)

    def answers():
        draws = model.sample_posterior(X, 2, random_state=0)
        return model.transform(X), model.score_samples(X), draws

    expected = answers()
    with torch.inference_mode():
        found = answers()
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("prior", ["normal", "square", "swiss_roll"])
def test_places_of_single_precision_do_not_depend_on_the_batch(prior):
    single = X.astype(np.float32)
    model = DDVAETransformer(**SMALL | {"max_iter": 20}, prior=prior).fit(X)
    Z = model.transform(single)
    assert Z.dtype == np.float32
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(model.transform(single[order]), Z[order], atol=1e-6)
    np.testing.assert_allclose(model.transform(single[3:4]), Z[3:4], atol=1e-6)


def test_a_fit_that_fails_before_its_first_step_leaves_the_model_alone():
    class Failing:
        name = "failing"
        fails = False

        def attach(self, view):
            if self.fails:
                raise KeyboardInterrupt

        def __call__(self, z, rows):
            return 0.0 * z.sum()

    options = SMALL | {"n_refinements": 1, "warm_start": True, "regularizer": Failing()}
    model = DDVAETransformer(**options).fit(X)
    expected = model.transform(X)
    model.regularizer.fails = True
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    np.testing.assert_array_equal(model.transform(X), expected)


def test_threads_may_ask_a_model_with_a_decoder_of_the_users():
    options = {"decoder": lambda n, m: nn.Sequential(nn.Linear(n, 9), nn.Tanh(), nn.Linear(9, m))}
    model = DDVAETransformer(**SMALL, **options, n_refinements=1, n_map_steps=3).fit(X)
    expected = model.transform(X)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.transform(X), range(8)):
            np.testing.assert_array_equal(found, expected)
