"""
========================
Single cells from counts
========================

Counts of molecules are given as they are: the negative binomial likelihood takes the total of
each cell (its library size) as known and models how it is shared out among the genes. There is no
normalisation to a common total, no ``log1p``, and no scaling.
"""

# %%
# The counts
# ----------
#
# If the environment variable ``SKDDVI_COUNTS`` names an ``.npz`` file with counts ``X`` (cells x
# genes), ``y`` (a code for each cell's type) and ``target_names``, this page shows those.
# Otherwise it shows a small *simulation*: five types that differ in the rates of some genes, with
# library sizes that vary tenfold between cells. The next line of output says which it is.

import os

import numpy as np


def simulate(n_cells=600, n_genes=100, n_types=5, seed=0):
    """Return counts (n_cells, n_genes), types, and their names."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.5, 1.0, (1, n_genes)) * rng.lognormal(0.0, 0.6, (n_types, n_genes))
    y = rng.choice(n_types, n_cells, p=[0.35, 0.25, 0.2, 0.15, 0.05])
    library = 10 ** rng.uniform(2.3, 3.3, (n_cells, 1))
    mean = library * rates[y] / rates[y].sum(axis=1, keepdims=True)
    X = rng.poisson(mean * rng.gamma(4.0, 0.25, mean.shape))  # inverse dispersion 4
    return X, y, np.array([f"type {k}" for k in range(n_types)])


path = os.environ.get("SKDDVI_COUNTS")
if path:
    with np.load(path, allow_pickle=False) as file:
        X, y, names = file["X"].astype(np.float32), file["y"], file["target_names"]
else:
    X, y, names = simulate()
library = X.sum(axis=1)
print("real counts" if path else "simulated counts", X.shape)
print(f"{np.mean(X == 0):.0%} zeros; library sizes from {library.min():.0f} to {library.max():.0f}")

# %%
# The embedding
# -------------
#
# Counts are mostly zeros, so they are kept in a sparse matrix, which is made dense one batch at a
# time.

from scipy import sparse

from skddvi import DDVAETransformer
from skddvi.displays import LatentSpaceDisplay

counts = sparse.csr_array(X.astype(np.float32))
model = DDVAETransformer(
    likelihood="negative_binomial", hidden_layer_sizes=(128,), max_iter=40, random_state=0
).fit(counts)
LatentSpaceDisplay.from_estimator(model, counts, names[y])

# %%
# The library size is a nuisance, and should not be what the picture shows. The logarithm of the
# size as a colour, and how much of it a straight line through the latents explains. The same
# figure for PCA of the counts as they are says why counts are usually normalised first.

from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

LatentSpaceDisplay.from_estimator(model, counts, np.log10(library))
embeddings = {"DD-VAE": model.transform(counts), "PCA of raw counts": PCA(2).fit_transform(X)}
for title, Z in embeddings.items():
    share = LinearRegression().fit(Z, np.log10(library)).score(Z, np.log10(library))
    print(f"{title:<18} explains {share:.2f} of the variance of the log library size")

# %%
# Poisson or negative binomial?
# -----------------------------
#
# Both are log-probabilities of the same counts, so their held-out bounds compare. (The bound of a
# gaussian likelihood on log-normalised counts is a density of other numbers and compares with
# neither.)

from sklearn.model_selection import train_test_split

train, held_out = train_test_split(np.arange(len(X)), test_size=0.25, random_state=0)
for likelihood in ("poisson", "negative_binomial"):
    fitted = DDVAETransformer(
        likelihood=likelihood, hidden_layer_sizes=(128,), max_iter=40, random_state=0
    ).fit(counts[train])
    print(f"{likelihood:<18} {fitted.score(counts[held_out]):9.1f} nats a row")

# %%
# Genes that tell types apart
# ---------------------------
#
# The decoder gives expected counts at a common library size, so places can be compared gene by
# gene. For two types: the genes with the largest ratio of decoded means, and the ratio of their
# shares in the counts themselves.

Z = model.transform(counts)
first, second = np.argsort(-np.bincount(y))[:2]
places = np.stack([np.median(Z[y == code], axis=0) for code in (first, second)])
decoded = model.inverse_transform(places)
shares = np.stack([X[y == code].sum(axis=0) / X[y == code].sum() for code in (first, second)])
seen = (shares > 0).all(axis=0)
ratio = np.where(seen, np.log2(decoded[0] / decoded[1]), 0.0)
in_counts = np.where(seen, np.diff(np.log2(shares[::-1] + ~seen), axis=0)[0], 0.0)
print(f"log2 ratio of {names[first]} to {names[second]}: decoded, and in the counts")
for gene in np.argsort(-np.abs(ratio))[:5]:
    print(f"gene {gene:>4}: {ratio[gene]:6.2f} {in_counts[gene]:6.2f}")
