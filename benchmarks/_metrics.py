"""Figures that several benchmarks share, in the form of a cell's values; see `skddvi.metrics`."""

import numpy as np
import torch
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from skddvi.metrics import latent_nll
from skddvi.priors import resolve_prior


def prior_draws(prior, n_samples, seed):
    """Return draws (n_samples, 2) from a prior named `prior`."""
    generator = torch.Generator().manual_seed(seed)
    return resolve_prior(prior, 2).sample(n_samples, generator).numpy()


def latent_fit(embedding, prior, n_draws, seed):
    """Latent negative log-likelihood of embeddings (n, 2), and the least that could be had.

    The latter, ``latent_nll_floor``, is the figure of draws from the prior in their place.
    """
    draws, others = np.split(prior_draws(prior, 2 * n_draws, seed), 2)
    floor = latent_nll(others[: len(embedding)], draws, random_state=seed)
    return {
        "latent_nll": latent_nll(embedding, draws, random_state=seed),
        "latent_nll_floor": floor,
    }


def bounds(model, X_test, n_importance_rows):
    """Lower bound of test rows, and the tighter one of 500 importance samples on the first few."""
    few = X_test[:n_importance_rows]
    return {
        "bound": float(model.score(X_test)),
        "bound_k500": float(model.score_samples(few, n_importance_samples=500).mean()),
    }


def centroid_correlation(X, embedding, y):
    """Rank correlation of distances between the classes' centroids in the embedding and in X."""
    of_X, of_embedding = (
        pdist([rows[y == label].mean(axis=0) for label in np.unique(y)]) for rows in (X, embedding)
    )
    return float(spearmanr(of_X, of_embedding).statistic)
