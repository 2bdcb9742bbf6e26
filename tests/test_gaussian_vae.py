"""Without diffusion steps the engine is the textbook variational autoencoder.

The model is x ~ N(W z + b, sigma^2 I) with z ~ N(0, I), the posterior q(z|x) = N(m, diag t^2), and
the divergence has the closed form 1/2 (|t|^2 - d + |m|^2 - 2 sum log t) of Kingma and Welling
(2014). Gradients are checked against finite differences here too, with and without a chain.
"""

import numpy as np
import pytest
import torch
from _linear_gaussian import (
    N_FEATURES,
    draw_rows,
    log_weights,
    make_model,
    parts,
    perturb,
    set_posterior,
)
from scipy.stats import norm

from skddvi import DDVAETransformer
from skddvi._engine.objective import bound_terms, kl_per_dimension, training_loss


def standard_error(draws):
    return draws.std(axis=0) / np.sqrt(len(draws))


@pytest.fixture
def vae():
    """Return a model without a chain, rows, and means (n, d) and spreads (n, d) of its q(z|x)."""
    model = make_model(n_steps=0, variance=0.3)
    set_posterior(model)
    perturb(model, encoder=0.4, denoiser=0.0)
    x = draw_rows(model, 6)
    posterior = model.posterior
    mean, log_std = (value.detach().numpy() for value in model.infer(x))
    loc, scale = posterior.loc.numpy(), posterior.scale.numpy()
    return model, x, loc + scale * mean, scale * np.exp(log_std)


def terms_of(model, x, n_draws):
    generator = torch.Generator().manual_seed(0)
    shape = n_draws, len(x), model.posterior.noise_size
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    condition = model.infer(x)
    with torch.no_grad():
        return bound_terms(model, x, condition, noise)


def closed_form_divergence(mean, std):
    return 0.5 * (std**2 - 1 + mean**2 - 2 * np.log(std))


def test_the_divergence_is_that_of_the_textbook(vae):
    model, x, mean, std = vae
    terms = terms_of(model, x, 40_000)
    assert set(terms.posterior) == {"posterior_entropy"}
    divergence = -terms.regularisation.numpy()
    expected = closed_form_divergence(mean, std).sum(1)
    assert expected.min() > 0.5
    assert (standard_error(divergence) < 0.03).all()
    assert (abs(divergence.mean(0) - expected) < 4.5 * standard_error(divergence)).all()


def test_the_reconstruction_and_the_bound_are_those_of_the_textbook(vae):
    model, x, mean, std = vae
    weight, bias, variance, center, scale = parts(model)
    assert variance == pytest.approx(0.3)
    residual = (x.numpy() - center) / scale - bias - mean @ weight.T
    squares = (residual**2).sum(1) + (std**2 @ (weight**2).T).sum(1)
    reconstruction = -0.5 * (squares / 0.3 + N_FEATURES * np.log(2 * np.pi * 0.3))
    reconstruction -= np.log(scale).sum()
    terms = terms_of(model, x, 40_000)
    drawn = terms.reconstruction.numpy()
    assert (abs(drawn.mean(0) - reconstruction) < 4.5 * standard_error(drawn)).all()
    bound = reconstruction - closed_form_divergence(mean, std).sum(1)
    log_weight = log_weights(model, x, 40_000)
    assert (abs(log_weight.mean(0) - bound) < 4.5 * standard_error(log_weight)).all()
    means = terms.means()
    assert means["elbo"].item() == pytest.approx(log_weight.mean())
    terms = {"reconstruction", "log_prior", "posterior_entropy", "elbo"}
    assert set(means) == terms | {"importance_weighted_bound"}


def test_the_divergence_of_each_dimension_is_that_of_the_textbook(vae):
    """Under a prior whose own location and scale are those that the latents are standardised by."""
    model, x, mean, std = vae
    loc, scale = model.posterior.loc.numpy(), model.posterior.scale.numpy()
    found = kl_per_dimension(model, terms_of(model, x, 40_000)).numpy()
    expected = closed_form_divergence((mean - loc) / scale, std / scale).mean(0)
    assert found == pytest.approx(expected, abs=0.02)


def test_each_draw_has_the_density_that_it_was_drawn_from(vae):
    model, x, mean, std = vae
    terms = terms_of(model, x, 100)
    expected = -norm.logpdf(terms.z.numpy(), mean, std)
    assert terms.posterior["posterior_entropy"].numpy() == pytest.approx(expected, rel=1e-10)
    prior = norm.logpdf(terms.z.numpy()).sum(-1)
    assert terms.log_prior.numpy() == pytest.approx(prior, rel=1e-10)


def test_an_estimator_without_steps_is_that_model():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(200, 6))
    estimator = DDVAETransformer(
        n_diffusion_steps=0, hidden_layer_sizes=(16,), max_iter=20, random_state=0
    ).fit(X)
    assert "terminal" not in estimator.history_
    assert "sleep" not in estimator.history_  # "auto" has nothing to teach a single Gaussian
    draws = estimator.sample_posterior(X, 2000, random_state=0)
    mode = estimator.transform(X)
    assert draws.mean(0) == pytest.approx(mode, abs=0.15)
    skewness = ((draws - draws.mean(0)) ** 3).mean(0) / draws.std(0) ** 3
    assert abs(skewness).mean() < 0.06


# --------------------------------------------------------------------------- gradients


def gradient_and_difference(model, objective, step=1e-5):
    """Return {parameter: (derivative by autograd, by central differences)} along random lines."""
    generator = torch.Generator().manual_seed(0)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(objective(), parameters.values(), allow_unused=True)
    derivatives = {}
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                parameter.add_(sign * step * direction)
                values.append(objective().item())
                parameter.sub_(sign * step * direction)
        analytic = 0.0 if gradient is None else (gradient * direction).sum().item()
        derivatives[name] = analytic, (values[0] - values[1]) / (2 * step)
    return derivatives


def assert_equal_derivatives(derivatives, without_effect=()):
    for name, (analytic, numeric) in derivatives.items():
        assert analytic == pytest.approx(numeric, rel=1e-5, abs=1e-7), name
        if name in without_effect:
            assert numeric == 0.0, name
        else:
            assert abs(numeric) > 1e-5, name


def trainable_model(n_steps, noising):
    model = make_model(
        n_steps=n_steps, noising=noising, variance="learned", hidden_layer_sizes=(4,)
    )
    perturb(model, encoder=0.2, denoiser=0.6)
    return model, draw_rows(model, 8)


@pytest.mark.parametrize(
    ("n_steps", "noising"),
    [(0, None), (1, "cosine"), (4, "cosine"), (4, "linear"), (4, "variance_exploding")],
    ids=str,
)
def test_the_gradient_of_the_bound_is_that_of_finite_differences(n_steps, noising):
    model, x = trainable_model(n_steps, noising)
    shape = 3, len(x), model.posterior.noise_size
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def bound():
        condition = model.infer(x)
        return bound_terms(model, x, condition, noise).log_weight.mean()

    derivatives = gradient_and_difference(model, bound)
    assert any("denoiser.output" in name for name in derivatives) == (n_steps > 0)
    assert "likelihood.log_variance" in derivatives
    assert_equal_derivatives(derivatives, without_effect={"posterior.no_context"})


@pytest.mark.parametrize("sleep", ["conditional", "latent", "off"])
@pytest.mark.parametrize("n_steps", [0, 1, 4])
def test_the_gradient_of_the_training_loss_is_that_of_finite_differences(n_steps, sleep):
    """Dreams are made by the decoder, and yet it learns nothing from them: it is held still."""
    model, x = trainable_model(n_steps, "cosine")
    still, _ = trainable_model(n_steps, "cosine")

    def loss():
        generator = torch.Generator().manual_seed(2)
        kwargs = {"generator": generator, "sleep": sleep, "sleep_weight": 0.4}
        return training_loss(model, x, kl_weight=0.6, **kwargs)[0]

    from skddvi._engine import objective

    dream = objective.dream
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "dream", lambda model, *args: dream(still, *args))
        derivatives = gradient_and_difference(model, loss)
    unused = set() if sleep == "latent" and n_steps > 1 else {"posterior.no_context"}
    assert_equal_derivatives(derivatives, without_effect=unused)


def test_the_bound_of_many_draws_has_the_gradient_of_its_weights():
    """The gradient of bound (7) is the gradient of log w averaged with normalised weights."""
    from skddvi._engine.objective import importance_weighted_bound

    model, x = trainable_model(4, "cosine")
    shape = 5, len(x), model.posterior.noise_size
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    condition = model.infer(x)
    log_weight = bound_terms(model, x, condition, noise).log_weight
    share = torch.autograd.grad(importance_weighted_bound(log_weight).sum(), log_weight)[0]
    assert share.sum(0).numpy() == pytest.approx(1.0)
    expected = (log_weight - log_weight.logsumexp(0)).exp().detach()
    assert share.numpy() == pytest.approx(expected.numpy())
