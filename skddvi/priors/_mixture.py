"""Mixtures of Gaussians."""

import math

import numpy as np
import torch

from ._base import Prior
from ._common import LOG_2PI, as_float64, as_matrix, brief, randn


class GaussianMixturePrior(Prior):
    """Mixture of Gaussians with diagonal covariances; the parts are its components.

    Parameters
    ----------
    means : array-like of shape (n_parts, n_components)
        Centres of the components.
    scales : float or array-like of shape (n_parts,) or (n_parts, n_components)
        Standard deviations, all above zero: one for all, one per component, or one per
        component and axis.
    weights : array-like of shape (n_parts,), default=None
        Probabilities of the components, all above zero; divided by their sum. By default equal.

    Raises
    ------
    ValueError
        When the shapes do not agree or a scale or weight is not above zero.

    Examples
    --------
    >>> import torch
    >>> from skddvi.priors import GaussianMixturePrior
    >>> prior = GaussianMixturePrior([[-1.0, 0.0], [1.0, 0.0]], scales=0.2)
    >>> prior.n_parts
    2
    >>> prior.log_prob(torch.tensor([[1.0, 0.0]]))
    tensor([0.6879])
    """

    name = "gaussian_mixture"

    def __init__(self, means, scales, weights=None):
        centres = as_matrix("means", means)
        n_parts, n_components = centres.shape
        spread = as_float64("scales", scales)
        if spread.ndim == 1:
            spread = spread[:, None]
        if spread.ndim > 2 or (spread.ndim and spread.shape not in ((n_parts, 1), centres.shape)):
            raise ValueError(
                f"scales must be a number or have shape ({n_parts},) or ({n_parts}, "
                f"{n_components}), found shape {np.shape(scales)}."
            )
        if not bool((spread > 0).all()):
            raise ValueError(f"scales must be above 0, found {float(spread.min())}.")
        probs = as_float64("weights", [1.0] * n_parts if weights is None else weights)
        if probs.shape != (n_parts,):
            raise ValueError(
                f"weights must have one entry per component, shape ({n_parts},), found shape "
                f"{tuple(probs.shape)}."
            )
        if not bool((probs > 0).all()):
            raise ValueError(f"weights must be above 0, found {float(probs.min())}.")
        super().__init__(n_components, probs)
        self.means = means
        self.scales = scales
        self.weights = weights
        self._masters["means"] = centres
        self._masters["scales"] = spread.expand(n_parts, n_components).clone()

    def part_log_prob(self, z):
        """Return the log density (..., n_parts) in nats of every component."""
        z = self._check_z(z)
        c = self._constants(z.dtype, z.device)
        scaled = (z[..., None, :] - c["means"]) / c["scales"]
        norm = c["scales"].log().sum(-1) + 0.5 * self.n_components * LOG_2PI
        return -0.5 * scaled.square().sum(-1) - norm

    def denoise(self, y, variance, part=None):
        """Return E[z | y] and Var[z | y], each (..., n_components)."""
        c = self._constants(y.dtype, y.device)
        log_weights = self._log_part_weights(y.dtype, y.device)
        return mixture_moments(y, variance, log_weights, c["means"], c["scales"].square(), part)

    def _draw(self, part, generator):
        c = self._constants(torch.float64, generator.device)
        eps = randn((len(part), self.n_components), generator)
        return c["means"][part] + c["scales"][part] * eps

    def extra_repr(self):
        """Return the constructor arguments, arrays by their shapes."""
        text = f"means={brief(self.means)}, scales={brief(self.scales)}"
        return text if self.weights is None else f"{text}, weights={brief(self.weights)}"


def mixture_moments(y, variance, log_weights, means, variances, part=None):
    """Return mean and variance of z given y = z + noise under a mixture of Gaussians.

    Parameters
    ----------
    y, variance : Tensor of shape (..., d)
        Noised points and the variance of their noise.
    log_weights : Tensor of shape (n_parts,)
    means, variances : Tensor of shape (n_parts, d)
    part : Tensor of int of shape (n,), default=None
        The component that each z is known to be of.

    Returns
    -------
    mean, variance : Tensor of shape (..., d)
    """
    if part is not None:  # the others need not be looked at
        gain = variances[part] / (variance + variances[part])
        return means[part] + gain * (y - means[part]), gain * variance.expand_as(y)
    noise = variance.expand_as(y).unsqueeze(-2)
    total = noise + variances
    distance = y.unsqueeze(-2) - means
    logits = log_weights - 0.5 * (distance.square() / total + total.log()).sum(-1)
    share = logits.softmax(-1).unsqueeze(-1)
    gain = variances / total
    centres = means + gain * distance
    mean = (share * centres).sum(-2)
    spread = gain * noise + (centres - mean.unsqueeze(-2)).square()
    return mean, (share * spread).sum(-2)


def even_mixture(n_parts, n_components, gap):
    """Return means and scales of evenly spread components with variance one on every axis.

    The centres are (cos t, sin t, cos 2t, sin 2t, ...) at n_parts angles t, with (-1)^k as an
    odd last axis: a ring in two dimensions, a regular simplex in n_parts - 1. Axes beyond that
    are standard normal. Neighbours lie ``gap`` standard deviations apart.
    """
    if n_components == 1:
        means = np.linspace(-1, 1, n_parts)[:, None]
    else:
        index = np.arange(n_parts)
        used = min(n_components, n_parts - 1)
        means = np.zeros((n_parts, n_components))
        for axis in range(used):
            angle = 2 * np.pi * (axis // 2 + 1) * index / n_parts
            means[:, axis] = np.sin(angle) if axis % 2 else np.cos(angle)
        if used % 2:
            means[:, used - 1] = (-1.0) ** index
    std = means.std(axis=0)
    occupied = std > 0
    means[:, occupied] /= std[occupied]
    gaps = np.linalg.norm(means[:, None] - means[None], axis=-1)
    nearest = gaps[gaps > 0].min()
    scale = nearest / math.hypot(gap, nearest)
    scales = np.where(occupied, scale, 1.0)
    return means * math.sqrt(1 - scale**2), np.tile(scales, (n_parts, 1))
