"""Labels that spread over a graph of neighbours [1]_ [2]_.

References
----------
.. [1] Zhou, D., Bousquet, O., Lal, T. N., Weston, J., and Schoelkopf, B. (2003). Learning with
   local and global consistency. NeurIPS.
.. [2] Iscen, A., Tolias, G., Avrithis, Y., and Chum, O. (2019). Label propagation for deep
   semi-supervised learning. CVPR. arXiv:1904.04717.
"""

import numpy as np
from scipy import sparse
from sklearn import config_context

from ._labels import UNLABELLED
from ._neighbors import fuzzy_graph, layout, nearest_neighbors

# Share of the neighbours in what is said of a row, and for how many rounds they are asked.
ALPHA, N_ROUNDS = 0.99, 200
# Principal components of the rows among which neighbours are looked for, and of the layout's start.
N_COMPONENTS, N_LAYOUT_COMPONENTS = 30, 8
# The same rows have the same guesses.
SEED = 0


def guess_classes(views, codes, n_classes, n_neighbors):
    """Return the mean of what :func:`spread_labels` says by each view of the rows, (n, n_classes).

    Where the views disagree the guess is unsure, so one that is misleading does little harm.
    """
    return sum(spread_labels(Z, codes, n_classes, n_neighbors) for Z in views) / len(views)


def spread_labels(Z, codes, n_classes, n_neighbors):
    """Return what its neighbours say of the class of each row, probabilities (n, n_classes).

    F <- alpha S F + (1 - alpha) Y, again and again, with Y the labels in one-hot form and
    S = D^-1/2 W D^-1/2; then each row of F is made to sum to one. W is the graph of neighbours not
    among the rows of Z but in a layout of their own graph, which opens gaps between groups. A row
    that no label reaches has the same probability for every class.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
    codes : ndarray of int of shape (n,)
        Classes 0..n_classes - 1, ``UNLABELLED`` for none.
    n_classes, n_neighbors : int
    """
    from sklearn.decomposition import PCA  # late, for the sake of the import of skddvi

    # Rows that are all equal have no shares of variance, which are not asked for.
    plain = config_context(array_api_dispatch=False, transform_output="default")
    with plain, np.errstate(invalid="ignore"):
        Z = PCA(min(N_COMPONENTS, *Z.shape), random_state=SEED).fit_transform(Z)
    graph = fuzzy_graph(*nearest_neighbors(Z, n_neighbors))
    Z = layout(graph, Z[:, :N_LAYOUT_COMPONENTS], np.random.default_rng(SEED))
    graph = fuzzy_graph(*nearest_neighbors(Z, n_neighbors))
    scale = sparse.diags(1.0 / np.sqrt(np.asarray(graph.sum(1)).ravel()))
    steps = (scale @ graph @ scale).tocsr().astype(np.float32)
    given = np.zeros((len(codes), n_classes), dtype=np.float32)
    labelled = np.flatnonzero(codes != UNLABELLED)
    given[labelled, codes[labelled]] = 1.0
    found = given
    for _ in range(N_ROUNDS):
        found = ALPHA * (steps @ found) + (1.0 - ALPHA) * given
    found += np.finfo(np.float32).tiny
    return found / found.sum(1, keepdims=True)
