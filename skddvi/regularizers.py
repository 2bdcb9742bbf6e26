"""Regularisers: interpretable terms on the latents beside the bound.

A regulariser is any callable ``regularizer(z, rows)`` of the latents of a mini-batch, a tensor of
shape (n, d), and the indices of its rows in the training data, an int64 tensor of shape (n,). It
returns a scalar tensor, which training adds to its loss times ``regularizer.weight`` (1 if there is
none) and which appears in ``history_`` as ``regularizer.name`` (or ``__name__``). If it has a
method ``fit(X)``, that is called with the training rows first. One that remembers something from
batch to batch has, for a checkpoint to keep, the methods ``state_dict()`` and
``load_state_dict(state)`` of a :class:`torch.nn.Module`.
"""

from numbers import Integral

import torch

__all__ = ["NeighborhoodPreservation"]


class NeighborhoodPreservation:
    """Keep rows that are neighbours in the input neighbours in the latent space.

    For each row of a mini-batch that has nearest neighbours in the same batch, the similarities
    ``s_ij = 1 / (1 + |z_i - z_j|^2)`` are normalised over the batch, as in t-SNE [1]_, and the
    penalty is the mean of -log of what falls on its neighbours, in nats.

    Parameters
    ----------
    n_neighbors : int, default=15
        Size of a neighbourhood in the input, by Euclidean distance.
    weight : float, default=1.0
        Factor of the penalty in the loss, whose bound is in nats a row.

    References
    ----------
    .. [1] van der Maaten, L., and Hinton, G. (2008). Visualizing data using t-SNE. JMLR 9.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi import DDVAETransformer
    >>> from skddvi.regularizers import NeighborhoodPreservation
    >>> X = load_iris().data
    >>> model = DDVAETransformer(
    ...     regularizer=NeighborhoodPreservation(n_neighbors=5), max_iter=2, random_state=0
    ... ).fit(X)
    >>> len(model.history_["neighborhood_preservation"])
    2
    """

    name = "neighborhood_preservation"

    def __init__(self, n_neighbors=15, weight=1.0):
        self.n_neighbors = n_neighbors
        self.weight = weight

    def __repr__(self):
        """Show the arguments."""
        return f"NeighborhoodPreservation(n_neighbors={self.n_neighbors}, weight={self.weight})"

    def fit(self, X):
        """Build the neighbourhood graph of the training rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows.

        Returns
        -------
        self : NeighborhoodPreservation
            The fitted regulariser.

        Raises
        ------
        ValueError
            When n_neighbors is not less than the number of rows.
        """
        if not isinstance(self.n_neighbors, Integral) or not 1 <= self.n_neighbors < X.shape[0]:
            raise ValueError(
                f"n_neighbors must be in 1..{X.shape[0] - 1} for {X.shape[0]} rows, found "
                f"{self.n_neighbors!r}."
            )
        # Imported late: importing skddvi would take twice as long.
        from sklearn.neighbors import kneighbors_graph

        self.graph_ = kneighbors_graph(X, self.n_neighbors)
        return self

    def __call__(self, z, rows):
        """Return the penalty of a mini-batch, a scalar tensor in nats."""
        index = rows.cpu().numpy()
        neighbours = torch.from_numpy(self.graph_[index][:, index].toarray() > 0.0).to(z.device)
        has_neighbours = neighbours.any(1)
        if not has_neighbours.any():
            return z.new_zeros(())
        # Squares of differences, not cdist: its square root has no gradient at zero distance.
        squared = (z.unsqueeze(1) - z.unsqueeze(0)).square().sum(-1)
        log_similarity = -torch.log1p(squared)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        log_similarity = log_similarity.masked_fill(itself, -torch.inf)
        on_neighbours = log_similarity.masked_fill(~neighbours, -torch.inf)[has_neighbours]
        log_share = on_neighbours.logsumexp(1) - log_similarity[has_neighbours].logsumexp(1)
        return -log_share.mean()
