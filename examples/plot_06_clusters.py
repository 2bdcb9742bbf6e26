"""
==============================
Clusters, and how many of them
==============================

:class:`~skddvi.DDVAEClusterer` learns a mixture in the latent space, one component a cluster. How
many there should be is a question of its own: :func:`~skddvi.cluster_number_scan` compares fits
with several numbers by the bound of held-out rows, and by how far seeds agree.
"""

# %%
# Four groups of different sizes in eight dimensions, bent a little. The labels are used for the
# figures only.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from skddvi import DDVAEClusterer, cluster_number_scan
from skddvi.displays import LatentSpaceDisplay

blobs, y = make_blobs([120, 80, 60, 40], n_features=8, cluster_std=1.5, random_state=0)
X = blobs + 2 * np.sin(blobs / 2)

# %%
# One number of clusters
# ----------------------
#
# k-means does as well on groups as round as these, in no time. What it does not give is below.

settings = {"n_components": 2, "n_diffusion_steps": 4, "hidden_layer_sizes": (64,)}
clusterer = DDVAEClusterer(n_clusters=4, max_iter=40, random_state=0, **settings).fit(X)
means = KMeans(4, n_init=10, random_state=0).fit(X)
print(f"adjusted Rand index: skddvi {adjusted_rand_score(y, clusterer.labels_):.3f}, ", end="")
print(f"KMeans {adjusted_rand_score(y, means.labels_):.3f}")
print("weights", clusterer.weights_.round(2), "sizes of the groups", np.sort(np.bincount(y))[::-1])

# %%
# The latents with the learned mixture behind them. Colours are the clusters that were found,
# which are numbered by size. The mixture *makes* gaps: in the joint training each cluster is
# drawn together, whatever the rows are like.

LatentSpaceDisplay.from_estimator(clusterer, X, clusterer.labels_)

# %%
# Soft labels
# -----------
#
# ``predict_proba`` averages over draws of each row's latent, and ``predict`` takes the largest.
# The rows that the clusterer is least sure of:

probabilities = clusterer.predict_proba(X)
least = np.argsort(probabilities.max(axis=1))[:3]
print(probabilities[least].round(2))

# %%
# How many?
# ---------
#
# A higher held-out bound is a better density; a stability of 1 says that both seeds divide the
# rows in the same way. Two seeds are few, and so is one split of 300 rows: use five seeds or
# more, and longer training, before you believe a number.

scan = cluster_number_scan(DDVAEClusterer(max_iter=40, **settings), X, [2, 3, 4, 5], n_seeds=2)
figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
scan.plot(ax=ax)
print("chosen:", scan.best_n_clusters)

# %%
# Within one standard error of the highest bound, the rule takes the most stable number, and of
# equally stable ones the one with the highest bound. With two seeds that error is wide, and the
# rule may choose otherwise than you would: look at both curves, and not at the number alone. And
# the number of clusters is a choice of scale as much as a fact; see
# :doc:`/what_this_plot_cannot_tell_you`.
