"""
=======================
Ancestry from genotypes
=======================

Genotypes count the copies of an allele: 0, 1 or 2, or nothing where the call is missing. The
binomial likelihood takes them as they are. No scaling and no imputation is needed: a missing call
is left out of the likelihood.

Genotypes in PLINK's format are read by :func:`skddvi.io.read_plink`; see :ref:`ecosystem-plink`.
"""

# %%
# The genotypes
# -------------
#
# If the environment variable ``SKDDVI_GENOTYPES`` names an ``.npz`` file with genotypes ``X``
# (people x variants, above 2 for a missing call), ``y`` (a code for each person's population) and
# ``target_names``, this page shows those. Otherwise it shows a small *simulation*: three
# populations that split from a common one (allele frequencies by the model of Balding and Nichols
# with a divergence of 0.1), and people whose ancestors came from the first and the second in
# varying shares. 3 % of the calls are missing. The next line of output says which it is.

import os

import numpy as np


def simulate(n_people=150, n_admixed=150, n_variants=300, divergence=0.1, seed=0):
    """Return genotypes, names of the groups, and codes into them."""
    rng = np.random.default_rng(seed)
    ancestral = rng.uniform(0.1, 0.9, n_variants)
    shape = (1 - divergence) / divergence
    frequencies = rng.beta(ancestral * shape, (1 - ancestral) * shape, (3, n_variants))
    shares = np.repeat(np.eye(3), n_people, axis=0)
    first = rng.uniform(0.1, 0.9, n_admixed)
    admixed = np.stack([first, 1 - first, np.zeros(n_admixed)], axis=1)
    shares = np.concatenate([shares, admixed])
    X = rng.binomial(2, shares @ frequencies).astype(np.float32)
    X[rng.random(X.shape) < 0.03] = np.nan
    y = np.repeat([0, 1, 2, 3], [n_people] * 3 + [n_admixed])
    return X, y, np.array(["A", "B", "C", "A x B"]), shares[:, 0]


path = os.environ.get("SKDDVI_GENOTYPES")
if path:
    with np.load(path, allow_pickle=False) as file:
        X, y, names = file["X"].astype(np.float32), file["y"], file["target_names"]
    X[X > 2] = np.nan
    share = None
else:
    X, y, names, share = simulate()
print("real genotypes" if path else "simulated genotypes", X.shape)
print(f"{np.isnan(X).mean():.1%} of the calls are missing")

# %%
# The embedding
# -------------
#
# The names are for the picture only. In the simulation the admixed people lie between the two
# groups that their ancestors came from, which is what one hopes to see, and what two components
# of PCA show just as well: two dimensions are all that there is to find in it.

from skddvi import DDVAETransformer
from skddvi.displays import LatentSpaceDisplay

model = DDVAETransformer(
    likelihood="binomial", hidden_layer_sizes=(128,), max_iter=30, random_state=0
).fit(X)
LatentSpaceDisplay.from_estimator(model, X, names[y])

# %%
# Missing calls
# -------------
#
# Masking half of the calls of a person moves the embedding, by a distance that is in units of the
# prior's standard deviation, which is one:

rng = np.random.default_rng(0)
people = rng.choice(len(X), 100, replace=False)
masked = X[people].copy()
masked[rng.random(masked.shape) < 0.5] = np.nan
moved = np.linalg.norm(model.transform(masked) - model.transform(X[people]), axis=1)
print(f"median distance {np.median(moved):.2f}, largest {moved.max():.2f}")

# %%
# So the posterior ought to be wider for them. It is not:

for title, rows in {"all calls": X[people], "half of them masked": masked}.items():
    draws = model.sample_posterior(rows, n_samples=100, random_state=0)
    print(f"{title:<20} mean standard deviation {draws.std(axis=0).mean():.3f}")

# %%
# The likelihood leaves missing calls out, but the encoder is given the mean of the variant in
# their place and is not told that it is one, which draws these people towards the middle. How
# much to trust them is learned from the training rows, few of which have more than a few missing
# calls. Place and width can be relied on for people like those that the model was trained on, and
# not for others.

# %%
# Decoded frequencies
# -------------------
#
# ``inverse_transform`` gives the expected genotypes of any latent, which are twice the allele
# frequencies: here those in the middle of each group, against the group's own. The closer to the
# diagonal, the better the decoder knows the group.

import matplotlib.pyplot as plt

Z = model.transform(X)
figure, ax = plt.subplots(figsize=(4.6, 4.4), layout="constrained")
for code in np.unique(y)[:4]:
    group = y == code
    decoded = model.inverse_transform(np.median(Z[group], axis=0, keepdims=True))[0] / 2
    ax.plot(np.nanmean(X[group], axis=0) / 2, decoded, ".", ms=3, label=names[code])
ax.plot([0, 1], [0, 1], color="0.4", lw=1)
ax.set(xlabel="allele frequency in the group", ylabel="decoded at the group's median")
ax.legend(title="population", markerscale=3)

# %%
# Ancestry shares are *not* what the picture shows: a place in the plane is not a share, and a
# distance is not a divergence. Where the shares are known, as in the simulation, one can look how
# the two relate.

if share is not None:
    admixed = y == 3
    figure, ax = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
    axis = np.median(Z[y == 0], axis=0) - np.median(Z[y == 1], axis=0)
    along = (Z[admixed] - np.median(Z[y == 1], axis=0)) @ axis / (axis @ axis)
    ax.plot(share[admixed], along, ".")
    ax.set(xlabel="share of ancestry from A", ylabel="place on the line from B (0) to A (1)")
    print(f"correlation {np.corrcoef(share[admixed], along)[0, 1]:.3f}")
