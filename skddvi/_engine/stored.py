"""Rows in a store that is read a block at a time: h5py, Zarr, and other files of rows."""

import math
from collections import OrderedDict

import numpy as np
import torch
from scipy import sparse

# What is read at once, and how many such blocks are mixed with each other in training.
BLOCK_BYTES, N_MIXED_BLOCKS = 2**22, 8
# Blocks that are kept: a batch may end one mixture and begin the next.
N_KEPT_BLOCKS = 2 * N_MIXED_BLOCKS


# Part of the names of the folders in which joblib keeps what it maps.
JOBLIB_FOLDER = "joblib_memmapping_folder"


def is_stored(X):
    """Return whether the rows of X lie in a store, and are not to be read all at once.

    These are array-likes that know of chunks, as those of h5py, Zarr and Dask, and files that numpy
    maps into memory, views of them too, if their values have to be converted, or put into C order.
    """
    if isinstance(X, np.memmap):
        if JOBLIB_FOLDER in str(X.filename):
            return False  # the user's array, which joblib has mapped for its workers
        return X.dtype not in (np.float32, np.float64) or not X.flags.c_contiguous
    if isinstance(X, np.ndarray) or sparse.issparse(X) or torch.is_tensor(X):
        return False
    return all(hasattr(X, name) for name in ("shape", "dtype", "chunks", "__getitem__"))


class StoredRows:
    """Rows of a store, or some of them, in float32 or float64.

    Only slices of neighbouring rows are asked of the store, a block of some megabytes at a time,
    and the last blocks are kept. So memory does not grow with the number of rows.

    Parameters
    ----------
    store : object
        ``store.shape`` is (n, p), and ``store[start:stop]`` is what numpy can make an array of.
    index : ndarray of int of shape (m,), default=None
        The rows that are meant, in the order of the store; all by default.
    """

    ndim = 2

    def __init__(self, store, index=None):
        self.store, self.index = store, index
        n_rows, n_features = map(int, store.shape)
        self.shape = (n_rows if index is None else len(index), n_features)
        narrow = np.dtype(store.dtype) == np.float32
        self.dtype = np.dtype(np.float32 if narrow else np.float64)
        self.block_rows = max(1, BLOCK_BYTES // max(1, self.dtype.itemsize * n_features))
        self._blocks = OrderedDict()

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """Return the rows of a slice, without step, as an array."""
        start, stop, _ = rows.indices(len(self))
        if self.index is not None:
            return self.take(np.arange(start, stop))
        return self._read(start, stop)

    def __array__(self, dtype=None, copy=None):
        """Return all rows, for those who cannot do without."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def subset(self, rows):
        """Return some of the rows, in the order of the store."""
        rows = np.sort(rows)
        return StoredRows(self.store, rows if self.index is None else self.index[rows])

    def take(self, rows):
        """Return the rows at the positions ``rows``, an array of int (m,), as an array (m, p)."""
        rows = np.asarray(rows) if self.index is None else self.index[rows]
        taken = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
        numbers = rows // self.block_rows
        for number in np.unique(numbers):
            here = numbers == number
            taken[here] = self._block(int(number))[rows[here] - number * self.block_rows]
        return taken

    def order(self, generator):
        """Return all positions in random order, a tensor (m,).

        The blocks come in random order, and the rows of every few of them are mixed.
        """
        if self.index is None:
            starts = range(0, len(self), self.block_rows)
            blocks = [torch.arange(a, min(a + self.block_rows, len(self))) for a in starts]
        else:
            numbers = self.index // self.block_rows
            cuts = np.flatnonzero(np.diff(numbers)) + 1
            blocks = list(torch.arange(len(self)).tensor_split(cuts.tolist()))
        device = generator.device
        turn = torch.randperm(len(blocks), generator=generator, device=device).tolist()
        mixtures = []
        for first in range(0, len(turn), N_MIXED_BLOCKS):
            rows = torch.cat([blocks[number] for number in turn[first : first + N_MIXED_BLOCKS]])
            mix = torch.randperm(len(rows), generator=generator, device=device).cpu()
            mixtures.append(rows[mix])
        return torch.cat(mixtures)

    def blocks(self):
        """Yield all rows in order, a block at a time."""
        for number in range(math.ceil(len(self) / self.block_rows)):
            yield self[number * self.block_rows : (number + 1) * self.block_rows]

    def _block(self, number):
        """Return a block of the store, from those that are kept if it is there."""
        if number not in self._blocks:
            start = number * self.block_rows
            self._blocks[number] = self._read(start, start + self.block_rows)
        self._blocks.move_to_end(number)
        while len(self._blocks) > N_KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[number]

    def _read(self, start, stop):
        return np.array(self.store[start:stop], dtype=self.dtype, order="C")
