"""How far a fit or a command has come: bars by rich where they can be drawn, else lines."""

import importlib.util
import sys
from contextlib import contextmanager


def bars(stream, *columns, transient=False):
    """Return rich's display of bars, a context; None where there is no place for it, or no rich.

    Parameters
    ----------
    stream : {"stdout", "stderr"}
        Where to draw, unless in a notebook.
    *columns : str
        What stands beside a description: "spinner", "bar", "elapsed", "remaining", or a text with
        fields of the task in braces.
    transient : bool
        Whether to leave nothing on the screen.
    """
    # A notebook's streams are no terminals. It draws bars that move with ipywidgets only.
    in_notebook = "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is not None
    if not (getattr(sys, stream).isatty() or in_notebook):
        return None
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    console = Console(stderr=stream == "stderr")
    if not (console.is_terminal or console.is_jupyter):
        return None
    kinds = {
        "spinner": progress.SpinnerColumn,
        "bar": progress.BarColumn,
        "elapsed": progress.TimeElapsedColumn,
        "remaining": progress.TimeRemainingColumn,
    }
    made = [
        kinds[column]() if column in kinds else progress.TextColumn(column) for column in columns
    ]
    return progress.Progress(*made, console=console, transient=transient)


@contextmanager
def shown_epochs(verbose):
    """Give what shows the epochs of the trainings of a fit; None at ``verbose=0``.

    Yields
    ------
    training : callable or None
        ``training(stage, n_epochs)`` returns ``show(epoch, text)`` for one training.
    """
    if not verbose:
        yield None
        return
    display = bars(
        "stdout", "{task.description}", "bar", "{task.completed}/{task.total}", "remaining",
        "{task.fields[text]}",
    )  # fmt: skip
    if display is None:
        yield _lines
        return

    def training(stage, n_epochs):
        tasks = []

        def show(epoch, text):
            if not tasks:
                tasks.append(display.add_task(stage or "Training", total=n_epochs, text=text))
            display.update(tasks[0], completed=epoch, text=text)

        return show

    with display:
        yield training


def _lines(stage, n_epochs):
    def show(epoch, text):
        start = f"{stage}, " if stage else ""
        sys.stdout.write(f"{start}Epoch {epoch}/{n_epochs}: {text}\n")

    return show
