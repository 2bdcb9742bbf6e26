"""
==========================
How sure is a row's place?
==========================

An embedding gives each row one point. The posterior gives it a cloud: all the places that the row
could have come from. This page draws clouds, shows what they do not tell, and tightens the bound
by importance weighting.
"""

# %%
# Clouds
# ------
#
# The rows lie on a curved sheet in ten dimensions, with some noise.

import matplotlib.pyplot as plt
import numpy as np

from skddvi import DDVAETransformer
from skddvi.displays import PosteriorDisplay, TrajectoryDisplay

rng = np.random.default_rng(0)
mixing = rng.normal(size=(2, 10))


def rows(plane, noise):
    """Return noisy images in ten dimensions of points of the plane."""
    sheet = plane @ mixing
    return sheet + np.sin(2 * sheet) + rng.normal(0, noise, sheet.shape)


X = rows(rng.normal(size=(600, 2)), 0.4)
model = DDVAETransformer(hidden_layer_sizes=(64,), max_iter=50, random_state=0).fit(X)

# %%
# Clouds of draws from the posterior of six rows. A cross marks what ``transform`` returns, the
# end of the noise-free path. The clouds are much smaller than the prior: these rows say where
# they are from.

PosteriorDisplay.from_estimator(model, X)

# %%
# What a cloud does not tell
# --------------------------
#
# Here seven of the ten features are replaced by their means, as an imputation would do it. The
# distance is that from the middle of the cloud to where the complete row is (a draw from *its*
# posterior), in standard deviations of the cloud. Its median is 0.67 for a Gaussian cloud in the
# right place and of the right width.

few = X[:200].copy()
few[:, 3:] = X[:, 3:].mean(axis=0)
place = model.sample_posterior(X[:200], random_state=1)[0]
for title, given in {"all features": X[:200], "seven replaced by means": few}.items():
    draws = model.sample_posterior(given, n_samples=200, random_state=0)
    spread = draws.std(axis=0)
    away = np.abs(place - draws.mean(axis=0)) / spread
    print(f"{title:<24} spread {spread.mean():.3f}, distance {np.median(away):5.2f}")

# %%
# The model takes the means for what was measured: the clouds are as small as before, and in the
# wrong place. A posterior is right about its own uncertainty only *within the model*, for rows
# like those of the training.
#
# Does the bound tell that a row is not one of them? Not of these, whose values are all ordinary:
# it is lower by little. It does where features contradict each other, as after shuffling each of
# them among the rows.

rng = np.random.default_rng(2)
kinds = {
    "all features": X[:200],
    "seven replaced by means": few,
    "features shuffled": rng.permuted(X[:200], axis=0),
}
for title, given in kinds.items():
    print(f"{title:<24} bound {model.score_samples(given).mean():8.2f} nats a row")

# %%
# The way there
# -------------
#
# The chain starts broad and finds the row's place step by step: one drawn path a row, coloured by
# the row's first feature.

TrajectoryDisplay.from_estimator(model, X, X[:, 0], n_panels=4)

# %%
# A tighter bound
# ---------------
#
# With K draws a row the bound of equation (7) grows towards log p(x). What it gains over K = 1 is
# an estimate from below of how much the posterior leaves out. Only bounds with the same K
# compare.

numbers = [1, 4, 16, 64, 256]
bounds = [model.score_samples(X[:200], n_importance_samples=K).mean() for K in numbers]
figure, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
ax.semilogx(numbers, bounds, "o-", color="#0072B2", base=2)
ax.set(xlabel="importance samples K", ylabel="bound, nats a row")
for K, bound in zip(numbers, bounds, strict=True):
    print(f"K = {K:>3}: {bound:.3f} nats a row")
