"""Statistics of X in one pass over its rows, and small helpers."""

import numpy as np
import torch
from scipy import sparse

_BLOCK_ENTRIES = 2**20  # entries of X held in float64 at once: 8 MiB
TOLERANCE = 1e-6  # MinMaxScaler may return 1 + 2e-16, imputed dosages 2 + 1e-7
LARGEST = np.finfo(np.float32).max
RARE_SCALE = 0.1  # features rarer than this standard deviation are not blown up to unit scale
# Of components: how few and how many they may be, for a few unrelated measurements are easily like
# them; by how many standard errors a mean may be off; how large the root mean square of
# correlations may be, in standard errors and at all; by which factor a spread may be above an
# earlier one, and the first above the last, lest a measurement in a large unit hide others. Of
# spreads below a share of the largest only rounding errors are left.
FEWEST_COMPONENTS, MOST_COMPONENTS, MEAN_ERRORS = 5, 1000, 5.0
CORRELATION_ERRORS, LARGEST_CORRELATION = 2.0, 0.1
LARGEST_RISE, LARGEST_RATIO, SMALLEST_SHARE = 1.5, 100.0, 1e-6


def blocks(X):
    """Yield the rows of X, an array or CSR matrix, as dense float64 blocks of bounded size."""
    n_rows, n_features = X.shape
    step = max(1, _BLOCK_ENTRIES // max(1, n_features))
    for start in range(0, n_rows, step):
        block = X[start : start + step]
        block = block.toarray() if sparse.issparse(block) else np.asarray(block)
        yield block.astype(np.float64, copy=False)


def moments(row_blocks):
    """Mean, standard deviation, minimum and maximum per feature in one pass, NaN left out.

    Blocks are merged by the pairwise update of Chan, Golub & LeVeque (1983), so a mean that is
    large beside the spread costs no precision. A feature without any value has mean NaN.
    """
    count = mean = squares = 0.0
    low, high = np.inf, -np.inf
    for block in row_blocks:
        seen = ~np.isnan(block)
        n_new = seen.sum(axis=0)
        block_mean = block.sum(axis=0, where=seen) / np.maximum(n_new, 1)
        centred = np.where(seen, block - block_mean, 0.0)
        total = np.maximum(count + n_new, 1)
        shift = block_mean - mean
        squares = squares + np.square(centred).sum(axis=0) + shift**2 * (count * n_new / total)
        mean = mean + shift * (n_new / total)
        count = count + n_new
        low = np.fmin(low, np.fmin.reduce(block, axis=0))
        high = np.fmax(high, np.fmax.reduce(block, axis=0))
    std = np.sqrt(squares / np.maximum(count, 1))
    return np.where(count > 0, mean, np.nan), std, low, high


def are_components(X, mean, std):
    """Whether features are centred, uncorrelated and of falling variance.

    The scores of a principal component analysis are, those of a part of its rows up to sampling
    errors, and seldom anything else.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n, p)
    mean, std : ndarray of shape (p,)
        Those of X.
    """
    n_rows = X.shape[0]
    used = std > SMALLEST_SHARE * std.max(initial=0.0)
    mean, std = mean[used], std[used]
    if not FEWEST_COMPONENTS <= len(std) <= MOST_COMPONENTS:
        return False
    if std.max() > LARGEST_RATIO * std.min():
        return False
    if (np.abs(mean) > MEAN_ERRORS / np.sqrt(n_rows) * std).any():
        return False
    if (std > LARGEST_RISE * np.minimum.accumulate(std)).any():
        return False
    products = sum((z := (block[:, used] - mean) / std).T @ z for block in blocks(X))
    correlations = products[~np.eye(len(std), dtype=bool)] / n_rows
    largest = min(CORRELATION_ERRORS / np.sqrt(n_rows), LARGEST_CORRELATION)
    return bool(np.sqrt(np.square(correlations).mean()) <= largest)


def float32_tensor(values):
    """Return a float32 tensor of an array."""
    return torch.from_numpy(values.astype(np.float32))


def logit(frequencies, n_rows):
    """Log-odds of training frequencies, kept off 0 and 1 by half an observation."""
    margin = 0.5 / (n_rows + 1)
    clipped = np.clip(frequencies, margin, 1 - margin)
    return np.log(clipped) - np.log1p(-clipped)


def draw_ones(probability, generator):
    """Bernoulli draws; on a CPU several times faster than torch.bernoulli and torch.binomial."""
    uniform = torch.rand(
        probability.shape,
        generator=generator,
        dtype=probability.dtype,
        device=probability.device,
    )
    return torch.lt(uniform, probability, out=uniform)
