"""Test embeddings of ``posteriors.py``, prior (columns) by posterior (rows), coloured by class.

The first row is draws from the priors: what the embeddings together should look like. A column has
one scale, which leaves out the farthest thousandth of its points. Cells whose embeddings are not
there stay empty. Run as::

    python benchmarks/posteriors.py --data path/mnist.npz --seeds 1 --embeddings results/embeddings
    python benchmarks/posteriors_figure.py results/embeddings --out posteriors.png
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from _common import embedding_path
from _figure import class_legend, panel
from _metrics import prior_draws
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from posteriors import POSTERIORS, PRIORS

N_POINTS, SHARE_SHOWN = 3000, 0.999


def load_panels(folder, seed):
    """Return {prior: {posterior: (Z, y)}}, with as many draws from each prior as embeddings."""
    panels = {}
    for prior in PRIORS:
        for posterior in POSTERIORS:
            path = embedding_path(folder, f"{prior} {posterior}", seed)
            if path.exists():
                with np.load(path, allow_pickle=False) as file:
                    Z, y = file["Z"][:N_POINTS], file["y"][:N_POINTS]
                column = panels.setdefault(prior, {"prior": (prior_draws(prior, len(Z), 0), None)})
                column[posterior] = Z, y
    return panels


def draw(panels):
    """Return the figure; see `load_panels`."""
    rows = [
        name for name in ("prior", *POSTERIORS) if any(name in column for column in panels.values())
    ]
    size = 1.8 * len(panels) + 0.4, 1.8 * len(rows) + 0.6
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(panels), squeeze=False)
    for place, (prior, column) in zip(axes.T, panels.items(), strict=True):
        points = np.concatenate([Z for Z, _ in column.values()])
        radius = np.quantile(np.abs(points).max(axis=1), SHARE_SHOWN)
        for ax, name in zip(place, rows, strict=True):
            if name in column:
                Z, y = column[name]
                panel(ax, Z, y, size=2.0)
            ax.set_aspect("equal", adjustable="box")
            ax.set(xlim=(-radius, radius), ylim=(-radius, radius), xticks=[], yticks=[])
        place[0].set_title(prior)
    for ax, name in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(name)
    class_legend(figure, axes.flat, markerscale=4.0, fontsize=8)
    return figure


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="that posteriors.py --embeddings was given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    args = parser.parse_args(argv)
    panels = load_panels(args.folder, args.seed)
    if not panels:
        parser.error(f"no embeddings of seed {args.seed} in {args.folder}")
    draw(panels).savefig(args.out, dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(main())
