"""What a fit shows of itself: bars on a terminal, lines in a pipe, nothing unasked."""

import io
import re
import sys
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest

from skddvi import DDVAEClusterer, DDVAETransformer, _progress

X = np.random.default_rng(0).normal(size=(50, 4))
SMALL = {"hidden_layer_sizes": (8,), "n_diffusion_steps": 1, "max_iter": 4, "random_state": 0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Return a stream that says that it is a terminal of 120 columns, to redirect output to."""
    for name, value in {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def written(stream):
    """Return the lines that stood on the terminal, without colours."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", stream.getvalue()))


def test_a_bar_with_the_bound_on_a_terminal(terminal):
    pytest.importorskip("rich")
    with redirect_stdout(terminal):
        model = DDVAETransformer(**SMALL, verbose=1, early_stopping=True).fit(X)
    last = [line for line in written(terminal) if line.strip()][-1]
    assert last.startswith("Training ━")
    bound, held_out = model.history_["elbo"][-1], model.validation_scores_[-1]
    assert f"4/4 0:00:00 bound {bound:.4g} nats a row, held out {held_out:.4g}" in last
    assert "Epoch" not in terminal.getvalue()


def test_a_bar_for_each_stage(terminal):
    pytest.importorskip("rich")
    with warnings.catch_warnings(), redirect_stdout(terminal):
        warnings.filterwarnings("ignore", ".*clusters hold no training row")
        DDVAEClusterer(2, **SMALL, n_init=2, init="kmeans", verbose=1).fit(X)
    lines = [line for line in written(terminal) if line.strip()][-4:]
    assert [line.split()[0] for line in lines] == ["Pretraining", "Training"] * 2


def test_what_callbacks_print_is_not_lost(terminal):
    pytest.importorskip("rich")

    class Talk:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context):
            print("spoken")
            return True

    with redirect_stdout(terminal):
        DDVAETransformer(**SMALL, verbose=1).set_callbacks(Talk()).fit(X)
        assert sys.stdout is terminal
    assert [line.strip() for line in written(terminal)].count("spoken") == 2


def test_the_bar_ends_with_an_error(terminal):
    pytest.importorskip("rich")
    model = DDVAETransformer(**SMALL, verbose=1, regularizer=lambda z, rows: "x")
    with redirect_stdout(terminal):
        with pytest.raises(TypeError, match="must return a tensor"):
            model.fit(X)
        assert sys.stdout is terminal
    assert "\x1b[?25l" not in terminal.getvalue() or terminal.getvalue().endswith("\x1b[?25h")


def test_lines_on_a_terminal_without_rich(terminal, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    with redirect_stdout(terminal):
        model = DDVAETransformer(**SMALL, verbose=1).fit(X)
    lines = terminal.getvalue().splitlines()
    bound = f"bound {model.history_['elbo'][0]:.4g} nats a row"
    assert lines[0] == f"Epoch 1/4: {bound}"
    assert len(lines) == 4
    assert "\x1b" not in terminal.getvalue()


def test_lines_in_a_pipe_and_no_rich(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    DDVAETransformer(**SMALL, verbose=1).fit(X)
    assert capsys.readouterr().out.count("\n") == 4
    assert "rich" not in sys.modules


def test_lines_in_a_notebook_that_cannot_draw_bars(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", io)
    find_spec = _progress.importlib.util.find_spec
    monkeypatch.setattr(
        _progress.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "ipywidgets" else find_spec(name, *rest),
    )
    assert _progress.bars("stdout", "bar") is None


def test_bars_in_a_notebook_that_can(capsys, monkeypatch):
    console = pytest.importorskip("rich.console")
    monkeypatch.setitem(sys.modules, "ipykernel", io)
    monkeypatch.setattr(_progress.importlib.util, "find_spec", lambda name, *rest: name)
    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    assert _progress.bars("stdout", "bar").console.is_jupyter


def test_nothing_unasked(terminal):
    with redirect_stdout(terminal):
        DDVAETransformer(**SMALL).fit(X)
    assert terminal.getvalue() == ""
