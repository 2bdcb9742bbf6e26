"""Fitted models that the tests of the promises share; no test may change them."""

import pytest
from _models import X, fit, small


@pytest.fixture(scope="session")
def fitted():
    """Return a fitted transformer."""
    return fit(small(), X)


@pytest.fixture(scope="session", params=["transformer", "clusterer", "classifier"])
def each(request):
    """Return a fitted estimator, in turn of each kind."""
    return fit(small(request.param), X)
