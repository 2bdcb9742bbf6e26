"""Warnings point to the user's line, whichever way the estimator was called."""

import joblib
import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skddvi import DDVAETransformer
from skddvi.likelihoods import PoissonLikelihood

# Counts that are not integers; and genotypes with missing calls coded as 9.
HALVES = np.random.default_rng(0).integers(0, 9, size=(12, 3)) / 2
CODED = np.random.default_rng(1).choice([0.0, 1.0, 2.0, 9.0], size=(40, 3))


def small(**params):
    return DDVAETransformer(hidden_layer_sizes=4, max_iter=1, random_state=0, **params)


def in_a_pipeline(X, **params):
    return make_pipeline(FunctionTransformer(), small(**params)).fit(X)


def before_another_step(X, **params):
    return make_pipeline(small(**params), FunctionTransformer()).fit(X)


def in_a_cached_pipeline(X, tmp_path, **params):
    steps = [("embed", small(**params)), ("pass", FunctionTransformer())]
    return Pipeline(steps, memory=joblib.Memory(tmp_path, verbose=0)).fit(X)


WAYS = {
    "fit": lambda X, folder, **params: small(**params).fit(X),
    "fit_transform": lambda X, folder, **params: small(**params).fit_transform(X),
    "set_output": lambda X, folder, **params: (
        small(**params).set_output(transform="pandas").fit_transform(X)
    ),
    "pipeline": lambda X, folder, **params: in_a_pipeline(X, **params),
    "first in a pipeline": lambda X, folder, **params: before_another_step(X, **params),
    "cached pipeline": in_a_cached_pipeline,
    "cross validation": lambda X, folder, **params: cross_val_score(small(**params), X, cv=2),
}


@pytest.mark.parametrize(
    ("X", "likelihood", "message"),
    [(HALVES, "poisson", "not integers"), (CODED, "gaussian", "genotype dosages")],
    ids=["poisson", "gaussian"],
)
@pytest.mark.parametrize("way", WAYS)
def test_likelihood_warnings_point_here(way, X, likelihood, message, tmp_path):
    with pytest.warns(UserWarning, match=message) as caught:
        WAYS[way](X, tmp_path, likelihood=likelihood)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_likelihood_called_by_itself_points_here():
    with pytest.warns(UserWarning, match="not integers") as caught:
        PoissonLikelihood().check(HALVES)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("way", ["fit", "fit_transform", "pipeline"])
def test_training_warnings_point_here(way, tmp_path):
    with pytest.warns(UserWarning, match="early_stopping is off") as caught:
        WAYS[way](HALVES[:2], tmp_path, early_stopping=True)
    assert [warning.filename for warning in caught] == [__file__]
