"""
===========
First steps
===========

Fit a :class:`~skddvi.DDVAETransformer` to images of handwritten digits, embed images that it has
not seen, and use what it has and PCA or UMAP have not: an inverse, new rows, and a score.
"""

# %%
# The rows are 8 x 8 pixels with grey levels between 0 and 1, so the likelihood is
# ``"bernoulli"``. A quarter of them is held out.

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skddvi import DDVAETransformer
from skddvi.displays import DecodedGridDisplay, HistoryDisplay, LatentSpaceDisplay

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X[:1000] / 16, y[:1000], test_size=250, random_state=0
)
model = DDVAETransformer(
    likelihood="bernoulli", hidden_layer_sizes=(128, 128), max_iter=30, random_state=0
)
model.fit(X_train)

# %%
# Did the training get anywhere?
# ------------------------------
#
# Every term of the objective is in ``history_``. The bound rises and levels off, which is what to
# look for. The terms that belong to the prior and the chain swing at first, while their weight is
# raised (``kl_warmup``).

HistoryDisplay.from_estimator(model)

# %%
# The picture
# -----------
#
# The embedding of the *held-out* rows. The labels only colour the picture: ``fit`` did not see
# them. Behind the rows is the prior, here the standard normal, whose two regions hold 50 % and 95
# % of its mass. Some digits have a place of their own; others overlap. Two dimensions are few for
# ten digits, and nothing in the objective asks for gaps.

LatentSpaceDisplay.from_estimator(model, X_test, y_test)

# %%
# From the latent space to images
# -------------------------------
#
# ``inverse_transform`` decodes any latent, so the plane can be read like a map: what kind of
# image is where, and what lies between two kinds.

DecodedGridDisplay.from_estimator(model, (8, 8))

# %%
# New rows are latents drawn from the prior and decoded. Under the bernoulli likelihood ``sample``
# draws pixels that are black or white, each independently given the latent; that is why these are
# so much rougher than the expected images of the grid above, and hard to read.

figure, axes = plt.subplots(2, 8, figsize=(8, 2.2), layout="constrained")
for ax, image in zip(axes.flat, model.sample(16, random_state=0), strict=True):
    ax.imshow(image.reshape(8, 8), cmap="Greys")
    ax.set_axis_off()

# %%
# A score without labels
# ----------------------
#
# ``score`` is the mean evidence lower bound of rows, in nats. It is what a search over settings
# maximises (see :ref:`sphx_glr_auto_examples_plot_10_model_search.py`); a fit that is better as a
# model of the rows has a higher one. The distance between training and held-out rows says how
# much is overfitted.

print(f"training rows: {model.score(X_train):7.2f} nats a row")
print(f"held-out rows: {model.score(X_test):7.2f} nats a row")

# %%
# Before you read anything more into the picture, see :doc:`/what_this_plot_cannot_tell_you`.
