"""The models and rows that the promises are tested with: small, so that a fit takes moments."""

import numpy as np

from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer

ESTIMATORS = {
    "transformer": (DDVAETransformer, {}),
    "clusterer": (DDVAEClusterer, {"n_clusters": 2, "n_components": 2}),
    "classifier": (DDVAEClassifier, {"n_components": 2}),
}


def small(kind="transformer", **params):
    """Return a model of that kind that is fitted in a tenth of a second."""
    cls, own = ESTIMATORS[kind]
    defaults = {
        "hidden_layer_sizes": (16,),
        "denoiser_width": 16,
        "kl_warmup": 0.0,
        "n_diffusion_steps": 3,
        "max_iter": 4,
        "random_state": 0,
    }
    return cls(**defaults | own | params)


def tiny(kind="transformer", **params):
    """Return a model of that kind that is fitted as fast as can be."""
    fast = {"hidden_layer_sizes": (8,), "denoiser_width": 4, "n_diffusion_steps": 2, "max_iter": 1}
    return small(kind, **fast | params)


def labels(n_rows):
    """Return labels of two classes, and a third of the rows without one."""
    return np.arange(n_rows) % 3 - 1


def fit(model, rows, **kwargs):
    """Fit a model, the classifier with labels, which the others ignore."""
    n_rows = rows.shape[0] if hasattr(rows, "shape") else len(rows)
    return model.fit(rows, labels(n_rows), **kwargs)


def make_rows(n_rows, n_features=6, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(3, n_features))
    return 3.0 + rng.normal(size=(n_rows, 3)) @ mixing


X = make_rows(80)
DOSAGES = np.random.default_rng(0).binomial(2, 0.3, size=(200, 10)).astype(float)

ASK = {
    "transform": lambda model, rows: model.transform(rows),
    "score_samples": lambda model, rows: model.score_samples(rows),
    "score": lambda model, rows: model.score(rows),
    "sample_posterior": lambda model, rows: model.sample_posterior(rows, random_state=0),
}
