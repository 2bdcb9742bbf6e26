"""The gradients that are written out by hand, against automatic differentiation."""

import gc
import math

import pytest
import torch
from _linear_gaussian import draw_rows, make_model, perturb

from skddvi._engine import chain, posteriors
from skddvi._engine.moments import KernelMoments, PriorMoments
from skddvi.mixture_prior import MixturePrior
from skddvi.priors import (
    EmpiricalPrior,
    GaussianMixturePrior,
    NormalPrior,
    PinwheelPrior,
    SquarePrior,
    SwissRollPrior,
    UserPrior,
    _kernel,
)


class Normal:
    """A user's prior of which nothing else is known."""

    n_components = 2

    def sample(self, n_samples, generator):
        return torch.randn(n_samples, 2, generator=generator, dtype=torch.float64)

    def log_prob(self, z):
        return -0.5 * z.square().sum(-1) - 1.8378770664093453


class WithoutGradient(Normal):
    """One whose moments are constants to torch."""

    def denoise(self, y, variance):
        shrinkage = 1.0 / (1.0 + variance.detach())
        return y.detach() * shrinkage, variance.detach() * shrinkage


def learned():
    prior = MixturePrior(NormalPrior(2), 3)
    prior.set_components([[-1, 0], [1, 0.3], [0, 1]], [[0.3, 0.2]] * 3, [1, 2, 1])
    return prior


def frozen():
    prior = learned()
    prior.freeze()
    return prior


PRIORS = {
    "normal": lambda: NormalPrior(2),
    "gaussian mixture": lambda: GaussianMixturePrior([[-1, 0], [1, 0.5]], [0.3, 0.5]),
    "pinwheel": lambda: PinwheelPrior(n_arms=5),
    "mixture that is learned": learned,
    "mixture that is frozen": frozen,
    "user's": lambda: UserPrior(Normal()),
    "user's without gradient": lambda: UserPrior(WithoutGradient()),
}


def plain(posterior, y, steps, condition, noises=()):
    """What :func:`walk` returns, with the graph of every operation."""
    return chain._walk(posterior, y, steps, condition, noises)


def gradients(model, x, part, n_draws):
    """Return the gradients of something that depends on all that a posterior gives, by name."""
    posterior, generator = model.posterior, torch.Generator().manual_seed(0)
    statistics = posterior.head(posterior.body(model.likelihood.encode(x)))
    condition = posterior.condition_on(statistics, part)
    shape = (*([] if n_draws is None else [n_draws]), len(x), posterior.noise_size)
    draw = posterior.draw(condition, torch.randn(shape, generator=generator, dtype=torch.float64))
    z = model.prior.sample(len(x), generator).double()
    loss = (
        draw.z.sin().sum()
        + sum(term.cos().sum() for term in draw.terms.values())
        + posterior.mode(condition).sin().sum()
        + posterior.sleep_loss(condition, z, generator).sum()
        + posterior.latent_sleep_loss(z, generator).sum()
    )
    model.zero_grad()
    loss.backward(retain_graph=True)
    loss.backward()  # the graphs within serve more than once, too
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("n_steps", "n_draws"), [(1, 3), (2, None), (5, 3)])
@pytest.mark.parametrize("with_part", [False, True], ids=["", "part"])
@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("kind", ["diffusion", "unconditional_diffusion"])
def test_gradients_of_the_chain_are_those_of_automatic_differentiation(
    kind, name, with_part, n_steps, n_draws, monkeypatch
):
    prior = PRIORS[name]()
    model = make_model(prior, n_steps, posterior=(kind, {}), hidden_layer_sizes=(7,))
    perturb(model, encoder=0.5, denoiser=0.7)
    x, part = draw_rows(model, 6), torch.arange(6) % prior.n_parts if with_part else None
    found = gradients(model, x, part, n_draws)
    monkeypatch.setattr(posteriors, "walk", plain)
    expected = gradients(model, x, part, n_draws)
    assert found.keys() >= expected.keys()
    assert any("denoiser" in name for name in expected)
    assert any(name.startswith("prior") for name in found) == (name == "mixture that is learned")
    for name, gradient in found.items():
        wanted = expected.get(name, torch.zeros_like(gradient))
        assert (gradient - wanted).abs().max() <= 1e-12 * wanted.abs().max()


@pytest.mark.parametrize("block_size", [None, 1000], ids=["", "blocks"])
@pytest.mark.parametrize(
    ("prior", "args"),
    [
        (PinwheelPrior, {}),
        (PinwheelPrior, {"noise": 0.001}),
        (SwissRollPrior, {}),
        (SquarePrior, {"noise": 0.4}),
        (EmpiricalPrior, {"samples": [[-9.0, 0.1], [3.0, 0.5], [4, 0]], "bandwidth": [2, 0.5]}),
        (EmpiricalPrior, {"samples": [[0.0, 1.0, 2.0]], "bandwidth": 0.5}),
    ],
)
@pytest.mark.parametrize("kind", ["diffusion", "unconditional_diffusion"])
def test_the_chain_of_a_kernel_prior_is_that_of_any_prior_with_its_moments(
    kind, prior, args, block_size, monkeypatch
):
    class Any(prior):
        def denoise(self, y, variance, part=None):
            return super().denoise(y, variance, part)

    if block_size:
        monkeypatch.setattr(_kernel, "_BLOCK_SIZE", block_size)
    found, expected = [], []
    for results, each, moments in (
        (found, prior(**args), KernelMoments),
        (expected, Any(**args), PriorMoments),
    ):
        model = make_model(each, 5, posterior=(kind, {}), hidden_layer_sizes=(7,))
        perturb(model, encoder=0.5, denoiser=0.7)
        x = draw_rows(make_model(prior(**args), 5, hidden_layer_sizes=(7,)), 6)
        condition = model.infer(x)
        assert {type(step.moments) for step in model.posterior._chain(condition).values()} == {
            moments
        }
        results += [model.posterior.mode(condition)]
        results += gradients(model, x, None, 3).values()
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-9 * other.abs().max()


def narrower(denoise):
    """Return a method like ``denoise`` that is surer of values nearer to zero."""

    def method(*args):
        mean, left = denoise(*args)
        return 0.5 * mean, 0.25 * left

    return method


class Shifted(PinwheelPrior):
    """Its latents are shifted by an offset that is learned."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.full((2,), 0.1, dtype=torch.float64))

    def denoise(self, y, variance, part=None):
        mean, left = super().denoise(y - self.shift, variance, part)
        return mean + self.shift, left


@pytest.mark.parametrize(
    ("kind", "name"),
    [(PinwheelPrior, "denoise"), (PinwheelPrior, "_denoise"), (NormalPrior, "denoise")],
)
def test_moments_that_a_user_has_changed_are_those_of_the_chain(kind, name):
    subclass = type("Subclass", (kind,), {name: narrower(getattr(kind, name))})()
    changed, modes = kind(), []
    changed.denoise = narrower(changed.denoise)
    for prior in (subclass, changed, kind()):
        posterior = make_model(prior, 3, hidden_layer_sizes=(7,)).posterior
        inputs = torch.ones(2, posterior.body[0].in_features, dtype=torch.float64)
        modes.append(posterior.mode(posterior.condition_on(posterior.statistics(inputs))))
    torch.testing.assert_close(modes[0], modes[1], rtol=1e-9, atol=1e-12)
    assert (modes[2] - modes[0]).abs().max() > 0.01


@pytest.mark.parametrize("prior", [Shifted, lambda: NormalPrior(2), PinwheelPrior])
def test_a_prior_may_have_parameters_of_its_own(prior, monkeypatch):
    prior = prior()
    prior.register_parameter("unused", torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    model = make_model(prior, 3, hidden_layer_sizes=(7,))
    perturb(model, encoder=0.5, denoiser=0.7)
    x = draw_rows(model, 6)
    found = gradients(model, x, None, 2)
    monkeypatch.setattr(posteriors, "walk", plain)
    expected = gradients(model, x, None, 2)
    assert isinstance(prior, Shifted) == ("prior.shift" in expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_gradients_of_moments_under_autocast_are_in_full_precision():
    prior, y = PinwheelPrior(), torch.linspace(-1, 1, 10, dtype=torch.float32).view(5, 2)
    variance, found = torch.full((5, 2), 0.3, dtype=torch.float32), []
    y.requires_grad_()
    for low in (False, True):
        for again in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                mean, left = prior.denoise(y, variance)
                found += torch.autograd.grad((mean + left).sum(), y, create_graph=again)
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prior", [NormalPrior(2), PinwheelPrior()], ids=["normal", "pinwheel"])
def test_gradients_of_the_chain_under_autocast_are_in_full_precision(prior):
    model = make_model(prior, 3, hidden_layer_sizes=(7,)).to(torch.float32)
    perturb(model, encoder=0.5, denoiser=0.7)
    posterior, generator = model.posterior, torch.Generator().manual_seed(0)
    statistics = torch.randn(
        6, posterior.head.out_features, generator=generator, dtype=torch.float32
    )
    found = []
    for low in (False, True):
        posterior.zero_grad()
        z = posterior.mode(posterior.condition_on(statistics))
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            z.sin().sum().backward()
        found.append(posterior.denoiser.hidden.weight.grad.clone())
    assert found[0].abs().max() > 0.0
    assert torch.equal(*found)


def test_a_chain_without_gradient_is_the_same():
    model = make_model(PinwheelPrior(n_arms=5), n_steps=4)
    perturb(model, encoder=0.5, denoiser=0.7)
    condition = model.infer(draw_rows(model, 6))
    noise = torch.randn(
        3, 6, model.posterior.noise_size, generator=torch.Generator().manual_seed(0)
    ).double()
    with torch.no_grad():
        expected = model.posterior.draw(condition, noise)
        mode, path = model.posterior.mode(condition), model.posterior.path(condition, noise)
    found = model.posterior.draw(condition, noise)
    assert found.z.requires_grad
    assert torch.equal(found.z, expected.z)
    assert torch.equal(found.log_ratio, expected.log_ratio)
    assert torch.equal(model.posterior.mode(condition), mode)
    assert torch.equal(model.posterior.path(condition, noise), path)


def test_gradients_of_weights_that_were_changed_meanwhile_are_refused():
    model = make_model(n_steps=4)
    condition = model.infer(draw_rows(model, 6))
    z = model.posterior.mode(condition)
    with torch.no_grad():
        model.posterior.denoiser.hidden.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


@pytest.mark.parametrize("part", [None, torch.tensor([0, 1, 1])], ids=["", "part"])
@pytest.mark.parametrize(
    "prior",
    [
        PinwheelPrior(n_arms=2),
        SwissRollPrior(),
        SquarePrior(),
        EmpiricalPrior([[-1.0, 0.0], [1.0, 0.5]], bandwidth=[0.3, 0.5]),
    ],
    ids=lambda prior: prior.name,
)
def test_gradients_of_the_moments_of_a_kernel_prior(prior, part):
    y = torch.tensor([[0.1, 0.4], [1.0, -0.5], [-3.0, 5.0]], dtype=torch.float64)
    variance = torch.tensor([[0.1, 0.3], [1.0, 0.02], [4.0, 9.0]], dtype=torch.float64)
    part = part if part is None else part % prior.n_parts
    inputs = y.requires_grad_(), variance.requires_grad_()
    assert torch.autograd.gradcheck(lambda y, v: prior.denoise(y, v, part), inputs)


def test_a_chain_leaves_nothing_in_memory():
    model = make_model(NormalPrior(2), 3, hidden_layer_sizes=(7,))
    x = draw_rows(model, 6)

    def n_tensors():
        gradients(model, x, None, None)
        model.zero_grad()
        gc.collect()
        return sum(type(each) is torch.Tensor for each in gc.get_objects())

    n_tensors()
    assert n_tensors() == n_tensors()


@pytest.mark.parametrize("name", ["normal", "pinwheel", "user's without gradient"])
def test_gradients_of_gradients_are_those_of_automatic_differentiation(name, monkeypatch):
    monkeypatch.setattr(_kernel, "_BLOCK_SIZE", 1000)
    model = make_model(PRIORS[name](), 3, hidden_layer_sizes=(7,))
    perturb(model, encoder=0.5, denoiser=0.7)
    x = draw_rows(model, 6)

    def of_a_contractive_penalty():
        inputs = model.likelihood.encode(x).detach().requires_grad_()
        z = model.posterior.mode(model.posterior.condition_on(model.posterior.statistics(inputs)))
        (slope,) = torch.autograd.grad(z.sum(), inputs, create_graph=True)
        model.zero_grad()
        slope.square().sum().backward()
        return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}

    found = of_a_contractive_penalty()
    monkeypatch.setattr(posteriors, "walk", plain)
    expected = of_a_contractive_penalty()
    assert "posterior.denoiser.hidden.weight" in found
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-12)


def test_moments_of_a_kernel_prior_have_second_derivatives():
    prior = PinwheelPrior(n_arms=3)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    variance = torch.full((3, 2), 0.3, dtype=torch.float64).requires_grad_()
    with torch.random.fork_rng():
        assert torch.autograd.gradgradcheck(lambda y, v: prior.denoise(y, v), (y, variance))


def test_slopes_are_precise_where_evidence_is_narrow():
    slopes = []
    for dtype in (torch.float64, torch.float32):
        posterior = make_model(n_steps=4).to(dtype).posterior
        variance = torch.full((1, 2), math.exp(-12.0), dtype=torch.float32).to(dtype)
        variance.requires_grad_()
        context = torch.zeros(1, 2 * posterior.denoiser.width, dtype=dtype)
        condition = None, None, None, variance, None, context
        shrinkage = posterior._at_steps(torch.tensor([[2]]), condition).moments.tensors[0]
        slopes.append(torch.autograd.grad(shrinkage.sum(), variance)[0].double())
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-5, atol=0.0)


def test_a_chain_takes_one_thread_and_gives_the_others_back():
    model, seen, before = make_model(n_steps=4), [], torch.get_num_threads()
    condition = model.infer(draw_rows(model, 6))
    model.posterior.denoiser.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        model.posterior.mode(condition).sum().backward()
        assert seen == [1] * 4
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
