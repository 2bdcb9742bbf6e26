"""Bad inputs by the hundred: none ends in an inner error, a hang, a NaN or a wrong result."""

import signal
import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from _models import ESTIMATORS, tiny
from _trials import attempt
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import skddvi

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = np.random.default_rng(0).normal(size=(12, 3))
COUNTS = np.abs(ROWS).round()
# Rows that each likelihood takes.
GOOD = {
    "gaussian": ROWS,
    "bernoulli": (ROWS > 0).astype(float),
    "binomial": COUNTS.clip(0, 2),
    "poisson": COUNTS,
    "negative_binomial": COUNTS,
}
Y = np.arange(12) % 3 - 1


@contextmanager
def within(seconds=60):
    """Fail what takes longer: a hang."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def hung(number, frame):
        raise TimeoutError(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ask_everything(model, rows):
    """Return what a fitted model gives for rows, after checking shapes and agreement."""
    latents = model.transform(rows)
    n_rows = rows.shape[0] if hasattr(rows, "shape") else len(rows)
    assert latents.shape == (n_rows, model.prior_.n_components)
    np.testing.assert_array_equal(latents, model.transform(rows))
    drawn = model.sample(2, random_state=0)
    assert drawn.shape == (2, model.n_features_in_)
    answers = [latents, model.score_samples(rows), model.inverse_transform(latents), drawn]
    if hasattr(model, "predict_proba"):
        shares = model.predict_proba(rows)
        np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-5)
        names = getattr(model, "classes_", np.arange(shares.shape[1]))
        np.testing.assert_array_equal(model.predict(rows), names[shares.argmax(axis=1)])
        answers.append(shares)
    if hasattr(model, "labels_"):
        np.testing.assert_array_equal(model.labels_, model.predict(rows))
    return answers + list(model.history_.values())


# ------------------------------------------------------------------------------ what is given

NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 3, 9, 2**62, 0.5, -0.5, 1.5, 1e300, -1e300, 1e-300, np.nan, np.inf, -np.inf, 1j]
)
WORDS = st.sampled_from(["", "x", "auto", "normal", "poisson", "cpu", "cuda", b"auto"])
ODDITIES = st.sampled_from(
    [
        *(None, True, False, [], {}, (), {1}, [None], ["a"], [[1]], [1, 2], [0.1, "a"], range(2)),
        *(np.array([]), np.array(2), np.array([0.5, 0.5]), np.int64(2), np.float32(0.5), len, int),
        *(torch.tensor(2), torch.tensor([0.1, 0.2]), pd.Series([0.1, 0.2]), pd.NA, object()),
        *(np.datetime64("2020"), np.random.default_rng(0), ROWS, "\0", [1.0, 1.0], [np.nan, 0.1]),
    ]
)
VALUES = NUMBERS | WORDS | ODDITIES


@st.composite
def spoilt_tables(draw, good):
    """Draw rows with a fault: a value, a shape, a type or a container that is odd."""
    rows = good.copy()
    fault = draw(st.sampled_from(["value", "shape", "dtype", "container", "no table"]))
    if fault == "value":
        value = draw(NUMBERS.filter(lambda v: not isinstance(v, complex)) | st.floats(width=64))
        where = draw(st.sampled_from(["entry", "row", "column", "all"]))
        i, j = draw(st.integers(0, 11)), draw(st.integers(0, 2))
        rows[{"entry": (i, j), "row": i, "column": (slice(None), j), "all": ...}[where]] = value
        make = draw(st.sampled_from([np.array, np.float32, sparse.csr_array, pd.DataFrame, list]))
        return make(rows)
    if fault == "shape":
        shape = draw(st.lists(st.integers(0, 4), min_size=0, max_size=3))
        return np.resize(rows, shape) if 0 not in shape else np.zeros(shape)
    if fault == "dtype":
        names = "complex64 U5 S5 object int8 uint64 bool float16 longdouble datetime64[s] >f4 V4"
        dtype = draw(st.sampled_from(names.split()))
        return np.zeros((12, 3), dtype) if dtype in ("V4", "datetime64[s]") else rows.astype(dtype)
    if fault == "container":
        frame = pd.DataFrame(rows)
        return draw(
            st.sampled_from(
                [
                    frame.assign(s="x"),
                    frame.assign(s=pd.Categorical(list("ab") * 6)).set_axis(list("abcd"), axis=1),
                    frame.assign(s=pd.date_range("2020", periods=12, tz="UTC"))[[0, 1, "s"]],
                    frame.set_axis(["a", "a", "b"], axis=1),
                    frame.set_axis(["a", 1, 2], axis=1),
                    frame.astype(pd.SparseDtype(float)),
                    frame.round().astype("Int64").mask(frame > 1),
                    frame.iloc[:, 0],
                    pl.DataFrame({"a": ["x"] * 12, "b": [1.0] * 12, "c": [2.0] * 12}),
                    pl.DataFrame({"a": [None, 1.0] * 6, "b": [1.0] * 12, "c": [2.0] * 12}),
                    pl.DataFrame(rows).lazy(),
                    sparse.csr_array((12, 0)),
                    sparse.csr_array((0, 3)),
                    sparse.coo_array(rows[0]),
                    sparse.csr_array(rows).astype(complex),
                    sparse.dok_array(rows),
                    torch.tensor(rows, requires_grad=True),
                    torch.tensor(rows).to_sparse(),
                    torch.tensor(rows, dtype=torch.bfloat16),
                    torch.empty(12, 3, device="meta"),
                    np.ma.masked_array(rows, rows > 0),
                    np.array([[1, 2, "x"]] * 12, dtype=object),
                    np.array([[1, 2, None]] * 12, dtype=object),
                    np.array([[1, 2, 10**400]] * 12, dtype=object),
                    [*rows.tolist(), [1.0]],
                    rows.tolist()[:1],
                ]
            )
        )
    return draw(VALUES.filter(lambda value: value is not ROWS))


LABELS = [
    *(None, 1, "abc", [0, 1], [0, 1] * 10, [], {}, {1, 2}, [[0, 1]] * 12, [[0], [0, 1]] * 6),
    *([np.nan] * 12, [0, 1, np.nan] * 4, [0, 1, np.inf] * 4, np.linspace(0, 1, 12), [0, 1j] * 6),
    *([1] * 12, [-1] * 12, [None] * 12, [0, "a"] * 6, [0, 1, None] * 4, [object(), 1] * 6),
    *([b"a", b"b"] * 6, [10**400, 1] * 6, [-1, 1] * 6, [True, False] * 6, np.zeros((12, 2))),
    *(pd.Series([0, 1, None] * 4, dtype="Int64"), pd.Series(["a", None] * 6, dtype="string")),
    *(pd.DataFrame({"a": [0, 1] * 6}), pl.Series([0, 1, None] * 4), np.zeros(12, dtype="V4")),
    *(torch.tensor([0.0, 1.0] * 6, requires_grad=True), sparse.csr_array(Y[:, None]), range(12)),
]


# ------------------------------------------------------------------------------ by hypothesis


@st.composite
def bad_parameters(draw):
    """Draw a parameter with a value of any kind, and a fit."""
    kind = draw(st.sampled_from(sorted(ESTIMATORS)))
    name = draw(st.sampled_from(sorted(tiny(kind).get_params())))
    value = draw(VALUES)
    if name in ("max_iter", "n_init") and isinstance(value, int) and value == 2**62:
        value = -value  # a wish that would be granted
    return f"{kind}({name}={value!r})", lambda: ask_everything(
        tiny(kind, **{name: value}).fit(ROWS, Y), ROWS
    )


@st.composite
def bad_rows(draw, models):
    """Draw rows with a fault, and what is asked of them."""
    kind, likelihood = draw(st.sampled_from(sorted(models)))
    rows = draw(spoilt_tables(GOOD[likelihood]))
    model, good = models[kind, likelihood], GOOD[likelihood]
    own = tiny(kind, likelihood=likelihood)
    asks = {
        "fit": lambda: ask_everything(own.fit(rows, Y), rows),
        "fit X_val": lambda: ask_everything(own.fit(good, Y, X_val=rows), good),
        "ask": lambda: ask_everything(model, rows),
        "sample_posterior": lambda: model.sample_posterior(rows, 2, random_state=0),
        "inverse_transform": lambda: model.inverse_transform(rows),
        "partial score": lambda: model.score_samples(rows, n_importance_samples=3),
    }
    name = draw(st.sampled_from(sorted(asks)))
    return f"{kind} {likelihood} {name} {type(rows)} {rows!r}", asks[name]


@st.composite
def bad_labels(draw, models):
    """Draw labels with a fault, and what is asked of them."""
    y = draw(st.sampled_from(LABELS) | VALUES)
    unlabeled = draw(st.sampled_from(["auto", "auto", None, -1, np.nan, "a", pd.NA]) | ODDITIES)
    model = models["classifier", "gaussian"]
    asks = {
        "fit": lambda: ask_everything(tiny("classifier", unlabeled=unlabeled).fit(ROWS, y), ROWS),
        "early stopping": lambda: ask_everything(
            tiny("classifier", early_stopping=True).fit(ROWS, y), ROWS
        ),
        "y_val": lambda: ask_everything(tiny("classifier").fit(ROWS, Y, X_val=ROWS, y_val=y), ROWS),
        "sample": lambda: model.sample(12, y=y),
    }
    name = draw(st.sampled_from(sorted(asks)))
    return f"{name} y={y!r} unlabeled={unlabeled if name == 'fit' else 'auto'!r}", asks[name]


@st.composite
def bad_arguments(draw, models, folder):
    """Draw a value for an argument of a method, of save and load, a metric or a display."""
    value = draw(VALUES | st.sampled_from(LABELS))
    kind = draw(st.sampled_from(sorted(ESTIMATORS)))
    model = models[kind, "gaussian"]
    asks = {
        "sample n_samples": lambda: model.sample(value),
        "sample random_state": lambda: model.sample(random_state=value),
        "posterior n_samples": lambda: model.sample_posterior(ROWS, value),
        "posterior random_state": lambda: model.sample_posterior(ROWS, random_state=value),
        "score_samples": lambda: model.score_samples(ROWS, value),
        "save estimator": lambda: skddvi.save(value, folder / "model"),
        "load path": lambda: skddvi.load(value),
        "load device": lambda: type(skddvi.load(folder / "good", device=value)).__name__,
        "silent parameters": lambda: repr(tiny(kind, prior=value, device=value)),
    }
    if kind == "clusterer":
        asks["cluster"] = lambda: model.sample(2, cluster=value)
    if kind == "classifier":
        asks["guidance_scale"] = lambda: model.sample(2, y=0, guidance_scale=value)
    name = draw(st.sampled_from(sorted(asks)))
    return f"{kind} {name} {value!r}", asks[name]


@pytest.fixture(scope="module")
def models():
    """Return a fitted model of every kind and likelihood; no test may change them."""
    return {
        (kind, likelihood): tiny(kind, likelihood=likelihood).fit(rows, Y)
        for kind in ESTIMATORS
        for likelihood, rows in GOOD.items()
    }


def number_refused(strategy, n_trials):
    """Make trials and return how many different inputs ended in an error that is meant."""
    refused = set()

    @settings(max_examples=n_trials, deadline=None, derandomize=True, database=None)
    @given(strategy)
    def trial(case):
        name, ask = case
        with within(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if attempt(ask):
                refused.add(name)

    trial()
    return len(refused)


# How many of the trials are bad inputs: the others turn out to be fine.
REFUSED = {"parameters": 100, "rows": 100, "labels": 50, "arguments": 50}


def test_bad_inputs_are_300_at_least():
    assert sum(REFUSED.values()) >= 300


def test_bad_inputs_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where checkpoints of any name may lie
    assert number_refused(bad_parameters(), 160) >= REFUSED["parameters"]


def test_bad_inputs_rows(models):
    assert number_refused(bad_rows(models), 200) >= REFUSED["rows"]


def test_bad_inputs_labels(models):
    assert number_refused(bad_labels(models), 120) >= REFUSED["labels"]


def test_bad_inputs_arguments(models, tmp_path):
    skddvi.save(models["transformer", "gaussian"], tmp_path / "good")
    assert number_refused(bad_arguments(models, tmp_path), 120) >= REFUSED["arguments"]
