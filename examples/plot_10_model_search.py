"""
=====================
Searching for a model
=====================

``score`` is a held-out bound, so scikit-learn's searches choose among priors and numbers of
diffusion steps, in a pipeline too, without a label.
"""

# %%
# The pipeline
# ------------
#
# All candidates see the same preprocessing: a bound is of the rows as the last step gets them, so
# candidates with *different* preprocessing, or with different likelihoods, must not be compared
# (:ref:`guide-likelihoods`). The step that fills missing values in is an example of one that
# stays the same for all.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skddvi import DDVAETransformer

X, y = load_wine(return_X_y=True)
X = np.where(np.random.default_rng(0).random(X.shape) < 0.02, np.nan, X)
pipeline = Pipeline(
    [
        ("impute", SimpleImputer()),
        ("scale", StandardScaler()),
        ("ddvae", DDVAETransformer(hidden_layer_sizes=(32,), max_iter=50, random_state=0)),
    ]
)

# %%
# A grid
# ------
#
# Every combination, in three folds. Without ``y`` nothing is stratified, and these rows are
# sorted by class: unless they are shuffled, a fold holds out a kind of wine that the others have
# hardly seen. ``n_jobs=2`` would run two fits at once; the estimator starts no worker processes
# of its own, so any joblib backend will do (:ref:`ecosystem-joblib`).

grid = {
    "ddvae__prior": ["normal", "gaussian_mixture", "square"],
    "ddvae__n_diffusion_steps": [0, 4],
}
folds = KFold(3, shuffle=True, random_state=0)
search = GridSearchCV(pipeline, grid, cv=folds).fit(X)
results = search.cv_results_
for index in np.argsort(results["rank_test_score"]):
    parameters = results["params"][index]
    print(
        f"{parameters['ddvae__prior']:<17} T = {parameters['ddvae__n_diffusion_steps']}: "
        f"{results['mean_test_score'][index]:7.3f} nats a row, "
        f"folds {results['std_test_score'][index]:.3f}"
    )

# %%
# The spread is that between folds, which differ in how easy their rows are, the same for all
# candidates: it is too wide for comparing two of them. What decides is the difference fold by
# fold: how far each candidate is below the best one, and the standard error of that. Three folds
# give no more than a rough idea of the latter.

scores = np.array([results[f"split{fold}_test_score"] for fold in range(3)])
difference = scores[:, [search.best_index_]] - scores
figure, ax = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
names = [f"{p['ddvae__prior']}, T={p['ddvae__n_diffusion_steps']}" for p in results["params"]]
error = difference.std(axis=0, ddof=1) / np.sqrt(len(scores))
ax.errorbar(difference.mean(axis=0), names, xerr=error, fmt="o", color="#0072B2", capsize=3)
ax.axvline(0, color="0.5", lw=1)
ax.set(xlabel="nats a row below the best candidate")

# %%
# Halving
# -------
#
# Successive halving gives all candidates a short training, keeps the better half and gives those
# a longer one. The resource is ``max_iter``. A short training favours what learns fast: the
# finalist need not be the winner of the full grid.

halving = HalvingGridSearchCV(
    pipeline,
    grid,
    resource="ddvae__max_iter",
    min_resources=12,
    max_resources=50,
    factor=2,
    cv=folds,
    random_state=0,
).fit(X)
print("grid:   ", search.best_params_)
print("halving:", halving.best_params_, "after rounds of", halving.n_candidates_, "candidates")

# %%
# The figure that the winner won with is not an unbiased one: it was picked for being high. Score
# the winner on rows that took no part in the search before you report it.
