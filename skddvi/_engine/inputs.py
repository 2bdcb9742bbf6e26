"""What the likelihood makes of rows: inputs of the encoder, and how outputs move them."""

import numpy as np
import torch

from .rows import Rows

# Entries and rows of a sample, at most.
SAMPLE_ENTRIES, SAMPLE_ROWS = 2**25, 10_000
# Step of the difference quotient, in the unit of the decoder's output.
DIFFERENCE = 0.01


@torch.no_grad()
def sample_inputs(likelihood, X):
    """Return some of the rows as the likelihood prepares them for an encoder, an array (m, p).

    Parameters
    ----------
    likelihood : Likelihood
        Fitted.
    X : ndarray, CSR matrix or StoredRows of shape (n, p)
    """
    n, p = X.shape
    rows = Rows(X, likelihood.initial_output().device)
    size = min(n, SAMPLE_ROWS, max(2, SAMPLE_ENTRIES // p))
    # Of a store the first of the random order are in a few of its blocks.
    indices = rows.order(torch.Generator().manual_seed(0))[:size].sort().values
    inputs = [likelihood.encode(rows.batch(part)).float() for part in indices.split(1024)]
    return torch.cat(inputs).cpu().numpy()


@torch.no_grad()
def input_slope(likelihood):
    """Return the derivative of each feature's input by its output, (p,), at the mean row.

    Along random signs, which separates a feature's own derivative from those by other outputs,
    where the outputs of a row share something, as those of counts do.

    Parameters
    ----------
    likelihood : Likelihood
        Fitted.
    """
    output = likelihood.initial_output().double()
    signs = np.random.default_rng(0).choice([-1.0, 1.0], len(output))
    signs = torch.from_numpy(signs).to(output)
    ends = [
        likelihood.encode(likelihood.mean((output + step * signs)[None]))[0].double()
        for step in (DIFFERENCE, -DIFFERENCE)
    ]
    return ((ends[0] - ends[1]) * signs / (2.0 * DIFFERENCE)).cpu().numpy()
