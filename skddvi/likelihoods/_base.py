"""The base class of the likelihoods."""

import numpy as np
import torch
from torch import nn

from .._by_value import ByValueModule
from .._warn import warn
from ._statistics import LARGEST, blocks, float32_tensor

_LARGEST_SCALE = 1e30  # standardised in float32, values beyond would overflow when squared


class Likelihood(ByValueModule):
    """Base class of the likelihoods p(x | z).

    A subclass implements `check`, `fit`, `log_prob`, `mean` and `sample`. Statistics of the
    training rows are buffers, learned quantities parameters; both are created by `fit` in float32
    on the CPU and follow ``.to(...)``. A stored ``state_dict`` loads into an unfitted likelihood.

    Attributes
    ----------
    name : str
        Short name, as accepted by `resolve_likelihood`.
    accepts_missing : bool
        Whether NaN in X stands for a missing value.
    """

    name = None
    accepts_missing = False

    def __init__(self):
        super().__init__()
        # The centre is the sum of two float32 vectors: a feature of mean 1e6 and spread 1 keeps
        # its precision for float64 rows, whatever dtype the module is cast to.
        for buffer in ("center", "center_tail", "scale", "initial"):
            self.register_buffer(buffer, None)

    @property
    def n_features(self):
        """Number of features seen during `fit`."""
        return self.scale.shape[0]

    def check(self, X):
        """Raise where X cannot have this likelihood; warn where it probably should not.

        Parameters
        ----------
        X : ndarray or CSR matrix of shape (n, p)
            Rows in original units. It is read in blocks and never copied or densified as a whole.

        Raises
        ------
        ValueError
            If X holds NaN or infinite values, or values outside the support.

        Warns
        -----
        UserWarning
            If X looks like genotype dosages with missing calls coded as a number.
        """
        self._check_finite(X)
        self._warn_about_dosages(X)

    def fit(self, X):
        """Learn the training statistics.

        Parameters
        ----------
        X : ndarray or CSR matrix of shape (n, p)
            Training rows in original units.

        Returns
        -------
        self : Likelihood
            The fitted likelihood.
        """
        raise NotImplementedError

    def encode(self, x):
        """Network input of about unit scale, with mean 0 over the training rows.

        Parameters
        ----------
        x : Tensor of shape (n, p)
            Rows in original units, of any numeric dtype. The arithmetic is done in the wider of
            its dtype and the module's.

        Returns
        -------
        Tensor of shape (n, p)
            In the module's dtype, free of NaN.
        """
        return self._centered(x).div_(self.input_scale).to(self.scale.dtype)

    def standardize(self, x):
        """Scale rows as `encode` does, but each measurement by its own spread.

        Parameters
        ----------
        x : Tensor of shape (n, p)
            Rows in original units.

        Returns
        -------
        Tensor of shape (n, p)
            In the module's dtype, free of NaN.
        """
        return self.encode(x)

    @property
    def input_scale(self):
        """What `encode` divides the centred features by: a Tensor of shape (p,) or of one value."""
        return self.scale

    def initial_output(self):
        """Return the decoder's last bias, with which an untrained decoder predicts the mean.

        Returns
        -------
        Tensor of shape (p,)
            On the scale of the decoder's output.
        """
        return self.initial.clone()

    def log_prob(self, x, output):
        """Log-density of rows given the decoder's output, log p(x | z).

        Parameters
        ----------
        x : Tensor of shape (n, p)
            Rows in original units.
        output : Tensor of shape (..., n, p)
            Output of the decoder.

        Returns
        -------
        Tensor of shape (..., n)
            In nats, in the dtype of `output`.
        """
        raise NotImplementedError

    def mean(self, output, library=None):
        """Return the expected row given the decoder's output.

        Parameters
        ----------
        output : Tensor of shape (..., n, p)
            Output of the decoder.
        library : float or Tensor of shape (..., n), default=None
            Library size, used by the count likelihoods only. By default the training median.

        Returns
        -------
        Tensor of shape (..., n, p)
            In original units.
        """
        raise NotImplementedError

    def sample(self, output, generator, library=None):
        """Draw rows given the decoder's output. Draws carry no gradient.

        Parameters
        ----------
        output : Tensor of shape (..., n, p)
            Output of the decoder.
        generator : torch.Generator
            Source of randomness, on the device of `output`.
        library : float or Tensor of shape (..., n), default=None
            Library size, used by the count likelihoods only. By default drawn from the
            distribution of the training rows.

        Returns
        -------
        Tensor of shape (..., n, p)
            In original units, in the dtype of `output`.
        """
        raise NotImplementedError

    def _centered(self, x):
        """Rows without their mean, in the wider dtype of x and the module."""
        return (x - self.center).sub_(self.center_tail)

    def _store(self, center, scale, initial):
        # Values beyond float32 must give neither infinity nor a division by zero.
        center = np.clip(center, -LARGEST, LARGEST)
        self.center = float32_tensor(center)
        self.center_tail = float32_tensor(center - self.center.double().numpy())
        self.scale = float32_tensor(np.clip(scale, 1 / _LARGEST_SCALE, _LARGEST_SCALE))
        self.initial = float32_tensor(initial)

    def _check_finite(self, X):
        if X.dtype.kind in "biu":
            return
        count, columns, largest = 0, np.zeros(X.shape[1], dtype=bool), 0.0
        for block in blocks(X):
            bad = ~np.isfinite(block)
            if bad.any():
                count += int(bad.sum())
                columns |= bad.any(axis=0)
            else:
                largest = max(largest, block.max(), -block.min())
        if count:
            first = np.flatnonzero(columns)[:5].tolist()
            raise ValueError(
                f"likelihood={self.name!r} needs a finite X, found {count} NaN or inf values, the "
                f"first in columns {first}; replace them, as with sklearn.impute.SimpleImputer()"
            )
        if largest > _LARGEST_SCALE:
            raise ValueError(
                f"likelihood={self.name!r} needs values of X within +-{_LARGEST_SCALE:g}, found "
                f"{largest:g} in size; rescale X"
            )

    def _warn_about_dosages(self, X):
        present = set()
        for block in blocks(X):
            # Ordinary data leave after the first block.
            if not np.isin(block, (0, 1, 2, -1, 9, 255)).all():
                return
            present.update(code for code in (0, 1, 2, -1, 9, 255) if (block == code).any())
        codes = present - {0, 1, 2}
        if len(codes) == 1 and present > {0, 1, 2}:
            warn(
                f"X holds only 0, 1, 2 and {codes.pop()}, which looks like genotype dosages with "
                f"missing calls coded as a number; likelihood={self.name!r} reads them as values. "
                "Code missing calls as NaN and use likelihood='binomial'",
            )

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # Shapes come with the training data: an unfitted likelihood takes those of the stored one.
        for own in (self._buffers, self._parameters):
            for key, value in own.items():
                stored = state_dict.get(prefix + key)
                if stored is not None and (value is None or value.shape != stored.shape):
                    empty = torch.empty_like(stored)
                    own[key] = nn.Parameter(empty) if own is self._parameters else empty
        super()._load_from_state_dict(state_dict, prefix, *args)
