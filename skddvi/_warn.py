"""Warnings that point to the user's line."""

import sys
import warnings

# What lies between the user's line and ours: pipelines and searches call estimators, too.
_INNER_PACKAGES = {"skddvi", "sklearn", "joblib", "torch"}


def warn(message, category=UserWarning):
    """Warn at the innermost line that is neither ours nor scikit-learn's.

    A fixed ``stacklevel`` would be right for one way of calling only: `fit_transform` and pipelines
    put frames of their own between.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _package(frame) in _INNER_PACKAGES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _package(frame):
    return frame.f_globals.get("__name__", "").partition(".")[0]
