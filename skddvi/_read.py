"""Reading rows and labels from a file for ``python -m skddvi``.

CSV and TSV are read with the standard library, ``.npz`` and ``.npy`` with numpy and never with
pickle, because a pickle can run code. Every fault in a file is a `ValueError` or an `OSError`
whose message fits on one line.
"""

import csv
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

DATA_KEYS = ("X", "X_train", "x", "x_train", "data")
LABEL_KEYS = ("y", "y_train", "target", "labels", "label")
MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}


@dataclass(frozen=True)
class Dataset:
    """Rows, and labels where there are any.

    Attributes
    ----------
    name : str
        Short name, used in the default name of the picture.
    X : ndarray of shape (n_samples, n_features)
        Rows; float32 or float64, NaN where a value is missing.
    y : ndarray of shape (n_samples,) or None
        Integer codes into `class_names`.
    class_names : tuple of str
        Names of the classes; empty without labels.
    feature_names : tuple of str
        Names of the columns; empty when the file has none.
    notes : tuple of str
        What was left out of the file, and why.
    """

    name: str
    X: np.ndarray
    y: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_dataset(source, *, label=None, data_key=None):
    """Load a built-in data set or a file.

    Parameters
    ----------
    source : str
        ``"digits"`` (`sklearn.datasets.load_digits`, scaled to [0, 1]) or the path of a file
        ending in .csv, .tsv, .txt, .npz or .npy.
    label : str or None, default=None
        Where the labels are: the name or the index of a column in a table, the index of a column
        in a .npy file, the key of an array in a .npz file. None: no labels in tables and .npy
        files, the usual names (y, y_train, target, labels, label) in .npz files.
    data_key : str or None, default=None
        Key of the rows in a .npz file. None: the usual names (X, X_train, x, x_train, data), or
        the only array with two or more dimensions.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If the file cannot be read as numbers, or `label` or `data_key` is not in it.
    OSError
        If the file cannot be opened.

    Examples
    --------
    >>> from skddvi._read import load_dataset
    >>> digits = load_dataset("digits")
    >>> digits.X.shape, digits.class_names[:3]
    ((1797, 64), ('0', '1', '2'))
    """
    if source == "digits":
        if label is not None or data_key is not None:
            raise ValueError("--label and --data-key are for files; digits has its own labels")
        from sklearn.datasets import load_digits

        digits = load_digits()
        X = (digits.data / 16.0).astype(np.float32)
        return Dataset("digits", X, *_encode_labels(digits.target, "digits"))

    path = Path(source)
    if not path.exists():
        raise ValueError(f"no file {source!r}, and the only built-in data set is 'digits'")
    if path.is_dir():
        raise ValueError(f"{source!r} is a directory; expected a .csv, .tsv, .npz or .npy file")
    suffix = path.suffix.lower()
    if data_key is not None and suffix != ".npz":
        raise ValueError(f"--data-key={data_key!r} is for .npz files, found {path.name!r}")
    if suffix == ".npz":
        return _read_npz(path, label, data_key)
    if suffix == ".npy":
        return _read_npy(path, label)
    if suffix in (".csv", ".tsv", ".tab", ".txt"):
        return _read_table(path, label)
    raise ValueError(
        f"{path.name!r} ends in {suffix!r}; expected .csv, .tsv, .tab, .txt, .npz or .npy"
    )


# ------------------------------------------------------------------------------------------------
# Tables of text


def _read_table(path, label):
    """CSV or TSV, with or without a header line."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            if not any(map(first.count, ",\t;")) and len(first.split()) > 1:
                rows = (line.split() for line in file)  # blanks, as numpy writes them
            else:
                # Ties, such as none of them, go to the comma.
                rows = csv.reader(file, delimiter=max(",\t;", key=first.count))
            return _parse_rows((row for row in rows if row), path, label)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name!r} is not a text file in UTF-8: {error.reason}") from error
    except csv.Error as error:
        raise ValueError(f"{path.name!r} is not a table: {error}") from error


def _parse_rows(rows, path, label):
    first = [cell.strip() for cell in next(rows, [])]
    second = next(rows, None)
    if not first or second is None:
        found = "no row" if not first else "one row"
        raise ValueError(f"{path.name!r} has {found}; expected a table of numbers")
    has_header = _is_header(first, second, label)
    names = tuple(first) if has_header else tuple(str(j) for j in range(len(first)))
    label_column = None if label is None else _find_column(label, names)
    # A column without a name is a row index, as pandas and R write it.
    columns = [j for j, name in enumerate(names) if name and j != label_column]

    values, labels = [], []
    body = [second] if has_header else [first, second]
    for n_rows, row in enumerate(chain(body, rows), start=1 + has_header):
        if len(row) != len(names):
            raise ValueError(
                f"{path.name!r}: row {n_rows} has {len(row)} cells, expected {len(names)}"
            )
        values.append(_parse_row([row[j] for j in columns], columns, names, n_rows))
        if label_column is not None:
            labels.append(row[label_column].strip())

    y, class_names = None, ()
    if label_column is not None:
        where = f"label column {names[label_column]!r}"
        n_missing = sum(cell.lower() in MISSING for cell in labels)
        if n_missing:
            raise ValueError(f"{where} has {n_missing} empty cells; expected a label in every row")
        y, class_names = _encode_labels(_numbers_if_all(labels), where)
    feature_names = tuple(names[j] for j in columns) if has_header else ()
    return Dataset(path.stem, np.array(values), y, class_names, feature_names)


def _parse_row(cells, columns, names, n_rows):
    """One row as a float64 array; NaN where a cell is empty or says NA."""
    try:
        if not any("_" in cell for cell in cells):
            return np.array(cells, dtype=np.float64)
    except ValueError:
        pass
    row = np.empty(len(cells))
    for j, cell in enumerate(cells):
        value = _number(cell)
        if value is None:
            name = names[columns[j]]
            way_out = f"use --label {name} if it holds the labels"
            if _number(cell.replace(",", ".", 1)) is not None:
                way_out = "decimals are written with a point"
            raise ValueError(
                f"column {name!r} is not numeric: {cell.strip()!r} in row {n_rows} ({way_out})"
            )
        row[j] = value
    return row


def _number(cell):
    """Return the cell as a float, NaN where it says that the value is missing, None for text."""
    if "_" in cell:  # which Python reads as a part of a number
        return None
    try:
        return float(cell)
    except ValueError:
        return np.nan if cell.strip().lower() in MISSING else None


def _is_header(first, second, label):
    """Whether the first row holds names: a name in a numeric column, or nothing but names.

    Or the numbers of the columns from 0, as pandas writes them where they have no names.
    """
    numbers = first if first[0] else first[1:]
    if len(first) > 2 and numbers == [str(j) for j in range(len(numbers))]:
        return True
    text = [_number(cell) is None for cell in first]
    above_number = any(
        name and _number(cell) is not None for name, cell in zip(text, second, strict=False)
    )
    return above_number or all(text) or (label in first and _number(label) is None)


def _find_column(label, names):
    """Index of the column called `label`, or numbered so (from 0; negative from the end)."""
    if label in names:
        return names.index(label)
    try:
        index = int(label)
    except ValueError:
        raise ValueError(f"--label={label!r} is not a column; found {_listed(names)}") from None
    if not -len(names) <= index < len(names):
        raise ValueError(f"--label={index} is out of range; the table has {len(names)} columns")
    return index % len(names)


# ------------------------------------------------------------------------------------------------
# numpy's files


def _read_npz(path, label, data_key):
    with _open_arrays(path) as file:
        if not hasattr(file, "files"):
            raise ValueError(f"{path.name!r} is not a .npz archive")
        if data_key is None:
            data_key = _detect_data_key(file, path)
        X = _numeric_rows(_array(file, path, data_key, "--data-key"), f"array {data_key!r}")
        if label is None:
            return _with_usual_labels(file, path, X)
        return Dataset(path.stem, X, *_read_labels(file, path, label, len(X)))


def _with_usual_labels(file, path, X):
    """Return the rows with labels of a usual name; nobody asked for these, so they may be bad."""
    notes = []
    for key in LABEL_KEYS:
        if key in file.files:
            try:
                return Dataset(path.stem, X, *_read_labels(file, path, key, len(X)))
            except ValueError as error:
                notes.append(f"labels left out: {error}")
    return Dataset(path.stem, X, notes=tuple(notes))


def _read_labels(file, path, key, n_rows):
    """Return codes (n_rows,) and class names from the array of that key."""
    y = _array(file, path, key, "--label")
    if y.size != n_rows:
        raise ValueError(
            f"array {key!r} has shape {y.shape}; expected ({n_rows},), one per row of X"
        )
    stem = "target" if key in LABEL_KEYS else key.removeprefix("y_")
    names = None
    if f"{stem}_names" in file.files:
        names = _array(file, path, f"{stem}_names", "").ravel()
    return _encode_labels(y.ravel(), f"array {key!r}", names)


def _read_npy(path, label):
    with _open_arrays(path) as array:
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{path.name!r} is a .npz archive; rename it to .npz")
        X = _numeric_rows(array, f"{path.name!r}")
    if label is None:
        return Dataset(path.stem, X)
    column = _find_column(label, tuple(str(j) for j in range(X.shape[1])))
    y, class_names = _encode_labels(X[:, column], f"label column {column}")
    return Dataset(path.stem, np.delete(X, column, axis=1), y, class_names)


@contextmanager
def _open_arrays(path):
    """`numpy.load` without pickle, every fault of the file turned into one `ValueError`."""
    file = None
    try:
        file = np.load(path, allow_pickle=False)
        yield file
    except ValueError as error:
        if "pickle" not in str(error).lower():
            raise
        raise ValueError(
            f"{path.name!r} holds pickled objects or is no numpy file; a pickle can run code and "
            "is not loaded: save plain numbers or text with numpy.savez"
        ) from error
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path.name!r} is damaged or no numpy file: {error}") from error
    finally:
        if hasattr(file, "close"):
            file.close()


def _array(file, path, key, option):
    if key not in file.files:
        raise ValueError(f"{option}={key!r} is not in {path.name!r}; found {_listed(file.files)}")
    array = file[key]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{key!r} in {path.name!r} is not an array")
    return array


def _detect_data_key(file, path):
    for key in DATA_KEYS:
        if key in file.files:
            return key
    tables = [key for key in file.files if np.ndim(file[key]) >= 2]
    if len(tables) == 1:
        return tables[0]
    raise ValueError(
        f"{path.name!r} has no array named {_listed(DATA_KEYS)}; name one with --data-key: "
        f"found {_listed(file.files)}"
    )


def _numeric_rows(array, where):
    """Return float rows; images of more than two dimensions are flattened."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where} has dtype {array.dtype}; expected numbers")
    if array.ndim < 2 or not array.size:
        raise ValueError(f"{where} has shape {array.shape}; expected rows and columns")
    X = array.reshape(len(array), -1)
    return X.astype(np.float64 if array.dtype.itemsize >= 8 else np.float32)


# ------------------------------------------------------------------------------------------------
# Labels


def _encode_labels(values, where, names=None):
    """Integer codes (n_samples,) and class names from labels of any kind.

    Names are taken from `names` where the labels are indices into it.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "biufUS":
        raise ValueError(f"{where} has dtype {values.dtype}; expected integers or text")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ValueError(f"{where} has {np.sum(~np.isfinite(values))} missing values")
        if (values != np.round(values)).any():
            raise ValueError(f"{where} holds measurements, not classes: found {values[0]:g}")
        values = values.astype(np.int64)
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) > max(2, len(values) // 2):
        raise ValueError(
            f"{where} has {len(classes)} different values in {len(values)} rows; expected classes"
        )
    indices = classes.dtype.kind in "iu" and classes[0] >= 0
    if names is not None and indices and classes[-1] < len(names):
        classes = np.asarray(names)[classes]
    return codes, tuple(str(c) for c in classes)


def _numbers_if_all(cells):
    """Text labels as floats when all of them are numbers, so that 10 sorts after 2."""
    numbers = [_number(cell) for cell in cells]
    return np.array(cells if None in numbers else numbers)


def _listed(names, limit=8):
    names = [repr(str(name)) for name in names]
    more = f", … ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "nothing"
