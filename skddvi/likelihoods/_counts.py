"""The likelihoods of counts."""

import math

import numpy as np
import torch
from scipy import special
from torch import nn
from torch.nn import functional as F

from .._warn import warn
from ._base import Likelihood
from ._statistics import LARGEST, RARE_SCALE, blocks, float32_tensor, moments

# Row total of the training rows from which on densities are computed in float64: terms as large as
# the counts, and larger, leave a difference of a few nats.
LARGE_LIBRARY = 1e5
# Expected counts up to which their probabilities are summed, and rates for which it is done.
MOST_COUNTS, N_RATES = 100, 200


class PoissonLikelihood(Likelihood):
    """Counts with the row total as offset: rate ``library * softmax(output)``.

    The decoder says how a row's total is shared among the features; the total itself, the library
    size, is taken from the row and not modelled. It is floored at 1, so that a row of zeros has a
    rate. `log_prob` is therefore conditional on the row total.

    Attributes
    ----------
    size_quantiles : Tensor of shape (101,)
        Percentiles of the library sizes of the training rows. `mean` uses their median, `sample`
        draws from them by linear interpolation.

    Notes
    -----
    The encoder is given log1p of the counts scaled to the median library, in units of the standard
    deviation that it would have by Poisson sampling alone, and at least 0.1: a feature is the
    larger the more the rows differ in it. One factor for all features then makes the root mean
    square one, if no feature is rare.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skddvi.likelihoods import PoissonLikelihood
    >>> likelihood = PoissonLikelihood().fit(np.array([[1, 3], [2, 6]]))
    >>> likelihood.mean(likelihood.initial_output(), library=8.0)
    tensor([2.0000, 6.0000])
    """

    name = "poisson"

    def __init__(self):
        super().__init__()
        self.register_buffer("size_quantiles", None)

    def check(self, X):
        """Raise where X is negative, warn where it is not integer; see `Likelihood.check`."""
        super().check(X)
        n_negative, lowest, integer = 0, 0.0, True
        for block in blocks(X):
            n_negative += int((block < 0).sum())
            lowest = min(lowest, float(block.min()))
            integer = integer and bool((block == np.rint(block)).all())
        if n_negative:
            raise ValueError(
                f"likelihood={self.name!r} needs counts >= 0, found {n_negative} negative values, "
                f"the lowest {lowest:g}; pass raw counts, not log-transformed or centred ones"
            )
        if not integer:
            warn(
                f"likelihood={self.name!r} is meant for raw counts, found values that are not "
                "integers; if X is normalised or log-transformed, use likelihood='gaussian'",
            )

    def fit(self, X):
        """Learn library sizes and shares of the features; see `Likelihood.fit`."""
        totals, sums = [], 0.0
        for block in blocks(X):
            totals.append(block.sum(axis=1))
            sums = sums + block.sum(axis=0)
        library = np.maximum(np.concatenate(totals), 1.0)
        self.size_quantiles = float32_tensor(
            np.quantile(library, np.linspace(0, 1, 101)).clip(max=LARGEST)
        )
        median = float(self.size_quantiles[50])
        mean, std, _, _ = moments(
            np.log1p(block * (median / np.maximum(block.sum(axis=1, keepdims=True), 1.0)))
            for block in blocks(X)
        )
        # A feature never seen gets a share of a millionth of the largest, not zero.
        shares = np.maximum(sums, 1e-6 * sums.max()) if sums.max() > 0 else np.ones_like(sums)
        shares = shares / shares.sum()
        noise = _sampling_std(shares * median, self.size_quantiles[5::10].double().numpy() / median)
        noise = np.maximum(noise, RARE_SCALE)
        signal = np.maximum(std, RARE_SCALE) / noise
        self._store(mean, noise * np.sqrt(np.square(signal).mean()), np.log(shares))
        return self

    def encode(self, x):
        """Scaled log1p of the counts at the median library; see `Likelihood.encode`."""
        library = x.sum(dim=-1, keepdim=True).clamp(min=1)
        return super().encode(torch.log1p(x * (self.size_quantiles[50] / library)))

    def log_prob(self, x, output):
        """Log-probability given the row total; see `Likelihood.log_prob`."""
        dtype = output.dtype
        x, output = self._precise(x, output)
        total = x.sum(-1)
        library = total.clamp(min=1.0)
        # The shares sum to one, hence the rates to the library.
        log_share = torch.log_softmax(output, dim=-1)
        constant = total * library.log() - library - torch.lgamma(x + 1).sum(-1)
        return ((x * log_share).sum(-1) + constant).to(dtype)

    def _precise(self, x, output):
        """Return counts and output in a dtype in which terms of large counts may cancel."""
        large = output.device.type != "mps" and self.size_quantiles[-1] > LARGE_LIBRARY
        dtype = torch.float64 if large else output.dtype
        return x.to(dtype), output.to(dtype)

    def mean(self, output, library=None):
        """Return the expected counts; see `Likelihood.mean`."""
        if library is None:
            library = self.size_quantiles[50]
        return self._rate(output, library)

    @torch.no_grad()
    def sample(self, output, generator, library=None):
        """Draw rows of counts; see `Likelihood.sample`."""
        rate = self._rate(output, self._draw_library(output, generator, library))
        return torch.poisson(rate, generator=generator)

    def _rate(self, output, library):
        library = torch.as_tensor(library, dtype=output.dtype, device=output.device)
        return library.unsqueeze(-1) * torch.softmax(output, dim=-1)

    def _draw_library(self, output, generator, library):
        if library is not None:
            return library
        quantiles = self.size_quantiles.to(output.dtype)
        position = 100 * torch.rand(
            output.shape[:-1], generator=generator, dtype=output.dtype, device=output.device
        )
        left = position.long().clamp(max=99)
        return torch.lerp(quantiles[left], quantiles[left + 1], position - left)


def _sampling_std(rates, sizes):
    """Return the standard deviation of log1p(x / s) for Poisson x of mean s * rate, (p,).

    Its root mean square over library sizes s, shares of the median. It is computed for a grid of
    rates, from the probabilities of x where they are few, by its slope at the mean otherwise.

    Parameters
    ----------
    rates : ndarray of shape (p,)
        Positive.
    sizes : ndarray of shape (q,)
    """
    grid = np.geomspace(rates.min(), rates.max(), N_RATES)
    mean = grid[:, None] * sizes
    counts = np.arange(2 * MOST_COUNTS + 1)
    log_probability = special.xlogy(counts, mean[..., None]) - mean[..., None]
    probability = np.exp(log_probability - special.gammaln(counts + 1))
    value = np.log1p(counts / sizes[:, None])
    first, second = (probability * value).sum(-1), (probability * value**2).sum(-1)
    variance = np.where(mean < MOST_COUNTS, second - first**2, mean / (sizes + mean) ** 2)
    return np.interp(np.log(rates), np.log(grid), np.sqrt(variance.clip(min=0.0).mean(-1)))


class NegativeBinomialLikelihood(PoissonLikelihood):
    """Overdispersed counts: a Poisson whose rate is gamma distributed.

    The mean is ``mu = library * softmax(output)`` and the variance ``mu + mu^2 / theta``, with a
    learned inverse dispersion theta per feature. Library sizes and network input are those of
    `PoissonLikelihood`.

    Attributes
    ----------
    log_theta : nn.Parameter of shape (p,)
        Log of the inverse dispersion before the floor of 0.001 on the dispersion, which is smooth:
        ``1 / theta = exp(-log_theta) + 0.001``. It starts at the moment estimate for the untrained
        decoder.

    References
    ----------
    .. [1] Lopez, R. et al. (2018). Deep generative modeling for single-cell transcriptomics.
       Nature Methods 15, 1053-1058.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skddvi.likelihoods import NegativeBinomialLikelihood
    >>> X = np.array([[0, 30], [20, 10], [1, 29]])
    >>> likelihood = NegativeBinomialLikelihood().fit(X)
    >>> likelihood.sample(torch.zeros(1, 2), torch.Generator().manual_seed(0), library=100.0).shape
    torch.Size([1, 2])
    """

    name = "negative_binomial"
    dispersion_floor = 1e-3  # in float32, lgamma(theta) of a larger theta would be too coarse

    def __init__(self):
        super().__init__()
        self.register_parameter("log_theta", None)

    def fit(self, X):
        """Learn library sizes, shares and a first dispersion; see `Likelihood.fit`."""
        super().fit(X)
        # Var(x) = mu + mu^2 / theta, so theta is about sum mu^2 / sum((x - mu)^2 - mu).
        shares = self.initial.double().exp().numpy()
        expected = excess = 0.0
        for block in blocks(X):
            mu = np.maximum(block.sum(axis=1, keepdims=True), 1.0) * shares
            expected = expected + np.square(mu).sum(axis=0)
            excess = excess + (np.square(block - mu) - mu).sum(axis=0)
        theta = expected / np.maximum(excess, 1e-12)
        self.log_theta = nn.Parameter(float32_tensor(np.log(np.clip(theta, 1e-2, 1e2))))
        return self

    def _bounded_log_theta(self):
        floor = self.log_theta.new_tensor(math.log(self.dispersion_floor))
        return -torch.logaddexp(-self.log_theta, floor)

    def log_prob(self, x, output):
        """Log-probability given the row total; see `Likelihood.log_prob`."""
        dtype = output.dtype
        x, output = self._precise(x, output)
        library = x.sum(-1, keepdim=True).clamp(min=1.0)
        log_theta = self._bounded_log_theta().to(output.dtype)
        theta = log_theta.exp()
        # logits of the success probability mu / (mu + theta)
        logits = torch.log_softmax(output, dim=-1) + (library.log() - log_theta)
        coefficient = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        softplus = F.softplus(logits)
        # Not a product of matrices, which mixed precision would round.
        return (coefficient + x * (logits - softplus) - theta * softplus).sum(-1).to(dtype)

    @torch.no_grad()
    def sample(self, output, generator, library=None):
        """Draw rows of counts; see `Likelihood.sample`."""
        rate = self._rate(output, self._draw_library(output, generator, library))
        theta = self._bounded_log_theta().to(output.dtype).exp().expand_as(rate)
        gamma = torch._standard_gamma(theta, generator=generator)
        return torch.poisson(rate * gamma / theta, generator=generator)
