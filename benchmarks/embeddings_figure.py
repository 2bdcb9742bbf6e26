"""Embeddings of one data set by several methods, side by side and coloured by class.

They are those that ``mnist.py`` (test rows), ``ancestry.py`` or ``single_cell.py`` (all rows) kept
in a folder. Every panel has a scale of its own, for the units of an embedding mean nothing across
methods. Run as::

    python benchmarks/mnist.py --data path/mnist.npz --seeds 1 --embeddings results/mnist
    python benchmarks/embeddings_figure.py results/mnist --methods pca,umap,ddvae --out mnist.png
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from _common import embedding_path
from _figure import class_legend, panel
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw(panels):
    """Return the figure of {method: (Z, y)}."""
    figure = Figure(figsize=(2.6 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (method, (Z, y)) in zip(axes, panels.items(), strict=True):
        panel(ax, Z, y, size=float(np.clip(6000.0 / len(Z), 1.0, 6.0)))
        ax.set_title(method)
        ax.set_aspect("equal", adjustable="datalim")
    class_legend(figure, axes, markerscale=3.0, fontsize=7)
    return figure


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="that --embeddings named")
    parser.add_argument("--methods", required=True, metavar="LIST", help="panels, in this order")
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help=".npz file whose target_names name the classes"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    args = parser.parse_args(argv)
    panels, names = {}, None
    if args.data is not None:
        with np.load(args.data, allow_pickle=False) as file:
            names = file["target_names"]
    for method in args.methods.split(","):
        path = embedding_path(args.folder, method, args.seed)
        if not path.is_file():
            parser.error(f"no embedding {path}")
        with np.load(path, allow_pickle=False) as file:
            panels[method] = file["Z"], file["y"] if names is None else names[file["y"]]
    draw(panels).savefig(args.out, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
