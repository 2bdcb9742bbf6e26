"""The figures: known values, bounds, and what must not change them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from scipy.stats import multivariate_normal, ortho_group
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skddvi import DDVAEClassifier, metrics

few_examples = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31 - 1)
labellings = st.integers(2, 30).flatmap(
    lambda n: st.tuples(arrays(int, n, elements=st.integers(0, 4)), arrays(int, n, elements=seeds))
)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(seed, d):
    return ortho_group.rvs(d, random_state=np.random.default_rng(seed))


# --------------------------------------------------------------------------- latent density


def test_latent_nll_is_the_entropy_where_embeddings_follow_the_prior():
    embedding, draws = normal(0, 2, 800, 2)
    entropy = 1 + np.log(2 * np.pi)  # of the standard normal in two dimensions, in nats
    assert metrics.latent_nll(embedding, draws) == pytest.approx(entropy, abs=0.1)
    assert metrics.latent_nll(embedding / 4, draws) > entropy + 1
    # Half of the prior left out: its draws there have next to no density.
    assert metrics.latent_nll(np.abs(embedding), draws) > entropy + 0.5


def test_latent_nll_shifts_by_the_log_of_the_scale():
    embedding, draws = normal(1, 2, 300, 2)
    expected = metrics.latent_nll(embedding, draws) + 2 * np.log(10)
    assert metrics.latent_nll(10 * embedding, 10 * draws) == pytest.approx(expected, abs=0.01)


def test_latent_nll_chooses_its_bandwidth_by_few_rows_for_all():
    embedding, draws = normal(2, 2, 20_000, 2)
    entropy = 1 + np.log(2 * np.pi)
    found = metrics.latent_nll(embedding, draws[:500], max_rows=200)
    own = -multivariate_normal([0, 0]).logpdf(draws[:500]).mean()
    assert abs(entropy - own) < 0.2
    # By the bandwidth of 200 rows itself it would be off by 0.05.
    assert found == pytest.approx(own, abs=0.02)


def test_latent_nll_of_one_point_is_finite():
    assert np.isfinite(metrics.latent_nll(np.zeros((20, 2)), normal(0, 50, 2)))


# --------------------------------------------------------------------------- samples


def mmd_by_definition(X, Y, h):
    """The double sums of Gretton et al. (2012), lemma 6, one pair at a time."""
    kernel = lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * h**2))  # noqa: E731
    n, m = len(X), len(Y)
    within_x = sum(kernel(X[i], X[j]) for i in range(n) for j in range(n) if i != j)
    within_y = sum(kernel(Y[i], Y[j]) for i in range(m) for j in range(m) if i != j)
    between = sum(kernel(x, y) for x in X for y in Y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)


@few_examples
@given(seeds, st.floats(0.3, 3.0))
def test_mmd_is_its_definition(seed, bandwidth):
    X, Y = normal(seed, 7, 3), 1 + normal(seed + 1, 5, 3)
    expected = mmd_by_definition(X, Y, bandwidth)
    assert metrics.maximum_mean_discrepancy(X, Y, bandwidth=bandwidth) == pytest.approx(expected)


def test_mmd_of_normals_is_known():
    """E k(x, y) of N(0, I) and N(a, I) is (h^2 / (h^2 + 2))^(d/2) exp(-|a|^2 / (2 (h^2 + 2)))."""
    X, Y = normal(0, 2, 4000, 2)
    shift, h = np.array([1.0, 0.5]), 1.5
    factor = h**2 / (h**2 + 2)
    expected = 2 * factor * (1 - np.exp(-(shift @ shift) / (2 * (h**2 + 2))))
    found = metrics.maximum_mean_discrepancy(X, Y + shift, bandwidth=h)
    assert found == pytest.approx(expected, abs=0.01)


def test_mmd_of_one_distribution_is_zero_on_average_and_either_side():
    found = np.array(
        [metrics.maximum_mean_discrepancy(*normal(seed, 2, 50, 2)) for seed in range(200)]
    )
    error = found.std() / np.sqrt(len(found))
    assert error < 0.001
    assert abs(found.mean()) < 4.5 * error
    assert 0.2 < (found < 0).mean() < 0.8


@few_examples
@given(seeds)
def test_mmd_is_symmetric_and_knows_no_axes_order_or_origin(seed):
    X, Y = normal(seed, 30, 3), 0.5 + normal(seed + 1, 20, 3)
    found = metrics.maximum_mean_discrepancy(X, Y)
    turn, shift = rotation(seed, 3), normal(seed, 3)
    assert metrics.maximum_mean_discrepancy(Y, X) == pytest.approx(found)
    moved = metrics.maximum_mean_discrepancy(X @ turn + shift, Y @ turn + shift)
    assert moved == pytest.approx(found)
    assert metrics.maximum_mean_discrepancy(X[::-1], Y) == pytest.approx(found)
    # The median distance is the unit of length.
    assert metrics.maximum_mean_discrepancy(10 * X, 10 * Y) == pytest.approx(found)


def test_mmd_in_blocks_is_that_of_the_whole(monkeypatch):
    X, Y = normal(0, 100, 3), 1 + normal(1, 90, 3)
    whole = metrics.maximum_mean_discrepancy(X, Y)
    monkeypatch.setattr(metrics, "_BLOCK_ROWS", 13)
    assert metrics.maximum_mean_discrepancy(X, Y) == pytest.approx(whole)


def test_mmd_takes_at_most_max_rows_and_the_same_each_time():
    X, Y = normal(0, 400, 2), 1 + normal(1, 400, 2)
    few = metrics.maximum_mean_discrepancy(X, Y, max_rows=100)
    assert few == metrics.maximum_mean_discrepancy(X, Y, max_rows=100)
    assert few != metrics.maximum_mean_discrepancy(X, Y, max_rows=100, random_state=1)
    assert few == pytest.approx(metrics.maximum_mean_discrepancy(X, Y), abs=0.1)


def test_mmd_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="X has 2 features and Y 3"):
        metrics.maximum_mean_discrepancy(np.zeros((5, 2)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="bandwidth must be a positive number or None, found 0"):
        metrics.maximum_mean_discrepancy(np.zeros((5, 2)), np.zeros((5, 2)), bandwidth=0)


# --------------------------------------------------------------------------- latents


def test_active_dimensions_are_those_that_vary():
    means = normal(0, 500, 4) * [1.0, 0.5, 0.05, 0.0] + 3.0
    assert metrics.active_dimensions(means) == 2
    assert metrics.active_dimensions(means, threshold=1e-3) == 3
    assert metrics.active_dimensions(means[:1]) == 0


@few_examples
@given(seeds, st.integers(2, 5))
def test_neighbourhoods_know_no_axes_scale_or_order(seed, k):
    X, embedding = normal(seed, 40, 4), normal(seed + 1, 40, 2)
    order = np.random.default_rng(seed).permutation(40)
    moved = 3 * embedding @ rotation(seed, 2) + 5
    for figure in (metrics.continuity, metrics.knn_recall):
        found = figure(X, embedding, n_neighbors=k)
        assert 0 <= found <= 1
        assert figure(X, moved, n_neighbors=k) == pytest.approx(found)
        assert figure(X[order], embedding[order], n_neighbors=k) == pytest.approx(found)
        assert figure(X, X @ rotation(seed, 4), n_neighbors=k) == 1.0


def test_continuity_is_its_definition():
    X, embedding, k = normal(0, 30, 3), normal(1, 30, 2), 4
    distance = lambda A: np.linalg.norm(A[:, None] - A[None], axis=-1)  # noqa: E731
    # Ranks from 0, the row itself, to n - 1.
    in_X, in_embedding = (distance(A).argsort(1).argsort(1) for A in (X, embedding))
    lost = (in_X <= k) & (in_embedding > k)
    n = len(X)
    cost = 2 / (n * k * (2 * n - 3 * k - 1)) * (in_embedding - k)[lost].sum()
    assert metrics.continuity(X, embedding, n_neighbors=k) == pytest.approx(1 - cost)
    assert cost != pytest.approx(1 - trustworthiness(X, embedding, n_neighbors=k))


def test_recall_at_random_is_the_share_of_neighbours():
    X, embedding = normal(0, 1000, 5), normal(1, 1000, 2)
    found = metrics.knn_recall(X, embedding, n_neighbors=50)
    assert found == pytest.approx(50 / 999, abs=0.01)


def test_recall_of_one_half():
    X = np.array([[0.0], [1.0], [10.0], [11.0]])
    # Neighbours in the input are 0-1 and 2-3; in the embedding row 1 moved to the other pair.
    embedding = np.array([[0.0], [9.0], [10.0], [10.5]])
    assert metrics.knn_recall(X, embedding, n_neighbors=1) == 0.75


def test_accuracy_of_neighbours():
    rng = np.random.default_rng(0)
    y = np.arange(150) % 3
    embedding = 10 * np.eye(3)[y][:, :2] + rng.normal(size=(150, 2))
    assert metrics.knn_cv_accuracy(embedding, y) == 1.0
    assert metrics.knn_accuracy(embedding[:100], y[:100], embedding[100:], y[100:]) == 1.0
    assert metrics.knn_cv_accuracy(rng.normal(size=(150, 2)), y) < 0.6
    # Fewer rows than neighbours: all of them vote.
    assert metrics.knn_accuracy(embedding[:4], [0, 1, 1, 1], embedding, np.ones(150)) == 1.0


# --------------------------------------------------------------------------- clusters


def test_purity():
    assert metrics.purity_score([0, 0, 1, 1], [5, 5, 7, 7]) == 1.0
    assert metrics.purity_score([0, 0, 1, 1], [0, 0, 0, 0]) == 0.5
    assert metrics.purity_score([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 1]) == pytest.approx(4 / 6)


def test_matched_accuracy_matches_one_to_one():
    # The best cluster for each class is the same one; it can serve only one of them.
    y, clusters = [0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 1]
    assert metrics.matched_accuracy(y, clusters) == pytest.approx(3 / 6)
    assert metrics.matched_accuracy(["a", "b", "b"], [1, 0, 0]) == 1.0
    assert metrics.matched_accuracy([0, 1, 2, 3], [0, 0, 0, 0]) == 0.25


@few_examples
@given(labellings)
def test_agreement_knows_no_names(labels):
    y, clusters = labels[0], labels[1] % 5
    scores = metrics.cluster_scores(y, clusters)
    assert set(scores) == {"purity", "completeness", "nmi", "ari", "matched_accuracy"}
    assert all(-0.5 <= value <= 1 + 1e-12 for value in scores.values())
    assert scores["matched_accuracy"] <= scores["purity"]
    renamed = metrics.cluster_scores(y[::-1], 100 - clusters[::-1])
    assert renamed == pytest.approx(scores)
    perfect = metrics.cluster_scores(y, 10 - y)
    assert list(perfect.values()) == pytest.approx([1.0] * 5)


def test_a_mixture_finds_separated_classes():
    y = np.arange(150) % 3
    embedding = 10 * np.eye(3)[y][:, :2] + normal(0, 150, 2)
    assert list(metrics.mixture_scores(embedding, y, n_init=1).values()) == pytest.approx([1] * 5)
    two = metrics.mixture_scores(embedding, y, n_clusters=2, n_init=1)
    assert two["purity"] == pytest.approx(2 / 3)


# --------------------------------------------------------------------------- calibration


def test_calibration_error_of_calibrated_probabilities_is_small():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 20_000)
    y = (rng.uniform(size=(20_000, 1)) > probabilities.cumsum(1)).sum(1)
    assert metrics.expected_calibration_error(y, probabilities) < 0.02
    overconfident = probabilities**3 / (probabilities**3).sum(1, keepdims=True)
    confidence = overconfident.max(1).mean()
    accuracy = (overconfident.argmax(1) == y).mean()
    found = metrics.expected_calibration_error(y, overconfident)
    assert found == pytest.approx(confidence - accuracy, abs=0.02)


def test_calibration_error_by_hand():
    # Two bins: confidences 0.6 and 0.7, half right; 0.9, right.
    probabilities = [[0.6, 0.4], [0.3, 0.7], [0.1, 0.9]]
    found = metrics.expected_calibration_error(["a", "a", "b"], probabilities, n_bins=4)
    assert found == pytest.approx((abs(1 - 1.3) + abs(1 - 0.9)) / 3)


@few_examples
@given(seeds, st.integers(1, 30))
def test_calibration_error_is_bounded_and_takes_columns_in_any_order(seed, n_bins):
    rng = np.random.default_rng(seed)
    probabilities, y = rng.dirichlet([0.3] * 4, 30), rng.integers(4, size=30)
    found = metrics.expected_calibration_error(y, probabilities, labels=range(4), n_bins=n_bins)
    assert 0 <= found <= 1
    order = rng.permutation(4)
    other = metrics.expected_calibration_error(
        y, probabilities[:, order], labels=order, n_bins=n_bins
    )
    assert other == pytest.approx(found)


def test_calibration_error_asks_for_the_labels_of_the_columns():
    with pytest.raises(
        ValueError, match=r"3 columns, found 2 labels; .*labels=classifier.classes_"
    ):
        metrics.expected_calibration_error([0, 1], [[0.2, 0.3, 0.5]] * 2)


# --------------------------------------------------------------------------- reports


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:400], y[:400]


def test_report_has_what_its_parts_say(digits):
    X, y = digits
    embedding = PCA(2).fit_transform(X)
    report = metrics.embedding_report(embedding, X, y)
    expected = {
        "trustworthiness": trustworthiness(X, embedding, n_neighbors=20),
        "continuity": metrics.continuity(X, embedding, n_neighbors=20),
        "knn_recall": metrics.knn_recall(X, embedding),
        "active_dimensions": 2,
        "knn_accuracy": metrics.knn_cv_accuracy(embedding, y),
        **metrics.mixture_scores(embedding, y),
    }
    assert report == pytest.approx(expected)
    assert [line.split()[0] for line in repr(report).splitlines()] == list(expected)
    of_csr = metrics.embedding_report(embedding, sparse.csr_matrix(X), y)
    assert of_csr == pytest.approx(report, abs=1e-3)  # but for ties in distances


def test_report_of_few_rows_is_near_that_of_all(digits):
    X, _ = digits
    embedding = PCA(2).fit_transform(X)
    few = metrics.embedding_report(embedding, X, n_neighbors=5, max_rows=200)
    assert few == metrics.embedding_report(embedding, X, n_neighbors=5, max_rows=200)
    assert few == pytest.approx(metrics.embedding_report(embedding, X, n_neighbors=5), abs=0.15)
    with pytest.raises(ValueError, match="n_neighbors=20 needs more than 40 rows, found 40"):
        metrics.embedding_report(embedding, X, max_rows=40)


class Projection(PCA):
    """Two random directions, and clusters by KMeans."""

    def fit_transform(self, X, y=None):
        assert y is None
        rng = np.random.default_rng(self.random_state)
        self.labels_ = KMeans(4, random_state=self.random_state).fit_predict(X)
        return X @ rng.normal(size=(X.shape[1], 2))


def test_stability_tells_runs_that_agree_from_runs_that_do_not(digits):
    X, y = digits
    same = metrics.stability_report(PCA(2), X, y, seeds=3)
    assert same["procrustes_disparity"] == pytest.approx((0, 0), abs=1e-8)
    assert same["neighbor_overlap"] == (1.0, 0.0)
    assert same["trustworthiness"].sd == 0.0
    assert "ari_between_runs" not in same
    estimator = make_pipeline(StandardScaler(), Projection())
    differ = metrics.stability_report(Projection(), X, y, seeds=[3, 5, 8])
    assert differ["procrustes_disparity"].mean > 0.3
    assert differ["neighbor_overlap"].mean < 0.5
    assert differ["trustworthiness"].sd > 0
    assert 0.2 < differ["ari_between_runs"].mean < 1
    by_hand = [
        metrics.embedding_report(Projection(random_state=seed).fit_transform(X), X, y)
        for seed in (3, 5, 8)
    ]
    nmi = [report["nmi"] for report in by_hand]
    assert differ["nmi"] == pytest.approx((np.mean(nmi), np.std(nmi, ddof=1)))
    assert " ± " in repr(differ)
    in_pipeline = metrics.stability_report(estimator, X, seeds=2)
    assert in_pipeline["procrustes_disparity"].mean > 0.3


def test_stability_needs_seeds_to_vary(digits):
    X, _ = digits
    with pytest.raises(ValueError, match=r"seeds must be two or more, found \[0\]"):
        metrics.stability_report(PCA(2), X, seeds=1)
    with pytest.raises(ValueError, match="a parameter random_state to vary, found none"):
        metrics.stability_report(StandardScaler(), X)
    with pytest.raises(ValueError, match="estimator must do without labels"):
        metrics.stability_report(DDVAEClassifier(), X)
