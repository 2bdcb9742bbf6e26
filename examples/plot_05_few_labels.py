"""
==========
Few labels
==========

Five images of each digit have a label, the others have none. :class:`~skddvi.DDVAEClassifier`
learns from both: rows without a label say where the classes are, those with one say which is
which.
"""

# %%
# Rows without a label are marked by -1. The labels of the test rows are used for nothing but the
# figures at the end.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.semi_supervised import LabelSpreading

from skddvi import DDVAEClassifier

X, y = load_digits(return_X_y=True)
X = X / 16
X_train, X_test, y_train, y_test = train_test_split(
    X[:1000], y[:1000], test_size=400, random_state=0, stratify=y[:1000]
)


def few_labels(y, seed, n_each=5):
    """Return y with all but n_each labels of each class replaced by -1."""
    rng = np.random.default_rng(seed)
    kept = [rng.choice(np.flatnonzero(y == label), n_each, replace=False) for label in np.unique(y)]
    kept = np.concatenate(kept)
    few = np.full_like(y, -1)
    few[kept] = y[kept]
    return few


# %%
# Three draws of the fifty labels, because which rows have one matters a great deal. With as few
# labels as these there is none left to tune anything by: apart from the likelihood, a smaller
# network in fewer epochs and the kernel of ``LabelSpreading``, everything has its default (that
# ``LogisticRegression`` may take more steps only lets it converge).

accuracy = {"LogisticRegression": [], "LabelSpreading": [], "DDVAEClassifier": []}
for seed in range(3):
    y_few = few_labels(y_train, seed)
    labelled = y_few != -1
    linear = LogisticRegression(max_iter=1000).fit(X_train[labelled], y_few[labelled])
    spreading = LabelSpreading(kernel="knn", n_neighbors=10).fit(X_train, y_few)
    model = DDVAEClassifier(
        likelihood="bernoulli", hidden_layer_sizes=(128,), max_iter=30, random_state=seed
    ).fit(X_train, y_few)
    for estimator in (linear, spreading, model):
        accuracy[type(estimator).__name__].append(estimator.score(X_test, y_test))

for name, values in accuracy.items():
    print(f"{name:<19} accuracy {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")

# %%
# The first has only the labelled rows; the other two use all. On data whose classes are separate
# groups of neighbours, as these digits are, a graph of neighbours is hard to beat. The model learns
# from such a graph, too, and with so short a training of so small a network it comes out between
# the two. What it adds to an answer is a density and draws. These are rows drawn from each class
# (pixels that are black or white, each independently given the latent, hence so rough):

figure, axes = plt.subplots(3, 10, figsize=(8, 2.6), layout="constrained")
for digit in range(10):
    for ax, image in zip(axes[:, digit], model.sample(3, y=digit, random_state=digit), strict=True):
        ax.imshow(image.reshape(8, 8), cmap="Greys")
        ax.set_axis_off()
    axes[0, digit].set_title(digit)

# %%
# Are the probabilities honest?
# -----------------------------
#
# Test rows by how sure the model was of its answer, against how often it was right. On the
# diagonal the two agree. The bars below say how many rows there are in each bin: where there are
# few, the interval is wide.

from skddvi.displays import ReliabilityDisplay
from skddvi.metrics import expected_calibration_error

ReliabilityDisplay.from_estimator(model, X_test, y_test)

probabilities = model.predict_proba(X_test)
confidence, right = probabilities.max(axis=1), model.predict(X_test) == y_test
error = expected_calibration_error(y_test, probabilities, labels=model.classes_)
print(f"expected calibration error {error:.3f}")
print(f"mean probability {confidence.mean():.3f}, accuracy {right.mean():.3f}")
