"""Labels of which some are missing: which rows have one, and what the classes are."""

from collections.abc import Hashable

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from ._engine.rows import as_array
from ._warn import warn

# Code of a row without a label, in whatever way y says so.
UNLABELLED = -1
_UNNAMED = (
    ", which the parameter unlabeled does not name; pass unlabeled='auto', or one mark for all of "
    "these rows"
)


def encode_labels(y, unlabeled, classes=None, name="y"):
    """Return class codes of the rows and the classes.

    Parameters
    ----------
    y : array-like of shape (n,)
    unlabeled : "auto", None or scalar
        What stands for no label, as the classifier's parameter says.
    classes : ndarray or None
        The classes of the fit; by default those found in y.
    name : str
        What the messages call y.

    Returns
    -------
    codes : ndarray of shape (n,), int64
        Index into ``classes``, ``UNLABELLED`` for none.
    classes : ndarray of shape (n_classes,)
        Sorted.
    """
    if hasattr(getattr(y, "dtype", None), "na_value"):  # of pandas: numbers beside its own NA
        y = y.to_numpy(dtype=object)
    y = column_or_1d(as_array(y, name), warn=True)
    if y.dtype.kind == "V":
        raise ValueError(f"{name} must hold one label a row, found records of {y.dtype}.")
    mask = _is_unlabelled(y, unlabeled, classes, name)
    values = of_one_kind(y[~mask], name, _UNNAMED)
    if len(values):
        check_classification_targets(values)
    found = np.unique(values)
    if classes is None:
        classes = found
        _check_classes(classes, len(y), y[:1], unlabeled)
    unknown = found[~np.isin(found, classes)]
    if len(unknown):
        raise ValueError(
            f"{name} holds labels that the training rows have not: {unknown[:5].tolist()}; the "
            f"classes are {classes.tolist()}."
        )
    codes = np.full(len(y), UNLABELLED)
    codes[~mask] = np.searchsorted(classes, values)
    return codes, classes


def _is_unlabelled(y, unlabeled, classes, name):
    """Return the mask (n,) of the rows without a label."""
    if unlabeled is None:
        return np.zeros(len(y), dtype=bool)
    if not isinstance(unlabeled, str) or unlabeled != "auto":
        if np.ndim(unlabeled) or not isinstance(unlabeled, Hashable):
            raise ValueError(f"unlabeled must be 'auto', None or a scalar, found {unlabeled!r}.")
        missing = _missing(y)
        if _is_missing(unlabeled):
            return missing
        mask = ~missing
        mask[mask] = [bool(value == unlabeled) for value in y[mask].tolist()]
        return mask
    if y.dtype.kind == "O":
        missing = _missing(y)
        if missing.any():
            return missing
        y = of_one_kind(y, name)
    if y.dtype.kind == "f":
        if np.isnan(y).any():
            raise ValueError(
                f"Input {name} contains NaN: {int(np.isnan(y).sum())} of {len(y)} labels. If these "
                "rows have no label, pass unlabeled=np.nan, or -1 or None in their place."
            )
        if not np.array_equal(y, np.rint(y)):
            return np.zeros(len(y), dtype=bool)
    elif y.dtype.kind not in "iu":
        return np.zeros(len(y), dtype=bool)
    mask = y == -1
    if classes is not None:
        return mask & (-1 not in classes)
    if mask.any() and np.array_equal(np.unique(y), [-1, 1]):
        warn(
            f"{name} holds exactly -1 and +1, which is read as two classes, not as unlabelled rows "
            "and one class; pass unlabeled=-1 if -1 stands for no label, or unlabeled=None to keep "
            "silent.",
        )
        return np.zeros(len(y), dtype=bool)
    return mask


def _is_missing(value):
    return value is None or type(value).__name__ == "NAType" or value != value


def _missing(y):
    if y.dtype.kind == "f":
        return np.isnan(y)
    return np.array([_is_missing(value) for value in y.tolist()], dtype=bool)


def of_one_kind(values, name, hint=""):
    """Return values with the numbers of an object array as numbers, strings as they were.

    ``name`` is what the messages call them; ``hint`` ends the one that some are missing.
    """
    if values.dtype.kind != "O":
        return values
    n_missing = np.count_nonzero(_missing(values))
    if n_missing:
        raise ValueError(f"{name} holds {n_missing} missing labels (None, NaN or NA){hint}.")
    kinds = sorted({type(value).__name__ for value in values})
    n_strings = sum(isinstance(value, str) for value in values)
    if n_strings == len(values):
        return values
    if n_strings:
        raise ValueError(f"{name} must hold labels of one kind, found {' and '.join(kinds)}.")
    return np.array(values.tolist())


def _check_classes(classes, n_rows, first, unlabeled):
    if len(classes) == 0 and n_rows:
        auto = isinstance(unlabeled, str) and unlabeled == "auto"
        label = first.tolist()[0] if auto else unlabeled
        raise ValueError(
            f"no labelled sample: every y equals unlabeled={label!r}; label some rows of at least "
            "two classes, or use DDVAETransformer, which needs no labels."
        )
    if len(classes) == 1:
        raise ValueError(
            f"y must hold at least 2 classes, found 1 class among the labelled rows: "
            f"{classes.tolist()[0]!r}."
        )
