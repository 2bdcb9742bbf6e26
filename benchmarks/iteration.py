"""Cost of a training iteration: transformer, clusterer and classifier, on the same MNIST rows.

All with the same networks, latent dimensions, batches and bernoulli likelihood; 10 classes or
clusters, 10 labels a class. The steps are timed by a regulariser that returns zero and looks at the
clock. A row without a label costs a sum over classes, whose small terms are thinned out, so a step
gets cheaper while the classifier learns; the median is over all steps but the first ten, of fits
that go over the rows ``--max-iter`` times (default: 4), without pretraining. A transformer is
fitted before and after each model in the same process, and the ratio is to the median of its steps.
``floor`` is what a transformer's step cannot do without: the matrix products of its layers and of
their gradients, in the same precision, one after the other.

The data: as for ``mnist.py``. Run as::

    OMP_NUM_THREADS=1 python benchmarks/iteration.py --data path/mnist.npz
"""

import math
import sys
import time

import numpy as np
import torch
from _common import MNIST_HELP, load_mnist
from _harness import benchmark_parser, parse, report, run_cells
from few_labels import few_labels

from skddvi import DDVAEClassifier, DDVAEClusterer, DDVAETransformer

METHODS = ("floor", "transformer", "clusterer", "classifier", "classifier with consistency")
COLUMNS = {
    "step_ms": ("step ms", ".1f"),
    "quartile_1": ("1st quartile", ".1f"),
    "quartile_3": ("3rd quartile", ".1f"),
    "ratio": ("ratio", ".2f"),
    "last_ratio": ("in the last epoch", ".2f"),
    "pairs": ("pairs a row", ".2f"),
}
N_COMPONENTS, N_WARM_STEPS = 16, 10


class Clock:
    """Regulariser that changes nothing and keeps the time of every step."""

    name, weight = "clock", 0.0

    def __init__(self):
        self.times = []

    def __call__(self, z, rows):
        """Return zero."""
        self.times.append(time.perf_counter())
        return z.sum() * 0.0

    def __deepcopy__(self, memo):
        """Return itself, so that what a copy sees is seen here."""
        return self


def floor_times(X, n_steps, batch_size, seed):
    """Return milliseconds of the matrix products alone, once for every step."""
    model = DDVAETransformer(
        N_COMPONENTS,
        likelihood="bernoulli",
        n_input_components=None,  # as with all of the rows
        batch_size=batch_size,
        max_iter=1,
        random_state=seed,
    ).fit(X[: 2 * batch_size])
    parts = model._engine.model
    precise, rounded = torch.float32, torch.float32
    if model._uses_bfloat16(model._engine, X.shape[1]):
        rounded = torch.bfloat16
    products = []
    for network, n_rows in (
        (parts.posterior.body, 2 * batch_size),  # rows and dreams
        (parts.posterior.head, 2 * batch_size),
        (parts.decoder, batch_size),
        *[(parts.posterior.denoiser, batch_size)] * model.n_diffusion_steps,
        (parts.posterior.denoiser, 2 * batch_size),  # the sleep term's two steps of each dream
    ):
        for layer in (each for each in network.modules() if isinstance(each, torch.nn.Linear)):
            n_out, n_in = layer.weight.shape
            dtype = precise if network is parts.posterior.denoiser else rounded
            # Forward, and the gradients of weights and inputs; the rows themselves need none.
            shapes = (n_rows, n_in, n_out), (n_out, n_rows, n_in), (n_rows, n_out, n_in)
            products += [(*shape, dtype) for shape in shapes]
            if layer is next(iter(parts.posterior.body)):
                products.pop()
            if network is parts.decoder:  # dreams are decoded without gradient
                products.append((n_rows, n_in, n_out, dtype))
    pairs = [
        (torch.ones(m, k, dtype=dtype), torch.ones(k, n, dtype=dtype))
        for m, k, n, dtype in products
    ]
    times = [time.perf_counter()]
    for _ in range(n_steps):
        for one, other in pairs:
            one @ other
        times.append(time.perf_counter())
    return 1000.0 * np.diff(times)


def step_times(method, X, y, epochs, batch_size, seed):
    """Return milliseconds of every step, and pairs of row and class a row."""
    if method == "floor":
        n_steps = epochs * math.ceil(len(X) / batch_size)
        return floor_times(X, n_steps, batch_size, seed), 1.0
    clock = Clock()
    common = {
        "likelihood": "bernoulli",
        "regularizer": clock,
        "batch_size": batch_size,
        "max_iter": epochs,
        "random_state": seed,
    }
    if method == "transformer":
        model = DDVAETransformer(N_COMPONENTS, **common).fit(X)
    elif method == "clusterer":
        common["n_components"] = N_COMPONENTS
        model = DDVAEClusterer(10, pretraining=0.0, **common).fit(X)
    else:
        given = np.full(len(y), -1)
        labelled, _ = few_labels(y, 10, 0, seed)
        given[labelled] = y[labelled]
        weight = 10.0 if "consistency" in method else 0.0
        model = DDVAEClassifier(
            N_COMPONENTS, pretraining=0.0, consistency_weight=weight, **common
        ).fit(X, given)
    pairs = float(np.mean(model.history_.get("pairs", [1.0])))
    return 1000.0 * np.diff(clock.times), pairs


def cell(method, seed, settings):
    X, y, _, _ = load_mnist(settings["data"])
    X, y = X[: settings["n_train"]], y[: settings["n_train"]]
    args = X, y, settings["epochs"], settings["batch_size"], seed
    before, _ = step_times("transformer", *args)
    times, pairs = step_times(method, *args)
    after, _ = step_times("transformer", *args)
    beside = np.concatenate([before[N_WARM_STEPS:], after[N_WARM_STEPS:]])
    times = times[N_WARM_STEPS:]
    n_batches = math.ceil(len(X) / settings["batch_size"])
    return {
        "step_ms": np.median(times),
        "quartile_1": np.quantile(times, 0.25),
        "quartile_3": np.quantile(times, 0.75),
        "ratio": np.median(times) / np.median(beside),
        "last_ratio": np.median(times[-n_batches:]) / np.median(beside),
        "pairs": pairs,
    }


def main(argv=None):
    parser = benchmark_parser(__doc__, methods=METHODS, seeds=3, data=MNIST_HELP)
    args = parse(parser, "iteration", argv)
    settings = {
        "data": args.data,
        "n_train": 1000 if args.quick else 10_240,
        "epochs": args.max_iter or 4,
        "batch_size": 100 if args.quick else 512,
    }
    cells = [(method, seed) for seed in range(args.seeds) for method in args.methods]
    record = run_cells(cell, cells, settings, args.out)
    return report(record, COLUMNS, args.methods)


if __name__ == "__main__":
    sys.exit(main())
