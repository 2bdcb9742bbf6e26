"""The pages: formulas that lead to their code, and every public name in its place."""

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

import skddvi

DOC = Path(__file__).parents[1] / "doc"
# Modules whose public names the package itself exports.
REEXPORTED = {"classifier", "cluster_number", "clusterer", "persistence", "transformer"}


def public_modules():
    """Return the names of the modules and packages that a user may import from."""
    names = {info.name for info in pkgutil.iter_modules(skddvi.__path__)}
    return {name for name in names if not name.startswith("_")} - REEXPORTED


def names_on_the_api_page():
    """Return the dotted names that the autosummaries of the page list."""
    module, names, listing = None, set(), False
    for line in (DOC / "api.rst").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        if line.strip() and not line.startswith(" "):
            listing = line.startswith(".. autosummary::")
        elif listing and line.strip() and not line.strip().startswith(":"):
            names.add(f"{module}.{line.strip()}")
    return names


def test_every_public_name_is_on_the_api_page_and_no_other():
    public = {f"skddvi.{name}" for name in skddvi.__all__ if name != "__version__"}
    for module in public_modules():
        exported = importlib.import_module(f"skddvi.{module}").__all__
        public |= {f"skddvi.{module}.{name}" for name in exported}
    assert len(public) > 50
    assert names_on_the_api_page() == public


def test_modules_without_a_page_are_exported_by_the_package():
    for module in REEXPORTED:
        for name in getattr(importlib.import_module(f"skddvi.{module}"), "__all__", []):
            assert name in skddvi.__all__


@pytest.fixture(scope="module")
def coded():
    """Return the extension that makes the links from formulas to code."""
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(DOC / "_ext"))
    try:
        return importlib.import_module("coded")
    finally:
        sys.path.pop(0)


def equations():
    """Return (label, names of what codes it) of the numbered equations, in their order."""
    text = (DOC / "user_guide.rst").read_text(encoding="utf-8")
    blocks = re.split(r"^ {3}:label: ", text, flags=re.M)[1:]
    found = []
    for block in blocks:
        label = block.split("\n", 1)[0]
        # In one of two paragraphs behind the formula: the sentence may have to end first.
        after = re.findall(r"^(?=\S)(?:.+\n)+", block.split("\n", 1)[1], re.M)[:2]
        found.append((label, re.findall(r":coded:`([\w.]+)`", "".join(after))))
    return found


def test_every_equation_says_where_it_is_coded(coded):
    found = equations()
    assert len(found) == 14
    for number, (label, names) in enumerate(found, start=1):
        assert names, f"{label} has no link to its code"
        for name in names:
            _, path, node = coded.find(name)
            lines = path.read_text(encoding="utf-8").splitlines()[node.lineno - 1 : node.end_lineno]
            assert f"({number})" in "\n".join(lines), f"{name} does not name equation ({number})"


def test_a_link_to_code_that_is_not_there_is_an_error(coded):
    for name in ("skddvi._engine.objective.bound", "skddvi._engine.nothing.at_all", "nowhere.x"):
        with pytest.raises(LookupError):
            coded.find(name)


def test_the_gallery_is_complete():
    """Every example is named in order, says what it is, and draws something."""
    examples = sorted((DOC.parent / "examples").glob("*.py"))
    assert [path.name[:8] for path in examples] == [
        f"plot_{number:02}_" for number in range(1, len(examples) + 1)
    ]
    for path in examples:
        text = path.read_text(encoding="utf-8")
        title = text.splitlines()[2]
        assert text.startswith(f'"""\n{"=" * len(title)}\n{title}\n')
        assert "Display" in text or "plt." in text or "memmap" in text


# ------------------------------------------------------------------------- the migration tables


def migration_tables():
    """Return {name of the class on the left: (class on the right, rows)} of the page's tables."""
    text = (DOC / "coming_from_pca_and_umap.rst").read_text(encoding="utf-8")
    tables = {}
    for table in re.findall(r"^\.\. list-table::\n(?:   .*\n|\n)+", text, re.M):
        rows = re.findall(r"^   \* - (.*)\n     - (.*)$", table, re.M)
        if rows[0][1].startswith("DDVAE"):
            tables[rows[0][0]] = getattr(skddvi, rows[0][1]), rows[1:]
    return tables


def has(cls, name):
    """Return whether a class has a parameter, method or attribute of that name."""
    if name in inspect.signature(cls).parameters or hasattr(cls, name):
        return True
    documented = re.search(rf"^ *{name} ?:", cls.__doc__, re.M)
    return bool(documented) or f"self.{name} = " in inspect.getsource(cls)


def code_names(text):
    """Return the names at the start of the literals of a text; values in quotes are none."""
    return re.findall(r"``([a-z]\w*)", text)


def foreign_class(name):
    known = {
        cls.__name__: cls
        for cls in (PCA, KMeans, GaussianMixture, LabelSpreading, SelfTrainingClassifier)
    }
    return known[name] if name in known else pytest.importorskip("umap").UMAP


@pytest.mark.parametrize("name", migration_tables())
def test_names_in_the_migration_tables_exist(name):
    cls, rows = migration_tables()[name]
    foreign = foreign_class(name)
    assert len(rows) >= 4
    for left, right in rows:
        left = left.split(" in ``")[0]  # an argument of a method
        for wanted in code_names(left):
            assert has(foreign, wanted) or wanted == "sample_weight", f"{name} has no {wanted}"
        for wanted in code_names(right):
            assert has(cls, wanted), f"{cls.__name__} has no {wanted}, in the table of {name}"
        if right.startswith("none") and not right.startswith("none:"):
            assert not any(has(cls, gone) for gone in code_names(left))


def test_migration_tables_are_all_there():
    assert set(migration_tables()) == {
        "PCA",
        "UMAP",
        "KMeans",
        "GaussianMixture",
        "LabelSpreading",
        "SelfTrainingClassifier",
    }
