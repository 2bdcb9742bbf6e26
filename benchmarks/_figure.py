"""What the figures of embeddings share."""

from skddvi.displays import LatentSpaceDisplay


def panel(ax, Z, y, size):
    """Draw an embedding (n, 2), coloured by the classes y if any, without axes or legend."""
    display = LatentSpaceDisplay(Z, labels=y)
    display.plot(ax, legend=False, names=False, s=size, rasterized=True)
    ax.set(xlabel="", ylabel="", xticks=[], yticks=[])


def class_legend(figure, axes, *, markerscale, fontsize):
    """Name the classes once below all panels, as the panel that has most of them does."""
    classes = max((ax.get_legend_handles_labels() for ax in axes), key=lambda each: len(each[1]))
    figure.legend(
        *classes,
        loc="outside lower center",
        ncols=10,
        frameon=False,
        markerscale=markerscale,
        handletextpad=0.0,
        columnspacing=0.8,
        fontsize=fontsize,
    )
