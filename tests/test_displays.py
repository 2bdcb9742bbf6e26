"""The displays: the numbers that they show, and that they can be drawn."""

import sys

import matplotlib
import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skddvi import ClusterNumberScan, DDVAEClassifier, DDVAEClusterer, DDVAETransformer
from skddvi._picture import MAX_LEGEND, class_style
from skddvi.displays import (
    ClusterNumberDisplay,
    DecodedGridDisplay,
    HistoryDisplay,
    LatentSpaceDisplay,
    PosteriorDisplay,
    ReliabilityDisplay,
    TrajectoryDisplay,
)
from skddvi.metrics import expected_calibration_error
from skddvi.priors import PinwheelPrior

X = np.random.default_rng(0).normal(size=(70, 12))
Y = np.arange(70) % 7


@pytest.fixture(autouse=True)
def figures():
    """Draw without a screen, and close what was drawn."""
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")
    matplotlib.use(backend)


def small(**params):
    defaults = {"hidden_layer_sizes": (8,), "n_diffusion_steps": 4, "max_iter": 2}
    return DDVAETransformer(**{"prior": "pinwheel", "random_state": 3} | defaults | params)


@pytest.fixture(scope="module")
def model():
    return small().fit(X)


def texts(figure):
    """Return all that is written in a figure, drawn."""
    figure.canvas.draw()
    found = figure.findobj(matplotlib.text.Text)
    return [text.get_text() for text in found if text.get_visible() and text.get_text()]


def offsets(ax):
    """Return the points of each scatter of an axes."""
    kind = matplotlib.collections.PathCollection
    return [np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, kind)]


# ------------------------------------------------------------------------------ latent space


def test_latent_space_shows_the_embedding_by_class(model):
    display = LatentSpaceDisplay.from_estimator(model, X, Y)
    np.testing.assert_array_equal(display.embedding, model.transform(X))
    assert display.figure_ is display.ax_.figure
    shown = offsets(display.ax_)
    assert len(shown) == 7
    for code, points in enumerate(shown):
        np.testing.assert_allclose(points, display.embedding[code == Y])
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == [str(code) for code in range(7)]


def test_ask_displays_print_the_prior_and_the_seed(model):
    displays = [
        LatentSpaceDisplay.from_estimator(model, X),
        PosteriorDisplay.from_estimator(model, X),
        TrajectoryDisplay.from_estimator(model, X),
        DecodedGridDisplay.from_estimator(model, (3, 4)),
    ]
    for display in displays:
        assert "prior: pinwheel, random_state: 3" in texts(display.figure_)
    other = small(prior=PinwheelPrior(n_arms=3), random_state=np.random.RandomState(0)).fit(X)
    display = LatentSpaceDisplay.from_estimator(other, X)
    assert display.caption == "prior: pinwheel, random_state: RandomState"


@pytest.mark.parametrize("prior", ["normal", "pinwheel"])
def test_contours_hold_the_mass_that_they_say(prior):
    model = small(prior=prior).fit(X)
    contours = LatentSpaceDisplay.from_estimator(model, X).contours
    draws = model.prior_.sample(20_000, torch.Generator().manual_seed(1))
    log_density = model.prior_.log_prob(draws).numpy()
    shares = [(log_density > level).mean() for level in contours.levels]
    np.testing.assert_allclose(shares, [0.95, 0.5], atol=0.03)
    # The grid is a density: it integrates to one over a box that holds nearly all of it.
    cell = np.diff(contours.x)[0] * np.diff(contours.y)[0]
    assert np.exp(contours.log_density).sum() * cell == pytest.approx(1.0, abs=0.03)
    # A row of the grid is a value of y.
    point = torch.tensor([[contours.x[10], contours.y[120]]])
    expected = float(model.prior_.log_prob(point))
    assert contours.log_density[120, 10] == pytest.approx(expected, rel=1e-6)


def test_contours_of_classes_that_are_not_equally_frequent():
    y = (np.arange(70) % 10 == 0).astype(int)
    model = DDVAEClassifier(
        2,
        prior="gaussian_mixture",
        hidden_layer_sizes=(8,),
        n_diffusion_steps=2,
        max_iter=2,
        random_state=0,
    ).fit(X, y)
    contours = LatentSpaceDisplay.from_estimator(model, X).contours
    classes = np.random.default_rng(1).choice(2, size=20_000, p=model.class_prior_)
    generator = torch.Generator().manual_seed(1)
    draws = model.prior_.sample(20_000, generator, part=torch.from_numpy(classes))
    by_class = model.prior_.part_log_prob(draws).numpy() + np.log(model.class_prior_)
    log_density = np.logaddexp(*by_class.T)
    shares = [(log_density > level).mean() for level in contours.levels]
    np.testing.assert_allclose(shares, [0.95, 0.5], atol=0.03)


@pytest.mark.parametrize("n_classes", [2, 7, 10, 26, 60])
def test_classes_differ_in_colour_or_marker(n_classes):
    styles = [class_style(code, n_classes) for code in range(n_classes)]
    assert len(set(styles)) == n_classes
    rng = np.random.default_rng(0)
    labels = np.array([f"POP{code:02d}" for code in range(n_classes)]).repeat(3)
    display = LatentSpaceDisplay(rng.normal(size=(len(labels), 2)), labels=labels).plot()
    written = texts(display.figure_)
    for name in set(labels):
        assert written.count(name) == 2  # in the legend, and at the class's median
    legend = display.ax_.get_legend().get_window_extent()
    assert legend.x1 <= display.figure_.bbox.x1 + 1
    assert legend.y0 >= -1 and legend.y1 <= display.figure_.bbox.y1 + 1


def test_labels_of_other_kinds(model):
    quantity = LatentSpaceDisplay.from_estimator(model, X, np.linspace(0, 1, 70))
    assert len(quantity.figure_.axes) == 2  # with a colour bar
    mixed = np.array(["a", None, "b", np.nan, 3] * 14, dtype=object)
    shown = offsets(LatentSpaceDisplay.from_estimator(model, X, mixed).ax_)
    assert sum(map(len, shown)) == 70
    many = LatentSpaceDisplay.from_estimator(model, X, [f"r{row}" for row in range(70)])
    assert MAX_LEGEND < 70
    assert many.ax_.get_legend() is None
    plain = LatentSpaceDisplay.from_estimator(model, X, Y, legend=False, names=False, s=3)
    assert plain.ax_.get_legend() is None
    assert "1" not in [text.get_text() for text in plain.ax_.texts]
    for display in (LatentSpaceDisplay, TrajectoryDisplay):
        with pytest.raises(ValueError, match="found 3 entries and 70 rows"):
            display.from_estimator(model, X, [0, 1, 2])


def test_axes_of_the_user_are_drawn_on(model, figures):
    figure, axes = figures.subplots(1, 2, sharex=True, sharey=True)
    display = LatentSpaceDisplay.from_estimator(model, X, Y, ax=axes[1])
    assert display.ax_ is axes[1] and display.figure_ is figure
    assert display.plot(axes[0]) is display
    assert display.ax_ is axes[0]
    figure.canvas.draw()
    assert len(figures.get_fignums()) == 1


# ------------------------------------------------------------------------------ posterior, path


def test_posterior_shows_draws_of_the_rows(model):
    display = PosteriorDisplay.from_estimator(model, X, rows=[3, 60], n_samples=50)
    assert display.draws.shape == (50, 2, 2)
    expected = model.sample_posterior(X[[3, 60]], 50, random_state=0)
    np.testing.assert_array_equal(display.draws, expected)
    np.testing.assert_array_equal(display.embedding, model.transform(X))
    clouds = [points for points in offsets(display.ax_) if len(points) == 50]
    np.testing.assert_allclose(clouds, display.draws.swapaxes(0, 1))
    assert {"row 3", "row 60"} <= set(texts(display.figure_))
    assert PosteriorDisplay.from_estimator(model, X).rows.tolist() == [0, 14, 28, 41, 55, 69]
    with pytest.raises(IndexError):
        PosteriorDisplay.from_estimator(model, X, rows=[70])


def test_path_ends_where_the_posterior_draws(model):
    path = model._engine.sample_path(X, 5)
    assert path.shape == (5, 70, 2)
    np.testing.assert_array_equal(path[-1], model._engine.sample_posterior(X, 1, 5)[0])
    double = model._engine.model.double()
    posterior, condition = double.posterior, double.infer(torch.tensor(X))
    silence = torch.zeros(70, posterior.noise_size, dtype=torch.float64)
    with torch.no_grad():
        quiet = posterior.path(condition, silence)
        assert torch.equal(quiet[-1], posterior.mode(condition))
    model._engine.model.float()


def test_path_starts_as_noise_and_ends_as_latents():
    rows = np.random.default_rng(0).normal(size=(400, 2)) @ np.ones((2, 12))
    model = small(prior="normal", max_iter=40, n_diffusion_steps=8).fit(rows)
    path = model._engine.sample_path(rows, 0)
    latents = model.transform(rows)
    closeness = [np.corrcoef(step.ravel(), latents.ravel())[0, 1] for step in path]
    assert closeness[-1] > closeness[0] + 0.2
    assert closeness[-1] == max(closeness)


def test_trajectory_shows_the_steps_that_it_names(model):
    display = TrajectoryDisplay.from_estimator(model, X, Y, n_panels=3)
    assert display.steps_.tolist() == [4, 2, 0]
    np.testing.assert_array_equal(display.path, model._engine.sample_path(X, _seed_of(0)))
    for ax, index in zip(display.axes_, (0, 2, 4), strict=True):
        np.testing.assert_allclose(offsets(ax)[0], display.path[index][Y == 0])
    names = [ax.texts[0].get_text() for ax in display.axes_]
    assert names == ["$y_{4}$", "$y_{2}$", "$z$"]
    assert TrajectoryDisplay.from_estimator(model, X, n_panels=50).steps_.tolist() == [
        4,
        3,
        2,
        1,
        0,
    ]
    with pytest.raises(ValueError, match="n_panels must be at least 2, found 1"):
        TrajectoryDisplay.from_estimator(model, X, n_panels=1)
    with pytest.raises(ValueError, match="found n_diffusion_steps=0"):
        TrajectoryDisplay.from_estimator(small(n_diffusion_steps=0).fit(X), X)


def _seed_of(random_state):
    return int(np.random.RandomState(random_state).randint(np.iinfo(np.int32).max))


def test_trajectory_on_axes_of_the_user(model, figures):
    figure, axes = figures.subplots(1, 2)
    display = TrajectoryDisplay.from_estimator(model, X, Y, axes=axes)
    assert display.steps_.tolist() == [4, 0]
    assert display.figure_ is figure
    figure.canvas.draw()


# ------------------------------------------------------------------------------ grid, history


def test_decoded_grid_shows_the_decoder_where_it_says(model):
    display = DecodedGridDisplay.from_estimator(model, (3, 4), n_points=5, extent=(-1, 1, -2, 2))
    np.testing.assert_allclose(display.x, [-0.8, -0.4, 0.0, 0.4, 0.8], atol=1e-12)
    np.testing.assert_allclose(display.y, [-1.6, -0.8, 0.0, 0.8, 1.6], atol=1e-12)
    expected = model.inverse_transform([[0.4, -1.6]]).reshape(3, 4)
    np.testing.assert_allclose(display.images[0, 3], expected)
    # In the picture that tile is in the last row from above, within a margin of a pixel.
    image = display.ax_.images[0]
    mosaic = np.asarray(image.get_array())
    np.testing.assert_allclose(mosaic[-4:-1, 3 * 6 + 1 : 3 * 6 + 5], expected)
    np.testing.assert_allclose(image.get_extent(), [-1, 1, -2, 2])
    assert {"50% of the prior", "95% of the prior"} <= set(texts(display.figure_))
    colours = DecodedGridDisplay.from_estimator(model, (2, 2, 3), n_points=3)
    assert colours.ax_.images[0].get_array().shape == (12, 12, 3)
    with pytest.raises(ValueError, match=r"image_shape=\(5, 5\) has 25 pixels, .* 12 features"):
        DecodedGridDisplay.from_estimator(model, (5, 5))


def test_history_shows_every_term():
    model = small(early_stopping=True, max_iter=3).fit(X)
    display = HistoryDisplay.from_estimator(model)
    terms = {name for name in model.history_ if not name.startswith("validation_")}
    assert set(display.axes_) == terms
    for name, ax in display.axes_.items():
        lines = [line.get_ydata() for line in ax.lines]
        curves = np.reshape(model.history_[name], (3, -1)).T
        held_out = model.history_.get(f"validation_{name}")
        np.testing.assert_allclose(lines[: len(curves)], curves)
        n_held_out = 0 if held_out is None else len(curves)
        assert len(lines) == len(curves) + n_held_out
        if held_out is not None:
            np.testing.assert_allclose(lines[-n_held_out:], np.reshape(held_out, (3, -1)).T)
    assert "held out" in texts(display.figure_)
    assert len(display.axes_["kl_per_dimension"].lines) == 4


def test_history_on_a_figure_of_the_user(model, figures):
    figure = figures.figure()
    display = HistoryDisplay(model.history_).plot(figure)
    assert display.figure_ is figure
    figure.canvas.draw()


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "draw",
    [
        lambda model: LatentSpaceDisplay.from_estimator(model, X),
        lambda model: PosteriorDisplay.from_estimator(model, X),
        lambda model: TrajectoryDisplay.from_estimator(model, X),
        lambda model: DecodedGridDisplay.from_estimator(model, (3, 4)),
    ],
)
def test_displays_of_the_plane_need_a_plane(draw):
    solid = small(n_components=3, prior="normal", max_iter=1).fit(X)
    with pytest.raises(ValueError, match="Display needs n_components=2, found n_components=3"):
        draw(solid)
    with pytest.raises(NotFittedError):
        draw(small())
    with pytest.raises(TypeError, match=r"found Pipeline; .*pipeline\[:-1\]\.transform"):
        draw(make_pipeline(small()).fit(X))


def test_without_matplotlib_the_message_names_the_extra(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"matplotlib.*pip install 'skddvi\[plots\]'"):
        LatentSpaceDisplay.from_estimator(model, X)
    with pytest.raises(ImportError, match=r"pip install 'skddvi\[plots\]'"):
        HistoryDisplay.from_estimator(model)


# ------------------------------------------------------------------------------ cluster number


SCAN = ClusterNumberScan(
    n_clusters=np.array([2, 3, 4]),
    scores=np.array([[-9.0, -9.4], [-5.0, -5.2], [-5.1, -4.9]]),
    stability=np.array([[0.9], [1.0], [0.6]]),
    n_clusters_effective=np.array([[2, 2], [3, 3], [4, 4]]),
)


def test_cluster_numbers_show_bound_stability_and_the_best(figures):
    display = ClusterNumberDisplay.from_scan(SCAN)
    assert display.figure_ is display.ax_.figure
    np.testing.assert_allclose(display.ax_.lines[0].get_ydata(), [-9.2, -5.1, -5.0])
    np.testing.assert_allclose(display.stability_ax_.lines[0].get_ydata(), [0.9, 1.0, 0.6])
    low, high = display.ax_.collections[0].get_segments()[0][:, 1]
    np.testing.assert_allclose(high - low, 2 * np.std([-9.0, -9.4], ddof=1))
    (best,) = (line for line in display.ax_.lines if line.get_linestyle() == ":")
    assert list(best.get_xdata()) == [3, 3]
    legend = display.ax_.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["best: 3", "held-out bound", "stability"]
    assert legend.get_title().get_text() == "2 seeds, mean and sd"
    _, ax = figures.subplots()
    assert display.plot(ax).ax_ is ax


def test_cluster_numbers_of_a_clusterer_with_one_seed():
    model = DDVAEClusterer(n_diffusion_steps=0, hidden_layer_sizes=(8,), max_iter=2, init="kmeans")
    rows = np.concatenate([X, X + 9.0])
    display = ClusterNumberDisplay.from_estimator(model, rows, [1, 2], n_seeds=1)
    assert display.scan.scores.shape == (2, 1)
    assert not display.stability_ax_.lines
    assert display.ax_.get_legend().get_title().get_text() == "1 seed"


# ------------------------------------------------------------------------------ reliability


def test_reliability_shows_confidence_and_accuracy_of_each_bin(figures):
    probabilities = np.array(
        [[0.8, 0.1, 0.1]] * 4 + [[0.2, 0.6, 0.2]] * 2 + [[0.0, 0.0, 1.0]] * 3 + [[0.25, 0.35, 0.4]]
    )
    y = np.array(["a", "a", "a", "b"] + ["b", "c"] + ["c"] * 3 + ["a"])
    display = ReliabilityDisplay.from_predictions(y, probabilities, n_bins=5)
    # Bins [0.2, 0.4), ..., with 0.4, 0.6 and 0.8 at the start of theirs.
    assert display.counts.tolist() == [0, 0, 1, 2, 7]
    np.testing.assert_allclose(display.confidence[2:], [0.4, 0.6, (4 * 0.8 + 3) / 7])
    np.testing.assert_allclose(display.accuracy[2:], [0.0, 0.5, 6 / 7])
    assert np.isnan(display.accuracy[:2]).all()
    error = expected_calibration_error(y, probabilities, n_bins=5)
    assert display.expected_calibration_error == error
    assert error == pytest.approx((0.4 + 2 * 0.1 + abs(6 - 6.2)) / 10)
    points = display.ax_.lines[1].get_xydata()
    np.testing.assert_allclose(points[:, 1], [0.0, 0.5, 6 / 7])
    bars = [bar.get_height() for bar in display.ax_.patches]
    np.testing.assert_allclose(bars, [0.0, 0.0, 0.1, 0.2, 0.7])
    assert f"expected calibration error {error:.3f}" in texts(display.figure_)
    _, ax = figures.subplots()
    assert display.plot(ax, name="mine").ax_ is ax
    assert any(text.startswith("mine\n") for text in texts(ax.figure))


def test_reliability_of_any_classifier(model):
    classifier = DDVAEClassifier(hidden_layer_sizes=(8,), n_diffusion_steps=1, max_iter=2)
    for each in (classifier, make_pipeline(StandardScaler(), LogisticRegression())):
        each.fit(X, Y)
        display = ReliabilityDisplay.from_estimator(each, X, Y, n_bins=10)
        error = expected_calibration_error(Y, each.predict_proba(X), n_bins=10)
        assert display.expected_calibration_error == error
        assert display.counts.sum() == 70
        assert display.name == type(each).__name__
    with pytest.raises(TypeError, match="must have predict_proba, found DDVAETransformer"):
        ReliabilityDisplay.from_estimator(model, X, Y)
    with pytest.raises(NotFittedError):
        ReliabilityDisplay.from_estimator(DDVAEClassifier(), X, Y)
