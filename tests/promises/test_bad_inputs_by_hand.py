"""Bad inputs that somebody thought of: what each is told, in words that name what is wrong."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from _models import ESTIMATORS, make_rows, tiny
from _trials import attempt

from skddvi import cluster_number_scan, displays, load, metrics, save
from skddvi.likelihoods import BinomialLikelihood, GaussianLikelihood
from skddvi.noising import VarianceExploding, VariancePreserving
from skddvi.priors import (
    EmpiricalPrior,
    GaussianMixturePrior,
    NormalPrior,
    PinwheelPrior,
    SquarePrior,
    SwissRollPrior,
    UserPrior,
)
from skddvi.regularizers import NeighborhoodPreservation

ROWS = make_rows(12, 3)
Y = np.arange(12) % 3 - 1
EYE = np.eye(2)


@pytest.fixture(scope="module")
def models():
    """Return a fitted model of each kind; no test may change them."""
    return {kind: tiny(kind).fit(ROWS, Y) for kind in ESTIMATORS}


@pytest.fixture(autouse=True)
def no_window():
    """Draw into memory, and close what was drawn."""
    import matplotlib.pyplot as plt

    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


class Own:
    """A prior or a noising process of a user, some of whose methods answer what they should not."""

    n_components = 2

    def __init__(self, **answers):
        self.answers = answers

    def sample(self, n, generator):
        return self.answers.get("sample", torch.zeros)(n, 2)

    def log_prob(self, z):
        return self.answers.get("log_prob", lambda z: -z.square().sum(-1))(z)

    def coefficients(self, n_steps):
        return self.answers["coefficients"](n_steps)


def fit(**params):
    return lambda models: tiny(**params).fit(ROWS)


def own_prior(**answers):
    return fit(prior=Own(**answers))


def own_noising(coefficients):
    return fit(noising=Own(coefficients=coefficients))


def scan(*args):
    return lambda models: cluster_number_scan(tiny("clusterer"), *args)


def plane(display, *args, **kwargs):
    """Return what draws a display of the transformer, which has two dimensions."""
    return lambda models: getattr(displays, display).from_estimator(
        models["transformer"], *args, **kwargs
    )


BY_HAND = {
    # A prior, a noising process or a regulariser of the user's own that does not do its part.
    "samples of another shape": (
        own_prior(sample=lambda n, d: torch.zeros(n, 3)),
        r"samples of prior=Own must have shape \(20000, 2\), found \(20000, 3\)",
    ),
    "no samples": (own_prior(sample=lambda n, d: None), r"samples of prior=Own .* found \(0,\)"),
    "NaN for samples": (own_prior(sample=lambda n, d: torch.full((n, d), np.nan)), "not finite"),
    "a density for each column": (own_prior(log_prob=lambda z: z), r"log density of .* \(12, 2\)"),
    "NaN for a density": (own_prior(log_prob=lambda z: z.sum(-1) * np.nan), "'log_prior' was not"),
    "no density": (own_prior(log_prob=lambda z: None), "log density of prior=Own .* NoneType"),
    "a prior that is a class": (fit(prior=NormalPrior), "must be an object, found the class"),
    "a prior that is a number": (lambda models: UserPrior(3), "without n_components, sample"),
    "no coefficients": (own_noising(lambda n: None), "must return two arrays, .* NoneType"),
    "too few coefficients": (own_noising(lambda n: (EYE[0], EYE[1])), r"shape \(3,\), found"),
    "words for coefficients": (own_noising(lambda n: ("a", "b")), "must return two arrays"),
    "NaN for coefficients": (
        own_noising(lambda n: np.full((2, n + 1), np.nan)),
        "must start at alpha=1 and sigma=0, found alpha=nan",
    ),
    "a process that is a class": (fit(noising=VariancePreserving), "found the class Variance"),
    "a regulariser that is a class": (fit(regularizer=NeighborhoodPreservation), "found the class"),
    "a weight that is a word": (
        fit(regularizer=NeighborhoodPreservation(3, weight="a")),
        "weight must be a number or \"auto\", found 'a'",
    ),
    "a weight that is NaN": (
        fit(regularizer=NeighborhoodPreservation(3, weight=np.nan)),
        "must be a finite number, found nan",
    ),
    "no neighbours": (fit(regularizer=NeighborhoodPreservation(0)), r"in 1\.\.11 .* found 0"),
    "neighbours in words": (fit(regularizer=NeighborhoodPreservation("a")), r"1\.\.11 .* 'a'"),
    # Building blocks of sizes that there are not.
    "a beta above 1": (fit(noising=[0.1, 2.0]), "betas between 0 and 1, .* the first 2.0"),
    "a beta that is NaN": (fit(noising=[0.1, np.nan]), "betas between 0 and 1, .* the first nan"),
    "betas in words": (fit(noising=["a", "b"]), "an array of betas .* found"),
    "betas in a matrix": (fit(noising=[[0.1, 0.2]]), r"1-D array of betas, found shape \(1, 2\)"),
    "falling noise": (fit(noising=VarianceExploding(5, 1)), "sigma_min < sigma_max, .*=5"),
    "noise in words": (fit(noising=VarianceExploding(1, "a")), "sigma_max='a'"),
    "endless noise": (
        fit(noising=VarianceExploding(1, np.inf)),
        "must be finite .* sigma_max=inf",
    ),
    "no arms": (lambda models: PinwheelPrior(0), "n_arms must be an integer of at least 1"),
    "half an arm": (lambda models: PinwheelPrior(1.5), "n_arms must be an integer .* found 1.5"),
    "arms without width": (lambda models: PinwheelPrior(3, noise=0), "noise must be .* found 0"),
    "an endless twist": (lambda models: PinwheelPrior(3, twist=1e9), "twist must be .* -10 to 10"),
    "a roll without turns": (lambda models: SwissRollPrior(3, n_turns=0), "n_turns must be"),
    "sides without width": (lambda models: SquarePrior(3, noise=-1), "noise must be .* found -1"),
    "no dimension": (lambda models: NormalPrior(0), "n_components must be an integer of at least"),
    "dimensions in words": (lambda models: NormalPrior("two"), "n_components .* found 'two'"),
    "no means": (lambda models: GaussianMixturePrior([], 1.0), r"at least one row .* \(0,\)"),
    "means in a row": (lambda models: GaussianMixturePrior([1.0, 2.0], 1.0), r"shape \(2,\)"),
    "means in words": (lambda models: GaussianMixturePrior([["a"]], 1.0), "must hold numbers"),
    "means that are NaN": (lambda models: GaussianMixturePrior([[np.nan]], 1.0), "must be finite"),
    "a negative spread": (lambda models: GaussianMixturePrior(EYE, -1.0), "scales must be above 0"),
    "three spreads of two": (lambda models: GaussianMixturePrior(EYE, [1, 2, 3]), r"\(3,\)"),
    "a negative weight": (lambda models: GaussianMixturePrior(EYE, 1.0, [-1, 2]), "above 0"),
    "no samples to be like": (lambda models: EmpiricalPrior([]), "samples must be a matrix"),
    "samples that are NaN": (lambda models: EmpiricalPrior(EYE * np.nan), "samples must be finite"),
    "a negative bandwidth": (lambda models: EmpiricalPrior(EYE, -1.0), "bandwidth must be above 0"),
    "a negative variance": (lambda models: GaussianLikelihood(-1.0), "variance must be 'learned'"),
    "no trials": (lambda models: BinomialLikelihood(0), "n_trials must be a positive integer"),
    "a likelihood that is a class": (
        fit(likelihood=GaussianLikelihood),
        "instance of .*Likelihood",
    ),
    # Asks that cannot be.
    "no such cluster": (lambda models: models["clusterer"].sample(2, cluster=7), r"in 0\.\.1 or"),
    "no such class": (lambda models: models["classifier"].sample(2, y=7), r"have not: \[7\]"),
    "an open file's number": (lambda models: load(0), "expected str, bytes or os.PathLike"),
    "a device without name": (lambda models: load("model", device=0), "name of one, .* found 0"),
    "saving what is no model": (lambda models: save(ROWS, "model"), "must be one of .* ndarray"),
    "scanning no number": (scan(ROWS, []), "at least one number, found none"),
    "scanning a number": (scan(ROWS, 3), "n_clusters_range must be a sequence, found 3"),
    "scanning words": (scan(ROWS, ["a"]), "n_clusters_range must be an integer .* found 'a'"),
    "scanning no rows": (scan(None, [1]), "Expected sequence or array-like"),
    "more clusters than rows": (scan(ROWS, [50]), "n_samples=9 should be >= n_clusters=50"),
    # Metrics.
    "neighbours that are none": (
        lambda models: metrics.knn_recall(ROWS, ROWS, n_neighbors=0),
        "'n_neighbors' parameter of knn_recall",
    ),
    "rows that do not match": (lambda models: metrics.knn_recall(ROWS, ROWS[:5]), "12, 5"),
    "labels that do not match": (lambda models: metrics.purity_score(Y, Y[:3]), r"\[12, 3\]"),
    "labels of two kinds": (
        lambda models: metrics.purity_score(np.array([0, "a"], object), [0, 1]),
        "of one kind",
    ),
    "labels that are missing": (
        lambda models: metrics.cluster_scores([0, None], [0, 1]),
        "labels_true holds 1 missing labels",
    ),
    "no labels": (lambda models: metrics.matched_accuracy([], []), r"0 sample\(s\)"),
    "rows for probabilities": (
        lambda models: metrics.expected_calibration_error(Y, ROWS),
        r"probabilities must lie in \[0, 1\]",
    ),
    "no bins": (
        lambda models: metrics.expected_calibration_error([0, 1], EYE, n_bins=0),
        "'n_bins' parameter of expected_calibration_error",
    ),
    "half a row": (
        lambda models: metrics.maximum_mean_discrepancy(ROWS, ROWS, max_rows=1.5),
        "'max_rows' parameter of maximum_mean_discrepancy",
    ),
    "rows beyond numbers": (
        lambda models: metrics.maximum_mean_discrepancy(ROWS * 1e300, ROWS),
        "too far apart",
    ),
    "seeds that are NaN": (
        lambda models: metrics.stability_report(tiny(), ROWS, seeds=np.nan),
        "'seeds'",
    ),
    # Displays.
    "rows that are not there": (plane("PosteriorDisplay", ROWS, [99]), "12 of X, found 99"),
    "rows between rows": (plane("PosteriorDisplay", ROWS, [1.5]), "a sequence of indices"),
    "no draws": (plane("PosteriorDisplay", ROWS, n_samples=0), "n_samples must be .* found 0"),
    "panels in words": (plane("TrajectoryDisplay", ROWS, n_panels="a"), "n_panels .* found 'a'"),
    "an image without shape": (plane("DecodedGridDisplay", 3), "image_shape must be a sequence"),
    "an image of other pixels": (
        plane("DecodedGridDisplay", (2, 2)),
        "has 4 pixels, .* 3 features",
    ),
    "a grid of nothing": (plane("DecodedGridDisplay", (1, 3), n_points=0), "n_points .* found 0"),
    "half an extent": (plane("DecodedGridDisplay", (1, 3), extent=[0, 1]), "x_low, x_high, y_low"),
    "one label for all": (plane("LatentSpaceDisplay", ROWS, 7), "one entry a row, found 7"),
    "too few labels": (plane("LatentSpaceDisplay", ROWS, [1, 2]), "found 2 entries and 12 rows"),
    "a plot of rows": (
        lambda models: displays.HistoryDisplay.from_estimator(ROWS),
        "must be one of skddvi, found ndarray",
    ),
}


def test_bad_inputs_by_hand_are_60_at_least():
    assert len(BY_HAND) >= 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BY_HAND)
def test_bad_inputs_by_hand(name, models):
    ask, message = BY_HAND[name]
    assert attempt(lambda: ask(models)), "it was not refused"
    with pytest.raises(Exception, match=message):
        ask(models)
