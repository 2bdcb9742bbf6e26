"""The engine of the classifier: what :class:`Engine` does, with classes."""

import functools

import torch

from .engine import DRAW_BYTES, Engine, _score_noise
from .memory import tells_of_memory
from .objective import bound_terms
from .semisupervised import ClassLoop, ClassModel, Labels, likely_pairs
from .trainer import CHUNK_ROWS

# Rounds of proposals after which a guided draw is given up.
MAX_ROUNDS = 10_000


class ClassEngine(Engine):
    """Arrays in, arrays out, with classes as codes 0..C-1.

    Parameters
    ----------
    class_weights : ndarray of shape (C,)
        p(l).
    *args, **kwargs
        As those of :class:`Engine`; the prior has C parts.
    """

    def __init__(self, class_weights, *args, **kwargs):
        self.class_weights = torch.as_tensor(class_weights)
        super().__init__(*args, **kwargs)

    def _extended(self, model):
        return ClassModel(model, self.class_weights, self.generator)

    def contents(self):
        """Return what an equal engine is made of."""
        return {**super().contents(), "class_weights": self.class_weights}

    def loop_maker(self, codes, validation_codes, guesses, **weights):
        """Return what makes the training loop of rows with these class codes, (n,).

        ``guesses`` are None or probabilities of the classes, (n, C), for rows without a label.
        """
        given = [
            None if array is None else torch.as_tensor(array)
            for array in (codes, validation_codes, guesses)
        ]
        return functools.partial(ClassLoop, Labels(*given, **weights))

    def take_encoder(self, other):
        """Start from the hidden layers of another engine's encoder, of the same widths."""
        self.model.posterior.body.load_state_dict(other.model.posterior.body.state_dict())

    def standardize(self, X):
        """Return the rows as the likelihood prepares them, every measurement standardised."""
        return self._by_chunk(X, self._model_in(X.dtype).likelihood.standardize)

    def log_class_probabilities(self, X):
        """Return log q(l|x), (n, C)."""
        model = self._model_in(X.dtype)
        encode = model.likelihood.encode
        return self._by_chunk(X, lambda x: model.log_class_probabilities(encode(x)))

    def sample_posterior(self, X, n_samples, seed):
        """Return latents drawn from sum_l q(l|x) q(z|x, l), (n_samples, n, d)."""
        model = self._model_in(X.dtype)
        generator = torch.Generator().manual_seed(seed)
        noise_size = model.posterior.noise_size

        def draw(x):
            features = _features(model, x)
            # Drawn in float64, so that a seed gives the same latents for rows of any dtype.
            shape = len(x), n_samples, 1 + noise_size
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            share = 0.5 * torch.erfc(-noise[..., 0] / 2**0.5).to(x)
            cumulative = features.log_q.exp().cumsum(-1)
            classes = torch.searchsorted(cumulative, share).clamp(max=cumulative.shape[1] - 1)
            rows = torch.arange(len(x), device=x.device).repeat_interleave(n_samples)
            condition = model.condition(features, rows, classes.flatten())
            z = model.posterior.draw(condition, noise[..., 1:].flatten(0, 1).to(x)).z
            return z.unflatten(0, (len(x), n_samples))

        chunk = max(1, min(CHUNK_ROWS, DRAW_BYTES // (8 * n_samples * noise_size)))
        return self._by_chunk(X, draw, chunk).swapaxes(0, 1)

    @tells_of_memory("drawing", "draw fewer rows at a time")
    @torch.no_grad()
    def sample(self, n_samples, seed, classes=None, guidance_scale=1.0):
        """Return rows drawn from p(x), or from p(x|l), with their latents, (n, p) and (n, d)."""
        model = self._model_in("float64")
        generator = torch.Generator(self.device).manual_seed(seed)
        if classes is None:
            classes = model.sample_classes(n_samples, generator)
        else:
            classes = torch.as_tensor(classes, device=self.device)
        z = guided_latents(model, classes, guidance_scale, generator).double()
        X = [
            model.likelihood.sample(model.decoder(part), generator) for part in z.split(CHUNK_ROWS)
        ]
        return torch.cat(X).cpu().numpy(), z.cpu().numpy()

    @tells_of_memory("scoring", "lower n_importance_samples, or give fewer rows at a time")
    def bound(self, X, n_importance_samples, n_repeats):
        """Return a lower bound on log p(x) of each row of X, (n,), in nats.

        The sum over classes is exact up to the negligible ones: equation (9) for one importance
        sample, equation (12) for more. The noise is one fixed array for every row and class.
        """
        model = self._model_in(X.dtype)
        n_draws = n_repeats * n_importance_samples
        noise = _score_noise(n_draws, model.posterior.noise_size)
        width = max(X.shape[1], model.posterior.noise_size, 512)

        def log_weights(x, features, pairs):
            """Return log p(x, z, l) + log_ratio for the pairs, (n_draws, m)."""
            condition = model.condition(features, pairs.rows, pairs.classes)
            draws = noise.to(device=x.device, dtype=x.dtype)
            given, result = x[pairs.rows], []
            for part in draws.split(max(1, DRAW_BYTES // (x.element_size() * width * len(given)))):
                expanded = part[:, None, :].expand(-1, len(given), -1)
                terms = bound_terms(model, given, condition, expanded, pairs.classes)
                result.append(terms.log_weight)
            return torch.cat(result) + model.log_class_weights[pairs.classes]

        def score(x):
            features = _features(model, x)
            pairs = likely_pairs(features.log_q)
            block = max(1, DRAW_BYTES // (8 * width * min(n_draws, 16)))
            parts = [
                log_weights(x, features, pairs._replace(rows=rows, classes=classes))
                for rows, classes in zip(
                    pairs.rows.split(block), pairs.classes.split(block), strict=True
                )
            ]
            log_weight = torch.cat(parts, dim=-1)
            if n_importance_samples == 1:
                values = pairs.weights * (log_weight - pairs.weights.log())
                total = values.new_zeros(n_repeats, len(x)).index_add(1, pairs.rows, values)
                return total.mean(0)
            log_weight = log_weight.unflatten(0, (n_repeats, n_importance_samples))
            log_weight = torch.logsumexp(log_weight, dim=1)
            index = pairs.rows.expand_as(log_weight)
            shape = n_repeats, len(x)
            top = log_weight.new_full(shape, -torch.inf).scatter_reduce(
                1, index, log_weight, "amax"
            )
            share = (log_weight - top.gather(1, index)).exp()
            total = top + log_weight.new_zeros(shape).scatter_add(1, index, share).log()
            return (total - torch.tensor(n_importance_samples).log()).mean(0)

        return self._by_chunk(X, score, max(1, min(CHUNK_ROWS, DRAW_BYTES // (8 * width))))

    def log_prior(self, Z):
        """Return log p(z) = log sum_l p(l) p(z|l) of each row of Z, (n,), in nats."""
        model = self._model_in(Z.dtype)
        return self._by_chunk(Z, lambda z: _log_joint(model, z).logsumexp(-1))


def guided_latents(model, classes, scale, generator):
    """Return draws of p(z|l) p(l|z)^(scale - 1), normalised, for class codes l (n,); (n, d).

    By rejection, so exact: a draw of p(z|l) is accepted with probability p(l|z)^(scale - 1), or,
    for a scale below 1, a draw of p(z) with probability p(l|z)^scale.
    """
    if scale == 1.0:
        return model.prior.sample(len(classes), generator, part=classes)
    weights = model.log_class_weights.exp()
    missing = torch.arange(len(classes), device=classes.device)
    latents = model.prior.sample(len(classes), generator, part=classes)
    for _ in range(MAX_ROUNDS):
        wanted = part = classes[missing]
        if scale < 1.0:
            part = torch.multinomial(weights, len(part), replacement=True, generator=generator)
        z = model.prior.sample(len(part), generator, part=part)
        log_p = torch.log_softmax(_log_joint(model, z.double()), dim=-1)
        log_p = log_p.gather(1, wanted[:, None])[:, 0]
        power = scale if scale < 1.0 else scale - 1.0
        share = torch.rand(
            len(part), generator=generator, device=generator.device, dtype=torch.float64
        )
        accepted = share.log() < power * log_p
        latents[missing[accepted]] = z[accepted]
        missing = missing[~accepted]
        if not len(missing):
            return latents
    raise ValueError(
        f"guidance_scale={scale:g} leaves next to nothing of class {int(classes[missing[0]])}: no "
        f"draw of its part of the prior was accepted in {MAX_ROUNDS} rounds; lower it."
    )


def _log_joint(model, z):
    """Return log p(l) p(z|l), (..., C)."""
    by_part = model.prior.part_log_prob(z)
    return by_part + model.log_class_weights.to(by_part.dtype)


def _features(model, x):
    return model.features(model.likelihood.encode(x))
