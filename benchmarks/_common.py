"""The data and the methods that several benchmarks share."""

import time
import warnings
from pathlib import Path

import numpy as np
from _harness import rss_mib
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.model_selection import train_test_split

MNIST_HELP = """an .npz file with X_train, y_train, X_test, y_test, or Keras' mnist.npz with
x_train, ...: see the top of the file for how to get it"""
# Of this package; the others are peers.
ENGINE_METHODS = (
    "ddvae",
    "ddvae_path",
    "ddvae_neighbors",
    "ddvae_picture",
    "vae",
    "aae",
    "iaf",
)
# What does for a picture of many rows, few epochs at a higher rate: the regulariser starts from a
# layout.
PICTURE = {"sleep": "off", "max_iter": 10, "learning_rate_init": 0.005}


def load_mnist(path):
    """Return X_train, y_train, X_test, y_test; rows of 784 float32 grey levels in [0, 1]."""
    with np.load(path, allow_pickle=False) as file:
        x = "X" if "X_train" in file.files else "x"
        arrays = [file[key] for key in (f"{x}_train", "y_train", f"{x}_test", "y_test")]
    for i in (0, 2):
        arrays[i] = arrays[i].reshape(len(arrays[i]), -1).astype(np.float32)
        arrays[i] /= 255.0
    return arrays


def load_images(settings):
    """Return X_train, X_test, y_train, y_test, of the sizes ``n_train`` and ``n_test`` at most.

    Those of MNIST, or without ``data`` scikit-learn's digits; grey levels in [0, 1].
    """
    if settings["data"] is None:
        X, y = load_digits(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(
            X / 16.0, y, test_size=0.3, stratify=y, random_state=0
        )
    else:
        X_train, y_train, X_test, y_test = load_mnist(settings["data"])
    train, test = slice(settings["n_train"]), slice(settings["n_test"])
    return X_train[train], X_test[test], y_train[train], y_test[test]


def load_counts(path):
    """Return counts (n, p), library sizes (n,) and classes (n,)."""
    with np.load(path, allow_pickle=False) as file:
        return file["X"].astype(np.float32), file["library_size"], file["y"]


def log_counts(counts, size, median):
    """Return log(1 + counts), each row scaled from its library size (n,) to the median one."""
    return np.log1p(counts * (median / size)[:, None])


def make_estimator(method, seed, **params):
    """Return an unfitted two-dimensional reducer; `params` are for the methods of this package."""
    if method == "pca":
        return PCA(n_components=2, random_state=seed)
    if method == "tsne":
        return TSNE(random_state=seed)
    if method == "umap":
        from umap import UMAP

        return UMAP(random_state=seed)
    if method in ENGINE_METHODS:
        from skddvi import DDVAETransformer, baselines
        from skddvi.regularizers import NeighborhoodPreservation

        if method == "ddvae_picture":
            params = {**PICTURE, **params}
        if method == "ddvae_path":
            params = {"n_refinements": 0, "n_map_steps": 0, **params}
        if method in ("ddvae_neighbors", "ddvae_picture"):
            params = {"regularizer": NeighborhoodPreservation(), **params}
        models = {
            "ddvae": DDVAETransformer,
            "ddvae_path": DDVAETransformer,
            "ddvae_neighbors": DDVAETransformer,
            "ddvae_picture": DDVAETransformer,
            "vae": baselines.GaussianVAE,
            "aae": baselines.AdversarialAutoencoder,
            "iaf": baselines.InverseAutoregressiveFlowVAE,
        }
        return models[method](random_state=seed, **params)
    raise ValueError(f"method={method!r} is unknown")


def timed(function, *args):
    """Return the value of a call and its wall-clock seconds."""
    start = time.perf_counter()
    value = function(*args)
    return value, time.perf_counter() - start


def timed_fit(model, X):
    """Fit and return the wall clock's and the processor's seconds, and the number of epochs."""
    start = time.process_time()
    _, fit_seconds = timed(model.fit, X)
    return {
        "fit_seconds": fit_seconds,
        "fit_cpu_seconds": time.process_time() - start,
        "n_iter": model.n_iter_,
    }


def fitted_to_images(X_train, seed, settings, **params):
    """Return a DD-VAE with the bernoulli likelihood fitted for ``max_iter`` epochs, and its costs.

    The latter are those of `timed_fit`, after the process has been made ready.
    """
    model = make_estimator(
        "ddvae", seed, likelihood="bernoulli", max_iter=settings["max_iter"], **params
    )
    first_use_seconds("ddvae", X_train)
    return model, timed_fit(model, X_train)


def add_embeddings_option(parser):
    """Let a benchmark be asked to keep its embeddings for a figure."""
    parser.add_argument(
        "--embeddings", metavar="FOLDER", help="keep the embeddings of the cells that are run"
    )


def embedding_path(folder, method, seed):
    """Return the file of a cell's embedding ``Z`` (n, 2) and classes ``y``."""
    return Path(folder) / f"{method.replace(' ', '-')}-{seed}.npz"


def save_embedding(folder, method, seed, Z, y):
    """Keep a cell's embedding in a folder; None keeps nothing."""
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        np.savez_compressed(embedding_path(folder, method, seed), Z=Z, y=y)


def first_use_seconds(method, X_train, X_test=None):
    """Make the process ready for a method, with few rows, and return how long that took."""
    if method in ENGINE_METHODS:
        few = np.random.default_rng(0).normal(size=(32, 2))
        return timed(make_estimator(method, 0, max_iter=1).fit, few)[1]
    if method != "umap":
        return 0.0
    # From 4,096 rows on UMAP looks for neighbours in another way, which it compiles apart.
    few = X_train[: 64 if len(X_train) < 4096 else 4096]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        umap, seconds = timed(make_estimator("umap", 0).fit, few)
        return seconds + (0.0 if X_test is None else timed(umap.transform, X_test[:64])[1])


def embed(method, X_train, X_test, seed, **params):
    """Fit on training rows, embed both parts, and take the times.

    t-SNE has no transform: it is fitted on all rows at once. What a method pays once in a process
    is done before, on few rows, and counted apart as ``first_use_seconds`` (UMAP compiles itself,
    torch imports much of itself on its first gradient step).

    Parameters
    ----------
    method : {"pca", "tsne", "umap", "ddvae", "ddvae_neighbors", "ddvae_picture"}
    X_train, X_test : ndarray of shape (n, p)
    seed : int
    **params
        For the DD-VAE.

    Returns
    -------
    values : dict
        ``fit_seconds``, ``transform_seconds``, ``rss_before_mib`` (resident memory with the data,
        before the fit), ``first_use_seconds``, ``n_iter``.
    train, test : ndarray of shape (n, 2)
    estimator : object
        Fitted.
    """
    estimator = make_estimator(method, seed, **params)
    values = {"first_use_seconds": first_use_seconds(method, X_train, X_test)}
    with warnings.catch_warnings():
        if method == "umap":
            warnings.simplefilter("ignore")
        values["rss_before_mib"] = rss_mib()
        if method == "tsne":
            X = np.concatenate([X_train, X_test])
            embedding, values["fit_seconds"] = timed(estimator.fit_transform, X)
            train, test = np.split(embedding, [len(X_train)])
            return values, train, test, estimator
        _, values["fit_seconds"] = timed(estimator.fit, X_train)
        test, values["transform_seconds"] = timed(estimator.transform, X_test)
    train = estimator.embedding_ if method == "umap" else estimator.transform(X_train)
    if method in ENGINE_METHODS:
        values["n_iter"] = estimator.n_iter_
    return values, train, test, estimator


def embed_all(method, X, seed, **params):
    """Fit on all rows and embed them; no row is held out.

    Parameters
    ----------
    method : str
    X : ndarray of shape (n, p)
    seed : int
    **params
        For the methods of this package.

    Returns
    -------
    values : dict
        ``first_use_seconds`` as of `embed`, ``fit_seconds``, and for the methods of this package
        ``n_iter`` and ``bound``, that of these rows; adversarial autoencoders have none.
    embedding : ndarray of shape (n, 2)
    """
    estimator = make_estimator(method, seed, **params)
    values = {"first_use_seconds": first_use_seconds(method, X)}
    with warnings.catch_warnings():
        if method == "umap":
            warnings.simplefilter("ignore")  # it says that a seed costs it its threads
        embedding, values["fit_seconds"] = timed(estimator.fit_transform, X)
    if method in ENGINE_METHODS:
        values["n_iter"] = estimator.n_iter_
        values["bound"] = None if method == "aae" else float(estimator.score(X))
    return values, embedding
