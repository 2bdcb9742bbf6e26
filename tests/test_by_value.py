"""Hashes, pickles and copies of priors and likelihoods go by their values."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skddvi import DDVAETransformer, regularizers
from skddvi.likelihoods import (
    BernoulliLikelihood,
    BinomialLikelihood,
    GaussianLikelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
)
from skddvi.priors import (
    EmpiricalPrior,
    GaussianMixturePrior,
    NormalPrior,
    PinwheelPrior,
    SquarePrior,
    SwissRollPrior,
)

ROOT = Path(__file__).parents[1]
COUNTS = np.arange(12.0).reshape(4, 3)

# Constructor calls, so that another process can make the same objects.
CALLS = [
    "NormalPrior(3)",
    "PinwheelPrior(n_arms=3)",
    "SwissRollPrior(n_parts=2)",
    "SquarePrior()",
    "GaussianMixturePrior(torch.eye(2), scales=[0.5, 1.0])",
    "EmpiricalPrior(np.eye(3))",
    "GaussianLikelihood().fit(COUNTS)",
    "BernoulliLikelihood().fit(COUNTS / 11)",
    "BinomialLikelihood(n_trials=11).fit(COUNTS)",
    "PoissonLikelihood().fit(COUNTS)",
    "NegativeBinomialLikelihood().fit(COUNTS)",
    "DDVAETransformer(prior=PinwheelPrior(n_arms=3), likelihood=GaussianLikelihood(0.5))",
]
NAMESPACE = {
    value.__name__: value
    for value in (
        BernoulliLikelihood,
        BinomialLikelihood,
        DDVAETransformer,
        EmpiricalPrior,
        GaussianLikelihood,
        GaussianMixturePrior,
        NegativeBinomialLikelihood,
        NormalPrior,
        PinwheelPrior,
        PoissonLikelihood,
        SquarePrior,
        SwissRollPrior,
    )
} | {"COUNTS": COUNTS, "np": np, "torch": torch}


def make(call):
    return eval(call, NAMESPACE)


def test_equal_objects_hash_alike_in_two_processes():
    hashes = {call: joblib.hash(make(call)) for call in CALLS}
    assert len(set(hashes.values())) == len(CALLS)
    code = (
        "import json, joblib\nfrom test_by_value import CALLS, make\n"
        "print(json.dumps({call: joblib.hash(make(call)) for call in CALLS}))"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": "7"},
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == hashes


@pytest.mark.parametrize("call", CALLS)
def test_hash_does_not_depend_on_the_way_an_object_came_about(call):
    made = make(call)
    for other in (make(call), copy.copy(made), copy.deepcopy(made), pickle.dumps(made)):
        other = pickle.loads(other) if isinstance(other, bytes) else other
        assert joblib.hash(other) == joblib.hash(made)


def test_hash_depends_on_every_argument_and_not_on_use():
    assert joblib.hash(PinwheelPrior()) != joblib.hash(PinwheelPrior(twist=0.61))
    prior = GaussianMixturePrior(np.eye(2), scales=1.0)
    assert joblib.hash(prior) != joblib.hash(GaussianMixturePrior(2.0 * np.eye(2), scales=1.0))
    before = joblib.hash(prior)
    prior.log_prob(torch.zeros(1, 2))
    assert joblib.hash(prior) == before


class Noted(regularizers.NeighborhoodPreservation):
    """A regulariser that counts how often it was fitted."""

    n_fits = 0

    def fit(self, X):
        Noted.n_fits += 1
        return super().fit(X)


def test_cached_pipeline_does_not_fit_twice(tmp_path):
    X = np.random.default_rng(0).normal(size=(40, 3))

    def fit_transform():
        model = DDVAETransformer(
            prior=GaussianMixturePrior(torch.eye(2), scales=1.0),
            likelihood=GaussianLikelihood(0.5),
            regularizer=Noted(3),
            hidden_layer_sizes=4,
            max_iter=1,
            random_state=0,
        )
        memory = joblib.Memory(tmp_path, verbose=0)
        steps = [("embed", model), ("scale", StandardScaler())]
        return Pipeline(steps, memory=memory).fit_transform(X)

    Noted.n_fits = 0
    first = fit_transform()
    np.testing.assert_array_equal(fit_transform(), first)
    assert Noted.n_fits == 1


def test_pickles_hold_arrays_and_keep_what_a_tensor_is():
    likelihood = NegativeBinomialLikelihood().fit(COUNTS)
    likelihood.log_theta.requires_grad_(False)
    assert b"torch._utils" not in pickle.dumps(likelihood)
    restored = pickle.loads(pickle.dumps(likelihood.to(torch.bfloat16)))
    assert isinstance(restored.log_theta, torch.nn.Parameter)
    assert not restored.log_theta.requires_grad
    assert restored.log_theta.dtype == torch.bfloat16
    assert torch.equal(restored.scale, likelihood.scale)
    assert restored.center.is_leaf


def test_copies_share_memory_only_where_they_should():
    likelihood = GaussianLikelihood().fit(COUNTS)
    assert copy.copy(likelihood).scale.data_ptr() == likelihood.scale.data_ptr()
    deep = copy.deepcopy([likelihood, likelihood.log_variance])
    assert deep[0].scale.data_ptr() != likelihood.scale.data_ptr()
    assert deep[1] is deep[0].log_variance
