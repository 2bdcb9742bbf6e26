"""The prior of the clusterer: a mixture whose weights, centres and spreads are learned."""

import math

import torch
from torch import nn

from .priors import NormalPrior, Prior
from .priors._mixture import mixture_moments

__all__ = ["MixturePrior"]

# The smallest standard deviation of a component, so that none can shrink onto one row.
SCALE_FLOOR = 0.01
# The smallest weight that a component can be given; with less it could not grow again.
WEIGHT_FLOOR = 1e-4
# Draws that the mean and the standard deviation of a component shape are estimated from.
N_SHAPE_DRAWS = 20_000


class MixturePrior(Prior):
    r"""Mixture of copies of one shape, with learned weights, centres and spreads.

    The density is :math:`p(z) = \sum_k \pi_k \, p_k(z)`, where :math:`p_k` is the density of
    :math:`\mu_k + s_k \odot u` and u is a draw of the shape, standardised to mean zero and
    standard deviation one on each axis. With the normal shape :math:`\mu_k` and :math:`s_k^2` are
    the mean and the diagonal covariance of a Gaussian component. All three are parameters that
    training moves; at first every component is the standardised shape itself, so that the whole
    mixture is.

    Parameters
    ----------
    shape : Prior
        What one component looks like. It becomes a submodule, and none of its own parameters is
        learned.
    n_parts : int
        Number K of components, which are the parts of the prior.

    Attributes
    ----------
    part_weights : Tensor of shape (n_parts,)
        Weights of the components.
    centers : Parameter of shape (n_parts, n_components)
        Means of the components.
    scales : Tensor of shape (n_parts, n_components)
        Standard deviations of the components.

    Examples
    --------
    >>> import torch
    >>> from skddvi.mixture_prior import MixturePrior
    >>> from skddvi.priors import NormalPrior
    >>> prior = MixturePrior(NormalPrior(2), n_parts=3)
    >>> prior.log_prob(torch.zeros(1, 2)).item()
    -1.8378...
    >>> prior.set_components([[0, 0], [3, 0], [0, 3]], [[1, 1], [1, 1], [0.5, 1]], [2, 1, 1])
    >>> prior.part_weights.tolist()
    [0.5, 0.25, 0.25]
    """

    name = "mixture"

    def __init__(self, shape, n_parts):
        super().__init__(shape.n_components, part_weights=None)
        self.n_parts = int(n_parts)
        self.shape = shape.requires_grad_(False)
        d = self.n_components
        loc, scale = torch.zeros(d), torch.ones(d)
        if not isinstance(shape, NormalPrior):
            draws = shape.sample(N_SHAPE_DRAWS, torch.Generator().manual_seed(0)).double()
            loc, scale = draws.mean(0).float(), draws.std(0).float()
        self.register_buffer("shape_loc", loc)
        self.register_buffer("shape_scale", scale)
        self.logits = nn.Parameter(torch.zeros(self.n_parts, dtype=torch.float32))
        self.centers = nn.Parameter(torch.zeros(self.n_parts, d, dtype=torch.float32))
        # Above the floor, so that the spread at first is one.
        log_excess = torch.full((self.n_parts, d), math.log(1.0 - SCALE_FLOOR))
        self.log_excess_scales = nn.Parameter(log_excess.float())

    @property
    def part_weights(self):
        """Weights of the components, (n_parts,)."""
        return self.logits.detach().softmax(0)

    @property
    def scales(self):
        """Standard deviations of the components, (n_parts, n_components)."""
        return SCALE_FLOOR + self.log_excess_scales.exp()

    @torch.no_grad()
    def set_components(self, centers, scales, weights):
        """Move the components.

        Parameters
        ----------
        centers : array-like of shape (n_parts, n_components)
            Means.
        scales : array-like of shape (n_parts, n_components)
            Standard deviations, raised to a floor of 0.01 where they are below.
        weights : array-like of shape (n_parts,)
            Weights, divided by their sum and raised to a floor of 1e-4 where they are below.
        """
        centers, scales, weights = (
            torch.as_tensor(value, dtype=torch.float64) for value in (centers, scales, weights)
        )
        self.centers.copy_(centers)
        self.log_excess_scales.copy_((scales - SCALE_FLOOR).clamp(min=1e-3 * SCALE_FLOOR).log())
        self.logits.copy_((weights / weights.sum()).clamp(min=WEIGHT_FLOOR).log())

    def components(self):
        """Return what training has made of the components.

        Returns
        -------
        weights : ndarray of shape (n_parts,)
            They sum to one.
        centers : ndarray of shape (n_parts, n_components)
            Means.
        scales : ndarray of shape (n_parts, n_components)
            Standard deviations. All three are float64.
        """
        tensors = self.part_weights, self.centers, self.scales
        return tuple(tensor.detach().double().cpu().numpy() for tensor in tensors)

    def freeze(self):
        """Keep the components where they are in training."""
        self.requires_grad_(False)

    def learn(self):
        """Let training move weights, centres and spreads, and nothing of the shape."""
        for parameter in (self.logits, self.centers, self.log_excess_scales):
            parameter.requires_grad_(True)

    @torch.no_grad()
    def permute(self, order):
        """Renumber the components.

        Parameters
        ----------
        order : array-like of int of shape (n_parts,)
            The component that becomes the first, the second, and so on.
        """
        order = torch.as_tensor(order, device=self.logits.device)
        for parameter in (self.logits, self.centers, self.log_excess_scales):
            parameter.copy_(parameter[order].clone())

    def part_log_prob(self, z):
        """Return log p_k(z) of equation (13) for every component, (..., n_parts), in nats."""
        z = self._check_z(z)
        scales = self.scales.to(z.dtype)
        standardised = (z[..., None, :] - self.centers.to(z.dtype)) / scales
        u = self.shape_loc.to(z.dtype) + self.shape_scale.to(z.dtype) * standardised
        log_volume = (self.shape_scale.to(z.dtype).log() - scales.log()).sum(-1)
        return self.shape.log_prob(u) + log_volume

    def responsibilities(self, z):
        """Return the probability of each component given latents.

        Parameters
        ----------
        z : Tensor of shape (..., n_components)
            Points.

        Returns
        -------
        Tensor of shape (..., n_parts)
            p(k|z), which add up to one.
        """
        by_part = self.part_log_prob(z)
        return (by_part + self._log_part_weights(by_part.dtype, by_part.device)).softmax(-1)

    def denoise(self, y, variance, part=None):
        """Return E[z | y] and Var[z | y], each (..., n_components).

        None unless the shape is normal.
        """
        if not isinstance(self.shape, NormalPrior):
            return None
        centers, scales = self.centers.to(y.dtype), self.scales.to(y.dtype)
        log_weights = self._log_part_weights(y.dtype, y.device)
        return mixture_moments(y, variance, log_weights, centers, scales.square(), part)

    def _log_part_weights(self, dtype, device):
        return self.logits.to(dtype=dtype, device=device).log_softmax(0)

    def _draw(self, part, generator):
        u = self.shape.sample(len(part), generator)
        standardised = ((u - self.shape_loc) / self.shape_scale).double()
        part = part.to(self.centers.device)
        return self.centers[part].double() + self.scales[part].double() * standardised

    def extra_repr(self):
        """Return the number of components; the shape prints itself."""
        return f"n_parts={self.n_parts}"
