"""The engine as the estimators see it: arrays in, arrays out, torch inside.

This is the narrow seam between scikit-learn and torch. An estimator validates and names things; it
never touches a tensor.
"""

import copy
import math

import numpy as np
import torch

from .device import resolve_device, with_gradients
from .memory import tells_of_memory
from .model import build_model, load_weights, network_weights
from .objective import bound_terms, importance_weighted_bound
from .rows import Rows
from .trainer import CHUNK_ROWS, train

# Noise for the scores is the same in every model and session, so that scores can be compared.
SCORE_SEED = 20240102
# Bytes of decoder output held at once where several draws are decoded for each row.
DRAW_BYTES = 2**26


class Engine:
    """A latent-variable model with what it takes to train it and to ask it.

    Every method takes and gives numpy arrays; ``X`` may be a CSR matrix. Results have the dtype of
    the input and are computed in it.

    Parameters
    ----------
    prior : Prior
    likelihood : Likelihood
        Fitted to the training rows.
    noise_schedule : tuple or None
        See :func:`build_model`.
    hidden_layer_sizes : sequence of int
    denoiser_width : int
    activation : str
    device : str
    seed : int
    posterior : (str, dict) or None
        See :func:`build_model`.
    projection : ndarray of shape (k, p) or None
        What turns a row, as the likelihood prepares it, into what the encoder sees; None for all
        features.
    encoder, decoder : callable or None
        See :func:`build_model`.
    n_refinements, n_map_steps : int
        See :func:`build_model`.
    """

    def __init__(
        self,
        prior,
        likelihood,
        noise_schedule,
        *,
        hidden_layer_sizes,
        denoiser_width,
        activation,
        device,
        seed,
        posterior=None,
        projection=None,
        encoder=None,
        decoder=None,
        n_refinements=0,
        n_map_steps=0,
    ):
        self.device = resolve_device(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.build = {
            "noise_schedule": noise_schedule,
            "hidden_layer_sizes": hidden_layer_sizes,
            "denoiser_width": denoiser_width,
            "activation": activation,
            "posterior": posterior,
            "n_input_components": None if projection is None else len(projection),
            "n_refinements": n_refinements,
            "n_map_steps": n_map_steps,
        }
        self.networks = {"encoder": encoder, "decoder": decoder}
        options = self.build | self.networks
        model = build_model(prior, likelihood, generator=self.generator, **options)
        if projection is not None:
            model.posterior.body[0].weight.copy_(torch.from_numpy(projection))
        # In single precision, whatever torch's default dtype is.
        self.model = self._extended(model).to(self.device, torch.float32)

    def _extended(self, model):
        """Return the untrained model with what another kind of engine adds to it."""
        return model

    def __getstate__(self):
        """Keep CPU tensors only, so that a model trained on a GPU opens anywhere."""
        state = self.__dict__.copy()
        if self.device.type != "cpu":
            state["model"] = copy.deepcopy(self.model).cpu()
            state["device"] = torch.device("cpu")
        # A torch generator cannot be pickled before torch 2.9; its state always can.
        state["generator"] = self.generator.get_state()
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.generator = torch.Generator()
        self.generator.set_state(state["generator"])

    def contents(self):
        """Return what :meth:`from_contents` makes an equal engine of.

        Returns
        -------
        contents : dict
            The prior, the likelihood, arguments of the build, and arrays. The factories of users'
            networks are not among them.
        """
        weights = network_weights(self.model)
        return {
            "prior": self.model.prior,
            "likelihood": self.model.likelihood,
            "build": self.build,
            "weights": {name: value.cpu().numpy() for name, value in weights.items()},
            "generator": self.generator.get_state().numpy(),
        }

    @classmethod
    def from_contents(
        cls, *, prior, likelihood, build, weights, generator, encoder=None, decoder=None, **own
    ):
        """Return the engine of the given contents, on the CPU; ``own`` are a subclass's."""
        engine = cls.__new__(cls)
        vars(engine).update(own, generator=None)
        engine.build, engine.networks = build, {"encoder": encoder, "decoder": decoder}
        engine.device = torch.device("cpu")
        with torch.device("meta"):
            options = build | engine.networks
            model = engine._extended(build_model(prior, likelihood, generator=None, **options))
        engine.model = load_weights(model, {k: torch.tensor(v) for k, v in weights.items()})
        engine.generator = torch.Generator()
        engine.generator.set_state(torch.tensor(generator))
        return engine

    @with_gradients()
    def move_to(self, device):
        """Put the model on the device of that name."""
        self.device = resolve_device(device)
        self.model.to(self.device)

    @property
    def output_width(self):
        """Width of what the decoder's last layer is put on; None for a decoder of the user's."""
        output = getattr(self.model.decoder, "output", None)
        return None if output is None else output.in_features

    @property
    def n_units(self):
        """Units of the widest linear layer of encoder and decoder, 0 where there is none."""
        networks = self.model.posterior.body, self.model.decoder
        layers = (layer for network in networks for layer in network.modules())
        return max((x.out_features for x in layers if isinstance(x, torch.nn.Linear)), default=0)

    def fit(self, X, schedule, *, X_val=None, on_epoch=None, make_loop=None, checkpoint=None):
        """Train on the rows of X and return the history, a dict of lists; see :func:`train`."""
        validation_rows = None if X_val is None else Rows(X_val, self.device)
        generator = self.generator
        if self.device.type != "cpu":
            generator = torch.Generator(self.device)
            generator.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
        with self.model.in_training():
            return train(
                self.model,
                Rows(X, self.device),
                schedule,
                generator=generator,
                validation_rows=validation_rows,
                on_epoch=on_epoch,
                make_loop=make_loop,
                checkpoint=checkpoint,
            )

    def embed(self, X):
        """Return the noise-free latents of the rows of X, or where they climb to, (n, d)."""
        # A climb compares sums of many terms, too large for the digits of single precision.
        dtype = np.float64 if self.model.n_map_steps > 0 else X.dtype
        return self._by_chunk(X, self._model_in(dtype).place)

    def sample_posterior(self, X, n_samples, seed):
        """Return latents drawn from q(z|x), (n_samples, n, d)."""
        model = self._model_in(X.dtype)
        generator = torch.Generator().manual_seed(seed)

        def draw(x):
            shape = n_samples, len(x), model.posterior.noise_size
            # Drawn in float64, so that a seed gives the same latents for rows of any dtype.
            noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(x)
            return model.posterior.draw(model.infer(x), noise).z.transpose(0, 1)

        chunk = DRAW_BYTES // (8 * n_samples * model.posterior.noise_size)
        chunk = max(1, min(CHUNK_ROWS, chunk))
        return self._by_chunk(X, draw, chunk).swapaxes(0, 1)

    def sample_path(self, X, seed):
        """Return a drawn path y_T, ..., y_1, z of each row of X, (T + 1, n, d)."""
        model = self._model_in(X.dtype)
        generator = torch.Generator().manual_seed(seed)

        def draw(x):
            shape = len(x), model.posterior.noise_size
            noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(x)
            return model.posterior.path(model.infer(x), noise).transpose(0, 1)

        return self._by_chunk(X, draw).swapaxes(0, 1)

    def decode(self, Z, chunk=CHUNK_ROWS):
        """Return the expected rows of latents Z, (n, p), in the units of X."""
        model = self._model_in(Z.dtype)
        return self._by_chunk(Z, lambda z: model.likelihood.mean(model.decoder(z)), chunk)

    def responsibilities(self, X, n_draws):
        """Return the probability of each part of the prior given each row of X, (n, n_parts).

        Equation (14): the mean of p(k|z) over draws from q(z|x), whose noise is one fixed array for
        every row.
        """
        model = self._model_in(X.dtype)
        noise = _score_noise(n_draws, model.posterior.noise_size)

        def average(x):
            draws = noise.to(device=x.device, dtype=x.dtype)[:, None, :].expand(-1, len(x), -1)
            z = model.posterior.draw(model.infer(x), draws).z
            return model.prior.responsibilities(z).mean(0)

        width = max(model.posterior.noise_size, model.prior.n_parts * model.prior.n_components)
        chunk = max(1, min(CHUNK_ROWS, DRAW_BYTES // (8 * width * n_draws)))
        return self._by_chunk(X, average, chunk)

    @tells_of_memory("drawing", "draw fewer rows at a time")
    @torch.no_grad()
    def sample(self, n_samples, seed, part=None):
        """Return rows drawn from p(x), or p(x|part), with their latents, (n, p) and (n, d)."""
        model = self._model_in(np.float64)
        generator = torch.Generator(self.device).manual_seed(seed)
        # All at once, so that more than there is memory for is refused at once.
        X = np.empty((n_samples, len(model.likelihood.initial_output())))
        Z = np.empty((n_samples, model.prior.n_components))
        for start in range(0, n_samples, CHUNK_ROWS):
            rows = slice(start, min(start + CHUNK_ROWS, n_samples))
            z = model.prior.sample(rows.stop - start, generator, part).double()
            X[rows] = model.likelihood.sample(model.decoder(z), generator).cpu().numpy()
            Z[rows] = z.cpu().numpy()
        return X, Z

    @tells_of_memory("scoring", "lower n_importance_samples, or give fewer rows at a time")
    def bound(self, X, n_importance_samples, n_repeats):
        """Return bound (7) of each row of X, (n,), in nats; (4) for one importance sample.

        The noise of the draws is one fixed array for every row, ``n_repeats`` independent draws of
        the estimate that are averaged.
        """
        model = self._model_in(X.dtype)
        n_draws = n_repeats * n_importance_samples
        noise = _score_noise(n_draws, model.posterior.noise_size)
        width = max(X.shape[1], model.posterior.noise_size, 512)

        def score(x):
            condition = model.infer(x)
            draws = noise.to(device=x.device, dtype=x.dtype)
            log_weight = []
            for part in draws.split(max(1, DRAW_BYTES // (x.element_size() * width * len(x)))):
                expanded = part[:, None, :].expand(-1, len(x), -1)
                log_weight.append(bound_terms(model, x, condition, expanded).log_weight)
            log_weight = torch.cat(log_weight).unflatten(0, (n_repeats, n_importance_samples))
            return importance_weighted_bound(log_weight.transpose(0, 1)).mean(0)

        chunk = max(1, min(CHUNK_ROWS, DRAW_BYTES // (8 * width * min(n_draws, 16))))
        return self._by_chunk(X, score, chunk)

    def reconstruction(self, X):
        """Return log p(x|z) of each row of X at its noise-free latents, (n,), in nats."""
        model = self._model_in(X.dtype)

        def score(x):
            return model.likelihood.log_prob(x, model.decoder(model.embed(x)))

        return self._by_chunk(X, score)

    def sample_prior(self, n_samples, seed):
        """Return latents drawn from p(z), (n, d)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return self.model.sample_prior(n_samples, generator).cpu().numpy().astype(np.float64)

    def log_prior(self, Z):
        """Return log p(z) of each row of Z, (n,), in nats."""
        model = self._model_in(Z.dtype)
        return self._by_chunk(Z, model.prior.log_prob)

    @with_gradients()
    def _model_in(self, dtype):
        """Return the model in the precision of ``dtype``, ready for inference."""
        self.model.eval()
        if np.dtype(dtype) == np.float64:
            return copy.deepcopy(self.model).double()
        return self.model

    @tells_of_memory("computing with", "give fewer rows at a time, or ask for fewer draws")
    @with_gradients()  # which some steps of inference take, also for who is in inference mode
    @torch.no_grad()
    def _by_chunk(self, X, function, chunk=CHUNK_ROWS):
        results = [function(x).cpu().numpy() for x in Rows(X, self.device).chunks(chunk)]
        return np.concatenate(results).astype(X.dtype, copy=False)


def _score_noise(n_draws, size):
    """Return (n_draws, size) standard normal draws that fill the space evenly.

    A scrambled Sobol sequence has the mean and the spread of the normal almost exactly, so that few
    draws, shared by all rows, do not shift the scores of all of them. It has an end, beyond which
    the draws are independent.
    """
    if size > torch.quasirandom.SobolEngine.MAXDIM:
        generator = torch.Generator().manual_seed(SCORE_SEED)
        return torch.randn(n_draws, size, generator=generator, dtype=torch.float64)
    sobol = torch.quasirandom.SobolEngine(size, scramble=True, seed=SCORE_SEED)
    uniform = sobol.draw(n_draws, dtype=torch.float64).clamp(1e-12, 1.0 - 1e-12)
    return math.sqrt(2.0) * torch.erfinv(2.0 * uniform - 1.0)
