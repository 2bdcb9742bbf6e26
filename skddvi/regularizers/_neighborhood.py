"""Rows that are neighbours in the input stay neighbours in the latent space."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn import config_context

from .._components import fitted_pca
from .._engine.beside import RowPenalty
from .._engine.stored import StoredRows
from .._engine.trainer import CHUNK_ROWS
from .._neighbors import (
    aligned,
    fuzzy_graph,
    layout,
    nearest_neighbors,
    smoothed,
    strongest_edges,
)
from ._common import RememberingRegularizer

# Similarity falls to a half at this part of the prior's standard deviation.
REACH = 0.2
# With n_neighbors="auto": so many, where there are as many.
AUTO_NEIGHBORS = 30
# Features for each nat of the weight "auto", and the most it can be: more keeps classes apart for
# neighbours that are less true.
FEATURES_A_NAT, LARGEST_WEIGHT = 8.0, 30.0
# Random rows among which a row is to tell its neighbours.
N_OTHERS = 256
# Principal components in which neighbours are looked for, and the rows and entries, at most, of the
# sample that they are those of.
N_PRINCIPAL, N_PCA_ROWS, N_PCA_ENTRIES = 50, 10_000, 2**27
# Rounds in which principal components become smooth over the graph, for the layout to start from.
N_SMOOTHINGS = 100
# Steps of the layout: what it tears apart the training mends slowly.
N_LAYOUT_STEPS = 600
# What is left of a remembered place when its row is seen once more.
MEMORY = 0.9


class NeighborhoodPreservation(RowPenalty, RememberingRegularizer):
    r"""Keep rows that are neighbours in the input neighbours in the latent space.

    What one wants of a picture: with it an embedding tells groups apart as UMAP's does, and still
    has a bound, a posterior and an inverse.

    The neighbours j of a row i, the ends of its ``n_neighbors`` strongest edges, have the weights
    :math:`w_{ij}` of UMAP's graph [1]_, made to add up to one. With similarities
    :math:`s_{ij} = 1 / (1 + (5 \lVert z_i - z_j \rVert)^2)`, distances in standard deviations of
    the prior, the penalty is the mean over rows of

    .. math:: - \sum_j w_{ij} \log \frac{s_{ij}}{s_{ij} + \sum_m s_{im}} ,

    m going over 256 random rows: the loss, in nats, of telling a neighbour from them [2]_. Places
    of neighbours and of others are remembered from when they were last seen; at first they are
    those of a layout of the graph.

    To hold for new rows too, the penalty looks not at :math:`z_i` but at the noise-free latents of
    a row between i and one of its neighbours j: a share of its features, drawn from 0 to 1, is j's.
    It has the neighbours of both, in that proportion. Nor does the encoder see all of such a row:
    masking noise [3]_ puts a share of the features, drawn from 0 to ``masking``, at the mean.

    The graph is that of Euclidean distances between rows (counts: between the logarithms of
    normalised counts), in their first 50 principal components where there are more features.

    Parameters
    ----------
    n_neighbors : int or "auto", default="auto"
        Size of a neighbourhood in the input. "auto" is 30, or all others where there are fewer.
    weight : float or "auto", default="auto"
        Factor of the penalty in the loss, whose bound is in nats a row. "auto" is an eighth of the
        number of features, which the bound grows with, but at most 30.
    masking : float, default=0.5
        Largest share of the features that masking noise hides, from 0 to 1.

    References
    ----------
    .. [1] McInnes, L., Healy, J., and Melville, J. (2018). UMAP: uniform manifold approximation
       and projection for dimension reduction. arXiv:1802.03426.
    .. [2] Damrich, S., Böhm, J. N., Hamprecht, F. A., and Kobak, D. (2023). From t-SNE to UMAP
       with contrastive learning. ICLR. arXiv:2206.01816.
    .. [3] Vincent, P., Larochelle, H., Lajoie, I., Bengio, Y., and Manzagol, P.-A. (2010). Stacked
       denoising autoencoders. JMLR 11:3371-3408.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi import DDVAETransformer
    >>> from skddvi.regularizers import NeighborhoodPreservation
    >>> X = load_iris().data
    >>> model = DDVAETransformer(
    ...     regularizer=NeighborhoodPreservation(), max_iter=2, random_state=0
    ... ).fit(X)
    >>> len(model.history_["neighborhood_preservation"])
    2
    """

    name = "neighborhood_preservation"

    def __init__(self, n_neighbors="auto", weight="auto", masking=0.5):
        self.n_neighbors = n_neighbors
        self.weight = weight
        self.masking = masking

    def fit(self, X):
        """Check that there are enough rows, in memory, and settle the weight.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows.

        Returns
        -------
        self : NeighborhoodPreservation
            The regulariser, ready for :meth:`attach`.

        Raises
        ------
        ValueError
            When n_neighbors is not less than the number of rows, it or weight is text other than
            "auto", masking is no share, or the rows are in a store.
        """
        n_rows = X.shape[0]
        n_neighbors = self._n_neighbors(n_rows)
        is_number = isinstance(n_neighbors, Integral) and n_neighbors is not True
        if not is_number or not 1 <= n_neighbors < n_rows:
            raise ValueError(
                f'n_neighbors must be "auto" or in 1..{n_rows - 1} for {n_rows} rows, found '
                f"{self.n_neighbors!r}."
            )
        if not isinstance(self.masking, Real) or not 0.0 <= self.masking <= 1.0:
            raise ValueError(f"masking must be in 0..1, found {self.masking!r}.")
        if isinstance(X, StoredRows):
            raise ValueError(
                "NeighborhoodPreservation reads neighbours, which lie anywhere in a store, together"
                "; give the rows as an array in memory."
            )
        self._settle_weight(X.shape[1], FEATURES_A_NAT, LARGEST_WEIGHT)
        return self

    def _n_neighbors(self, n_rows):
        if isinstance(self.n_neighbors, str) and self.n_neighbors == "auto":
            return min(AUTO_NEIGHBORS, n_rows - 1)
        return self.n_neighbors

    def attach(self, view):
        """Build the graph of the training rows and start from a layout of it.

        Parameters
        ----------
        view : TrainingView
            What the training shows of itself.
        """
        if not hasattr(self, "neighbors_"):  # else this is a further training on the same rows
            self._build_graph(view)
        self._view = view
        self._generator = torch.Generator().manual_seed(view.seed)
        # A model that goes on from an earlier fit need not turn.
        places = aligned(self._layout, self._standardised(_embedding(view)).cpu().numpy())
        self._memory = torch.from_numpy(places).to(view.scale)

    def _build_graph(self, view):
        """Find neighbours with their weights, (n, k) each, and a layout, (n, d)."""
        rng = np.random.default_rng(0)
        features = _principal_features(view, rng)
        n_neighbors = self._n_neighbors(len(features))
        graph = fuzzy_graph(*nearest_neighbors(features, n_neighbors))
        neighbors, weights = strongest_edges(graph, n_neighbors)
        self.neighbors_ = torch.from_numpy(neighbors)
        self.weights_ = torch.from_numpy(weights).to(view.scale)
        start = rng.normal(size=(len(features), len(view.scale)))
        start *= 1e-3 * max(features.std(), 1e-9)  # tells equal rows apart
        n_axes = min(start.shape[1], features.shape[1])
        start[:, :n_axes] += features[:, :n_axes]
        start = smoothed(graph, start, N_SMOOTHINGS)
        self._layout = layout(graph, start, rng, N_LAYOUT_STEPS)
        self._layout /= max(self._layout.std(), 1e-12)  # zero where all rows came together

    def penalty_of_rows(self, rows):
        """Return the penalty of rows by their numbers, a scalar tensor in nats."""
        view, draw = self._view, {"generator": self._generator}
        chosen = torch.multinomial(self.weights_[rows].cpu(), 1, **draw)
        others = self.neighbors_[rows].gather(1, chosen)[:, 0]
        share = torch.rand(len(rows), dtype=torch.float32, **draw)
        x, of_others = view.rows(rows), view.rows(others)
        swapped = torch.rand(x.shape, dtype=torch.float32, **draw) < share[:, None]
        x = torch.where(swapped.to(x.device), of_others, x)
        masked = torch.rand(len(rows), 1, dtype=torch.float32, **draw) * float(self.masking)
        masked = torch.rand(x.shape, dtype=torch.float32, **draw) < masked
        places = self._standardised(view.embed(x, masked.to(x.device)))[:, None]

        strangers = torch.randint(view.n_rows, (N_OTHERS,), **draw)
        to_strangers = _log_similarity(places, self._memory[strangers]).logsumexp(1, keepdim=True)
        penalty = 0.0
        for part, centre in ((1.0 - share, rows), (share, others)):
            to_neighbors = _log_similarity(places, self._memory[self.neighbors_[centre]])
            surprise = torch.logaddexp(to_neighbors, to_strangers) - to_neighbors
            penalty = penalty + part.to(places) * (self.weights_[centre] * surprise).sum(1)
        return penalty.mean()

    @torch.no_grad()
    def remember(self, z, rows):
        """Keep where rows were seen, latents z (n, d)."""
        seen = self._standardised(z.to(self._memory))
        self._memory[rows] = torch.lerp(seen, self._memory[rows], MEMORY)

    def _standardised(self, z):
        return (z - self._view.loc) / self._view.scale


def _log_similarity(places, others):
    """Return log s of places (n, 1, d) and others (m, d) or (n, m, d), (n, m)."""
    # Axis by axis: sums over an axis as short as that of a place are slow. And not by cdist: its
    # square root has no gradient at zero distance.
    axes = zip(places.unbind(-1), others.unbind(-1), strict=True)
    squares = sum((place - other).square() for place, other in axes)
    return -torch.log1p(squares / REACH**2)


def _chunks(view, function, rows=None):
    """Yield the values of a function of rows, all by default, some rows at a time."""
    rows = torch.arange(view.n_rows) if rows is None else rows
    for indices in rows.split(CHUNK_ROWS):
        yield function(view.rows(indices))


@torch.no_grad()
def _embedding(view):
    return torch.cat(list(_chunks(view, view.embed)))


@torch.no_grad()
def _principal_features(view, rng):
    """Return the features of all rows, or their principal components where these are fewer.

    In a unit in which their squares are finite: the graph is the same in any.
    """
    one = view.rows(torch.zeros(1, dtype=torch.int64))
    n_some = max(2 * N_PRINCIPAL, min(N_PCA_ROWS, N_PCA_ENTRIES // one.shape[1]))
    some = torch.from_numpy(rng.permutation(view.n_rows)[:n_some])
    some = torch.cat(list(_chunks(view, view.features, some))).cpu().numpy()
    # A power of two, by which division is exact.
    unit = np.exp2(np.floor(np.log2(max(np.abs(some).max(), np.finfo(np.float32).tiny))))
    some /= unit  # in place: these are copies, and may be most of the memory
    pca = fitted_pca(some, N_PRINCIPAL)
    del some
    with config_context(array_api_dispatch=False):
        parts = _chunks(view, view.features)
        return np.concatenate([pca.transform(part.cpu().numpy() / unit) for part in parts])
