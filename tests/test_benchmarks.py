"""The benchmarks' harness and metrics, and one benchmark from end to end."""

import functools
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="no benchmarks folder here")


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _harness

    return _harness


@pytest.fixture
def metrics(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _metrics

    return _metrics


def silent(line):
    pass


CELLS = [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_resumes(harness, tmp_path):
    out = tmp_path / "results" / "a.json"
    calls = []

    def cell(method, seed, settings):
        calls.append((method, seed))
        if (method, seed) == ("a", 1) and len(calls) == 3:
            raise KeyboardInterrupt
        return {"value": settings["factor"] * seed}

    with pytest.raises(KeyboardInterrupt):
        harness.run_cells(cell, CELLS, {"factor": 2}, out, isolate=False, log=silent)
    assert list(json.loads(out.read_text())["cells"]) == ["a/0", "b/0"]
    record = harness.run_cells(cell, CELLS, {"factor": 2}, out, isolate=False, log=silent)
    assert calls == [*CELLS[:3], *CELLS[2:]]
    assert record == json.loads(out.read_text())
    assert record["cells"]["b/1"]["values"] == {"value": 2.0}
    assert record["versions"]["numpy"] == np.__version__
    assert {"date", "load_average", "omp_num_threads"} <= record["cells"]["b/1"].keys()


def test_other_settings_are_not_mixed_in(harness, tmp_path):
    out = tmp_path / "a.json"

    def cell(method, seed, settings):
        return {"value": 1.0}

    harness.run_cells(cell, CELLS[:1], {"n": 1}, out, isolate=False, log=silent)
    with pytest.raises(ValueError, match=r"\{'n': 1\}, now asked for \{'n': 2\}"):
        harness.run_cells(cell, CELLS[:1], {"n": 2}, out, isolate=False, log=silent)


def test_the_folder_of_the_data_is_not_recorded(harness, tmp_path):
    out, seen = tmp_path / "a.json", []

    def cell(method, seed, settings):
        seen.append(settings["data"])
        return {"value": 1.0}

    for method, folder in (("a", "here"), ("b", "there")):
        settings = {"data": f"/{folder}/x.npz"}
        harness.run_cells(cell, [(method, 0)], settings, out, isolate=False, log=silent)
    assert seen == ["/here/x.npz", "/there/x.npz"]
    record = json.loads(out.read_text())
    assert record["settings"] == {"data": "x.npz"} and len(record["cells"]) == 2


@pytest.mark.parametrize("bad", [float("nan"), None])
def test_failed_cells_are_kept_apart_and_tried_again(harness, tmp_path, capsys, bad):
    out = tmp_path / "a.json"
    broken = True

    def cell(method, seed, settings):
        if broken and method == "b":
            if bad is None:
                raise RuntimeError("it broke")
            return {"value": bad}
        return {"value": 1.0}

    columns = {"value": ("value", ".1f")}
    record = harness.run_cells(cell, CELLS, {}, out, isolate=False, log=silent)
    assert harness.report(record, columns) == 1
    assert "b/0 failed" in capsys.readouterr().err
    assert "b" not in [m for m, values in harness.aggregate(record).items() if values]
    broken = False
    record = harness.run_cells(cell, CELLS, {}, out, isolate=False, log=silent)
    assert harness.report(record, columns) == 0


def test_mean_and_sd(harness, tmp_path):
    numbers = {("a", 0): 1.0, ("a", 1): 2.0, ("a", 2): 6.0, ("b", 0): 5.0}

    def cell(method, seed, settings):
        return {"value": numbers[method, seed], "none": None}

    record = harness.run_cells(
        cell, list(numbers), {}, tmp_path / "a.json", isolate=False, log=silent
    )
    means = harness.aggregate(record)
    assert means["a"]["value"] == pytest.approx((3.0, np.std([1, 2, 6], ddof=1), 3))
    assert means["b"] == {"value": (5.0, None, 1)}
    table = harness.format_table(record, {"value": ("value", ".2f"), "none": ("none", ".2f")})
    assert table.splitlines() == [
        "method  seeds        value  none",
        "a           3  3.00 ± 2.65     -",
        "b           1         5.00     -",
    ]


def test_files_are_replaced_whole(harness, tmp_path):
    path = tmp_path / "a.json"
    harness.write_json({"a": 1}, path)
    with pytest.raises(TypeError):
        harness.write_json({"a": 1, "b": object()}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_command_line(harness, capsys):
    parser = harness.benchmark_parser("What it does.", methods=("pca", "ddvae"), seeds=3)
    args = harness.parse(parser, "digits", [])
    assert (args.seeds, args.methods, args.max_iter) == (3, ["pca", "ddvae"], None)
    assert args.out == Path("results/digits.json")
    args = harness.parse(parser, "digits", ["--quick", "--methods", "ddvae"])
    assert (args.seeds, args.methods, args.max_iter) == (1, ["ddvae"], 2)
    for bad in (["--methods", "isomap"], ["--seeds", "0"]):
        with pytest.raises(SystemExit):
            harness.parse(parser, "digits", bad)
        assert bad[0] in capsys.readouterr().err


def test_latent_fit_is_least_where_embeddings_are_draws_of_the_prior(metrics):
    embedding = metrics.prior_draws("pinwheel", 300, seed=1)
    figures = metrics.latent_fit(embedding, "pinwheel", 500, seed=0)
    assert figures["latent_nll"] == pytest.approx(figures["latent_nll_floor"], abs=0.2)
    worse = metrics.latent_fit(embedding[:, ::-1] / 2, "pinwheel", 500, seed=0)
    assert worse["latent_nll"] > figures["latent_nll_floor"] + 0.5
    assert worse["latent_nll_floor"] == figures["latent_nll_floor"]


def run_quick(name, out, *options):
    """Run a benchmark by its command, each cell in a process of its own; return what it did."""
    import skddvi

    root = str(Path(skddvi.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, str(BENCHMARKS / name), "--quick", "--out", str(out), *options]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_posteriors(monkeypatch, tmp_path):
    out = tmp_path / "posteriors.json"
    values = quick(monkeypatch, "posteriors", "--out", out, "--posteriors", "iaf,aae_gan")
    assert list(values) == ["pinwheel iaf", "pinwheel aae_gan"]
    iaf, aae = values.values()
    assert iaf["bound"] <= iaf["bound_k500"] + 1
    assert aae["bound"] is None and aae["bound_k500"] is None
    for each in (iaf, aae):
        assert each["n_iter"] == 2
        assert each["latent_nll"] > each["latent_nll_floor"] - 0.5
        assert 0 <= each["knn_accuracy"] <= 1
        assert each["mmd"] > 0


@pytest.mark.slow
def test_digits_from_end_to_end(tmp_path):
    out = tmp_path / "digits.json"
    done = run_quick("digits.py", out, "--methods", "pca,ddvae")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["method", "pca", "ddvae"]
    cells = json.loads(out.read_text())["cells"]
    assert cells["pca/0"]["values"]["peak_rss_mib"] > 0
    assert cells["ddvae/0"]["values"]["bound"] <= cells["ddvae/0"]["values"]["bound_k100"] + 1
    assert cells["ddvae/0"]["torch_threads"] >= 1
    # A second run finds everything done.
    assert run_quick("digits.py", out, "--methods", "pca,ddvae").stderr.count("before") == 2


def test_few_labels(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import few_labels

    y = np.arange(60) % 3
    labelled, others = few_labels.few_labels(y, 4, 20, seed=0)
    assert np.bincount(y[labelled]).tolist() == [4, 4, 4]
    assert len(others) == 20
    assert not set(labelled) & set(others)

    rng = np.random.default_rng(0)
    data, out = tmp_path / "components.npz", tmp_path / "few.json"
    np.savez(data, X=3.0 * np.eye(5)[y] + rng.normal(size=(60, 5)), y=y, eigenvalues=np.ones(5))
    here = functools.partial(few_labels.run_cells, isolate=False)
    monkeypatch.setattr(few_labels, "run_cells", here)
    arguments = ["--task", "ancestry", "--data", str(data), "--out", str(out), "--seeds", "1"]
    assert few_labels.main([*arguments, "--max-iter", "2", "--curve", "0,10"]) == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["method", *few_labels.METHODS, "ddvae:0", "ddvae:10"]
    cells = json.loads(out.read_text())["cells"]
    assert cells["ddvae:10/0"]["values"]["n_unlabeled"] == 10
    assert cells["label_spreading/0"]["values"]["accuracy"] > 0.5


def test_iteration(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import iteration

    rng = np.random.default_rng(0)
    data, out = tmp_path / "images.npz", tmp_path / "iteration.json"
    arrays = {"X_train": rng.integers(256, size=(300, 4, 4)), "y_train": np.arange(300) % 3}
    np.savez(data, X_test=arrays["X_train"], y_test=arrays["y_train"], **arrays)
    monkeypatch.setattr(
        iteration, "run_cells", functools.partial(iteration.run_cells, isolate=False)
    )
    arguments = ["--data", str(data), "--out", str(out), "--quick", "--max-iter", "6"]
    assert iteration.main([*arguments, "--methods", "floor,transformer,classifier"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["method", "floor", "transformer", "classifier"]
    cells = json.loads(out.read_text())["cells"]
    for cell in cells.values():
        values = cell["values"]
        assert 0 < values["quartile_1"] <= values["step_ms"] <= values["quartile_3"]
        assert values["ratio"] > 0
    assert cells["floor/0"]["values"]["ratio"] < 1
    assert cells["transformer/0"]["values"]["pairs"] == 1
    assert 1 < cells["classifier/0"]["values"]["pairs"] <= 3


def test_clustering(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import clustering

    rng, y = np.random.default_rng(0), np.arange(156) % 26
    data, out = tmp_path / "components.npz", tmp_path / "clustering_genomes.json"
    X = 5.0 * np.eye(26)[y][:, :20] + rng.normal(size=(156, 20))
    np.savez(data, X=X, y=y, eigenvalues=np.ones(20))
    monkeypatch.setattr(
        clustering, "run_cells", functools.partial(clustering.run_cells, isolate=False)
    )
    arguments = ["--dataset", "genomes", "--data", str(data), "--out", str(out), "--quick"]
    with pytest.warns(UserWarning, match="clusters hold no training row"):
        assert clustering.main(arguments) == 0
    cells = json.loads(out.read_text())["cells"]
    assert [cell["method"] for cell in cells.values()] == list(clustering.METHODS)
    assert all(0 <= cell["values"]["nmi"] <= 1 for cell in cells.values())
    assert cells["kmeans/0"]["values"]["n_effective"] == 26


def test_scale(monkeypatch, tmp_path):
    pytest.importorskip("h5py")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scale

    monkeypatch.setattr(scale, "run_cells", functools.partial(scale.run_cells, isolate=False))
    out = tmp_path / "scale.json"
    methods = ["--methods", "array 10000,hdf5 1000000"]
    assert scale.main(["--quick", "--max-iter", "1", "--out", str(out), *methods]) == 0
    for cell in json.loads(out.read_text())["cells"].values():
        values = cell["values"]
        assert values["us_a_row"] == pytest.approx(values["fit_seconds"] * 1e6 / 2000)
        assert values["input_mib"] == pytest.approx(2000 * 50 * 4 / 2**20)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory cannot be limited so elsewhere")
def test_scale_under_a_limit(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "scale.json"
    run_quick("scale.py", out, "--methods", "memmap 600000")
    (cell,) = json.loads(out.read_text())["cells"].values()
    values = cell["values"]
    assert values["whole_read_failed"] == 1
    assert values["allowed_mib"] == pytest.approx(values["input_mib"] / 2)
    assert values["data_before_mib"] <= values["peak_data_mib"] <= values["allowed_mib"]


def test_a_limit_of_memory_ends(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scale

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(KeyError), scale.data_limit(2**14):
        assert resource.getrlimit(resource.RLIMIT_DATA) == (2**34, before[1])
        raise KeyError
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def quick(monkeypatch, name, *options):
    """Run a benchmark in this process and return the values of its cells, by method."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module(name)
    here = functools.partial(script.run_cells, isolate=False, log=silent)
    monkeypatch.setattr(script, "run_cells", here)
    assert script.main(["--quick", *map(str, options)]) == 0
    cells = json.loads(Path(options[options.index("--out") + 1]).read_text())["cells"]
    return {cell["method"]: cell["values"] for cell in cells.values()}


@pytest.mark.parametrize("kind", ["components", "genotypes"])
def test_ancestry(monkeypatch, tmp_path, kind):
    rng, y = np.random.default_rng(0), np.arange(75) % 3
    data, out = tmp_path / "data.npz", tmp_path / "ancestry.json"
    if kind == "components":
        X = 5.0 * np.eye(20)[y] + rng.normal(size=(75, 20))
        np.savez(data, X=X, y=y, eigenvalues=np.ones(20))
    else:
        X = rng.binomial(2, rng.uniform(size=(3, 40))[y]).astype(np.uint8)
        np.savez(data, X=X, y=y)
    methods = ["pca", "tsne", "vae", "aae", "iaf", "ddvae"]
    options = ["--kind", kind, "--data", data, "--out", out, "--methods", ",".join(methods)]
    values = quick(monkeypatch, "ancestry", *options)
    assert list(values) == methods
    assert [name for name in methods if values[name].get("bound") is not None] == [
        "vae",
        "iaf",
        "ddvae",
    ]
    assert all(values[name]["nmi"] > 0.5 for name in ("pca", "tsne"))
    assert all(0 < each["purity"] <= 1 for each in values.values())
    assert json.loads(out.read_text())["settings"]["n_clusters"] == 3


@pytest.fixture
def images(tmp_path):
    """Path of a file like MNIST's: 200 training images and 80 test images of four classes."""
    rng, y = np.random.default_rng(0), np.arange(200) % 4
    X = np.clip(60.0 * y[:, None, None] + rng.integers(60, size=(200, 4, 4)), 0, 255)
    np.savez(tmp_path / "images.npz", X_train=X, y_train=y, X_test=X[:80], y_test=y[:80])
    return tmp_path / "images.npz"


def test_mnist(monkeypatch, tmp_path, images):
    data, folder = images, tmp_path / "embeddings"
    options = ["--data", data, "--out", tmp_path / "mnist.json", "--methods", "pca,ddvae_picture"]
    values = quick(monkeypatch, "mnist", *options, "--embeddings", folder)
    assert values["pca"]["knn_accuracy"] > 0.9
    assert "bound" not in values["pca"] and values["ddvae_picture"]["bound"] < 0
    with np.load(folder / "ddvae_picture-0.npz", allow_pickle=False) as file:
        assert file["Z"].shape == (80, 2)
        np.testing.assert_array_equal(file["y"], np.arange(80) % 4)


def test_diffusion_steps(monkeypatch, tmp_path, images, capsys):
    options = ["--data", images, "--out", tmp_path / "a.json", "--coverage", "off,on"]
    few = ["--priors", "normal,pinwheel", "--steps", "0,1", "--sleeps", "latent"]
    values = quick(monkeypatch, "diffusion_steps", *options, *few)
    assert list(values) == [
        "normal T=1 sleep=latent",
        "pinwheel T=1 sleep=latent",
        "pinwheel T=1 sleep=latent coverage",
    ]
    without, covered = list(values.values())[1:]
    assert without["bound"] != covered["bound"]
    assert without["latent_nll_floor"] == covered["latent_nll_floor"] < covered["latent_nll"]
    # Nothing is left of these.
    none = ["--data", images, "--priors", "normal", "--coverage", "on"]
    with pytest.raises(SystemExit):
        quick(monkeypatch, "diffusion_steps", *none)
    assert "no cell is left" in capsys.readouterr().err


def test_embeddings_figure(monkeypatch, tmp_path, capsys):
    y = np.arange(75) % 3
    data, folder = tmp_path / "data.npz", tmp_path / "embeddings"
    X = 5.0 * np.eye(20)[y] + np.random.default_rng(0).normal(size=(75, 20))
    np.savez(data, X=X, y=y, eigenvalues=np.ones(20), target_names=["YRI", "CEU", "CHB"])
    options = ["--data", data, "--out", tmp_path / "a.json", "--methods", "pca,tsne"]
    quick(monkeypatch, "ancestry", *options, "--embeddings", folder)
    assert sorted(each.name for each in folder.iterdir()) == ["pca-0.npz", "tsne-0.npz"]
    import embeddings_figure

    panels = {}
    for method in ("tsne", "pca"):
        with np.load(folder / f"{method}-0.npz", allow_pickle=False) as file:
            panels[method] = file["Z"], file["y"]
    titles = [ax.get_title() for ax in embeddings_figure.draw(panels).axes]
    assert titles == ["tsne", "pca"]
    picture = tmp_path / "picture.png"
    command = [str(folder), "--methods", "tsne,pca", "--out", str(picture)]
    drawn = []
    monkeypatch.setattr(
        embeddings_figure,
        "draw",
        lambda panels, draw=embeddings_figure.draw: drawn.append(panels) or draw(panels),
    )
    assert embeddings_figure.main([*command, "--data", str(data)]) == 0
    assert set(drawn[0]["tsne"][1]) == {"YRI", "CEU", "CHB"}
    assert embeddings_figure.main(command) == 0
    assert set(drawn[1]["pca"][1]) == {0, 1, 2}
    assert picture.stat().st_size > 5000
    with pytest.raises(SystemExit):
        embeddings_figure.main([*command, "--seed", "1"])
    assert "tsne-1.npz" in capsys.readouterr().err


def test_genotypes_are_standardised_by_the_frequency_of_the_allele(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ancestry

    genotypes = np.array([[0, 2, 1], [2, 2, 1], [2, 2, 2], [0, 2, 0]], dtype=np.uint8)
    expected = np.array([[-1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [-1.0, -1.0]]) * 2**0.5
    np.testing.assert_allclose(ancestry.standardised(genotypes), expected)


@pytest.mark.parametrize("kind", ["components", "genotypes", "cells"])
def test_new_rows(monkeypatch, tmp_path, kind):
    rng, y = np.random.default_rng(0), np.arange(180) % 3
    data, out = tmp_path / "data.npz", tmp_path / "new_rows.json"
    if kind == "components":
        np.savez(data, X=5.0 * np.eye(20)[y] + rng.normal(size=(180, 20)), y=y, eigenvalues=[1.0])
    elif kind == "genotypes":
        np.savez(data, X=rng.binomial(2, rng.uniform(size=(3, 60))[y]).astype(np.uint8), y=y)
    else:
        X = rng.poisson(4.0 * rng.uniform(size=(3, 60))[y])
        np.savez(data, X=X.astype(np.uint8), y=y, library_size=X.sum(axis=1))
    options = ["--kind", kind, "--data", data, "--out", out, "--methods", "pca,tsne,ddvae"]
    values = quick(monkeypatch, "new_rows", *options)
    assert list(values) == ["pca", "tsne", "ddvae"]
    assert [name for name, each in values.items() if each["bound"] is not None] == ["ddvae"]
    assert [name for name, each in values.items() if "transform_seconds" in each] == [
        "pca",
        "ddvae",
    ]
    assert all(values[name]["knn_accuracy"] > 0.9 for name in ("pca", "tsne"))
    assert all(values[name]["nmi"] > 0.8 for name in ("pca", "tsne"))


@pytest.mark.parametrize("kind", ["components", "genotypes", "cells"])
def test_new_rows_tell_nothing_of_themselves(monkeypatch, kind):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import new_rows

    rng, y = np.random.default_rng(0), np.arange(80) % 4
    X, size = rng.binomial(2, 0.3, size=(80, 10)), rng.uniform(5.0, 20.0, size=80)
    train, test = new_rows.split(kind, X, size, y, seed=0)
    assert len(test[2]) == 20
    assert np.bincount(test[2]).tolist() == [5] * 4
    assert sorted(map(tuple, np.vstack([train[0], test[0]]))) == sorted(map(tuple, X))
    # Held-out rows changed, the training rows look the same.
    _, held_out = train_test_split(np.arange(80), test_size=0.25, stratify=y, random_state=0)
    np.testing.assert_array_equal(X[held_out], test[0])
    X, size = X.copy(), size.copy()
    X[held_out], size[held_out] = 2 - X[held_out], 50.0 * size[held_out]
    others, changed = new_rows.split(kind, X, size, y, seed=0)
    np.testing.assert_array_equal(others[1], train[1])
    assert not np.array_equal(changed[1], test[1])


def test_single_cell(monkeypatch, tmp_path):
    rng, y = np.random.default_rng(0), np.arange(90) % 3
    data, out = tmp_path / "cells.npz", tmp_path / "single_cell.json"
    X = rng.poisson(4.0 * rng.uniform(size=(3, 60))[y])
    np.savez(data, X=X.astype(np.uint8), y=y, library_size=X.sum(axis=1))
    methods = ["pca", "tsne", "aae", "ddvae"]
    options = ["--data", data, "--out", out, "--methods", ",".join(methods)]
    values = quick(monkeypatch, "single_cell", *options, "--embeddings", tmp_path / "kept")
    assert list(values) == methods
    assert len(list((tmp_path / "kept").iterdir())) == len(methods)
    assert values["pca"]["knn_accuracy"] > 0.9
    assert values["tsne"]["trustworthiness"] > 0.6
    assert values["ddvae"]["bound"] < 0
    assert values["aae"]["bound"] is None


def test_counts_are_scaled_to_the_median_library(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _common

    np.savez(tmp_path / "a.npz", X=[[1, 2], [4, 0], [0, 9]], y=[0, 1, 2], library_size=[4, 8, 16])
    counts, size, y = _common.load_counts(tmp_path / "a.npz")
    assert counts.dtype == np.float32
    logs = _common.log_counts(counts, size, np.median(size))
    np.testing.assert_allclose(np.expm1(logs), [[2, 4], [4, 0], [0, 4.5]], rtol=1e-6)
    assert y.tolist() == [0, 1, 2]


def test_sensitivity(monkeypatch, tmp_path):
    options = ["--out", tmp_path / "sensitivity.json", "--parameters", "kl_weight,n_components"]
    values = quick(monkeypatch, "sensitivity", *options)
    assert list(values) == [
        "pinwheel defaults",
        "pinwheel kl_weight=0.25",
        "normal defaults",
        "normal kl_weight=0.25",
        "normal n_components=3",
    ]
    assert "latent_nll" not in values["normal n_components=3"]
    # The bound does not have the objective's weights: only the model differs.
    assert values["normal kl_weight=0.25"]["bound"] != values["normal defaults"]["bound"]
    for each in values.values():
        assert each["bound"] <= each["bound_k500"] + 1
        assert each["fit_cpu_seconds"] > 0


@pytest.mark.slow
def test_reference(monkeypatch, tmp_path):
    values = quick(monkeypatch, "reference", "--out", tmp_path / "reference.json")
    assert list(values) == ["bfloat16", "float32", "coverage"]
    for each in values.values():
        assert each["ms_of_128_rows"] == pytest.approx(1000 * each["fit_seconds"] * 128 / 600)
        assert each["reconstruction"] < 0.0
        assert each["bound"] <= each["bound_k500"] + 1


def test_posteriors_figure(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    folder, picture = tmp_path / "embeddings", tmp_path / "grid.png"
    options = ["--priors", "normal,square", "--posteriors", "vae,iaf", "--embeddings", folder]
    options += ["--n-test", 60]
    quick(monkeypatch, "posteriors", *options, "--out", tmp_path / "posteriors.json")
    assert len(list(folder.iterdir())) == 4
    (folder / "square-iaf-0.npz").unlink()

    import posteriors_figure

    panels = posteriors_figure.load_panels(folder, seed=0)
    assert {prior: list(column) for prior, column in panels.items()} == {
        "normal": ["prior", "vae", "iaf"],
        "square": ["prior", "vae"],
    }
    Z, y = panels["square"]["vae"]
    assert Z.shape == (60, 2) and y.shape == (60,)
    assert posteriors_figure.main([str(folder), "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        posteriors_figure.main([str(folder), "--seed", "1", "--out", str(picture)])


def test_reduced(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import reduced

    # Every script that runs cells is among them.
    scripts = {
        path.name for path in BENCHMARKS.glob("*.py") if "record = run_cells(" in path.read_text()
    }
    assert {command.split()[0] for command, _ in reduced.RUNS} == scripts

    called = []

    def run(command, data, out):
        called.append((command, data))
        return int("fails" in command)

    monkeypatch.setattr(reduced, "run", run)
    (tmp_path / "here.npz").touch()
    monkeypatch.setattr(reduced, "RUNS", [("a.py", None), ("b.py", "here.npz"), ("c.py", "no.npz")])
    assert reduced.main(["--data", str(tmp_path)]) == 0
    assert called == [("a.py", None), ("b.py", tmp_path / "here.npz")]
    assert "c.py on no.npz: left out" in capsys.readouterr().out
    monkeypatch.setattr(reduced, "RUNS", [("fails.py", None), ("a.py", None)])
    assert reduced.main([]) == 1
    assert called[2:] == [("fails.py", None), ("a.py", None)]
    assert "failed: fails.py" in capsys.readouterr().out


def test_the_tables_of_the_docs_are_those_of_the_results():
    command = [sys.executable, str(BENCHMARKS / "docs_tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = {path.stem for path in (BENCHMARKS / "results").glob("*.json")}
    pages = ("benchmarks", "comparing_embeddings")
    text = "".join(
        (BENCHMARKS.parent / "doc" / f"{page}.rst").read_text(encoding="utf-8") for page in pages
    )
    assert results
    assert all(f"tables/{name}.txt" in text for name in results)
