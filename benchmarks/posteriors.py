"""DDVI beside its rivals: prior x posterior on MNIST, everything else the same.

All posteriors have the same encoder and decoder, optimiser and number of epochs, which is that of
``max_iter="auto"`` for so many rows, and their default arguments otherwise (the adversarial ones
have a learning rate and batches of their own), but latent diffusion has a process of small noise,
with which it does better; `skddvi.baselines` says what each is. The two named ``_coverage`` have
`skddvi.regularizers.PriorCoverage`; the DD-VAE without it is one with ``regularizer=None``, since
under the curved priors it is the default. Bernoulli likelihood of grey levels in [0, 1], two latent
dimensions. Figures on test rows:

- lower bound on the log-likelihood in nats per row, and the tighter bound of 500 importance samples
  on the first 200 rows; adversarial autoencoders have none;
- latent negative log-likelihood: minus the mean log-density of draws from the prior under a kernel
  density estimate of the embeddings, low when the embeddings cover the prior; its best value is
  that of draws from the prior in place of embeddings, ``floor``;
- accuracy of 20-nearest-neighbour classification of test embeddings given training embeddings;
- squared maximum mean discrepancy, times 1,000, between test rows and decoded draws from the prior
  (the means of p(x|z), since the grey levels are read as means), at the same bandwidth for all: the
  median distance between test rows;
- processor time of the fit in seconds, beside the wall clock's in the JSON file.

The data: as for ``mnist.py``; without --data the 8 x 8 digits of scikit-learn. Run as::

    OMP_NUM_THREADS=1 python benchmarks/posteriors.py --data path/mnist.npz --seeds 5
    ... --priors pinwheel,square --posteriors vae,iaf,ddvae --n-train 8000 --max-iter 30

With ``--embeddings FOLDER`` the test embeddings are kept for ``posteriors_figure.py``, which draws
them side by side.
"""

import sys
from functools import partial

import numpy as np
from _common import (
    MNIST_HELP,
    add_embeddings_option,
    first_use_seconds,
    load_images,
    save_embedding,
    timed_fit,
)
from _harness import benchmark_parser, parse, parse_list, report, run_cells
from _metrics import bounds, latent_fit, prior_draws
from scipy.spatial.distance import pdist

from skddvi import DDVAETransformer, baselines
from skddvi.metrics import knn_accuracy, maximum_mean_discrepancy
from skddvi.regularizers import PriorCoverage

PRIORS = ("normal", "pinwheel", "swiss_roll", "square")
# Nothing that the other posteriors have not, also of a few rows.
ALIKE = {"n_refinements": 0, "n_map_steps": 0}
POSTERIORS = {
    "vae": (baselines.GaussianVAE, {}),
    "vae_coverage": (baselines.GaussianVAE, {"regularizer": PriorCoverage()}),
    "iwae": (baselines.IWAE, {}),
    "iaf": (baselines.InverseAutoregressiveFlowVAE, {}),
    "hierarchical": (baselines.HierarchicalVAE, {}),
    "aae_gan": (baselines.AdversarialAutoencoder, {"critic": "gan"}),
    "aae_wgan": (baselines.AdversarialAutoencoder, {"critic": "wasserstein"}),
    # Its chain lets something of the row through only where the noise is small.
    "latent_diffusion": (baselines.UnconditionalLatentDiffusion, {"noising": [0.05] * 8}),
    "ddvae": (DDVAETransformer, {"regularizer": None, **ALIKE}),
    "ddvae_coverage": (DDVAETransformer, {"regularizer": PriorCoverage(), **ALIKE}),
}
COLUMNS = {
    "fit_cpu_seconds": ("fit s", ".1f"),
    "n_iter": ("epochs", ".0f"),
    "bound": ("bound", ".2f"),
    "bound_k500": ("bound, K=500", ".2f"),
    "latent_nll": ("latent NLL", ".3f"),
    "latent_nll_floor": ("floor", ".3f"),
    "knn_accuracy": ("20-NN accuracy", ".3f"),
    "mmd": ("1000 MMD²", ".2f"),
}


def cell(method, seed, settings, embeddings=None):
    prior, posterior = method.split(" ")
    X_train, X_test, y_train, y_test = load_images(settings)
    estimator, params = POSTERIORS[posterior]
    model = estimator(
        prior=prior,
        likelihood="bernoulli",
        max_iter=settings["max_iter"],
        random_state=seed,
        **params,
    )
    first_use_seconds("ddvae", X_train)
    values = timed_fit(model, X_train)
    test = model.transform(X_test)
    few = X_test[: settings["n_mmd_rows"]]
    decoded = model.inverse_transform(prior_draws(prior, len(few), seed))
    bandwidth = float(np.median(pdist(few[:1000])))
    values |= {
        **latent_fit(test, prior, settings["n_prior_draws"], seed),
        "knn_accuracy": knn_accuracy(model.transform(X_train), y_train, test, y_test),
        "mmd": 1000 * maximum_mean_discrepancy(few, decoded, bandwidth=bandwidth),
        "reconstruction": model.history_["reconstruction"][-1],
    }
    if estimator is baselines.AdversarialAutoencoder:
        values |= {"bound": None, "bound_k500": None}
    else:
        values |= bounds(model, X_test, settings["n_importance_rows"])
    save_embedding(embeddings, method, seed, test, y_test)
    return values


def main(argv=None):
    parser = benchmark_parser(__doc__, seeds=5, data=MNIST_HELP, data_required=False)
    parser.add_argument("--priors", metavar="LIST", help=f"default: {','.join(PRIORS)}")
    parser.add_argument("--posteriors", metavar="LIST", help=f"default: {','.join(POSTERIORS)}")
    parser.add_argument("--n-train", type=int, metavar="N", help="first N rows (default: 60000)")
    parser.add_argument("--n-test", type=int, metavar="N", help="first N rows (default: 10000)")
    add_embeddings_option(parser)
    args = parse(parser, "posteriors", argv)
    priors = parse_list(
        parser, "--priors", args.priors or ("pinwheel" if args.quick else None), PRIORS
    )
    posteriors = parse_list(parser, "--posteriors", args.posteriors, POSTERIORS)
    settings = {
        "data": args.data,
        "n_train": args.n_train or (300 if args.quick else 60_000),
        "n_test": args.n_test or (100 if args.quick else 10_000),
        "n_importance_rows": 10 if args.quick else 200,
        "n_prior_draws": 200 if args.quick else 10_000,
        "n_mmd_rows": 100 if args.quick else 5000,
        "max_iter": args.max_iter or "auto",
    }
    names = [f"{prior} {posterior}" for prior in priors for posterior in posteriors]
    cells = [(name, seed) for seed in range(args.seeds) for name in names]
    record = run_cells(partial(cell, embeddings=args.embeddings), cells, settings, args.out)
    return report(record, COLUMNS, names)


if __name__ == "__main__":
    sys.exit(main())
