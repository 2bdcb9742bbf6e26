"""Mini-batches of rows: of a dense array, a sparse matrix or a store, without a data loader."""

import numpy as np
import torch

from .stored import StoredRows


def as_array(X, name="X"):
    """Return a tensor as an array, and anything else as it is; ``name`` is for the error."""
    if not torch.is_tensor(X):
        return X
    if X.layout != torch.strided or X.is_quantized or X.is_nested or X.is_meta:
        kind = "nested" if X.is_nested else f"{X.layout}, {X.dtype}, on {X.device}"
        raise TypeError(
            f"{name} must be an array or a dense tensor with values, found a tensor ({kind}); pass "
            "a dense tensor or a scipy sparse matrix."
        )
    X = X.float() if X.dtype == torch.bfloat16 else X  # which numpy has not
    return X.numpy(force=True)


class Rows:
    """Batches of the rows of X, as tensors in the dtype that X has.

    X is never copied as a whole; a sparse matrix is made dense one batch at a time.

    Parameters
    ----------
    X : ndarray, CSR matrix or StoredRows of shape (n, p)
    device : torch.device
    """

    def __init__(self, X, device):
        self.X = X
        self.device = device
        self.is_dense = isinstance(X, np.ndarray)
        # A read-only array cannot be shared with torch, and an unordered one not gathered fast.
        self.tensor = None
        if self.is_dense and X.flags.writeable and all(stride >= 0 for stride in X.strides):
            self.tensor = torch.from_numpy(X)

    def __len__(self):
        return self.X.shape[0]

    def order(self, generator):
        """Return the numbers of all rows in random order, a tensor (n,) of int64."""
        if isinstance(self.X, StoredRows):
            return self.X.order(generator)
        return torch.randperm(len(self), generator=generator, device=generator.device).cpu()

    def batch(self, indices):
        """Return the rows at ``indices``, a (m,) tensor of int64 or a slice, as (m, p)."""
        if self.tensor is not None:
            rows = self.tensor[indices]
        elif isinstance(self.X, StoredRows):
            stored = self.X[indices] if isinstance(indices, slice) else self.X.take(indices.numpy())
            rows = torch.from_numpy(stored)
        else:
            index = indices.numpy() if torch.is_tensor(indices) else indices
            rows = self.X[index]
            rows = torch.from_numpy(np.array(rows if self.is_dense else rows.toarray()))
        return rows.to(self.device)

    def chunks(self, size):
        """Yield all rows in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))
