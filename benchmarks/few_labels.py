"""Few labels, many rows: DDVAEClassifier beside LabelSpreading, self-training and labels alone.

Every seed draws its own labelled rows, the same number for each class; all other training rows are
given without a label. Peers: logistic regression on the labelled rows alone, the same in a
SelfTrainingClassifier, and LabelSpreading with 7 neighbours. The DD-VAE is also fitted with fewer
unlabelled rows (``--curve``): the difference is what they are worth. Nothing is tuned on labels.
Accuracy, and the expected calibration error in 15 bins, are those

- of ``--task mnist``: on the 10,000 test rows, with 10 or 100 labels a class (``--labels``). Grey
  levels are divided by 255; bernoulli likelihood, and the consistency term. For the data see
  benchmarks/mnist.py;
- of ``--task ancestry``: on the training rows without a label, with 3 labels for each of 26
  populations. The rows are principal components on their natural scale, for the peers divided by
  one number, their standard deviation. For the data see benchmarks/ancestry.py.

Run as::

    OMP_NUM_THREADS=2 python benchmarks/few_labels.py --task mnist --data path/mnist.npz
    OMP_NUM_THREADS=1 python benchmarks/few_labels.py --task ancestry --data path/components.npz
"""

import sys
import warnings

import numpy as np
from _common import load_mnist, timed
from _harness import benchmark_parser, parse, report, run_cells
from ancestry import load_components
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from skddvi.metrics import expected_calibration_error

METHODS = ("labels_only", "self_training", "label_spreading", "ddvae")
N_LABELS = {"mnist": 10, "ancestry": 3}
COLUMNS = {
    "n_unlabeled": ("unlabelled", ".0f"),
    "fit_seconds": ("fit s", ".1f"),
    "accuracy": ("accuracy", ".4f"),
    "calibration_error": ("ECE", ".4f"),
}


def few_labels(y, n_a_class, n_unlabeled, seed):
    """Return ``n_a_class`` rows of each class, and as many others as asked (None: all)."""
    order = np.random.default_rng(seed).permutation(len(y))
    labelled = np.concatenate([order[y[order] == label][:n_a_class] for label in np.unique(y)])
    others = order[~np.isin(order, labelled)]
    return labelled, others[:n_unlabeled]


def make_classifier(method, seed, **params):
    """Return an unfitted classifier; `params` are for the DD-VAE."""
    logistic = LogisticRegression(max_iter=2000)
    if method == "labels_only":
        return logistic
    if method == "self_training":
        return SelfTrainingClassifier(logistic)
    if method == "label_spreading":
        return LabelSpreading(kernel="knn", n_neighbors=7)
    from skddvi import DDVAEClassifier

    return DDVAEClassifier(random_state=seed, **params)


def load(settings):
    """Return training rows and labels, and test rows and labels (None: those without a label)."""
    if settings["task"] == "ancestry":
        X, y = load_components(settings["data"])
        return X, y.astype(int), None, None
    X, y, X_test, y_test = load_mnist(settings["data"])
    X, y = X[: settings["n_train"]], y[: settings["n_train"]].astype(int)
    return X, y, X_test[: settings["n_test"]], y_test[: settings["n_test"]].astype(int)


def cell(method, seed, settings):
    name, _, n_unlabeled = method.partition(":")
    X, y, X_test, y_test = load(settings)
    if name != "ddvae":
        X = X / (X.std() if settings["task"] == "ancestry" else 1.0)
    n_unlabeled = int(n_unlabeled) if n_unlabeled else None
    labelled, others = few_labels(y, settings["n_labels"], n_unlabeled, seed)
    if X_test is None:
        held_out = few_labels(y, settings["n_labels"], None, seed)[1]
        X_test, y_test = X[held_out], y[held_out]
    rows = labelled if name == "labels_only" else np.concatenate([labelled, others])
    given = np.full(len(rows), -1)
    given[: len(labelled)] = y[labelled]
    images = {"likelihood": "bernoulli", "consistency_weight": 10.0}
    params = images if settings["task"] == "mnist" else {}
    model = make_classifier(name, seed, **params, **settings["ddvae"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, fit_seconds = timed(model.fit, X[rows], given)
        p = model.predict_proba(X_test)
    # LabelSpreading has nothing to say of rows that no label reaches.
    p = np.where(np.isnan(p), 1.0 / len(model.classes_), p)
    values = {
        "n_unlabeled": len(rows) - len(labelled),
        "fit_seconds": fit_seconds,
        "accuracy": float((model.classes_[p.argmax(axis=1)] == y_test).mean()),
        "calibration_error": expected_calibration_error(y_test, p, labels=model.classes_),
    }
    if name == "ddvae":
        values["pairs"] = float(np.mean(model.history_["pairs"]))
        values["n_iter"] = model.n_iter_
    return values


def main(argv=None):
    data = "an .npz file: MNIST, or X, eigenvalues and y of the principal components"
    parser = benchmark_parser(__doc__, methods=METHODS, data=data)
    parser.add_argument("--task", choices=tuple(N_LABELS), required=True)
    parser.add_argument("--labels", type=int, metavar="N", help="of each class (default: 10 or 3)")
    parser.add_argument("--n-train", type=int, metavar="N", help="first N rows of MNIST")
    parser.add_argument(
        "--curve", default="", metavar="LIST", help="further fits with so many unlabelled rows"
    )
    known = parser.parse_known_args(argv)[0]
    n_labels = known.labels or N_LABELS[known.task]
    args = parse(parser, f"few_labels_{known.task}_{n_labels}", argv)
    images = args.task == "mnist"  # of the people all are used, those without a label to test
    settings = {
        "task": args.task,
        "data": args.data,
        "n_labels": n_labels,
        "n_train": args.n_train or (1000 if args.quick else 60_000) if images else None,
        "n_test": (500 if args.quick else 10_000) if images else None,
        "ddvae": {} if args.max_iter is None else {"max_iter": args.max_iter},
    }
    curve = [f"ddvae:{int(n)}" for n in args.curve.split(",") if n and "ddvae" in args.methods]
    methods = [*args.methods, *curve]
    cells = [(method, seed) for seed in range(args.seeds) for method in methods]
    record = run_cells(cell, cells, settings, args.out)
    return report(record, COLUMNS, methods)


if __name__ == "__main__":
    sys.exit(main())
