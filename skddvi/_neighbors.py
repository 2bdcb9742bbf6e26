"""Neighbours of rows: their graph, a layout of it, and agreement of their clusters.

The layout is that of UMAP [1]_, in as many dimensions as the latents have: the same fuzzy graph and
the same cross-entropy, but with kernel 1 / (1 + d^2) and minimised by Adam over all edges at once.

References
----------
.. [1] McInnes, L., Healy, J., and Melville, J. (2018). UMAP: uniform manifold approximation and
   projection for dimension reduction. arXiv:1802.03426.
.. [2] Pitié, F., Kokaram, A. C., and Dahyot, R. (2007). Automated colour grading using colour
   distribution transfer. Computer Vision and Image Understanding 107:123-137.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from scipy import sparse
from sklearn import config_context

from ._engine.threads import begun

# Step size of the layout at first, and its spread at the start.
LAYOUT_RATE, LAYOUT_SCALE = 0.3, 3.0
# Random rows that each row is pushed from in a step, and how hard, relative to the pull.
N_REPULSIONS, REPULSION = 10, 5.0
# What is left of a remembered cluster when its row is seen once more.
MEMORY = 0.9
# Halvings of the interval in which the reach of a row's neighbourhood lies.
N_BISECTIONS = 40


def nearest_neighbors(Z, n_neighbors):
    """Return distances and indices, (n, k) each, of the nearest other rows of Z, (n, d)."""
    # Late, here and below: the import of skddvi would take twice as long.
    from sklearn.neighbors import NearestNeighbors

    k = min(n_neighbors, len(Z) - 1)
    with config_context(array_api_dispatch=False):
        return NearestNeighbors(n_neighbors=k).fit(Z).kneighbors()


def fuzzy_graph(distances, indices):
    """Return UMAP's symmetric graph of weights in [0, 1], a CSR matrix (n, n).

    The weight that row i gives its neighbour j is exp(-(d_ij - d_i) / s_i), with d_i the distance
    of the nearest and s_i such that the weights of the row add up to log2(k). Two opinions of an
    edge are united as probabilities are, a + b - a b.
    """
    n, k = distances.shape
    # In a unit of their own, a power of two: the weights are the same in any.
    distances = distances / np.exp2(np.floor(np.log2(distances.mean() or 1.0)))
    excess = distances - distances[:, :1]
    low, high = np.zeros((n, 1)), np.full((n, 1), np.inf)
    reach = np.maximum(distances.mean(1, keepdims=True), 1e-12)
    for _ in range(N_BISECTIONS):
        too_far = np.exp(-excess / reach).sum(1, keepdims=True) > np.log2(k)
        high, low = np.where(too_far, reach, high), np.where(too_far, low, reach)
        reach = np.where(np.isinf(high), 2.0 * reach, 0.5 * (low + np.minimum(high, 1e300)))
        reach = np.clip(reach, 1e-12, 1e12)
    weights = np.exp(-excess / reach)
    pointers = np.arange(0, n * k + 1, k)
    graph = sparse.csr_matrix((weights.ravel(), indices.ravel(), pointers), shape=(n, n))
    graph = (graph + graph.T - graph.multiply(graph.T)).tocsr()
    graph.sort_indices()
    return graph


def strongest_edges(graph, n_edges):
    """Return the other ends of each row's strongest edges, and their weights made to sum to one.

    Parameters
    ----------
    graph : CSR matrix of shape (n, n)
        As :func:`fuzzy_graph` returns it.
    n_edges : int

    Returns
    -------
    ends : ndarray of int64 of shape (n, n_edges)
    weights : ndarray of float32 of shape (n, n_edges)
        Zero where a row has fewer edges.
    """
    n, counts = graph.shape[0], np.diff(graph.indptr)
    rows = np.repeat(np.arange(n), counts)
    order = np.lexsort((-graph.data, rows))
    rank = np.arange(len(rows)) - np.repeat(graph.indptr[:-1], counts)
    kept = rank < n_edges
    ends, weights = np.zeros((n, n_edges), np.int64), np.zeros((n, n_edges), np.float32)
    ends[rows[kept], rank[kept]] = graph.indices[order][kept]
    weights[rows[kept], rank[kept]] = graph.data[order][kept]
    return ends, weights / weights.sum(1, keepdims=True)


def aligned(Z, target):
    """Return Z (n, d) turned, or mirrored, towards a target (n, d), and with its mean at zero."""
    from scipy.linalg import orthogonal_procrustes

    Z = Z - Z.mean(0)
    return Z @ orthogonal_procrustes(Z, target - target.mean(0))[0].astype(Z.dtype)


def transported(Z, target, rng, n_rounds=60):
    """Return Z (n, d) moved so that it is spread as a target (n, d) is, by short ways.

    Iterative distribution transfer [2]_: along each axis of a random orthonormal basis the points'
    coordinates go to those of the target with their ranks. Here they go half-way in a round, which
    makes the ways shorter.
    """
    for _ in range(n_rounds):
        basis = np.linalg.qr(rng.normal(size=(Z.shape[1], Z.shape[1])))[0]
        along = Z @ basis
        goal = np.empty_like(along)
        np.put_along_axis(goal, along.argsort(axis=0), np.sort(target @ basis, axis=0), axis=0)
        Z = Z + 0.5 * (goal - along) @ basis.T
    return Z


def smoothed(graph, Z, n_rounds):
    """Return Z (n, d) after rounds in which each row moves half-way to the mean of its neighbours.

    Parts of a group that lie apart meet, and groups stay where they were among the others: so a
    layout that starts from here tears nothing.
    """
    step = sparse.diags(0.5 / np.asarray(graph.sum(1)).ravel()) @ graph
    for _ in range(n_rounds):
        Z = 0.5 * Z + step @ Z
    return Z


def layout(graph, start, rng, n_steps=300):
    """Return points (n, d) in which neighbours lie together and others apart.

    Parameters
    ----------
    graph : CSR matrix of shape (n, n)
        As :func:`fuzzy_graph` returns it.
    start : ndarray of shape (n, d)
        Where the points are at first; their mean and their overall scale do not count.
    rng : numpy.random.Generator
        Chooses which rows push which.
    n_steps : int
        Steps of the descent; the more, the less is torn apart.
    """
    attraction, repulsion = _Attraction(graph), _Repulsion(graph, rng)
    z = start - start.mean(0)
    z = (z * (LAYOUT_SCALE / max(z.std(), 1e-12))).astype(np.float32)
    z = np.ascontiguousarray(z.T)  # axes apart, so that what is gathered lies together
    mean, square = np.zeros_like(z), np.zeros_like(z)
    with ThreadPoolExecutor(1) as pool:
        # numpy and scipy let another thread go on while they compute.
        begin = partial(begun, pool if torch.get_num_threads() > 1 else None)
        for step in range(n_steps):
            pushed = begin(repulsion, z)
            gradient = attraction(z, begin)
            gradient -= pushed()
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.99 * square + 0.01 * gradient**2
            direction = mean / (1.0 - 0.9 ** (step + 1))
            direction /= np.sqrt(square / (1.0 - 0.99 ** (step + 1))) + 1e-6
            z -= LAYOUT_RATE * (1.0 - step / n_steps) * direction
    return np.ascontiguousarray(z.T)


class _Attraction:
    """What pulls the points of a layout together: the gradient (d, n) at points (d, n)."""

    def __init__(self, graph):
        edges = sparse.triu(graph, k=1).tocsr()  # each once
        n = len(edges.indptr) - 1
        self.rows = np.repeat(np.arange(n), np.diff(edges.indptr))
        self.columns = edges.indices.astype(np.intp)  # of another type it would be cast each time
        self.pull = 2.0 * edges.data.astype(np.float32)
        parts = self.pull.copy(), edges.indices, edges.indptr
        self.forces = sparse.csr_matrix(parts, shape=edges.shape)
        self.reactions = self.forces.T  # shares the numbers
        # Memory that is asked for anew in every step takes longer than the arithmetic.
        self.own, self.other, self.squares = (np.empty_like(self.pull) for _ in range(3))

    def __call__(self, z, begin):
        """Return the gradient; ``begin`` is :func:`begun` with a thread or without."""
        self.squares.fill(1.0)
        for axis in z:
            # Indices are in range: "clip" writes to ``out`` where "raise" would copy.
            axis.take(self.rows, out=self.own, mode="clip")
            axis.take(self.columns, out=self.other, mode="clip")
            self.own -= self.other
            self.own *= self.own
            self.squares += self.own
        np.divide(self.pull, self.squares, out=self.forces.data)
        reaction = begin(_pulled, self.reactions, z)
        return _pulled(self.forces, z) + reaction()


def _pulled(forces, z):
    """Return the gradient of one end of every edge, (d, n); ``forces`` (n, n) holds the edges."""
    total = forces @ np.ones_like(z[0])
    return np.stack([total * axis - forces @ axis for axis in z])


class _Repulsion:
    """What pushes the points of a layout apart, from a few random others each."""

    def __init__(self, graph, rng):
        self.rng, n = rng, graph.shape[0]
        # The others are those some random number of places further in one random order: what is
        # gathered anew for each of them would take longer than the arithmetic.
        self.order = rng.permutation(n)
        self.places = np.argsort(self.order)
        push = np.asarray(graph.sum(1), dtype=np.float32).ravel()
        self.push = (2.0 * REPULSION / N_REPULSIONS) * push[self.order]

    def __call__(self, z):
        z = z.take(self.order, axis=1)
        total, difference = np.zeros_like(z), np.empty_like(z)
        for shift in self.rng.integers(z.shape[1], size=N_REPULSIONS):
            split = z.shape[1] - shift
            np.subtract(z[:, :split], z[:, shift:], out=difference[:, :split])
            np.subtract(z[:, split:], z[:, :shift], out=difference[:, split:])
            squared = np.einsum("ij,ij->j", difference, difference)
            difference *= self.push / ((1e-3 + squared) * (1.0 + squared))
            total += difference.clip(-4.0, 4.0)
        return total.take(self.places, axis=1)


class NeighborAgreement:
    """Regulariser by which neighbours fall into the same cluster.

    The penalty is the mean over a batch of -log sum_k r_k t_k, in nats, where r = p(k|z) are a
    row's responsibilities and t the mean of what is remembered of its neighbours: at first the
    cluster that they were put in, then a moving average of their own responsibilities. It is the
    loss of SCAN (van Gansbeke et al. 2020, arXiv:2005.12320) with a memory in place of pairs.

    Parameters
    ----------
    prior : MixturePrior
    neighbors : ndarray of int of shape (n, k)
        The nearest rows of each training row.
    responsibilities : ndarray of shape (n, n_parts)
        What is remembered at first.
    weight : float
        Factor of the penalty in the loss.
    """

    name = "neighbor_agreement"

    def __init__(self, prior, neighbors, responsibilities, weight):
        self.prior = prior
        self.weight = weight
        self.neighbors = torch.from_numpy(neighbors.astype(np.int64))
        device = prior.centers.device
        self.memory = torch.from_numpy(responsibilities.astype(np.float32)).to(device)

    def __call__(self, z, rows):
        """Return the penalty of a mini-batch, a scalar tensor in nats."""
        own = self.prior.responsibilities(z)
        expected = self.memory[self.neighbors[rows].to(z.device)].mean(1)
        rows = rows.to(z.device)
        self.memory[rows] = torch.lerp(own.detach().to(self.memory), self.memory[rows], MEMORY)
        return -(own * expected).sum(-1).clamp(min=1e-12).log().mean()

    def state_dict(self):
        """Return what is remembered."""
        return {"memory": self.memory}

    def load_state_dict(self, state):
        """Remember that instead."""
        self.memory.copy_(state["memory"])
