"""The checkpoint of a fit: a file from which a fit that was interrupted goes on.

The file is of the kind of a saved model, see :mod:`skddvi._container`: arrays, and a header in
JSON; nothing in it is executed. It holds the states of the training loops of one fit, those that
are done and the one that is under way, and the identity of the fit: its parameters, seed, rows and
labels, as short texts. What a fit does between its trainings follows from these, and is done again.

A file is never taken for that of another fit, and one that holds unfinished work, or is no
checkpoint, is never replaced.
"""

import functools
import hashlib
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from . import __version__
from ._building_blocks import BUILDING_BLOCKS
from ._codec import Decoder, Encoder
from ._container import read, write
from ._engine.stored import StoredRows
from ._warn import warn

SCHEMA = 1
# Writing takes about this share of the time of the training, or less.
WRITING_SHARE = 0.05
# Parameters that do not change what is computed, or that the identity knows by other names.
NOT_COMPARED = ("checkpoint", "random_state", "verbose", "warm_start")


def identity(estimator, rows, seed, start):
    """Return what makes a fit the same as another, short texts by name.

    Parameters
    ----------
    estimator : estimator
    rows : dict of str to (ndarray, CSR matrix, StoredRows or None)
        Rows and labels.
    seed : int
    start : Engine or None
        What a warm start goes on from.

    Returns
    -------
    identity : dict of str to str
    """
    texts = {"skddvi": __version__, "estimator": type(estimator).__name__}
    for name, value in estimator.get_params(deep=False).items():
        if name not in NOT_COMPARED:
            texts[name] = _text(value, name)
    texts |= {name: _rows_text(values) for name, values in rows.items()}
    texts["random_state"] = "None" if estimator.random_state is None else f"seed {seed}"
    texts["start"] = "new"
    if start is not None:
        contents = start.contents()
        texts["start"] = f"warm {_digest([*contents['weights'].values(), contents['generator']])}"
    return texts


class Checkpoint:
    """The file of one fit; as a context it writes what is not yet written.

    Parameters
    ----------
    path : str or path-like
        A file, or a folder that exists, in which each fit has a file of its own.
    identity : dict of str to str
    seed : int
        Seed of the fit if it does not go on from the file.

    Attributes
    ----------
    seed : int
        Seed of the fit.

    Raises
    ------
    OSError
        When the file cannot be read, or there is no folder to write it to.
    ValueError
        When the file is none of this fit, and not one to be replaced.
    """

    def __init__(self, path, identity, seed):
        path = Path(os.path.realpath(path))
        if path.is_dir():
            path /= f"{identity['estimator']}-{_digest([json.dumps(identity).encode()])}.ckpt"
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"checkpoint={str(path)!r} lies in a folder that does not exist; make the folder "
                f"{str(path.parent)!r} first, or name another file."
            )
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(
                f"checkpoint={str(path)!r} lies in a folder that cannot be written to; name a file "
                "elsewhere."
            )
        self.path, self.identity, self.seed = path, identity, seed
        # One state for each training, the last of which may be under way.
        self.states, self.n_trainings = [], 0
        self.is_finished = self.is_interrupted = self.is_written = self.has_failed = False
        self.next_time = -np.inf
        if path.exists():
            self._read()

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error is None and not (self.is_interrupted or self.is_finished):
            self.is_finished, self.is_written = True, False
        if self.states and not self.is_written:
            self._write()

    def training(self):
        """Return the :class:`Training` that comes next in the fit."""
        self.n_trainings += 1
        return Training(self, self.n_trainings - 1)

    def keep(self, index, state):
        """Keep the state of a training, and write it if it is time to."""
        if self.is_interrupted:
            return
        self.states[index:] = [state]
        self.is_finished = self.is_written = False
        if time.monotonic() >= self.next_time:
            self._write()

    def interrupt(self):
        """Write what there is, and nothing that comes later in this fit."""
        if not self.is_interrupted:
            self.is_interrupted, self.is_finished = True, False
            self._write()

    def _write(self):
        """Write the file; where that fails, warn and train on."""
        start = time.monotonic()
        encoder = Encoder(BUILDING_BLOCKS)
        header = {
            "checkpoint": SCHEMA,
            "version": __version__,
            "identity": self.identity,
            "seed": self.seed,
            "finished": self.is_finished,
            "states": encoder.encode(self.states, "states"),
        }
        try:
            write(self.path, header, encoder.arrays)
            self.is_written = True
        except OSError as error:
            if not self.has_failed:
                warn(
                    f"checkpoint={str(self.path)!r} could not be written ({error}); the training "
                    "goes on, and the file is that of an earlier epoch, if there is one."
                )
            self.has_failed = True
        now = time.monotonic()
        self.next_time = now + (now - start) / WRITING_SHARE

    def _read(self):
        """Take over states and seed, if the file is of this fit."""
        with _understood(self.path):
            header, arrays = read(self.path)
            schema, version = int(header["checkpoint"]), str(header["version"])
        if schema > SCHEMA:
            raise ValueError(
                f"checkpoint={str(self.path)!r} was written by skddvi {version} in schema {schema};"
                f" this is skddvi {__version__}, which reads schemas up to {SCHEMA}. Upgrade "
                "skddvi, or name another file."
            )
        with _understood(self.path):
            found, is_finished = dict(header["identity"]), bool(header["finished"])
        if found != self.identity:
            if not is_finished:
                raise ValueError(self._mismatch(found))
        elif not (is_finished and self.identity["random_state"] == "None"):
            with _understood(self.path):
                states = Decoder(BUILDING_BLOCKS, [], arrays).decode(header["states"])
                self.states, self.seed = list(states), int(header["seed"])
            self.is_finished, self.is_written = is_finished, True

    def _mismatch(self, found):
        """Return what is said of an unfinished fit of other parameters or rows."""
        both = found | self.identity
        changes = [
            f"{name} was {found.get(name)} and is {self.identity.get(name)}"
            for name in both
            if found.get(name) != self.identity.get(name)
        ]
        return (
            f"checkpoint={str(self.path)!r} holds an unfinished fit, and not this one: "
            f"{'; '.join(changes)}. Go back to those to go on with it, delete the file to give it "
            "up, or name another. For several fits at once, as in a search, name a folder."
        )


class Training:
    """The part of a checkpoint that one training reads and writes.

    Parameters
    ----------
    checkpoint : Checkpoint
    index : int
        Which of the trainings of the fit it is.
    """

    def __init__(self, checkpoint, index):
        self.checkpoint, self.index = checkpoint, index
        states = checkpoint.states
        self.state = states[index] if index < len(states) else None

    @property
    def history(self):
        """What the history already holds, a dict of lists."""
        if self.state is None:
            return {}
        with _understood(self.checkpoint.path):
            return dict(self.state["history"])

    def resume(self, loop):
        """Give a training loop the state that it had."""
        if self.state is not None:
            with _understood(self.checkpoint.path):
                loop.load_state(self.state)

    def save(self, state):
        """Keep the state after an epoch."""
        self.checkpoint.keep(self.index, state)

    def end(self, complete):
        """Hear that the training is over; not complete, it was stopped from outside."""
        if not complete:
            self.checkpoint.interrupt()


@contextmanager
def _understood(path):
    """Turn every error of the block into a `ValueError` that names the file and the way out."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"checkpoint={str(path)!r} exists, but is no checkpoint of skddvi, or has been cut off "
            "or altered. Delete it to train from the start, or name another file."
        ) from error


def _text(value, name):
    """Return a short text that tells a parameter's value from others.

    Objects of classes that skddvi does not have are told apart by their class alone.
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(each, name) for each in value)}]"
    if isinstance(value, functools.partial):
        parts = value.func, value.args, value.keywords
        return f"partial({', '.join(_text(part, name) for part in parts)})"
    encoder = Encoder(BUILDING_BLOCKS)
    try:
        code = json.dumps([encoder.encode(value, name), encoder.objects])
    except TypeError:
        own = value if hasattr(value, "__qualname__") else type(value)
        return f"{own.__module__}.{own.__qualname__}"
    if not encoder.arrays and not encoder.objects:
        return repr(value.item() if isinstance(value, np.generic) else value)
    return f"{type(value).__name__} {_digest([code.encode(), *encoder.arrays.values()])}"


def _rows_text(values):
    if values is None:
        return "None"
    if isinstance(values, StoredRows):
        parts = values.blocks()
    elif isinstance(values, np.ndarray):
        parts = [values]
    else:
        parts = [values.data, values.indices, values.indptr]
    shape = " x ".join(map(str, values.shape))
    return f"{shape} {values.dtype} {_digest(parts)}"


def _digest(parts):
    """Return a short digest of bytes and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]
