"""
====================
Networks of your own
====================

Encoder and decoder are perceptrons by default. In their place go networks of your own: here small
convolutional ones, for images. The likelihood, the chain and the bound stay what they are, so the
held-out bound says whether the exchange was worth it.
"""

# %%
# Factories
# ---------
#
# Each parameter takes a function of the numbers of inputs and outputs that returns a
# :class:`torch.nn.Module`. Rows come flat; the first layer gives them back the shape of an image.

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from skddvi import DDVAETransformer
from skddvi.displays import DecodedGridDisplay


def encoder(n_inputs, n_outputs):
    """Return a network from rows of 64 pixels to features."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, n_outputs),
        nn.SiLU(),
    )


def decoder(n_inputs, n_outputs):
    """Return a network from latents to what the likelihood takes, one number a pixel."""
    return nn.Sequential(
        nn.Linear(n_inputs, 64),
        nn.SiLU(),
        nn.Linear(64, 16 * 4 * 4),
        nn.SiLU(),
        nn.Unflatten(1, (16, 4, 4)),
        nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
        nn.Flatten(),
    )


# %%
# Two fits
# --------
#
# On the same rows with the same training, and two seeds each. Images of 8 x 8 pixels are small
# for convolutions, and the training is short: what counts here is how it is done.

X = load_digits().data
X_train, X_test = train_test_split(X[:600] / 16, test_size=200, random_state=0)
settings = {"likelihood": "bernoulli", "hidden_layer_sizes": (64,), "max_iter": 20}
networks = {
    "perceptrons": {},
    "convolutions": {"encoder": encoder, "decoder": decoder},
}
for title, given in networks.items():
    models = [
        DDVAETransformer(**settings, **given, random_state=seed).fit(X_train) for seed in range(2)
    ]
    bounds = [model.score(X_test) for model in models]
    print(f"{title:<13}" + "".join(f"{bound:8.2f}" for bound in bounds) + " nats a row")

# %%
# Everything else works as before: the picture shows what the convolutional decoder makes of a
# grid of latents.

DecodedGridDisplay.from_estimator(models[0], (8, 8), n_points=12)

# %%
# :func:`skddvi.save` writes the weights and not the code, so loading takes the factories again:
# ``skddvi.load(path, encoder=encoder, decoder=decoder)``. See :ref:`guide-networks`.
