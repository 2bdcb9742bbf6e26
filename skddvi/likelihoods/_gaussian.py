"""The likelihood of real values."""

import math
import numbers

import numpy as np
import torch
from torch import nn

from ._base import Likelihood
from ._statistics import are_components, blocks, moments

SCALINGS = ("auto", "features", "common")


class GaussianLikelihood(Likelihood):
    """Independent normal features with a learned variance each.

    ``x_j = center_j + scale_j * (output_j + sqrt(variance_j) * eps_j)``, with the mean and the
    standard deviation of the training rows as centre and scale. The decoder works on the
    standardised scale, so features may have any units; `log_prob` is a density in original units,
    that is, it includes ``-sum_j log scale_j``.

    Parameters
    ----------
    variance : "learned" or float, default="learned"
        Variance of every feature on the standardised scale, where 1 is the variance of the training
        rows. If "learned", one parameter per feature, starting at 1.
    scaling : {"auto", "features", "common"}, default="auto"
        What `encode` divides features by. "features": each by its own standard deviation, so that
        they may have any units. "common": all by one number, so that they keep the scales that they
        have among themselves, as in PCA, t-SNE and UMAP. "auto": "common" for principal components,
        since to standardise them would be to undo the analysis that says which of them matter, and
        "features" for anything else. Features are taken for principal components if there are five
        or more, and over the training rows they are centred, uncorrelated and of falling variance,
        the largest spread at most 100 times the smallest.

    Attributes
    ----------
    log_variance : nn.Parameter of shape (p,) or None
        Log-variance before the floor of 1e-6, which is smooth: ``log(exp(log_variance) + 1e-6)``.
    unit : Tensor or None
        The number by which all features are divided, the root of their mean variance, those that
        are constant left out, where it is one number.

    Notes
    -----
    A constant column has scale 1. A spread below the resolution of float32 at the feature's largest
    value is raised to it.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skddvi.likelihoods import GaussianLikelihood
    >>> X = np.array([[0.0, 1e6], [2.0, 3e6]])
    >>> likelihood = GaussianLikelihood().fit(X)
    >>> likelihood.encode(torch.tensor(X))
    tensor([[-1., -1.],
            [ 1.,  1.]])
    >>> likelihood.mean(likelihood.initial_output())
    tensor([1.0000e+00, 2.0000e+06])
    """

    name = "gaussian"
    variance_floor = 1e-6

    def __init__(self, variance="learned", scaling="auto"):
        super().__init__()
        fixed = isinstance(variance, numbers.Real) and 0 < variance < math.inf
        if not fixed and variance != "learned":
            raise ValueError(f"variance must be 'learned' or a positive number, got {variance!r}")
        if scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {SCALINGS}, got {scaling!r}")
        self.variance = variance
        self.scaling = scaling
        self.register_parameter("log_variance", None)
        self.register_buffer("unit", None)

    def extra_repr(self):
        """Return the arguments that ``repr`` shows."""
        return f"variance={self.variance!r}, scaling={self.scaling!r}"

    def fit(self, X):
        """Learn centre and scale of every feature; see `Likelihood.fit`."""
        mean, std, low, high = moments(blocks(X))
        resolution = np.finfo(np.float32).eps * np.maximum(np.abs(low), np.abs(high))
        scale = np.where(low == high, 1.0, np.maximum(std, resolution))
        self._store(mean, scale, np.zeros_like(mean))
        common = self.scaling == "common"
        if common or (self.scaling == "auto" and are_components(X, mean, std)):
            varying = self.scale[torch.from_numpy(low != high)].double()
            self.unit = varying.square().mean().sqrt().float() if len(varying) else torch.ones(())
        else:
            self.unit = None
        if self.variance == "learned":
            self.log_variance = nn.Parameter(torch.zeros(len(mean)))
        return self

    @property
    def input_scale(self):
        """What `encode` divides the centred features by: a Tensor of shape (p,) or of one value."""
        return self.scale if self.unit is None else self.unit

    def standardize(self, x):
        """Scale each feature by its own spread; see `Likelihood.standardize`."""
        return self._standardize(x).to(self.scale.dtype)

    def _standardize(self, x):
        """Rows on the standardised scale, in the wider dtype of x and the module."""
        return self._centered(x).div_(self.scale)

    def _bounded_log_variance(self):
        if self.variance == "learned":
            floor = self.log_variance.new_tensor(math.log(self.variance_floor))
            return torch.logaddexp(self.log_variance, floor)
        return torch.full_like(self.scale, math.log(self.variance))

    def log_prob(self, x, output):
        """Log-density in original units; see `Likelihood.log_prob`."""
        residual = self._standardize(x).to(output.dtype) - output
        log_variance = self._bounded_log_variance().to(output.dtype)
        log_std = 0.5 * log_variance + self.scale.to(output.dtype).log()
        constant = log_std.sum() + 0.5 * len(log_std) * math.log(2 * math.pi)
        # Not a product of matrices, which mixed precision would round.
        return -0.5 * (residual.square() * torch.exp(-log_variance)).sum(-1) - constant

    def mean(self, output, library=None):
        """Return the expected row; see `Likelihood.mean`."""
        return ((output * self.scale + self.center_tail) + self.center).to(output.dtype)

    @torch.no_grad()
    def sample(self, output, generator, library=None):
        """Draw rows; see `Likelihood.sample`."""
        noise = torch.randn(
            output.shape, generator=generator, dtype=output.dtype, device=output.device
        )
        std = torch.exp(0.5 * self._bounded_log_variance()).to(output.dtype)
        return self.mean(output + std * noise)
