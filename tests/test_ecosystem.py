"""The recipes of the page on other libraries, run as they stand there."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV

from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer

PAGE = Path(__file__).parents[1] / "doc" / "ecosystem.rst"
# The blocks of the page, in order: a name, and the package without which it is left out.
RECIPES = {
    "pandas": "pandas",
    "polars": "polars",
    "h5py": "h5py",
    "anndata": "anndata",
    "plink": "bed_reader",
    "dask": "distributed",
    "optuna": "optuna",
}


def blocks():
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"^\.\. code-block:: python\n\n((?:(?: {4}.*)?\n)+)", text, re.M)
    return [re.sub(r"^ {4}", "", block, flags=re.M) for block in found]


def run(recipe, folder, monkeypatch):
    """Run a block of the page in an empty folder and return its names."""
    pytest.importorskip(RECIPES[recipe])
    monkeypatch.chdir(folder)
    names = {}
    exec(compile(blocks()[list(RECIPES).index(recipe)], f"{PAGE.name}, {recipe}", "exec"), names)
    return names


def test_every_block_has_a_test():
    assert len(blocks()) == len(RECIPES)
    for block, package in zip(blocks(), RECIPES.values(), strict=True):
        assert re.search(rf"^(import|from) (dask\.)?{package}\b", block, re.M)


def test_pandas(tmp_path, monkeypatch):
    names = run("pandas", tmp_path, monkeypatch)
    assert names["latents"].index.equals(names["table"].index)
    assert names["joined"].shape == (150, 6)
    assert not names["joined"].isna().any(axis=None)
    assert names["joined"].columns[-1] == "ddvaetransformer1"


def test_polars(tmp_path, monkeypatch):
    names = run("polars", tmp_path, monkeypatch)
    assert names["joined"].shape == (150, 6)
    array = names["model"].set_output(transform="default").transform(names["table"])
    np.testing.assert_array_equal(names["latents"].to_numpy(), array)


def test_h5py(tmp_path, monkeypatch):
    names = run("h5py", tmp_path, monkeypatch)
    digits = names["load_digits"]().data
    np.testing.assert_allclose(names["latents"], names["model"].transform(digits), atol=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning:anndata")
def test_anndata(tmp_path, monkeypatch):
    names = run("anndata", tmp_path, monkeypatch)
    adata = names["adata"]
    assert adata.obsm["X_ddvae"].shape == (100, 10)
    np.testing.assert_allclose(
        adata.obsm["X_ddvae"], names["model"].transform(names["counts"]), atol=1e-5
    )
    assert (adata.obs["ddvae_bound"] < 0).all()  # log-probabilities
    subset = adata[:10]  # a view, whose X is one too
    np.testing.assert_allclose(
        names["model"].transform(subset.X), subset.obsm["X_ddvae"], atol=1e-5
    )


def test_plink(tmp_path, monkeypatch):
    names = run("plink", tmp_path, monkeypatch)
    np.testing.assert_array_equal(names["genotypes"].data, names["calls"])
    assert np.isfinite(names["Z"]).all()


def test_dask(tmp_path, monkeypatch):
    state = random.getstate()
    names = run("dask", tmp_path, monkeypatch)
    random.setstate(state)  # Dask draws names from it
    search = names["search"]
    alone = clone(search).fit(names["X"])
    for key in ("mean_test_score", "split0_test_score"):
        np.testing.assert_array_equal(search.cv_results_[key], alone.cv_results_[key])


@pytest.mark.filterwarnings("ignore::Warning:optuna")
def test_optuna(tmp_path, monkeypatch):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = run("optuna", tmp_path, monkeypatch)
    assert len(names["study"].trials) == 3
    assert names["study"].best_value == max(trial.value for trial in names["study"].trials)
    assert names["best"].prior == names["study"].best_params["prior"]


# ------------------------------------------------------------------- what the page says besides


X = np.random.default_rng(0).normal(size=(60, 4))
Y = np.repeat([0, 1, -1], 20)
SMALL = {"hidden_layer_sizes": (8,), "n_diffusion_steps": 2, "max_iter": 2, "random_state": 0}


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize(
    "estimator",
    [
        DDVAETransformer(**SMALL),
        DDVAEClusterer(n_clusters=2, n_components=3, **SMALL),
        DDVAEClassifier(n_components=3, **SMALL),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.filterwarnings("ignore:.*clusters hold no training row")
def test_tables_in_and_out(estimator, library):
    frames = pytest.importorskip(library)
    table = frames.DataFrame(dict(zip("abcd", X.T, strict=True)))
    model = clone(estimator).set_output(transform=library).fit(table, Y)
    latents = model.transform(table)
    assert isinstance(latents, frames.DataFrame)
    assert list(latents.columns) == list(model.get_feature_names_out())
    expected = clone(estimator).fit(X, Y).transform(X)
    np.testing.assert_allclose(latents.to_numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("backend", ["threading", "sequential"])
def test_backends_of_joblib_agree(backend):
    joblib = pytest.importorskip("joblib")
    search = GridSearchCV(DDVAETransformer(**SMALL), {"prior": ["normal", "square"]}, cv=2)
    with joblib.parallel_config(backend=backend, n_jobs=2):
        parallel = clone(search).fit(X).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(parallel, search.fit(X).cv_results_["mean_test_score"])


def test_halving_search_over_the_number_of_epochs():
    search = HalvingGridSearchCV(
        DDVAETransformer(**SMALL),
        {"prior": ["normal", "square"], "n_diffusion_steps": [0, 2]},
        resource="max_iter",
        min_resources=1,
        max_resources=4,
        factor=2,
        cv=2,
        random_state=0,
        error_score="raise",
    ).fit(X)
    assert search.n_candidates_ == [4, 2, 1]
    assert search.best_estimator_.n_iter_ == 4
