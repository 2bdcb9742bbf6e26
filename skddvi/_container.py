"""The file of a saved model: a safetensors file with a header in JSON and a checksum.

The header stands in the metadata of the safetensors format, after the SHA-256 of the whole file as
it would be with zeros in the checksum's place. The checksum is at a fixed place, so that a file is
verified before anything in it is interpreted. It tells damage; it is no signature.
"""

import hashlib
import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path

import safetensors.numpy

_KEY = "skddvi"
_LENGTH_SIZE = 8  # bytes of the header's length, with which a safetensors file begins
_START = f'{{"__metadata__":{{"{_KEY}":"sha256:'.encode()
_DIGEST = slice(_LENGTH_SIZE + len(_START), _LENGTH_SIZE + len(_START) + 64)
_NO_DIGEST = "0" * 64


def write(path, header, arrays):
    """Write a header and named arrays, replacing the file at once or not at all.

    Parameters
    ----------
    path : str or path-like
    header : dict
        Of what JSON knows.
    arrays : dict of str to ndarray
    """
    text = f"sha256:{_NO_DIGEST} {json.dumps(header, allow_nan=False, separators=(',', ':'))}"
    data = bytearray(safetensors.numpy.save(arrays, metadata={_KEY: text}))
    data[_DIGEST] = _digest(data)
    path = Path(os.path.realpath(path))  # a link stays, what it points to is replaced
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path):
    """Return the header and the arrays of a file.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    header : dict
    arrays : dict of str to ndarray

    Raises
    ------
    OSError
        When there is no such file, or it cannot be read.
    ValueError
        When the file is another's, or not as it was written.
    """
    # An integer would be an open file's number, standard input's perhaps.
    with open(os.fspath(path), "rb") as file:
        data = file.read(_DIGEST.stop)
        if data[_LENGTH_SIZE : _DIGEST.start] != _START:
            raise ValueError(
                f"{str(path)!r} is not a model saved by skddvi.save (it may be cut off, or be a "
                "pickle, which joblib.load or pickle.load open, if you trust where it comes from)."
            )
        data = bytearray(data + file.read())
    found = bytes(data[_DIGEST])
    data[_DIGEST] = _NO_DIGEST.encode()
    if _digest(data) != found:
        raise ValueError(
            f"{str(path)!r} has been cut off or altered since skddvi.save wrote it: its checksum "
            "does not match. Copy it again from where it was saved, or save the model again."
        )
    with understood(path):
        length = int.from_bytes(data[:_LENGTH_SIZE], "little")
        metadata = json.loads(data[_LENGTH_SIZE : _LENGTH_SIZE + length])["__metadata__"]
        header = json.loads(metadata[_KEY].partition(" ")[2])
        return header, safetensors.numpy.load(bytes(data))


@contextmanager
def understood(path):
    """Turn every error of the block into a `ValueError` that names the file.

    Only a file that was made on purpose, with a checksum of its own, gets here and fails. What it
    may fail with is not foreseeable: it can put any value anywhere.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{str(path)!r} does not hold a model as skddvi.save writes it ({error!r}). Save the "
            "model again."
        ) from error


def _digest(data):
    return hashlib.sha256(data).hexdigest().encode()
