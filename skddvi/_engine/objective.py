"""The objective: the evidence bound term by term, and what training minimises.

Equation numbers are those of the user guide. Everything is in nats.
"""

import math
from dataclasses import dataclass

import torch


@dataclass
class BoundTerms:
    """The brackets of the evidence bound (4) at drawn latents.

    Attributes
    ----------
    z : (..., n, d) tensor
        The latents.
    reconstruction : (..., n) tensor
        log p(x|z).
    log_prior : (..., n) tensor
        log p(z).
    posterior : dict of str to (..., n, d) tensor
        The posterior's own brackets, one dimension each; their sum is log_ratio. Empty where the
        posterior has no density, and then there is no bound.
    """

    z: torch.Tensor
    reconstruction: torch.Tensor
    log_prior: torch.Tensor
    posterior: dict

    @property
    def regularisation(self):
        """log p(z) + log r(y_1..T | z) - log q(y_0..T | x), (..., n): what kl_weight scales."""
        return self.log_prior + sum(term.sum(-1) for term in self.posterior.values())

    @property
    def log_weight(self):
        """log w of equation (7), (..., n); its mean over draws is the bound (4)."""
        return self.reconstruction + self.regularisation

    @torch.no_grad()
    def means(self):
        """Return the mean over draws and rows of every term, as scalars by name.

        With several draws a row bound (7) is among them.
        """
        means = {"reconstruction": self.reconstruction, "log_prior": self.log_prior}
        means |= {name: term.sum(-1) for name, term in self.posterior.items()}
        if self.posterior:
            means["elbo"] = self.log_weight
            if self.z.ndim > 2:
                means["importance_weighted_bound"] = importance_weighted_bound(self.log_weight)
        return {name: term.mean() for name, term in means.items()}


def bound_terms(model, x, condition, noise, part=None):
    """Return the brackets of equation (4) for rows x at the draws that ``noise`` makes.

    Parameters
    ----------
    model : LatentVariableModel
    x : (n, p) tensor
    condition : tuple of tensors
        What ``model.posterior`` keeps of the rows.
    noise : (..., n, noise_size) tensor
        Standard normal; leading dimensions are draws.
    part : (n,) tensor or None
        The part of the prior that each row's latent comes from; None for the marginal p(z).

    Returns
    -------
    terms : BoundTerms
    """
    draw = model.posterior.draw(condition, noise)
    reconstruction = model.likelihood.log_prob(x, model.decoder(draw.z))
    return BoundTerms(draw.z, reconstruction, model.prior.log_prob(draw.z, part), draw.terms)


def importance_weighted_bound(log_weight):
    """Return equation (7) from log-weights (K, ..., n): their log-mean-exp over the K draws."""
    return torch.logsumexp(log_weight, dim=0) - math.log(log_weight.shape[0])


@torch.no_grad()
def kl_per_dimension(model, terms):
    """Return the divergence of the posterior from a reference in each latent dimension, (d,).

    The reference is a normal with the prior's mean and variance, which factorises whatever the
    prior is. A dimension near zero carries nothing of the rows (posterior collapse).
    """
    posterior = model.posterior
    standardised = (terms.z - posterior.loc) / posterior.scale
    log_reference = -0.5 * (standardised.square() + math.log(2.0 * math.pi)) - posterior.scale.log()
    divergence = -(sum(terms.posterior.values()) + log_reference)
    return divergence.flatten(0, -2).mean(0)


def dream(model, n_rows, generator):
    """Return latents from the prior and rows decoded from them, without gradient; for (5)."""
    with torch.no_grad():
        z = model.sample_prior(n_rows, generator)
        return z, model.likelihood.sample(model.decoder(z), generator)


def noise_shape(posterior, n_rows, n_draws=1):
    """Return the shape of the noise that makes ``n_draws`` draws a row, without an axis for one."""
    shape = n_rows, posterior.noise_size
    return shape if n_draws == 1 else (n_draws, *shape)


def training_loss(model, x, *, generator, kl_weight, sleep, sleep_weight, n_importance_samples=1):
    """Return the negative of equation (6), a scalar, with the terms that it is made of.

    With several importance samples, bound (7) takes the place of (4) in it, with the same weight.
    Rows and as many dreams share one pass through the encoder.

    Parameters
    ----------
    model : LatentVariableModel
    x : (n, p) tensor
    generator : torch.Generator
    kl_weight, sleep_weight : float
    sleep : {"conditional", "latent", "off"}
    n_importance_samples : int

    Returns
    -------
    loss : scalar tensor
    terms : BoundTerms
    sleep_loss : scalar tensor or None
    """
    n, posterior = len(x), model.posterior
    rows = [x]
    if sleep == "conditional":
        z, dreamt = dream(model, n, generator)
        rows.append(dreamt)
    condition = model.infer(*rows)
    shape = noise_shape(posterior, n, n_importance_samples)
    noise = torch.randn(shape, generator=generator, device=x.device, dtype=torch.float32)
    terms = bound_terms(model, x, [part[:n] for part in condition], noise)
    log_weight = terms.reconstruction + kl_weight * terms.regularisation
    if n_importance_samples > 1:
        log_weight = importance_weighted_bound(log_weight)
    loss = -log_weight.mean()
    if sleep == "off":
        return loss, terms, None
    if sleep == "conditional":
        sleep_loss = posterior.sleep_loss([part[n:] for part in condition], z, generator).mean()
    else:
        z = model.sample_prior(n, generator)
        sleep_loss = posterior.latent_sleep_loss(z, generator).mean()
    return loss + sleep_weight * sleep_loss, terms, sleep_loss
