"""Bad inputs: what is given, and what may come of it.

A trial may end in a result that is finite, or in an error that says what is wrong: one that skddvi
raises itself, or the validation of scikit-learn. An error out of the inside of torch, numpy or
scipy, raised because nobody looked at the input first, is none.
"""

import ast
import functools
import traceback
from pathlib import Path

import numpy as np
import sklearn
from scipy import sparse

import skddvi

OURS, SKLEARN = (str(Path(package.__file__).parent) for package in (skddvi, sklearn))
# What the system says of a path.
PATHS = ("expected str, bytes or os.PathLike", "embedded null byte")
TABLES = ("pandas", "polars", "narwhals")  # whose frames scikit-learn asks for their numbers


@functools.cache
def raising_lines(path):
    """Return the lines of a source file that belong to a statement `raise`."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        for line in range(node.lineno, node.end_lineno + 1)
    }


def check_error(error):
    """Assert that an error was raised on purpose, where the input is checked."""
    frames = traceback.extract_tb(error.__traceback__)
    told = f"{type(error).__name__}: {error}, at {frames[-1].filename}:{frames[-1].lineno}"
    while any(f"/{name}/" in frames[-1].filename for name in TABLES):
        frames.pop()
    last = frames[-1]
    if isinstance(error, OSError) or any(words in str(error) for words in PATHS):
        return
    if last.filename.startswith(OURS):
        assert last.lineno in raising_lines(last.filename), told
    else:
        assert last.filename.startswith(SKLEARN), told
    kinds = ValueError | TypeError | IndexError | RuntimeError | MemoryError | ArithmeticError
    assert isinstance(error, kinds), told
    assert len(str(error)) > 15, told


def check_result(result):
    """Assert that what came out is finite, through containers."""
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, tuple | list):
        for value in result:
            check_result(value)
        return
    value = np.asarray(result.data if sparse.issparse(result) else result)
    if value.dtype.kind == "f":
        assert np.isfinite(value).all(), value


def attempt(ask):
    """Make a trial of ``ask`` and return whether it ended in an error."""
    try:
        result = ask()
    except Exception as error:
        check_error(error)
        return True
    check_result(result)
    return False
