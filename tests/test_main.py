"""The shell command ``python -m skddvi``."""

import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import skddvi
from skddvi import DDVAETransformer, _compare, _picture
from skddvi.__main__ import main
from skddvi._read import load_dataset
from skddvi.regularizers import NeighborhoodPreservation

SMALL = ["--max-rows", "200", "--max-iter", "2", "--methods", "pca,ddvae"]
PCA_ONLY = ["--methods", "pca", "--no-plot"]


def shell(*args, cwd):
    """Run the command in a process of its own, its output in pipes."""
    path = [str(Path(skddvi.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    return subprocess.run(
        [sys.executable, "-m", "skddvi", *args],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def run(*args):
    """Run the command in this process and return its exit status."""
    try:
        return main([str(arg) for arg in args])
    except SystemExit as error:
        return error.code


def write_csv(path, rows, header=None, separator=","):
    lines = [header, *rows] if header else rows
    path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines))
    return path


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(60, 3))


@pytest.fixture
def table(tmp_path, rows):
    """Write a CSV file with three columns of numbers and one of labels."""
    body = [[*row, "abc"[i % 3]] for i, row in enumerate(rows)]
    return write_csv(tmp_path / "table.csv", body, ["u", "v", "w", "kind"])


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ------------------------------------------------------------------------------------------------
# What it prints and writes


def test_digits_in_a_pipe(tmp_path):
    done = shell("compare", "digits", *SMALL, "--json", "figures.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    title, _, header, pca, ddvae, *_ = done.stdout.splitlines()
    assert title.startswith("digits: 200 of 1,797 rows x 64 features, 10 classes; 40 rows held out")
    assert header.split()[:3] == ["method", "fit", "s"]
    assert pca.startswith("PCA ")
    assert pca.endswith(" -")  # no density under the bernoulli likelihood
    assert ddvae.startswith("DD-VAE ")
    assert "picture: skddvi_compare_digits.png" in done.stdout
    assert (tmp_path / "skddvi_compare_digits.png").read_bytes().startswith(b"\x89PNG")

    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["data"] == {
        "name": "digits",
        "n_rows": 200,
        "n_rows_in_file": 1797,
        "n_features": 64,
        "n_classes": 10,
        "n_train": 160,
        "n_held_out": 40,
    }
    assert figures["likelihood"] == "bernoulli"
    assert figures["parameters"] == {"prior": "normal", "max_iter": 2}
    assert figures["versions"]["skddvi"] == skddvi.__version__
    assert [method["method"] for method in figures["methods"]] == ["pca", "ddvae"]
    pca, ddvae = figures["methods"]
    assert pca["nats_per_row"] is None
    assert -784 < ddvae["nats_per_row"] < 0
    for method in figures["methods"]:
        assert 0 <= method["knn_accuracy"] <= 1
        assert 0 <= method["trustworthiness"] <= 1
        assert method["fit_seconds"] > 0


def test_bad_input_in_a_pipe(tmp_path):
    done = shell("compare", "nowhere.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no file 'nowhere.csv'")
    assert done.stderr.count("\n") == 1


def test_version_and_help(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"skddvi {skddvi.__version__}\n"
    assert run("compare", "--help") == 0
    assert "--n-diffusion-steps" in capsys.readouterr().out


def test_neighbours_are_kept_by_a_method_of_its_own(table, capsys, monkeypatch):
    fitted = []

    class Watched(DDVAETransformer):
        def fit(self, X, y=None):
            fitted.append(self.regularizer)
            return super().fit(X, y)

    monkeypatch.setattr("skddvi.transformer.DDVAETransformer", Watched)
    options = ["--methods", "ddvae,ddvae_neighbors", "--max-iter", "2", "--no-plot"]
    assert run("compare", table, "--label", "kind", *options) == 0
    assert "\nDD-VAE, neighbours " in capsys.readouterr().out
    # Each method fits a few rows before, to be ready.
    assert fitted[:3] == ["auto"] * 3
    assert fitted[3][0] == "auto" and isinstance(fitted[3][1], NeighborhoodPreservation)


def test_quiet_and_options_reach_the_model(tmp_path, table, capsys, monkeypatch):
    seen = {}

    def fit(method, split, seed, params):
        seen.update(params, seed=seed)
        return _compare._fit_pca(split, seed)

    monkeypatch.setattr(_compare, "_fit_ddvae", fit)
    options = "--quiet --prior pinwheel --n-diffusion-steps 3 --max-iter 7 --seed 5 --methods ddvae"
    assert run("compare", table, "--label", "kind", *options.split()) == 0
    assert capsys.readouterr() == ("", "")
    assert seen == {
        "likelihood": "gaussian",
        "prior": "pinwheel",
        "n_diffusion_steps": 3,
        "max_iter": 7,
        "seed": 5,
    }
    assert Path("skddvi_compare_table.png").exists()


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_picture_without_labels(tmp_path, rows, suffix):
    np.save("rows.npy", rows)
    assert run("compare", "rows.npy", "--methods", "pca", "--output", f"picture{suffix}") == 0
    assert Path(f"picture{suffix}").stat().st_size > 1000


def test_26_classes_look_different():
    assert len({_picture.class_style(i, 26) for i in range(26)}) == 26


def test_density_of_pca_is_in_the_units_of_the_data(rows):
    """The figure beside the bound is the density of the rows as given, not as standardised."""
    X = rows @ np.diag([1e-3, 1.0, 50.0]) + [0.0, 5.0, 1e3]
    np.save("rows.npy", X)
    comparison = _compare.compare(load_dataset("rows.npy"), ["pca"], likelihood="gaussian")
    train, test = comparison.split.train, comparison.split.test
    scaler = StandardScaler().fit(train)
    covariance = PCA(2).fit(scaler.transform(train)).get_covariance()
    covariance *= np.outer(scaler.scale_, scaler.scale_)
    expected = multivariate_normal(train.mean(axis=0), covariance).logpdf(test).mean()
    assert comparison.results[0].nats_per_row == pytest.approx(expected)


def test_peers_get_principal_components_on_their_scale():
    """As the model does, and their density is that of the rows as given."""
    rng = np.random.default_rng(0)
    X = PCA(random_state=0).fit_transform(rng.normal(size=(300, 6)) * [9, 7, 5, 3, 2, 1])
    np.save("rows.npy", X)
    comparison = _compare.compare(load_dataset("rows.npy"), ["pca"], likelihood="gaussian")
    train, test = comparison.split.train, comparison.split.test
    np.testing.assert_allclose(comparison.split.peer_train, train - train.mean(axis=0))
    expected = PCA(2).fit(train).score(test)
    assert comparison.results[0].nats_per_row == pytest.approx(expected)


def test_missing_umap(capsys, table, monkeypatch):
    monkeypatch.setattr(_compare.importlib.util, "find_spec", lambda name: None)
    assert run("compare", table, "--label", "kind", "--methods", "umap", "--no-plot") == 2
    assert "pip install umap-learn" in capsys.readouterr().err
    assert _compare.find_peers(["pca", "umap"]) == (["pca"], {"umap": "pip install umap-learn"})


def test_missing_matplotlib(capsys, table, monkeypatch):
    monkeypatch.setattr(_picture.importlib.util, "find_spec", lambda name: None)
    assert run("compare", table, "--label", "kind", "--methods", "pca") == 0
    assert "pip install matplotlib" in capsys.readouterr().out
    assert run("compare", table, "--label", "kind", "--methods", "pca", "--output", "a.png") == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_interrupt(capsys, rows):
    """Ctrl-C ends the command although the estimator catches KeyboardInterrupt."""
    # torch imports much of itself on its first step; half an import would break later tests.
    skddvi.DDVAETransformer(max_iter=1, random_state=0).fit(rows)
    handler = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        status = run("compare", "digits", "--methods", "ddvae", "--max-iter", "100000", "--no-plot")
    finally:
        timer.cancel()
    assert status == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert signal.getsignal(signal.SIGINT) is handler


# ------------------------------------------------------------------------------------------------
# Bad input: one line and exit status 2


def good_rows():
    return np.random.default_rng(0).normal(size=(60, 3))


def table_with(cell):
    def make(path):
        body = [list(row) for row in good_rows()]
        body[7][1] = cell
        write_csv(path, body, ["u", "v", "w"])

    return make


def archive(**arrays):
    return lambda path: np.savez(path, **arrays)


def zipped(**members):
    def make(path):
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)

    return make


def text(content):
    return lambda path: path.write_bytes(content)


BAD_FILES = {
    "no file": ("nowhere.csv", None, [], "no file 'nowhere.csv'"),
    "directory": (".", None, [], "is a directory"),
    "suffix": ("a.xlsx", text(b"x"), [], "ends in '.xlsx'"),
    "text": ("a.csv", table_with("tall"), [], "column 'v' is not numeric: 'tall' in row 9"),
    "missing": ("a.csv", table_with(""), [], "1 missing or infinite values, the first in column"),
    "NaN": ("a.csv", table_with("nan"), [], "column 'v'"),
    "id": ("a.csv", table_with("12_07"), [], "column 'v' is not numeric: '12_07' in row 9"),
    "comma": ("a.tsv", text(b"u\tv\n1,5\t2\n3\t4\n"), [], "'1,5' in row 2 (decimals are written"),
    "inf": ("a.csv", table_with("inf"), ["--likelihood", "binomial"], "column 'v'"),
    "ragged": ("a.csv", text(b"u,v\n1,2\n3\n"), [], "row 3 has 1 cells, expected 2"),
    "empty": ("a.csv", text(b""), [], "has no row"),
    "header only": ("a.csv", text(b"u,v\n"), [], "has one row"),
    "binary": ("a.csv", text(bytes(range(256))), [], "not a text file in UTF-8"),
    "few rows": ("a.csv", text(b"u,v\n1,2\n2,3\n"), [], "found 2 rows"),
    "one column": ("a.npz", archive(X=np.ones((30, 1))), [], "found 1 columns"),
    "constant": ("a.npz", archive(X=np.ones((30, 4))), [], "0 columns that vary"),
    "label name": ("a.csv", table_with(1), ["--label", "kind"], "--label='kind' is not a column"),
    "label index": ("a.csv", table_with(1), ["--label", "7"], "--label=7 is out of range"),
    "label values": ("a.csv", table_with(1), ["--label", "u"], "measurements, not classes"),
    "npz label": ("a.npz", archive(X=good_rows()), ["--label", "y"], "--label='y' is not in"),
    "npz label shape": (
        "a.npz",
        archive(X=good_rows(), y=np.arange(5)),
        ["--label", "y"],
        "has shape (5,)",
    ),
    "npz key": ("a.npz", archive(X=good_rows()), ["--data-key", "Z"], "--data-key='Z' is not in"),
    "npz keys": ("a.npz", archive(a=good_rows(), b=good_rows()), [], "name one with --data-key"),
    "npz member": ("a.npz", zipped(X="hello"), [], "'X' in 'a.npz' is not an array"),
    "npz members": ("a.npz", zipped(readme="hello"), [], "has no array named"),
    "npz no rows": ("a.npz", archive(X=np.zeros((0, 5))), [], "has shape (0, 5)"),
    "nothing there": (
        "a.npz",
        archive(X=np.full((30, 3), np.nan)),
        ["--likelihood", "binomial"],
        "X has no value that is not missing",
    ),
    "npz text": ("a.npz", archive(X=np.full((30, 3), "x")), [], "has dtype <U1"),
    "pickled": ("a.npz", archive(X=good_rows().astype(object)), [], "pickled objects"),
    "no npz": ("a.npz", text(b"hello"), [], "no numpy file"),
    "truncated": ("a.npz", text(b"PK\x03\x04 and no more"), [], "is damaged or no numpy file"),
    "empty npz": ("a.npz", text(b""), [], "is damaged or no numpy file"),
    "npy label": ("a.npy", lambda path: np.save(path, good_rows()), ["--label", "0"], "classes"),
    "range": (
        "a.npz",
        archive(X=good_rows()),
        ["--likelihood", "bernoulli"],
        "needs X in [0, 1], found",
    ),
}


@pytest.mark.parametrize(("name", "make", "options", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(name, make, options, message, tmp_path, capsys):
    if make is not None:
        make(tmp_path / name)
    assert_one_line_error(capsys, ["compare", name, *PCA_ONLY, *options], message)


BAD_OPTIONS = {
    "no command": ([], "COMMAND"),
    "no data": (["compare"], "DATA"),
    "option": (["compare", "digits", "--colour", "red"], "--colour"),
    "method": (["compare", "digits", "--methods", "pca,isomap"], "found 'isomap'"),
    "no method": (["compare", "digits", "--methods", ","], "expected some of pca"),
    "prior": (["compare", "digits", "--prior", "helix"], "'helix'"),
    "likelihood": (["compare", "digits", "--likelihood", "cauchy"], "'cauchy'"),
    "seed": (["compare", "digits", "--seed", "-1"], "found '-1'"),
    "max-iter": (["compare", "digits", "--max-iter", "0"], "found '0'"),
    "max-rows": (["compare", "digits", "--max-rows", "5"], "found '5'"),
    "steps": (["compare", "digits", "--n-diffusion-steps", "x"], "found 'x'"),
    "divide": (["compare", "digits", "--divide-by", "0"], "found '0'"),
    "output folder": (["compare", "digits", "--output", "no/a.png"], "there is no directory 'no'"),
    "output format": (["compare", "digits", "--output", "a.xyz"], "ends in 'xyz'"),
    "json folder": (["compare", "digits", "--json", "no/a.json"], "there is no directory 'no'"),
    "json is a folder": (["compare", "digits", "--json", "."], "is a directory"),
    "label of digits": (["compare", "digits", "--label", "y"], "digits has its own labels"),
    "key of a table": (["compare", "a.csv", "--data-key", "X"], "is for .npz files"),
}


@pytest.mark.parametrize(("args", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_option(args, message, table, capsys):
    table.rename("a.csv")
    assert_one_line_error(capsys, args, message)


def assert_one_line_error(capsys, args, message):
    assert run(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


# ------------------------------------------------------------------------------------------------
# Reading


@pytest.mark.parametrize("separator", [",", "\t", ";", " "])
@pytest.mark.parametrize(
    ("header", "label"),
    [
        (["u", "v", "w", "kind"], "kind"),
        (["u", "v", "w", "kind"], "3"),
        (["u", "v", "w", "kind"], "-1"),
        (None, "3"),
        (None, "-1"),
    ],
)
def test_tables(tmp_path, rows, separator, header, label):
    body = [[*row, "abc"[i % 3]] for i, row in enumerate(rows)]
    path = write_csv(tmp_path / "table.txt", body, header, separator)
    dataset = load_dataset(str(path), label=label)
    np.testing.assert_array_equal(dataset.X, rows)
    np.testing.assert_array_equal(dataset.y, np.arange(60) % 3)
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.feature_names == (("u", "v", "w") if header else ())


def test_row_names_are_left_out(tmp_path, rows):
    body = [[i, *row] for i, row in enumerate(rows)]
    path = write_csv(tmp_path / "table.csv", body, ["", "u", "v", "w"])
    np.testing.assert_array_equal(load_dataset(str(path)).X, rows)


@pytest.mark.parametrize("header", [["0", "1", "2"], ["", "0", "1", "2"]])
def test_columns_that_pandas_numbers_are_a_header(tmp_path, rows, header):
    body = [[i, *row] if len(header) == 4 else row for i, row in enumerate(rows)]
    path = write_csv(tmp_path / "table.csv", body, header)
    dataset = load_dataset(str(path))
    np.testing.assert_array_equal(dataset.X, rows)
    assert dataset.feature_names == ("0", "1", "2")


def test_a_table_as_numpy_writes_it(tmp_path, rows):
    np.savetxt(tmp_path / "table.txt", rows)
    np.testing.assert_array_equal(load_dataset(str(tmp_path / "table.txt")).X, rows)


def test_labels_keep_their_underscores(tmp_path, rows):
    body = [[*row, ("1_2", "12")[i % 2]] for i, row in enumerate(rows)]
    path = write_csv(tmp_path / "table.csv", body, ["u", "v", "w", "kind"])
    assert load_dataset(str(path), label="kind").class_names == ("12", "1_2")


@pytest.mark.parametrize(
    ("y", "note"),
    [
        (np.linspace(0.5, 1.0, 60), "array 'y' holds measurements, not classes"),
        (np.arange(60), "array 'y' has 60 different values in 60 rows"),
        (np.arange(10), "array 'y' has shape (10,)"),
    ],
    ids=["measurements", "ids", "shape"],
)
def test_labels_that_nobody_asked_for_are_left_out_with_a_note(y, note, tmp_path, rows, capsys):
    np.savez(tmp_path / "a.npz", X=rows, y=y)
    assert run("compare", "a.npz", *PCA_ONLY) == 0
    assert f"labels left out: {note}" in capsys.readouterr().out
    assert load_dataset(str(tmp_path / "a.npz")).y is None
    assert_one_line_error(capsys, ["compare", "a.npz", "--label", "y", *PCA_ONLY], note)


def test_labels_in_a_column_and_a_single_name(tmp_path, rows):
    np.savez(tmp_path / "a.npz", X=rows, y=(np.arange(60) % 3)[:, None], target_names="iris")
    dataset = load_dataset(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(dataset.y, np.arange(60) % 3)
    assert dataset.class_names == ("0", "1", "2")


def test_labels_of_one_class_are_left_out_with_a_note(tmp_path, rows, capsys):
    np.savez(tmp_path / "a.npz", X=rows, y=np.zeros(60, int))
    assert run("compare", "a.npz", *PCA_ONLY) == 0
    out = capsys.readouterr().out
    assert "labels left out: all are of one class" in out
    assert "1 classes" not in out


@pytest.mark.parametrize("n_columns", [2, 3])
def test_columns_that_repeat_have_no_density(tmp_path, rows, capsys, n_columns):
    np.savez(tmp_path / "a.npz", X=rows[:, [0, 0, 1][:n_columns]])
    assert run("compare", "a.npz", *PCA_ONLY) == 0
    assert "no density: the columns are linear functions of" in capsys.readouterr().out


def test_numeric_labels_sort_as_numbers(tmp_path, rows):
    body = [[*row, (2, 10)[i % 2]] for i, row in enumerate(rows)]
    path = write_csv(tmp_path / "table.csv", body, ["u", "v", "w", "kind"])
    assert load_dataset(str(path), label="kind").class_names == ("2", "10")


@pytest.mark.parametrize(
    ("data", "label"), [("X", "y"), ("x_train", "y_train"), ("data", "target")]
)
def test_npz_keys_are_found(tmp_path, rows, data, label):
    names = np.array(["red", "green", "blue"])
    arrays = {data: rows, label: np.arange(60) % 3, "target_names": names}
    np.savez(tmp_path / "a.npz", **arrays)
    dataset = load_dataset(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(dataset.X, rows)
    np.testing.assert_array_equal(dataset.y, np.arange(60) % 3)
    assert dataset.class_names == tuple(names)


def test_images_are_flattened_and_integers_become_floats(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, size=(30, 4, 5), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", pictures=images)
    dataset = load_dataset(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(dataset.X, images.reshape(30, 20))
    assert dataset.X.dtype == np.float32


def test_missing_genotypes_are_accepted(tmp_path, capsys):
    X = np.random.default_rng(0).integers(0, 3, size=(60, 8)).astype(float)
    X[3, 2] = np.nan
    np.save(tmp_path / "a.npy", X)
    options = ["--likelihood", "binomial", "--max-iter", "1", "--no-plot"]
    assert run("compare", "a.npy", "--methods", "pca,ddvae", *options) == 0
    assert capsys.readouterr().err == ""
