"""Models in files that hold numbers and no code.

A saved model is one safetensors file: the arrays of the model, and a header in JSON with the
estimator's parameters, its learned attributes and a schema version. Nothing in it is executed when
it is loaded. Pickle and joblib can save models too, and more of them, but their files run what code
they hold when they are opened.
"""

from sklearn.utils.validation import check_is_fitted

from . import __version__, baselines
from ._building_blocks import BUILDING_BLOCKS
from ._codec import Decoder, Encoder
from ._container import read, understood, write
from ._engine.class_engine import ClassEngine
from ._engine.device import resolve_device, with_gradients
from ._engine.engine import Engine
from ._warn import warn
from .classifier import DDVAEClassifier
from .clusterer import DDVAEClusterer
from .transformer import DDVAETransformer

__all__ = ["load", "save"]

# What this version writes. It reads all from 1 on.
SCHEMA = 1
# Each estimator with its engine. Its learned attributes are saved whatever they are called.
ESTIMATORS = {
    "DDVAETransformer": (DDVAETransformer, Engine),
    "DDVAEClusterer": (DDVAEClusterer, Engine),
    "DDVAEClassifier": (DDVAEClassifier, ClassEngine),
    **{name: (getattr(baselines, name), Engine) for name in baselines.__all__},
}
# The engine is saved apart, callbacks are code, and what metadata a router passes to ``fit`` is no
# matter of a fitted model.
NOT_SAVED = ("_engine", "_skl_callbacks", "_metadata_request")
# Parameters that hold code. Their names are saved, and they are given again for loading.
FACTORIES = ("encoder", "decoder")


def save(estimator, path):
    """Save a fitted estimator to a file that is safe to open.

    The file is written beside its final place and then moved there, so that a crash leaves the old
    file or the new one, never half of one.

    Parameters
    ----------
    estimator : estimator of skddvi
        A fitted one.
    path : str or path-like
        The file. One that exists is replaced. The customary ending is ``.safetensors``.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        When the estimator is not fitted.
    TypeError
        When the estimator, or an object among its parameters, is of a class that skddvi does not
        have: its code would have to be saved, too. `joblib.dump` does that.
    OSError
        When the file cannot be written.

    See Also
    --------
    load : The way back.

    Notes
    -----
    A ``RandomState`` among the parameters is saved with its state. A fitted model does not need its
    regulariser: ``estimator.set_params(regularizer=None)`` makes one with a regulariser of your own
    savable, and does not change what it computes. Of networks of your own, the parameters
    ``encoder`` and ``decoder``, the weights are saved and the factories are given to `load` again.
    Callbacks and what ``set_fit_request`` asked for are not saved.

    Examples
    --------
    >>> import os, tempfile
    >>> import skddvi
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> model = skddvi.DDVAETransformer(max_iter=2, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "iris.safetensors")
    ...     skddvi.save(model, path)
    ...     restored = skddvi.load(path)
    >>> bool((restored.transform(X) == model.transform(X)).all())
    True
    """
    if type(estimator) not in (cls for cls, _ in ESTIMATORS.values()):
        raise TypeError(
            f"estimator must be one of {', '.join(ESTIMATORS)}, found "
            f"{type(estimator).__name__}; save other objects with joblib.dump."
        )
    check_is_fitted(estimator)
    parameters = estimator.get_params(deep=False)
    attributes = {
        name: value
        for name, value in vars(estimator).items()
        if name not in parameters and name not in NOT_SAVED
    }
    factories = {name: _name_of(parameters.pop(name)) for name in FACTORIES}
    structure = attributes["_structure"]
    attributes["_structure"] = {n: v for n, v in structure.items() if n not in FACTORIES}
    encoder = Encoder(BUILDING_BLOCKS)
    try:
        header = {
            "schema": SCHEMA,
            "version": __version__,
            "class": type(estimator).__name__,
            "parameters": {name: encoder.encode(value, name) for name, value in parameters.items()},
            "attributes": {name: encoder.encode(value, name) for name, value in attributes.items()},
            "engine": {
                name: encoder.encode(value, f"engine.{name}")
                for name, value in estimator._engine.contents().items()
            },
            "objects": encoder.objects,
            "factories": factories,
        }
    except TypeError as error:
        raise TypeError(
            f"{error}: skddvi.save writes values, and objects of skddvi, but no code. Use "
            "joblib.dump(estimator, path), whose files run code when they are opened. (A fitted "
            "model does not need its regulariser: set_params(regularizer=None).)"
        ) from None
    write(path, header, encoder.arrays)


def load(path, device=None, *, encoder=None, decoder=None):
    """Load an estimator that :func:`save` has saved.

    Nothing in the file is executed: it holds numbers, and names of classes of skddvi only. A
    checksum tells damage; it does not tell who made a file.

    Parameters
    ----------
    path : str or path-like
        The file.
    device : str, default=None
        Where to put the model, as the parameter ``device`` of the estimators, which gets this
        value. By default where that parameter says, or the CPU, with a warning, where that device
        is not there.
    encoder, decoder : callable, default=None
        The factories that the model was made with, where it has networks of your own: the file
        holds their weights, but not their code.

    Returns
    -------
    estimator : estimator of skddvi
        A fitted one, which computes on the same machine the same numbers to the last bit, and with
        ``warm_start=True`` goes on as the saved one would have.

    Raises
    ------
    OSError
        When there is no such file, or it cannot be read.
    ValueError
        When the file is not one of skddvi's, is damaged, or was saved by a version that this one
        does not know; when ``encoder`` or ``decoder`` is missing, is not asked for, or makes
        another network than the one whose weights there are.
    RuntimeError
        When ``device`` is not there.

    Warns
    -----
    UserWarning
        When the model was on a device that is not there, and ``device`` is not given.

    See Also
    --------
    save : The way there, with an example.

    Examples
    --------
    >>> import skddvi
    >>> skddvi.load("absent.safetensors")
    Traceback (most recent call last):
    ...
    FileNotFoundError: [Errno 2] No such file or directory: 'absent.safetensors'
    """
    if device is not None:
        resolve_device(device)
    header, arrays = read(path)
    with understood(path):
        schema, version = int(header["schema"]), str(header["version"])
    if schema > SCHEMA:
        raise ValueError(
            f"{str(path)!r} was saved by skddvi {version} in schema {schema}; this is skddvi "
            f"{__version__}, which reads schemas up to {SCHEMA}. Upgrade skddvi."
        )
    factories = {"encoder": encoder, "decoder": decoder}
    _check_factories(path, header.get("factories"), factories)
    try:
        with understood(path), with_gradients():  # or its weights could not be trained further
            estimator = _decoded(header, arrays, factories)
    except ValueError as error:
        if encoder is None and decoder is None:
            raise
        raise ValueError(
            f"{str(path)!r} cannot be loaded with encoder={_name_of(encoder)}, "
            f"decoder={_name_of(decoder)}; give the factories that the model was made with."
        ) from error
    if device is not None:
        estimator.device = estimator._structure["device"] = device
    elif estimator.device != "cpu":
        device = _device_or_cpu(path, estimator.device)
    if device is not None:
        estimator._engine.move_to(device)
    return estimator


def _name_of(factory):
    """Return what a factory is called, for people; None of None."""
    named = getattr(factory, "func", factory)  # of a functools.partial
    return factory and str(getattr(named, "__qualname__", type(named).__qualname__))


def _check_factories(path, saved, given):
    """Raise unless the factories that a file needs are given, and no others."""
    for name, factory in given.items():
        saved_name = saved.get(name) if isinstance(saved, dict) else None
        if saved_name is not None and factory is None:
            raise ValueError(
                f"{str(path)!r} holds a model with {name}={saved_name}, a network of your own, of "
                f"which it has the weights and not the code; found {name}=None. Give the factory "
                f"again: load(path, {name}={saved_name})."
            )
        if saved_name is None and factory is not None:
            raise ValueError(
                f"{str(path)!r} holds a model with {name}=None, found {name}={_name_of(factory)}; "
                f"load it without {name}."
            )


def _decoded(header, arrays, factories):
    """Return the estimator of a header and arrays, on the CPU."""
    decoder = Decoder(BUILDING_BLOCKS, header["objects"], arrays)
    parameters, attributes, engine = (
        {name: decoder.decode(value) for name, value in header[part].items()}
        for part in ("parameters", "attributes", "engine")
    )
    cls, engine_class = ESTIMATORS[header["class"]]
    estimator = cls(**parameters | factories)
    for name, value in attributes.items():
        # A file could otherwise put a value in the place of a method.
        if hasattr(cls, name) or name in estimator.get_params(deep=False) or name == "_engine":
            raise ValueError(f"{name!r} is not the name of a learned attribute")
        setattr(estimator, name, value)
    if not (isinstance(estimator.device, str) and "device" in estimator._structure):
        raise ValueError("the device is not the name of one")
    estimator._structure |= factories
    estimator._engine = engine_class.from_contents(**engine, **factories)
    return estimator


def _device_or_cpu(path, name):
    """Return the device's name, or the CPU's, with a warning, where there is no such device."""
    try:
        resolve_device(name)
    except RuntimeError:
        warn(
            f"the model in {str(path)!r} was on device={name!r}, which is not available here; it "
            "is loaded to the CPU. To go on training it here, load it with device='cpu'."
        )
        return "cpu"
    return name
