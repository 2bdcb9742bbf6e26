"""The docstrings of everything public: numpydoc's rules, and agreement with the code."""

import importlib
import inspect
import pkgutil
import re
from functools import cached_property

import pytest

import skddvi
from skddvi import _base, baselines

numpydoc_validate = pytest.importorskip("numpydoc.validate")

MODULES = [
    "skddvi.baselines",
    "skddvi.io",
    "skddvi.priors",
    "skddvi.mixture_prior",
    "skddvi.likelihoods",
    "skddvi.metrics",
    "skddvi.noising",
    "skddvi.regularizers",
    "skddvi.displays",
]
IGNORED = {
    "ES01",  # the summary may say it all
    "RT02",  # scikit-learn names what a method returns
    "RT04",  # a description may begin with a formula, as in "log p(z)"
    "SA01",  # "See Also" is for names that the reader does not find on the same page
}
# A method's example stands with its class; an abstract class has none to show.
WITHOUT_EXAMPLE = {
    "skddvi.priors.Prior",
    "skddvi.likelihoods.Likelihood",
    "skddvi.noising.NoisingProcess",
}


def test_no_public_module_is_left_out():
    modules = {
        f"skddvi.{info.name}"
        for info in pkgutil.iter_modules(skddvi.__path__)
        if not info.name.startswith("_")
    }
    for module in modules - set(MODULES):
        # All that it defines for others is exported by the package, and checked as such.
        names = getattr(importlib.import_module(module), "__all__", [])
        assert set(names) <= set(skddvi.__all__), module


def resolve(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def public_names():
    """Return the dotted names of the public classes and functions."""
    names = [f"skddvi.{name}" for name in skddvi.__all__ if name != "__version__"]
    for module in MODULES:
        names += [f"{module}.{name}" for name in importlib.import_module(module).__all__]
    return names


def public_methods():
    """Return (dotted name, whether it overrides another) of the methods that skddvi defines."""
    methods = []
    for class_name in public_names():
        cls = resolve(class_name)
        if not inspect.isclass(cls):
            continue
        for name in dir(cls):
            owners = [base for base in cls.__mro__ if name in vars(base)]
            value = vars(owners[0])[name] if owners else None
            documented = inspect.isfunction(value) or isinstance(value, property | cached_property)
            if not name.startswith("_") and documented and owners[0].__module__[:6] == "skddvi":
                methods.append((f"{class_name}.{name}", len(owners) > 1))
    return methods


def errors(name, ignored):
    return [
        f"{name}: {code} {message}"
        for code, message in numpydoc_validate.validate(name)["errors"]
        if code not in ignored
    ]


@pytest.mark.parametrize("name", public_names())
def test_class_or_function(name):
    exempt = {"EX01"} if name in WITHOUT_EXAMPLE else set()
    assert errors(name, IGNORED | exempt) == []


def test_methods():
    methods = public_methods()
    assert len(methods) > 50
    found = []
    for name, overrides in methods:
        # What an overriding method takes and returns is said where it was first defined.
        inherited = {"PR01", "RT01"} if overrides else set()
        found += errors(name, IGNORED | {"EX01"} | inherited)
    assert found == []


def estimators():
    own = [resolve(f"skddvi.{name}") for name in skddvi.__all__ if name.startswith("DDVAE")]
    return own + [getattr(baselines, name) for name in baselines.__all__]


@pytest.mark.parametrize("estimator", estimators(), ids=lambda cls: cls.__name__)
def test_documented_defaults_are_the_real_ones(estimator):
    documented = dict(
        re.findall(r"^(\w+) : .*, default=(.+)$", inspect.cleandoc(estimator.__doc__), re.M)
    )
    real = {
        name: parameter.default
        for name, parameter in inspect.signature(estimator).parameters.items()
    }
    assert {name: eval(text) for name, text in documented.items()} == real


@pytest.mark.parametrize("estimator", estimators(), ids=lambda cls: cls.__name__)
def test_documented_rules_for_auto_are_the_real_ones(estimator):
    text = " ".join(estimator.__doc__.split())
    low, high = _base.AUTO_BATCH_BOUNDS
    share = f"a {_base.AUTO_BATCHES}th of the training rows"
    assert f"{share}, but at least {low} and at most {high}" in text
    assert f'"auto" is {_base.AUTO_EPOCHS}, or where that is fewer as many as make' in text
    assert f"about {_base.AUTO_STEPS:,} gradient steps" in text
    words = {2: "two", 3: "three", 5: "five", 10: "ten"}
    assert f"gradient steps, but at least {words[_base.AUTO_MIN_EPOCHS]}." in text
    small, large = _base.AUTO_LAYERS
    layers = f"{words[len(small)]} layers of {small[0]} for up to {_base.AUTO_LAYERS_ROWS:,}"
    assert f"{layers} training rows and {words[len(large)]} of {large[0]} for more" in text
