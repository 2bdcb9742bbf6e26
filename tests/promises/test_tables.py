"""Promises 7 to 10: few rows, columns, and what holds the numbers."""

import copy

import joblib
import numpy as np
import pytest
import torch
from _models import ASK, X, small
from scipy import sparse

# ------------------------------------------------------------------------------ 7, 8. few rows


@pytest.mark.parametrize(("n_rows", "fraction"), [(2, 0.1), (3, 0.5), (4, 0.9)])
def test_promise_07_too_few_rows_to_split(n_rows, fraction):
    model = small(early_stopping=True, validation_fraction=fraction)
    message = f"validation_fraction={fraction} of {n_rows} rows leaves fewer than 2 to train on"
    with pytest.warns(UserWarning, match=message) as caught:
        model.fit(X[:n_rows])
    assert caught[0].filename == __file__
    assert model.n_iter_ == 4
    assert model.validation_scores_ is None


@pytest.mark.parametrize("make", [np.array, sparse.csr_array, list])
def test_promise_08_one_row_at_transform(fitted, make):
    whole = fitted.transform(X)
    for index in (0, 41):
        alone = fitted.transform(make(X[index : index + 1]))
        assert alone.shape == (1, 2)
        np.testing.assert_allclose(alone[0], whole[index], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="Reshape your data"):
        fitted.transform(X[0])


# ------------------------------------------------------------------------------ 9. columns


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_promise_09_columns(library):
    frames = pytest.importorskip(library)
    names = list("abcdef")
    frame = frames.DataFrame(dict(zip(names, X.T, strict=True)))
    model = small().fit(frame)
    if not hasattr(model, "feature_names_in_"):
        pytest.skip(f"this scikit-learn does not see the names in this {library}")
    changed = {
        "in the same order as they were in fit": frame[names[::-1]],
        "unseen at fit time:\n- g": frame.rename(
            **({"columns": {"a": "g"}} if library == "pandas" else {"mapping": {"a": "g"}})
        ),
        "yet now missing:\n- f": frame[names[:-1]],
        "unseen at fit time:\n- h": (
            frame.assign(h=1.0)
            if library == "pandas"
            else frame.with_columns(frames.lit(1.0).alias("h"))
        ),
    }
    for message, rows in changed.items():
        for ask in ASK.values():
            with pytest.raises(ValueError, match="feature names should match") as caught:
                ask(model, rows)
            assert message in str(caught.value)
        with pytest.raises(ValueError, match="feature names should match"):
            small().fit(frame, X_val=rows)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.transform(X)


@pytest.mark.parametrize("n_features", [1, 5, 7])
@pytest.mark.parametrize("name", ASK)
def test_promise_09_number_of_columns(fitted, name, n_features):
    message = f"X has {n_features} features, but DDVAETransformer is expecting 6 features as input"
    with pytest.raises(ValueError, match=message):
        ASK[name](fitted, np.ones((3, n_features)))


# ------------------------------------------------------------------------------ 10. containers


def memory_mapped(rows, folder):
    joblib.dump(rows, folder / "rows.joblib")
    return joblib.load(folder / "rows.joblib", mmap_mode="r")


def read_only(rows, folder):
    rows = rows.copy()
    rows.flags.writeable = False
    return rows


CONTAINERS = {
    "list": lambda rows, folder: rows.tolist(),
    "float32": lambda rows, folder: rows.astype(np.float32),
    "float16": lambda rows, folder: rows.astype(np.float16),
    "longdouble": lambda rows, folder: rows.astype(np.longdouble),
    "int8": lambda rows, folder: rows.astype(np.int8),
    "int64": lambda rows, folder: rows.astype(np.int64),
    "object": lambda rows, folder: rows.astype(object),
    "big-endian": lambda rows, folder: rows.astype(">f8"),
    "Fortran-ordered": lambda rows, folder: np.asfortranarray(rows),
    "reversed view": lambda rows, folder: rows[:, ::-1].copy()[:, ::-1],
    "strided view": lambda rows, folder: np.repeat(rows, 2, axis=0)[::2],
    "read-only": read_only,
    "memory-mapped": memory_mapped,
    "CSR": lambda rows, folder: sparse.csr_array(rows),
    "CSC": lambda rows, folder: sparse.csc_array(rows),
    "COO": lambda rows, folder: sparse.coo_array(rows),
    "CSR matrix": lambda rows, folder: sparse.csr_matrix(rows),
    "CSC matrix": lambda rows, folder: sparse.csc_matrix(rows),
    "COO matrix": lambda rows, folder: sparse.coo_matrix(rows),
    "integer CSR": lambda rows, folder: sparse.csr_array(rows.astype(np.int32)),
    "pandas": lambda rows, folder: pytest.importorskip("pandas").DataFrame(rows),
    "pandas Int64": lambda rows, folder: pytest.importorskip("pandas").DataFrame(
        rows, dtype="Int64"
    ),
    "polars": lambda rows, folder: pytest.importorskip("polars").DataFrame(rows),
    "tensor": lambda rows, folder: torch.from_numpy(rows.copy()),
    "float32 tensor": lambda rows, folder: torch.from_numpy(rows).float(),
    "integer tensor": lambda rows, folder: torch.from_numpy(rows).int(),
}


def dense(rows):
    return np.asarray(rows.toarray() if sparse.issparse(rows) else rows, dtype=float)


@pytest.fixture(scope="module")
def whole_numbers():
    """Return rows of small whole numbers, exact in any dtype, and what is made of them."""
    rows = np.rint(2 * X).clip(-20, 20)
    rows[rows < 5] = 0.0
    model = small().fit(rows)
    return rows, model, model.transform(rows), model.score_samples(rows)


@pytest.mark.filterwarnings("ignore:.*feature names:UserWarning")
@pytest.mark.parametrize("container", CONTAINERS)
def test_promise_10_containers(container, whole_numbers, tmp_path):
    rows, reference, latents, bound = whole_numbers
    given = CONTAINERS[container](rows, tmp_path)
    before = copy.deepcopy(given)
    model = small().fit(given)
    for result in (model.transform(given), model.transform(rows), reference.transform(given)):
        np.testing.assert_allclose(result, latents, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.score_samples(given), bound, rtol=0, atol=1e-4)
    draws = [m.sample_posterior(g, 2, 0) for m, g in ((model, given), (reference, rows))]
    if draws[0].dtype == draws[1].dtype:  # the noise of float32 rows is another
        np.testing.assert_allclose(*draws, rtol=0, atol=1e-5)
    assert type(before) is type(given)
    np.testing.assert_array_equal(dense(given), dense(before))


@pytest.mark.parametrize("make", [np.array, sparse.csr_array, torch.from_numpy])
def test_promise_10_bool(make):
    rows = X > 3
    model = small(likelihood="bernoulli").fit(make(rows))
    expected = small(likelihood="bernoulli").fit_transform(rows.astype(float))
    np.testing.assert_allclose(model.transform(make(rows)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.full((5, 6), "a"), "arrays of bytes/strings"),
        (np.full((5, 6), "1.5"), "arrays of bytes/strings"),
        ([["a", "b"], ["c", "d"]], "arrays of bytes/strings"),
        (np.full((5, 6), "a", dtype=object), "could not convert string to float"),
        ("abc", "Expected 2D array, got scalar array"),
        (np.ones((5, 6, 1)), "Found array with dim 3"),
        (np.ones(6), "Expected 2D array, got 1D array"),
        (np.ones((5, 6)) * 1j, "Complex data not supported"),
        ([[1, 2], [3]], "inhomogeneous"),
        (None, "Expected 2D array, got scalar array"),
        ([[{}] * 6] * 5, "must be a string or a (real )?number"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_promise_10_what_is_no_table_of_numbers(fitted, rows, message):
    for ask in (small().fit, fitted.transform):
        with pytest.raises((TypeError, ValueError), match=message):
            ask(rows)


@pytest.mark.parametrize("make", [sparse.csr_array, sparse.csc_matrix])
@pytest.mark.parametrize(
    ("name", "where", "value"),
    [("indices", 0, 10**6), ("indices", -1, -1), ("indptr", 1, -5), ("indptr", -1, 10**6)],
)
def test_promise_10_damaged_sparse_rows(fitted, make, name, where, value):
    rows = make(np.ones(X.shape))
    getattr(rows, name)[where] = value
    for ask in (small().fit, fitted.transform):
        with pytest.raises(ValueError, match="damaged sparse matrix of shape"):
            ask(rows)


@pytest.mark.parametrize(
    ("make", "digits"),
    [
        (lambda rows: torch.tensor(rows, requires_grad=True), 9),
        (lambda rows: torch.nn.Parameter(torch.tensor(rows)), 9),
        (lambda rows: torch.complex(torch.tensor(rows), -torch.tensor(rows)).conj().imag, 9),
        (lambda rows: torch.tensor(rows, dtype=torch.bfloat16), 1),
    ],
    ids=["requires_grad", "parameter", "negative bit", "bfloat16"],
)
def test_promise_10_tensors_of_every_kind(fitted, make, digits):
    latents = fitted.transform(make(X[:5]))
    np.testing.assert_allclose(latents, fitted.transform(X[:5]), atol=10.0**-digits)
    np.testing.assert_allclose(
        fitted.inverse_transform(make(latents)), fitted.inverse_transform(latents), rtol=0.1
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda rows: torch.tensor(rows).to_sparse(),
        lambda rows: torch.empty(5, 6, device="meta"),
        lambda rows: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
    ],
    ids=["sparse", "meta", "nested"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_promise_10_tensors_without_an_array(fitted, make):
    for name, ask in [("X", small().fit), ("X", fitted.transform), ("Z", fitted.inverse_transform)]:
        with pytest.raises(TypeError, match=f"{name} must be an array or a dense tensor"):
            ask(make(X[:5]))


@pytest.mark.filterwarnings("ignore:.*feature names:UserWarning")
def test_promise_10_columns_that_hold_no_numbers(fitted):
    frames = pytest.importorskip("pandas")
    for column in (
        frames.Categorical(list("abab")),
        frames.date_range("2020", periods=4, tz="UTC"),
        frames.period_range("2020", periods=4, freq="D"),
    ):
        frame = frames.DataFrame(X[:4]).assign(**{"5": column}).set_axis(range(7), axis=1)
        for ask in (small().fit, lambda rows: fitted.transform(rows[[1, 2, 3, 4, 5, 6]])):
            with pytest.raises(ValueError, match=r"X must hold numbers, .*OneHotEncoder"):
                ask(frame)
