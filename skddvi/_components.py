"""Principal components of the rows: what an encoder of few rows sees, and what they tell."""

import numpy as np
from sklearn import config_context

# Components in which a part of the rows is looked for in the other part.
N_PREDICTORS = 50
# Variance of the decoder's output that is believed of a feature at most, and of all at least.
LARGEST_VARIANCE, SMALLEST_MEAN_VARIANCE = 10.0, 0.1


def principal_components(inputs, n_components):
    """Return a matrix (k, p) that turns rows into their first principal components.

    The components have one unit, in which the mean square of centred rows is one.

    Parameters
    ----------
    inputs : ndarray of shape (m, p)
    n_components : int
        k, but never more than there are rows or features.
    """
    pca = fitted_pca(inputs, n_components)
    variance = pca.explained_variance_.mean()
    unit = np.sqrt(variance) if variance > 1e-12 else 1.0  # rows that are all equal
    return (pca.components_ / unit).astype(np.float32)


def output_variance(inputs, slope):
    """Return by how much the decoder's output has to vary over the rows, mean of the features.

    The variance of a feature that the principal components of one half of the rows find in the
    other half, in the unit of the decoder's output: by how much the output moves the expected row,
    at the mean row.

    Parameters
    ----------
    inputs : ndarray of shape (m, p)
        Rows as the likelihood prepares them.
    slope : ndarray of shape (p,)
        The derivative of each feature's input by its output.
    """
    order = np.random.default_rng(0).permutation(len(inputs))
    one, other = inputs[order[::2]], inputs[order[1::2]]
    pca = fitted_pca(one, N_PREDICTORS)
    other = other - pca.mean_
    missed = other - other @ pca.components_.T @ pca.components_
    # Components keep a share of any noise, too: a feature's own share in them.
    noise = np.square(missed).mean(0) / np.maximum(1.0 - np.square(pca.components_).sum(0), 1e-3)
    found = np.clip(np.square(other).mean(0) - noise, 0.0, None)
    variance = found / np.maximum(slope**2, 1e-12)
    return max(SMALLEST_MEAN_VARIANCE, float(np.minimum(variance, LARGEST_VARIANCE).mean()))


def fitted_pca(rows, n_components):
    """Return scikit-learn's PCA of rows (n, p), with fewer components where there are fewer."""
    from sklearn.decomposition import PCA  # late, for the sake of the import of skddvi

    # Rows that are all equal have no shares of variance, which are not asked for.
    with config_context(array_api_dispatch=False), np.errstate(invalid="ignore"):
        return PCA(min(n_components, *rows.shape), random_state=0).fit(rows)
