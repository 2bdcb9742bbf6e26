"""scikit-learn's own checks, all of them, of the estimators with their default arguments.

The baselines, of which no check asks that they have learned something, train for three epochs.
"""

import json
import os
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest
import sklearn
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.fixes import parse_version

from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer, baselines

ROOT = Path(__file__).parents[1]
ESTIMATORS = {cls.__name__: cls for cls in (DDVAEClassifier, DDVAEClusterer, DDVAETransformer)}
BASELINES = {name: getattr(baselines, name) for name in baselines.__all__}
ESTIMATORS |= BASELINES

# How many checks check_estimator makes of each, by version of scikit-learn. None may fail, and
# there is no list of checks that are expected to.
N_CHECKS = {
    "1.6": {"DDVAEClassifier": 61, "DDVAEClusterer": 51, "DDVAETransformer": 47},
    "1.9": {"DDVAEClassifier": 61, "DDVAEClusterer": 51, "DDVAETransformer": 47},
}
for numbers in N_CHECKS.values():
    numbers |= dict.fromkeys(BASELINES, numbers["DDVAETransformer"])
# Checks that may be skipped, each with how the reason begins. They need an environment variable
# that must be set before scipy is imported: test_skipped_checks_pass runs them in another process.
MAY_BE_SKIPPED = {"check_array_api_input": "SCIPY_ARRAY_API is not set"}
# Checks that scikit-learn makes of its own estimators beside those of check_estimator.
FURTHER_CHECKS = [
    "check_dataframe_column_names_consistency",
    "check_get_feature_names_out_error",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_inplace_ensure_writeable",
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]


def check_name(check):
    return getattr(check, "func", check).__name__


@cache
def generated(name):
    """Return the list of (estimator, check) that check_estimator goes through."""
    estimator = ESTIMATORS[name](**{"max_iter": 3} if name in BASELINES else {})
    return list(estimator_checks_generator(estimator, mark=None))


ALL_CHECKS = [
    pytest.param(name, index, id=f"{name}-{index}-{check_name(check)}")
    for name in ESTIMATORS
    for index, (_, check) in enumerate(generated(name))
]


@pytest.mark.parametrize(("name", "index"), ALL_CHECKS)
def test_check(name, index):
    estimator, check = generated(name)[index]
    # One of the checks draws from numpy's global generator by itself.
    state = np.random.get_state()  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check(estimator)
        except SkipTest as reason:
            assert str(reason).startswith(MAY_BE_SKIPPED[check_name(check)])
        finally:
            np.random.set_state(state)  # noqa: NPY002


@pytest.mark.parametrize("name", ESTIMATORS)
def test_number_of_checks(name):
    # Each is a test of its own above, which passes only if the check does.
    indices = [index for of, index in (each.values for each in ALL_CHECKS) if of == name]
    assert indices == list(range(len(generated(name))))
    names = [check_name(check) for _, check in generated(name)]
    assert all(names.count(each) <= 1 for each in MAY_BE_SKIPPED)
    release = ".".join(sklearn.__version__.split(".")[:2])
    if release in N_CHECKS:
        assert len(names) == N_CHECKS[release][name]
    else:
        assert len(names) >= max(numbers[name] for numbers in N_CHECKS.values())


def test_no_check_is_expected_to_fail():
    for name, estimator in ESTIMATORS.items():
        # Tags that leave checks out, and the hook of earlier versions.
        tags = estimator().__sklearn_tags__()
        assert not (tags.no_validation or tags.non_deterministic or tags._skip_test), name
        assert not hasattr(estimator, "_xfail_checks"), name


# One process for both: starting it takes longer than what it does.
IN_ANOTHER_PROCESS = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, sklearn, torch
from sklearn.utils.estimator_checks import estimator_checks_generator
from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer, baselines

passed = []
estimators = [DDVAEClassifier(), DDVAEClusterer(), DDVAETransformer()]
estimators += [getattr(baselines, name)(max_iter=3) for name in baselines.__all__]
for each in estimators:
    for estimator, check in estimator_checks_generator(each, mark=None):
        name = getattr(check, "func", check).__name__
        if name in json.loads(sys.argv[1]):
            check(estimator)
            passed.append(name)

X = np.random.default_rng(0).normal(size=(20, 3))
model = DDVAETransformer(hidden_layer_sizes=(8,), max_iter=2, random_state=0)
plain = model.fit(X).transform(X)
with sklearn.config_context(array_api_dispatch=True):
    tensor = torch.from_numpy(X)
    dispatched = model.fit(tensor).transform(tensor)
    restored = model.inverse_transform(torch.from_numpy(plain))
assert isinstance(dispatched, np.ndarray) and isinstance(restored, np.ndarray)
np.testing.assert_array_equal(dispatched, plain)
print(json.dumps(passed))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.9"),
    reason="no check of this version needs another process",
)
def test_skipped_checks_pass_and_dispatched_tensors_are_arrays():
    process = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, json.dumps(list(MAY_BE_SKIPPED))],
        env=os.environ | {"SCIPY_ARRAY_API": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == list(MAY_BE_SKIPPED) * len(ESTIMATORS)


@pytest.mark.parametrize("check", FURTHER_CHECKS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_further_check(name, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            getattr(estimator_checks, check)(name, ESTIMATORS[name](max_iter=2))
        except SkipTest as error:  # pandas or polars is not installed
            pytest.skip(str(error))
