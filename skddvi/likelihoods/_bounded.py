"""The likelihoods of bounded values: zeros and ones, dosages."""

import math
import numbers

import numpy as np
import torch
from torch.nn import functional as F

from ._base import Likelihood
from ._statistics import RARE_SCALE, TOLERANCE, blocks, draw_ones, logit, moments


class BernoulliLikelihood(Likelihood):
    """Independent binary features, or grey values in [0, 1] read as probabilities.

    ``log p(x | z) = sum_j x_j log sigmoid(output_j) + (1 - x_j) log sigmoid(-output_j)``.
    For binary X this is a log-probability. For values between 0 and 1 it is the cross-entropy with
    soft targets, the custom for images: not a normalised density, and comparable only with scores
    of the same likelihood.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skddvi.likelihoods import BernoulliLikelihood
    >>> likelihood = BernoulliLikelihood().fit(np.array([[0, 1], [1, 1]]))
    >>> likelihood.log_prob(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2))
    tensor([-1.3863])
    """

    name = "bernoulli"

    def check(self, X):
        """Raise where X leaves [0, 1]; see `Likelihood.check`."""
        self._check_finite(X)
        extremes = [(block.min(), block.max()) for block in blocks(X)]
        low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            raise ValueError(
                f"likelihood='bernoulli' needs X in [0, 1], found [{low:g}, {high:g}]; rescale X, "
                "for example with sklearn.preprocessing.MinMaxScaler(), or use "
                "likelihood='gaussian' (real values), 'poisson' (counts) or 'binomial' (dosages)"
            )

    def fit(self, X):
        """Learn the mean of every feature and one scale for all; see `Likelihood.fit`."""
        mean, std, _, _ = moments(blocks(X))
        # One scale for all features: rare pixels must not shout.
        spread = math.sqrt(np.square(std).mean()) or 1.0
        self._store(mean, np.full_like(mean, spread), logit(mean, X.shape[0]))
        return self

    def log_prob(self, x, output):
        """Negative cross-entropy; see `Likelihood.log_prob`."""
        target = x.to(output.dtype).expand_as(output)
        return -F.binary_cross_entropy_with_logits(output, target, reduction="none").sum(-1)

    def mean(self, output, library=None):
        """Return the probability of a one; see `Likelihood.mean`."""
        return torch.sigmoid(output)

    @torch.no_grad()
    def sample(self, output, generator, library=None):
        """Draw rows of zeros and ones; see `Likelihood.sample`."""
        return draw_ones(torch.sigmoid(output), generator)


class BinomialLikelihood(Likelihood):
    """Dosages out of `n_trials`, such as genotypes coded 0, 1, 2; NaN is a missing call.

    ``log p(x | z) = sum_{j observed} log C(n_trials, x_j) + x_j log f_j + (n_trials - x_j)
    log(1 - f_j)`` with allele frequencies ``f = sigmoid(output)``. Missing calls are left out of
    the sum and enter the encoder as the training mean. Imputed dosages need not be integers: the
    binomial coefficient is extended by the gamma function.

    Parameters
    ----------
    n_trials : int, default=2
        Ploidy, the largest dosage.

    Notes
    -----
    For the encoder dosages are standardised per feature; standard deviations below 0.1 count as
    0.1, so that a variant carried by one row does not dominate. A feature with no observed call is
    taken to have mean ``n_trials / 2``.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skddvi.likelihoods import BinomialLikelihood
    >>> X = np.array([[0, 2, np.nan], [2, 1, 1]])
    >>> likelihood = BinomialLikelihood().fit(X)
    >>> likelihood.log_prob(torch.tensor(X[:1]), torch.zeros(1, 3))
    tensor([-2.7726])
    """

    name = "binomial"
    accepts_missing = True

    def __init__(self, n_trials=2):
        super().__init__()
        if not isinstance(n_trials, numbers.Integral) or n_trials < 1:
            raise ValueError(f"n_trials must be a positive integer, got {n_trials!r}")
        self.n_trials = int(n_trials)

    def extra_repr(self):
        """Return the arguments that ``repr`` shows."""
        return f"n_trials={self.n_trials}"

    def check(self, X):
        """Raise where a value is neither NaN nor in 0..n_trials; see `Likelihood.check`."""
        counts = {}
        for block in blocks(X):
            outside = block[(block < -TOLERANCE) | (block > self.n_trials + TOLERANCE)]
            for value, count in zip(*np.unique(outside, return_counts=True), strict=True):
                counts[value] = counts.get(value, 0) + int(count)
            if len(counts) > 1000:  # not dosages at all: enough has been seen
                break
        if counts:
            ranked = sorted(counts.items(), key=lambda item: -item[1])
            found = ", ".join(
                f"{count} {'entry equals' if count == 1 else 'entries equal'} {value:g}"
                for value, count in ranked[:3]
            )
            more = " and other values" if len(ranked) > 3 else ""
            raise ValueError(
                f"likelihood='binomial' with n_trials={self.n_trials} found values outside "
                f"0..{self.n_trials}: {found}{more}; code missing calls as NaN"
            )

    def fit(self, X):
        """Learn the mean and spread of every feature; see `Likelihood.fit`."""
        mean, std, _, _ = moments(blocks(X))
        mean = np.where(np.isnan(mean), self.n_trials / 2, mean)
        scale = np.where(std > 0, np.maximum(std, RARE_SCALE), 1.0)
        self._store(mean, scale, logit(mean / self.n_trials, self.n_trials * X.shape[0]))
        return self

    def encode(self, x):
        """Standardised dosages, 0 at missing calls; see `Likelihood.encode`."""
        return torch.nan_to_num(super().encode(x), nan=0.0)

    def log_prob(self, x, output):
        """Log-probability of the observed calls; see `Likelihood.log_prob`."""
        x = x.to(output.dtype)
        observed = ~torch.isnan(x)
        x = torch.where(observed, x, 0.0)  # the coefficient of 0 is 1
        target = (x / self.n_trials).expand_as(output)
        cross_entropy = F.binary_cross_entropy_with_logits(
            output, target, weight=observed.to(output.dtype), reduction="none"
        )
        return self._log_coefficient(x).sum(-1) - self.n_trials * cross_entropy.sum(-1)

    def _log_coefficient(self, x):
        n_trials, calls = self.n_trials, x.round()
        if torch.equal(calls, x):  # a table is four times faster than the gamma function
            table = [math.log(math.comb(n_trials, k)) for k in range(n_trials + 1)]
            return x.new_tensor(table)[calls.long()]
        return math.lgamma(n_trials + 1) - torch.lgamma(x + 1) - torch.lgamma(n_trials - x + 1)

    def mean(self, output, library=None):
        """Return the expected dosage; see `Likelihood.mean`."""
        return self.n_trials * torch.sigmoid(output)

    @torch.no_grad()
    def sample(self, output, generator, library=None):
        """Draw rows of integer dosages without missing calls; see `Likelihood.sample`."""
        frequency = torch.sigmoid(output)
        return sum(draw_ones(frequency, generator) for _ in range(self.n_trials))
