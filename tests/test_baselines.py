"""The posteriors of other methods: their densities, their training, and their estimators.

The laws that hold for every posterior are asked of them on the linear-Gaussian model; see
``test_bound.py``.
"""

import numpy as np
import pytest
import torch
from _linear_gaussian import (
    draw_rows,
    evidence,
    evidence_by_quadrature,
    log_weights,
    make_model,
    perturb,
    set_posterior,
)
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skddvi import DDVAETransformer
from skddvi._engine.adversarial import Critic
from skddvi._engine.networks import MaskedNetwork, linear
from skddvi._engine.objective import bound_terms, importance_weighted_bound, training_loss
from skddvi._engine.rows import Rows
from skddvi._engine.trainer import Loop, Schedule
from skddvi.baselines import (
    IWAE,
    AdversarialAutoencoder,
    GaussianVAE,
    HierarchicalVAE,
    InverseAutoregressiveFlowVAE,
    UnconditionalLatentDiffusion,
)
from skddvi.metrics import maximum_mean_discrepancy
from skddvi.priors import NormalPrior, SquarePrior

N_SIGMA = 4.5
FLOW = "flow", {"n_blocks": 3, "flow_width": 6}
HIERARCHICAL = "hierarchical", {"auxiliary_width": 6}
UNCONDITIONAL = "unconditional_diffusion", {}
POINT = "point", {"critic": "gan", "critic_width": 6, "n_critic_steps": 1}


def standard_error(draws):
    return draws.std(axis=0) / np.sqrt(len(draws))


def near_model(posterior, prior=None):
    """Return a model of a posterior near the exact one, and rows; weights of small variance."""
    if posterior is UNCONDITIONAL:
        # Rows that say little of z: then a chain that follows the prior is not far off.
        noising = [0.1, 0.2, 0.3]
        model = make_model(prior, n_steps=3, noising=noising, gain=0.15, posterior=posterior)
        perturb(model, encoder=0.05, denoiser=0.1)
        with torch.no_grad():
            # Wider than the prior's own chain, so that the weights have a variance.
            model.posterior.head.bias[2:] = 0.6
            model.posterior.log_spread += 0.1
    else:
        model = make_model(n_steps=0, posterior=posterior)
        set_posterior(model, inflation=2.0)
        perturb(model, encoder=0.03, denoiser=0.12)
    return model, draw_rows(model, 3)


posteriors = pytest.mark.parametrize(
    "posterior", [FLOW, HIERARCHICAL, UNCONDITIONAL], ids=lambda posterior: posterior[0]
)


@posteriors
def test_importance_weights_are_unbiased(posterior):
    model, x = near_model(posterior)
    weight = np.exp(log_weights(model, x, 40_000) - evidence(model, x))
    assert (standard_error(weight) < 0.03).all()
    assert (abs(weight.mean(0) - 1) < N_SIGMA * standard_error(weight)).all()
    assert (weight.std(0) > 0.05).all()  # the exact posterior would have passed by itself


def test_importance_weights_of_the_blind_chain_are_unbiased_under_a_curved_prior():
    model, x = near_model(UNCONDITIONAL, SquarePrior(noise=0.3))
    weight = np.exp(log_weights(model, x, 40_000) - evidence_by_quadrature(model, x))
    assert (standard_error(weight) < 0.03).all()
    assert (abs(weight.mean(0) - 1) < N_SIGMA * standard_error(weight)).all()
    assert (weight.std(0) > 0.05).all()


@pytest.mark.parametrize("size", [0.1, 1.0])
@posteriors
def test_no_posterior_lifts_a_bound_above_the_evidence(posterior, size):
    n_steps = 3 if posterior is UNCONDITIONAL else 0
    model = make_model(n_steps=n_steps, posterior=posterior)
    perturb(model, encoder=size, denoiser=5 * size)
    x = draw_rows(model, 3)
    log_weight = torch.from_numpy(log_weights(model, x, 20_000))
    means = []
    for k in (1, 10, 1000):
        bound = importance_weighted_bound(log_weight.unflatten(0, (-1, k)).transpose(0, 1)).numpy()
        assert (bound.mean(0) < evidence(model, x) + N_SIGMA * standard_error(bound)).all()
        means.append(bound.mean(0))
    assert (np.diff(means, axis=0) > 0).all()


@pytest.mark.parametrize("posterior", [FLOW, HIERARCHICAL], ids=lambda posterior: posterior[0])
def test_untrained_it_is_the_gaussian_posterior(posterior):
    model, gaussian = make_model(n_steps=0, posterior=posterior), make_model(n_steps=0)
    set_posterior(model)
    set_posterior(gaussian)
    x = draw_rows(gaussian, 4)
    noise = torch.randn(
        9, 4, model.posterior.noise_size, generator=torch.Generator().manual_seed(0)
    ).double()

    def log_weight(model, noise):
        condition = model.infer(x)
        return bound_terms(model, x, condition, noise).log_weight.detach().numpy()

    # The hierarchical posterior draws its auxiliary variable first.
    expected = log_weight(gaussian, noise[..., -2:])
    assert log_weight(model, noise) == pytest.approx(expected, abs=1e-9)


@posteriors
def test_the_noise_free_latents_are_those_of_no_noise(posterior):
    model, x = near_model(posterior)
    condition = model.infer(x)
    silence = torch.zeros(len(x), model.posterior.noise_size, dtype=torch.float64)
    expected = model.posterior.draw(condition, silence).z
    assert torch.allclose(model.posterior.mode(condition), expected, rtol=0, atol=1e-12)


@posteriors
def test_the_path_of_a_draw_ends_at_its_latents(posterior):
    model, x = near_model(posterior)
    condition = model.infer(x)
    noise = torch.randn(
        len(x), model.posterior.noise_size, generator=torch.Generator().manual_seed(0)
    ).double()
    path = model.posterior.path(condition, noise)
    assert path.shape == (4 if posterior is UNCONDITIONAL else 1, len(x), 2)
    expected = model.posterior.draw(condition, noise).z
    assert torch.allclose(path[-1], expected, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------- the flow


def flow(d, size=1.0):
    """Return a flow posterior in d dimensions, not near the identity, and its condition on rows."""
    model = make_model(NormalPrior(d), n_steps=0, posterior=FLOW)
    perturb(model, encoder=0.3, denoiser=size)
    x = draw_rows(model, 3)
    with torch.no_grad():
        model.posterior.head.bias[d : 2 * d] = 0.0  # as wide as the prior, to see its shape
        return model.posterior, model.infer(x)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_each_output_sees_the_inputs_before_it_and_the_context(d, backward):
    network = MaskedNetwork(d, 16, torch.Generator().manual_seed(0), backward).double()
    with torch.no_grad():
        network.network.output.weight.normal_(generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(1, d, generator=generator, dtype=torch.float64)
    context = torch.randn(1, 32, generator=generator, dtype=torch.float64)
    of_inputs, of_context = torch.autograd.functional.jacobian(
        lambda inputs, context: torch.stack(network(inputs, context)), (inputs, context)
    )
    of_inputs = of_inputs[:, 0, :, 0].abs().numpy()  # (2, outputs, inputs)
    before = np.tri(d, k=-1, dtype=bool)
    before = before[::-1, ::-1] if backward else before
    assert (of_inputs[:, before] > 1e-6).all()
    assert (of_inputs[:, ~before] == 0.0).all()
    assert (of_context.abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("d", [1, 2, 4])
def test_the_density_of_the_flow_is_that_of_its_jacobian(d):
    posterior, condition = flow(d)
    for row in range(3):
        of_row = [part[[row]] for part in condition]
        noise = torch.randn(1, d, generator=torch.Generator().manual_seed(row)).double()
        jacobian = torch.autograd.functional.jacobian(
            lambda noise, of_row=of_row: posterior.draw(of_row, noise).z[0], noise
        )[:, 0]
        log_normal = -0.5 * (noise.square() + np.log(2 * np.pi)).sum()
        expected = log_normal - torch.linalg.slogdet(jacobian)[1]
        found = -posterior.draw(of_row, noise).log_ratio
        assert found.item() == pytest.approx(expected.item(), abs=1e-9)


@torch.no_grad()
def inverted(posterior, condition, z):
    """Return the noise of latents (n, d): block by block from the end, latent by latent."""
    mean, log_std, *contexts = condition
    u = posterior._standardise(z)
    for index in range(len(posterior.blocks) - 1, -1, -1):
        out, u = u, torch.zeros_like(u)
        order = range(u.shape[1])
        for k in reversed(order) if index % 2 else order:
            shift, log_stretch = posterior.blocks[index](u, contexts[index])
            u[:, k] = ((out - shift) * torch.exp(-3 * torch.tanh(log_stretch / 3)))[:, k]
    return (u - mean) * torch.exp(-log_std)


@pytest.mark.parametrize("d", [1, 2])
def test_the_density_of_the_flow_is_normalised(d):
    posterior, condition = flow(d, size=0.6)
    of_row = [part[[0]] for part in condition]
    # A grid over all that is drawn, and the density of each of its points.
    noise = 1.5 * torch.randn(4000, d, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        drawn = posterior.draw(of_row, noise).z
    low, high = drawn.min(0).values - 1, drawn.max(0).values + 1
    n = 250
    axes = [torch.linspace(a, b, n).double() for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axes).reshape(-1, d)
    eps = inverted(posterior, of_row, grid)
    with torch.no_grad():
        there = posterior.draw(of_row, eps)
    assert there.z.numpy() == pytest.approx(grid.numpy(), abs=1e-6)
    cell = ((high - low) / (n - 1)).prod()
    assert (there.log_ratio.neg().exp().sum() * cell).item() == pytest.approx(1, abs=0.01)


def test_a_flow_bends():
    """Its draws given one row are no Gaussian: no linear map of the noise gives them."""
    posterior, condition = flow(2)
    noise = torch.randn(2000, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        z = posterior.draw([part[[0]] for part in condition], noise).z[:, 0].numpy()
    design = np.column_stack([noise[:, 0].numpy(), np.ones(2000)])
    residual = z - design @ np.linalg.lstsq(design, z, rcond=None)[0]
    assert (residual.std(0) / z.std(0)).max() > 0.2


# --------------------------------------------------------------------------- the blind chain


def test_the_blind_chain_knows_of_the_row_where_it_starts_and_nothing_else():
    model, _ = near_model(UNCONDITIONAL)
    x = draw_rows(model, 5)
    posterior = model.posterior
    condition = model.infer(x)
    assert condition[0].std(0).min() > 0.01
    for part in condition[2:]:
        assert torch.equal(part, part[:1].expand_as(part))
    # Two rows that start at the same point end at the same point.
    with torch.no_grad():
        noise = torch.zeros(5, posterior.noise_size, dtype=torch.float64)
        noise[:, -2:] = (0.3 - condition[0]) * (-condition[1]).exp()
        z = posterior.draw(condition, noise).z
    assert z.numpy() == pytest.approx(np.tile(z[:1].numpy(), (5, 1)))


def test_the_latent_sleep_term_teaches_the_blind_chain_itself():
    model, x = near_model(UNCONDITIONAL)
    z = model.prior.sample(20, torch.Generator().manual_seed(0)).double()
    condition = model.infer(x)
    of_rows = [part[:1].expand(20, -1) for part in condition]
    found = model.posterior.latent_sleep_loss(z, torch.Generator().manual_seed(1))
    path = model.posterior._path_loss(
        of_rows, model.posterior._standardise(z), torch.Generator().manual_seed(1)
    )
    assert torch.allclose(found, path.sum(-1))


# --------------------------------------------------------------------------- several draws a row


def test_the_loss_of_several_draws_is_bound_7():
    model = make_model(n_steps=0, variance="learned", hidden_layer_sizes=(4,))
    x = draw_rows(model, 6)

    def loss(k, kl_weight=1.0):
        generator = torch.Generator().manual_seed(0)
        return training_loss(
            model,
            x,
            generator=generator,
            kl_weight=kl_weight,
            sleep="off",
            sleep_weight=0.0,
            n_importance_samples=k,
        )[:2]

    found, terms = loss(5)
    assert terms.z.shape == (5, 6, 2)
    weight = terms.log_weight.detach().numpy()
    expected = np.log(np.exp(weight).mean(0)).mean()
    assert found.item() == pytest.approx(-expected)
    assert terms.means()["importance_weighted_bound"].item() == pytest.approx(expected)
    assert terms.means()["elbo"].item() == pytest.approx(weight.mean())
    found, terms = loss(5, kl_weight=0.5)
    weight = (terms.reconstruction + 0.5 * terms.regularisation).detach().numpy()
    assert found.item() == pytest.approx(-np.log(np.exp(weight).mean(0)).mean())
    assert loss(1)[1].z.shape == (6, 2)


# --------------------------------------------------------------------------- the critic


def test_the_losses_of_the_critics_are_those_of_the_papers():
    of_prior, of_rows = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0)).double()
    weight = torch.tensor([0.6, -1.7], dtype=torch.float64)
    log_odds = of_prior @ weight, of_rows @ weight
    for kind in ("gan", "wasserstein"):
        critic = Critic(2, kind, 4, 1, torch.Generator().manual_seed(0)).double()
        critic.layers = linear(2, 1, torch.Generator().manual_seed(0)).double()
        with torch.no_grad():
            critic.layers.weight.copy_(weight[None])
        loss = critic.loss(of_prior, of_rows, torch.Generator().manual_seed(0)).item()
        generator_loss = critic.generator_loss(of_rows).item()
        if kind == "gan":
            p_prior, p_rows = (odds.sigmoid() for odds in log_odds)
            assert loss == pytest.approx(-(p_prior.log() + (1 - p_rows).log()).mean().item())
            assert generator_loss == pytest.approx(-p_rows.log().mean().item())
        else:
            distance = (log_odds[0] - log_odds[1]).mean()
            penalty = 10 * (weight.norm() - 1) ** 2
            assert loss == pytest.approx((penalty - distance).item())
            assert generator_loss == pytest.approx(-log_odds[1].mean().item())


def adversarial_loop(**schedule):
    model = make_model(n_steps=0, posterior=POINT, hidden_layer_sizes=(4,)).float()
    rows = draw_rows(model, 64).numpy()
    schedule = {"max_iter": 4, "batch_size": 16, "learning_rate": 0.01, **schedule}
    schedule = Schedule(
        kl_weight=0.0, sleep="off", adversarial_weight=1.0, criterion="reconstruction", **schedule
    )
    generator = torch.Generator().manual_seed(0)
    return Loop(model, Rows(rows, torch.device("cpu")), schedule, generator, None)


def test_critic_and_encoder_are_trained_apart():
    loop = adversarial_loop()
    of_model = {id(parameter) for parameter in loop.optimizer.parameters}
    of_critic = {id(parameter) for parameter in loop.adversary.optimizer.parameters}
    assert of_critic == {id(p) for p in loop.model.posterior.critic.parameters()}
    assert not of_model & of_critic
    assert of_model | of_critic == {id(p) for p in loop.model.parameters()}
    before = [p.detach().clone() for p in loop.model.posterior.parameters()]
    z = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loop.adversary.step(z, loop.generator, 0.01)
    assert z.grad is None
    for old, (name, new) in zip(before, loop.model.posterior.named_parameters(), strict=True):
        assert torch.equal(old, new) != name.startswith("critic"), name


def test_the_encoders_penalty_leaves_nothing_behind_for_the_critic():
    steps = []
    for dirty in (False, True):
        loop = adversarial_loop()
        z = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
        if dirty:
            loop.adversary.penalty(5 * z, None).backward()
        loop.adversary.step(z, torch.Generator().manual_seed(1), 0.01)
        steps.append([p.detach().clone() for p in loop.adversary.critic.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


def test_going_back_to_an_epoch_takes_the_critic_back():
    loop = adversarial_loop()
    loop.run(None)
    assert loop.epoch == 4
    kept = loop.snapshot()
    before = {name: p.detach().clone() for name, p in loop.model.named_parameters()}
    loop.n_steps, loop.step = 100, 10
    loop.train_epoch()
    changed = [n for n, p in loop.model.named_parameters() if not torch.equal(p, before[n])]
    assert any("critic" in name for name in changed)
    loop.restore(kept)
    for name, parameter in loop.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


# --------------------------------------------------------------------------- estimators


def three_groups(n_rows, seed=0):
    """Rows around three points in eight features."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(scale=2.0, size=(3, 8))
    return centres[rng.integers(3, size=n_rows)] + 0.5 * rng.normal(size=(n_rows, 8))


SMALL = {"hidden_layer_sizes": (32,), "max_iter": 5, "random_state": 0}
ESTIMATORS = [
    GaussianVAE,
    IWAE,
    InverseAutoregressiveFlowVAE,
    HierarchicalVAE,
    AdversarialAutoencoder,
    UnconditionalLatentDiffusion,
]


def test_the_gaussian_vae_is_the_transformer_without_steps():
    X = three_groups(200)
    one = GaussianVAE(kl_weight=0.5, **SMALL).fit(X)
    other = DDVAETransformer(n_diffusion_steps=0, kl_weight=0.5, **SMALL).fit(X)
    assert np.array_equal(one.transform(X), other.transform(X))
    assert one.history_ == other.history_
    assert np.array_equal(
        IWAE(n_importance_samples=1, kl_weight=0.5, **SMALL).fit(X).transform(X), one.transform(X)
    )


def test_the_weight_of_the_divergence_makes_a_beta_vae():
    X = three_groups(300)
    divergence = {}
    for weight in (0.1, 1.0, 10.0):
        model = GaussianVAE(kl_weight=weight, **SMALL | {"max_iter": 40}).fit(X)
        divergence[weight] = sum(model.history_["kl_per_dimension"][-1])
    assert divergence[0.1] > divergence[1.0] + 0.5
    assert divergence[1.0] > divergence[10.0] + 0.5


HISTORY = {
    GaussianVAE: {"posterior_entropy", "elbo", "kl_per_dimension"},
    IWAE: {"posterior_entropy", "elbo", "kl_per_dimension", "importance_weighted_bound"},
    InverseAutoregressiveFlowVAE: {"posterior_entropy", "elbo", "kl_per_dimension"},
    HierarchicalVAE: {"auxiliary", "conditional_entropy", "elbo", "kl_per_dimension"},
    AdversarialAutoencoder: {"critic_loss", "generator_loss"},
    UnconditionalLatentDiffusion: {
        *("terminal", "chain", "last_step", "elbo", "kl_per_dimension", "sleep"),
    },
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_it_learns_and_records_its_terms(estimator, capsys):
    X, X_val = three_groups(300), three_groups(100, seed=1)
    model = estimator(**SMALL | {"max_iter": 30, "verbose": 1}).fit(X, X_val=X_val)
    training = {name for name in model.history_ if not name.startswith("validation_")}
    shared = {"reconstruction", "log_prior", "weight_penalty", "loss", "start"}
    assert training == HISTORY[estimator] | shared
    of_training_only = {"sleep", "weight_penalty", "loss", "critic_loss", "generator_loss", "start"}
    validation = {f"validation_{name}" for name in training - of_training_only}
    assert set(model.history_) == training | validation
    criterion = {
        IWAE: "importance_weighted_bound",
        AdversarialAutoencoder: "reconstruction",
    }.get(estimator, "elbo")
    scores = model.history_[f"validation_{criterion}"]
    assert model.validation_scores_ == scores
    assert scores[-1] > scores[0] + 1
    name = "bound" if criterion == "elbo" else criterion
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"Epoch 30/30: {name} {model.history_[criterion][-1]:.4g} nats a row")
    assert f"held out {scores[-1]:.4g}" in last


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_early_stopping_goes_by_its_own_criterion_and_search_by_its_score(estimator):
    X = three_groups(120)
    model = estimator(**SMALL | {"max_iter": 30, "learning_rate_init": 0.02})
    model.set_params(early_stopping=True, n_iter_no_change=2, validation_fraction=0.3)
    model.fit(X)
    scores = model.validation_scores_
    assert len(scores) == model.n_iter_
    if model.n_iter_ < 30:
        assert max(scores) == max(scores[:-2])
    search = GridSearchCV(estimator(**SMALL), {"n_components": [1, 2]}, cv=2).fit(X)
    assert np.isfinite(search.best_score_)


OWN = {
    InverseAutoregressiveFlowVAE: {"n_flows": 2, "flow_width": 16},
    HierarchicalVAE: {"auxiliary_width": 16},
    AdversarialAutoencoder: {"critic": "wasserstein", "critic_width": 16, "n_critic_steps": 2},
}


@pytest.mark.parametrize(
    ("estimator", "name"), [(cls, name) for cls, own in OWN.items() for name in own]
)
def test_a_warm_start_goes_on_with_the_same_build_only(estimator, name):
    X = three_groups(80)
    model = estimator(warm_start=True, **SMALL | {"max_iter": 1}).fit(X)
    model.fit(X)
    assert model.n_iter_ == 2
    model.set_params(**{name: OWN[estimator][name]})
    with pytest.raises(ValueError, match=f"found {name}="):
        model.fit(X)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "wasserstein"])
def test_the_same_seed_gives_the_same_model(estimator):
    X = three_groups(80)
    if estimator == "wasserstein":
        model = AdversarialAutoencoder(critic=estimator, **SMALL)
    else:
        model = estimator(**SMALL)
    first, second = (clone(model).fit(X) for _ in range(2))
    assert np.array_equal(first.transform(X), second.transform(X))
    assert first.history_ == second.history_


def test_the_bound_of_the_iwae_grows_with_its_draws():
    X = three_groups(300)
    model = IWAE(**SMALL | {"max_iter": 30, "alpha": 0.0}).fit(X)
    bounds = [model.score_samples(X, n_importance_samples=k).mean() for k in (1, 5, 50)]
    assert bounds[0] == pytest.approx(model.score(X))
    assert bounds[0] < bounds[1] < bounds[2]
    elbo, bound = (np.array(model.history_[n]) for n in ("elbo", "importance_weighted_bound"))
    assert (bound > elbo).all()
    # What training maximises, once its terms have their full weight.
    assert model.loss_curve_[-1] == pytest.approx(-bound[-1])
    # It was trained for five draws, and there it beats the model trained for one.
    vae = GaussianVAE(**SMALL | {"max_iter": 30, "alpha": 0.0}).fit(X)
    gain = bounds[1] - vae.score_samples(X, n_importance_samples=5).mean()
    assert gain > bounds[0] - vae.score(X)


@pytest.fixture(scope="module", params=["gan", "wasserstein"])
def adversarial(request):
    """Return pairs of an autoencoder and its rows: with its critic listened to, and without."""
    X = three_groups(600)
    options = SMALL | {"max_iter": 30, "batch_size": 50, "critic": request.param, "prior": "square"}
    heard = AdversarialAutoencoder(**options).fit(X)
    unheard = AdversarialAutoencoder(adversarial_weight=0.0, **options).fit(X)
    return X, heard, unheard


@pytest.mark.slow
def test_the_critic_does_not_die_and_draws_the_latents_to_the_prior(adversarial):
    X, heard, unheard = adversarial
    losses = np.array(heard.history_["critic_loss"][-10:])
    if heard.critic == "gan":
        # Neither sure of itself, 0, nor no better than a coin from the beginning.
        assert (losses > 0.5).all()
        assert (losses < 2 * np.log(2) + 0.1).all()
        assert min(heard.history_["critic_loss"]) < 2 * np.log(2) - 0.05
        assert np.array(heard.history_["generator_loss"][-10:]).max() < 2.5
    else:
        assert (abs(losses) < 1).all()
    draws = heard.prior_.sample(len(X), torch.Generator().manual_seed(0)).numpy()
    discrepancy = [
        maximum_mean_discrepancy(model.transform(X), draws, bandwidth=1.0)
        for model in (heard, unheard)
    ]
    assert discrepancy[0] < 0.5 * discrepancy[1]


def test_collapse_is_visible_in_the_history(adversarial):
    """Latents that are nothing like the prior: the critic says so."""
    _, heard, unheard = adversarial
    losses = [np.mean(model.history_["critic_loss"][-10:]) for model in (heard, unheard)]
    assert losses[1] < losses[0] - 0.4
    if heard.critic == "gan":
        assert losses[1] < 0.5


def test_the_score_of_the_autoencoder_is_the_reconstruction(adversarial):
    X, model, _ = adversarial
    X = X[:50]
    likelihood = model.likelihood_
    mean = model.inverse_transform(model.transform(X))
    std = np.sqrt(likelihood._bounded_log_variance().exp().detach().numpy())
    std = std * likelihood.scale.numpy()
    log_prob = -0.5 * ((X - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    assert model.score_samples(X) == pytest.approx(log_prob.sum(1), rel=1e-4)
    assert model.score(X) == pytest.approx(log_prob.sum(1).mean(), rel=1e-4)
    with pytest.raises(TypeError):
        model.score_samples(X, n_importance_samples=5)
    draws = model.sample_posterior(X, 3)
    assert draws == pytest.approx(np.tile(model.transform(X), (3, 1, 1)))


@pytest.mark.parametrize(
    ("estimator", "params", "message"),
    [
        (IWAE, {"n_importance_samples": 0}, "'n_importance_samples' parameter of IWAE"),
        (InverseAutoregressiveFlowVAE, {"n_flows": 0}, "'n_flows' parameter"),
        (AdversarialAutoencoder, {"critic": "least_squares"}, "'critic' parameter"),
        (UnconditionalLatentDiffusion, {"n_diffusion_steps": 0}, "'n_diffusion_steps' parameter"),
    ],
)
def test_bad_parameters_are_found_at_fit(estimator, params, message):
    with pytest.raises(ValueError, match=message):
        estimator(**params).fit(three_groups(20))
