"""The page of the promises: complete, and true of the tests that it names."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "doc" / "promises.rst"
N_PROMISES = 15
ASKS = [
    "Same row, same embedding",
    "Seeds that hold",
    "Saved models",
    "y does not supervise",
    "No NaN in training",
    "n_jobs without hangs",
    "A held-out score",
    "Clusters that do not collapse",
    "Hard and soft labels agree",
    "Which embedding is better",
    "Plots that are not over-read",
    "Speed on a CPU",
    "Held-out rows and their curve",
    "Ctrl-C keeps the work",
    "Memory",
    "Missing genotypes",
    "Is it worth it",
]


def rows_of(text):
    """Return {name of the promise: [(file, test), ...]} of a page's tables."""
    rows = {}
    for name, row in re.findall(
        r"^   \* - \*\*(.+?)\.\*\*(.*?)(?=^   \* - |^\S|\Z)", text, re.M | re.S
    ):
        assert name not in rows, name
        file, rows[name] = None, []
        for word in re.findall(r"``(.+?)``", row):
            if word.endswith(".py"):
                file = word
            elif word.startswith("test_"):
                rows[name].append((file, word))
    return rows


@functools.cache
def collected():
    """Return (file, test) of every function that pytest collects in the folder of the tests."""
    return {
        (path.relative_to(ROOT).as_posix(), node.name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


ROWS = rows_of(PAGE.read_text(encoding="utf-8"))


def test_every_promise_and_every_ask_is_listed():
    numbered = [str(number) for number in range(1, N_PROMISES + 1)]
    assert list(ROWS)[:N_PROMISES] == numbered
    assert set(ROWS) >= set(ASKS)
    index = (PAGE.parent / "index.rst").read_text(encoding="utf-8")
    assert re.search(r"^   promises$", index, re.M)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_names_tests_of_its_own_that_exist(name):
    tests = ROWS[name]
    missing = [f"{file}: {test}" for file, test in tests if (file, test) not in collected()]
    assert not missing
    assert len(set(tests)) == len(tests)
    start = f"test_promise_{int(name):02d}_" if name.isdigit() else "test_ask_"
    assert tests
    assert all(test.startswith(start) for _, test in tests)


def test_every_test_of_a_promise_is_on_the_page_once():
    named = [test for tests in ROWS.values() for test in tests]
    of_promises = {
        (file, test) for file, test in collected() if re.match("test_(promise|ask)_", test)
    }
    assert set(named) == of_promises
    assert len(named) == len(of_promises)


def test_the_page_is_read_as_it_is_written():
    text = (
        "   * - **1.** Some ``X``\n     - ``tests/test_a.py``: ``test_one``,\n"
        "       ``test_two``.\n\n"
        "       ``tests/test_b.py``: ``test_one``.\n   * - **2.** More\n     - \nNext\n"
    )
    assert rows_of(text) == {
        "1": [
            ("tests/test_a.py", "test_one"),
            ("tests/test_a.py", "test_two"),
            ("tests/test_b.py", "test_one"),
        ],
        "2": [],
    }
