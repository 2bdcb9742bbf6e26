"""The semi-supervised model: class-conditional priors, a classifier, and its objective.

p(l) p(z|l) p(x|z), equation (8), with the posterior q(l|x) q(z|x, l). Equation numbers are those of
the user guide. Everything is in nats. A row without a label costs a sum over classes; the *pairs*
of a row and a class that the sum is made of are evaluated as one flattened batch.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, normalize, silu

from .model import LatentVariableModel
from .networks import linear
from .objective import bound_terms, kl_per_dimension
from .trainer import CHUNK_ROWS, Loop

# Width of the layer through which the posterior is told the class.
CLASS_WIDTH = 64
# Draws of each part of the prior that its mean is estimated from.
N_PART_DRAWS = 2000
# Code of a row without a label.
UNLABELLED = -1
# Entries of the decoder's output held at once in a gradient step; more pairs are thinned out.
PAIR_ENTRIES = 2**26
# The consistency term moves a row by this share of the rows' mean length, and looks at this share
# for the direction to move in.
CONSISTENCY_RADIUS, CONSISTENCY_PROBE = 0.25, 0.1
# Gradients shorter than this have no direction.
TINY = 1e-30
# Where no gradient is taken, classes less probable than this are left out of the sum.
NEGLIGIBLE = 1e-4


class RowFeatures(NamedTuple):
    """What one pass through the encoder says of n rows, whatever their class."""

    statistics: torch.Tensor  # (n, s): the head's share of the posterior's statistics
    hidden: torch.Tensor  # (n, w): before a class is told
    log_q: torch.Tensor  # (n, C): log q(l|x)

    def part(self, start, stop):
        """Return those of some of the rows."""
        return RowFeatures(*(each[start:stop] for each in self))


class Dreams(NamedTuple):
    """Classes, latents and rows drawn from the model."""

    classes: torch.Tensor  # (m,)
    z: torch.Tensor  # (m, d)
    rows: torch.Tensor  # (m, p)


class Pairs(NamedTuple):
    """Pairs of rows and classes, by row; the first pair of each row is at ``first``."""

    rows: torch.Tensor  # (m,)
    classes: torch.Tensor  # (m,)
    weights: torch.Tensor  # (m,): the share of the pair in its row's sum, with its gradient
    best: torch.Tensor  # (n,): index of the pair with the row's most probable class


class ClassModel(LatentVariableModel):
    """p(l) p(z|l) p(x|z) with the posterior q(l|x) q(z|x, l); equation (8).

    There is one encoder body, and one denoiser. The class is told behind the body: what it adds to
    the posterior's statistics is a vector of its own, which starts at the mean of its part of the
    prior, and the output of a small layer that sees the body's features and the class.

    Parameters
    ----------
    model : LatentVariableModel
        Its prior has a part for each class.
    class_weights : (C,) tensor
        p(l).
    generator : torch.Generator
    """

    def __init__(self, model, class_weights, generator):
        super().__init__(model.prior, model.likelihood, model.decoder, model.posterior)
        n_statistics, width = self.posterior.head.weight.shape
        n_classes = len(class_weights)
        self.register_buffer("log_class_weights", class_weights.log().float())
        self.classifier = linear(width, n_classes, generator, 0.1)
        self.class_hidden = linear(width, CLASS_WIDTH, generator)
        self.class_embedding = nn.Parameter(
            torch.randn(n_classes, CLASS_WIDTH, generator=generator, dtype=torch.float32)
        )
        self.class_output = linear(CLASS_WIDTH, n_statistics, generator, 0.0)
        self.class_statistics = nn.Parameter(
            torch.zeros(n_classes, n_statistics, dtype=torch.float32)
        )
        if generator is not None:  # else the weights are those of a saved model
            self._start_within_parts(generator)

    @torch.no_grad()
    def _start_within_parts(self, generator):
        """Let an untrained posterior lie within the part of its class."""
        d, n_classes, spread = self.prior.n_components, len(self.class_statistics), 0.0
        for part in range(n_classes):
            draws = self.prior.sample(N_PART_DRAWS, generator, part=part)
            draws = (draws - self.posterior.loc) / self.posterior.scale
            self.class_statistics[part, :d] = draws.mean(0)
            spread = spread + draws.std(0) / n_classes
        self.posterior.head.weight[:d] *= spread[:, None]

    def condition_on(self, inputs, rows):
        """Return what the posterior keeps of rows under their most probable class."""
        features = self.features(inputs)
        numbers = torch.arange(len(inputs), device=inputs.device)
        return self.condition(features, numbers, features.log_q.argmax(-1))

    def sample_prior(self, n_samples, generator):
        """Return draws from the sum over classes of p(l) p(z|l), (n_samples, d)."""
        return self.prior.sample(
            n_samples, generator, part=self.sample_classes(n_samples, generator)
        )

    def sample_classes(self, n_samples, generator):
        """Return draws from p(l), (n_samples,)."""
        weights = self.log_class_weights.exp()
        return torch.multinomial(weights, n_samples, replacement=True, generator=generator)

    def features(self, inputs):
        """Return the :class:`RowFeatures` of encoded rows."""
        body = self.posterior.body(inputs)
        log_q = self._log_class_probabilities(body)
        return RowFeatures(self.posterior.head(body), self.class_hidden(body), log_q)

    def log_class_probabilities(self, inputs):
        """Return log q(l|x) of encoded rows, (n, C)."""
        return self._log_class_probabilities(self.posterior.body(inputs))

    def _log_class_probabilities(self, body):
        """Mixed precision ends here: small probabilities are divided by one another."""
        logits = self.classifier(body)
        return torch.log_softmax(logits.float() if logits.dtype == torch.bfloat16 else logits, -1)

    def condition(self, features, rows, classes):
        """Return what the posterior q(z|x, l) keeps of pairs of row and class, each (m,)."""
        hidden = silu(features.hidden[rows] + self.class_embedding[classes])
        told = self.class_output(hidden) + self.class_statistics[classes]
        return self.posterior.condition_on(features.statistics[rows] + told, classes)


# ------------------------------------------------------------------------------------ the pairs


def training_pairs(log_q, labels, tolerance, generator):
    """Return the :class:`Pairs` that stand for the sums over classes of equation (9).

    A labelled row has one pair, of weight 1. Of an unlabelled row, a class with q(l|x) of at least
    ``tolerance`` is always there, with weight q(l|x); a less probable one with probability
    q(l|x) / tolerance, and then with weight ``tolerance`` (Horvitz and Thompson 1952). The sum
    over pairs is thus an unbiased estimate of the sum over classes, and so is its gradient, that
    of q(l|x) too; with ``tolerance=0`` it is the sum itself. A row has 1 + 1 / tolerance pairs at
    most on average, however many classes there are.

    Parameters
    ----------
    log_q : (n, C) tensor
    labels : (n,) tensor
        Class codes, ``UNLABELLED`` for none.
    tolerance : float
    generator : torch.Generator
    """
    q = log_q.exp()
    labelled = labels != UNLABELLED
    best = torch.where(labelled, labels, q.argmax(-1))[:, None]
    if tolerance > 0.0:
        share = torch.rand(q.shape, generator=generator, device=q.device, dtype=q.dtype)
        # No less than what the uniform numbers resolve; so the gradient is finite, too, where the
        # probability is none.
        inclusion = (q.detach() / tolerance).clamp(torch.finfo(q.dtype).eps / 2, 1.0)
        inclusion = inclusion.scatter(1, best, 1.0)
        kept = (share < inclusion) & ~labelled[:, None]
    else:
        inclusion = torch.ones_like(q)
        kept = (~labelled[:, None]).expand_as(q)
    kept = kept.scatter(1, best, True)
    weights = torch.where(labelled[:, None], 1.0, q / inclusion)
    return _pairs(kept, weights, best)


def likely_pairs(log_q, labels=None):
    """Return the pairs of classes that are not negligible, with q(l|x) made to sum to one again.

    A bound with any q(l|x) is a bound, so one with these weights is.
    """
    q = log_q.exp()
    best = q.argmax(-1)[:, None]
    kept = (q >= NEGLIGIBLE).scatter(1, best, True)
    if labels is not None:
        labelled = (labels != UNLABELLED)[:, None]
        best = torch.where(labelled, labels[:, None], best)
        given = torch.zeros_like(kept).scatter(1, best, True)
        kept = torch.where(labelled, given, kept)
    q = torch.where(kept, q, 0.0)
    if labels is not None:
        q = torch.where(labelled, kept.to(q.dtype), q)
    return _pairs(kept, q / q.sum(-1, keepdim=True), best)


def _pairs(kept, weights, best):
    rows, classes = kept.nonzero(as_tuple=True)
    place = kept.flatten().cumsum(0).view(kept.shape) - 1
    return Pairs(rows, classes, weights[rows, classes], place.gather(1, best)[:, 0])


def sum_over_classes(values, pairs):
    """Return the weighted sum over the pairs of each row, (n,), of values (m,).

    What is summed is the difference to the value of the row's most probable class, a constant
    whose weights sum to one over the classes: the same sum, but thinned pairs add less noise.
    """
    base = values.detach()[pairs.best]
    return base.index_add(0, pairs.rows, pairs.weights * (values - base[pairs.rows]))


# ------------------------------------------------------------------------------------ the loop


@dataclass(frozen=True)
class Labels:
    """What the loop is told of the classes; names and defaults are the estimator's."""

    codes: torch.Tensor
    validation_codes: torch.Tensor | None
    guesses: torch.Tensor | None
    weight: float
    smoothing: float
    consistency_weight: float
    propagation_weight: float
    tolerance: float


class ClassLoop(Loop):
    """The training of a :class:`ClassModel`."""

    def __init__(self, labels, *args):
        self.labels = labels
        self.labelled = (labels.codes != UNLABELLED).nonzero()[:, 0]
        super().__init__(*args)

    def losses(self, x, indices, warmth):
        """Return the negative of equation (10) with its figures and the rows' latents."""
        model, told, n = self.model, self.labels, len(x)
        kl_weight = self.kl_weight(warmth)
        sleep_weight = self.schedule.sleep_weight * warmth
        labels = told.codes[indices]
        extra = self.extra_labelled(n, int((labels != UNLABELLED).sum()))
        inputs = [x, self.rows.batch(extra)]
        sleep = self.schedule.sleep if self.schedule.sleep_weight > 0.0 else "off"
        dreams = self.dream(n) if sleep == "conditional" else None
        if dreams is not None:
            inputs.append(dreams.rows)
        inputs = [model.likelihood.encode(rows) for rows in inputs]
        features = model.features(torch.cat(inputs))
        labels = torch.cat([labels, told.codes[extra]]).to(x.device)

        loss, figures, z = self.bound_loss(x, features.part(0, n), labels[:n], kl_weight)
        log_q = features.log_q[: len(labels)]
        seen = labels != UNLABELLED
        error = cross_entropy(log_q[seen], labels[seen], label_smoothing=told.smoothing)
        figures["accuracy"] = (log_q[seen].argmax(-1) == labels[seen]).float().mean()
        further = {"classification": (told.weight, error)}
        if told.consistency_weight > 0.0:
            error = self.consistency(inputs[0], log_q[:n].detach())
            further["consistency"] = told.consistency_weight, error
        if told.guesses is not None:
            guesses = told.guesses[indices].to(x.device)
            error = propagation(guesses, log_q[:n], labels[:n])
            further["propagation"] = told.propagation_weight, error
        if dreams is not None:
            asleep = self.sleep_loss(features.part(len(labels), None), dreams)
            further["sleep"] = sleep_weight, asleep
        elif sleep == "latent":
            latents = model.sample_prior(n, self.generator)
            asleep = model.posterior.latent_sleep_loss(latents, self.generator).mean()
            further["sleep"] = sleep_weight, asleep
        for name, (weight, term) in further.items():
            figures[name] = term.detach()
            loss = loss + weight * term
        return loss, figures, z

    def bound_loss(self, x, features, labels, kl_weight):
        """Return the negative of the weighted bound, its figures, and the rows' likely latents."""
        model = self.model
        n_affordable, tolerance = PAIR_ENTRIES / x.numel(), self.labels.tolerance
        if n_affordable < features.log_q.shape[1]:
            tolerance = max(tolerance, 1.0 / n_affordable)
        pairs = training_pairs(features.log_q, labels, tolerance, self.generator)
        condition = model.condition(features, pairs.rows, pairs.classes)
        shape = len(pairs.rows), model.posterior.noise_size
        noise = torch.randn(shape, generator=self.generator, device=x.device, dtype=torch.float32)
        terms = bound_terms(model, x[pairs.rows], condition, noise, pairs.classes)
        classes = class_terms(model, features.log_q, labels)
        bound = terms.reconstruction + kl_weight * terms.regularisation
        loss = -(sum_over_classes(bound, pairs) + kl_weight * sum(classes.values())).mean()
        figures = term_figures(terms, classes, pairs)
        likely = {name: term[pairs.best] for name, term in terms.posterior.items()}
        likely = replace(terms, z=terms.z[pairs.best], posterior=likely)
        figures["kl_per_dimension"] = kl_per_dimension(model, likely)
        figures["pairs"] = torch.tensor(len(pairs.rows) / len(x), device=x.device)
        return loss, figures, likely.z

    def consistency(self, inputs, log_q):
        """Return KL(q(l|x) || q(l|x + r)) for the worst small r of each row, equation (11).

        Virtual adversarial training (Miyato et al. 2018), with one step of the power method.
        """
        size = inputs.norm(dim=-1).mean()
        step = torch.randn(
            inputs.shape, generator=self.generator, device=inputs.device, dtype=inputs.dtype
        )
        step = (CONSISTENCY_PROBE * size * normalize(step, dim=-1)).requires_grad_()
        (uphill,) = torch.autograd.grad(self.divergence(inputs + step, log_q), step)
        step = CONSISTENCY_RADIUS * size * normalize(uphill, dim=-1, eps=TINY)
        return self.divergence(inputs + step, log_q)

    def divergence(self, inputs, log_q):
        moved = self.model.log_class_probabilities(inputs)
        return kl_div(moved, log_q, log_target=True, reduction="batchmean")

    def extra_labelled(self, n_rows, n_labelled):
        """Return further labelled rows, so that half as many as a batch has are seen each step."""
        missing = max(0, min(len(self.labelled), max(1, n_rows // 2) - n_labelled))
        device = self.generator.device
        order = torch.randperm(len(self.labelled), generator=self.generator, device=device)
        return self.labelled[order[:missing].cpu()]

    def held_out_terms(self, x, rows, noise):
        """Return the mean of every term of the bound of held-out rows x, one draw a class."""
        half = len(x) // 2
        if half and x.numel() * len(self.model.log_class_weights) > PAIR_ENTRIES:
            one, two = (
                self.held_out_terms(x[part], slice(rows.start + part.start, None), noise[part])
                for part in (slice(0, half), slice(half, len(x)))
            )
            return {name: one[name] + (two[name] - one[name]) * (1 - half / len(x)) for name in one}
        features = self.model.features(self.model.likelihood.encode(x))
        labels = self.labels.validation_codes
        if labels is None:
            labels = torch.full((len(x),), UNLABELLED)
        else:
            labels = labels[rows.start : rows.start + len(x)]
        labels = labels.to(x.device)
        pairs = likely_pairs(features.log_q, labels)
        condition = self.model.condition(features, pairs.rows, pairs.classes)
        noise = noise[pairs.rows]
        terms = bound_terms(self.model, x[pairs.rows], condition, noise, pairs.classes)
        return term_figures(terms, class_terms(self.model, features.log_q, labels), pairs)

    @torch.no_grad()
    def validate(self):
        """Return the terms of the bound of the held-out rows, and how well they are classified."""
        figures, labels = super().validate(), self.labels.validation_codes
        labelled = [] if labels is None else (labels != UNLABELLED).nonzero()[:, 0]
        error = n_right = 0.0
        for indices in torch.split(labelled, CHUNK_ROWS) if len(labelled) else ():
            x = self.validation_rows.batch(indices)
            log_q = self.model.log_class_probabilities(self.model.likelihood.encode(x))
            given = labels[indices].to(x.device)
            smoothing = self.labels.smoothing
            error += cross_entropy(log_q, given, reduction="sum", label_smoothing=smoothing).item()
            n_right += (log_q.argmax(-1) == given).sum().item()
        if len(labelled):
            figures["validation_classification"] = error / len(labelled)
            figures["validation_accuracy"] = n_right / len(labelled)
        return figures

    def keep_best(self, figures):
        """Keep the weights of the best held-out objective; return whether it stopped growing."""
        error = self.labels.weight * figures.get("validation_classification", 0.0)
        return super().keep_best(figures | {"validation_elbo": figures["validation_elbo"] - error})

    @torch.no_grad()
    def dream(self, n_rows):
        """Return :class:`Dreams`, as many as rows, for equation (5)."""
        model, generator = self.model, self.generator
        classes = model.sample_classes(n_rows, generator)
        z = model.prior.sample(n_rows, generator, part=classes)
        return Dreams(classes, z, model.likelihood.sample(model.decoder(z), generator))

    def sleep_loss(self, features, dreams):
        """Return equation (5) with the class: -log q(l|dream) q(y_0..T|dream, l), a scalar."""
        rows = torch.arange(len(dreams.z), device=dreams.z.device)
        condition = self.model.condition(features, rows, dreams.classes)
        sleep = self.model.posterior.sleep_loss(condition, dreams.z, self.generator)
        return (sleep - features.log_q[rows, dreams.classes]).mean()


def propagation(guesses, log_q, labels):
    """Return the cross-entropy of guessed classes (n, C) of the rows without a label, a scalar.

    A guess counts by how sure it is, 1 - H / log C with H its entropy (Iscen et al. 2019).
    """
    entropy = -torch.xlogy(guesses, guesses).sum(-1)
    certainty = 1.0 - entropy / math.log(guesses.shape[1])
    return -(certainty * (guesses * log_q).sum(-1))[labels == UNLABELLED].sum() / len(labels)


def class_terms(model, log_q, labels):
    """Return the terms of q(l|x) in equation (9), each (n,)."""
    q = log_q.exp()
    labelled = labels != UNLABELLED
    log_p = model.log_class_weights.to(log_q.dtype)
    prior = torch.where(labelled, log_p[labels.clamp(min=0)], (q * log_p).sum(-1))
    entropy = torch.where(labelled, 0.0, -(q * log_q).sum(-1))
    return {"class_prior": prior, "class_entropy": entropy}


def term_figures(terms, classes, pairs):
    """Return the mean over rows of every term of the bound, as scalars by name."""
    with torch.no_grad():
        figures = {"reconstruction": terms.reconstruction, "log_prior": terms.log_prior}
        figures |= {name: term.sum(-1) for name, term in terms.posterior.items()}
        figures = {name: sum_over_classes(v, pairs).mean() for name, v in figures.items()}
        figures |= {name: term.mean() for name, term in classes.items()}
        figures["elbo"] = sum(figures.values())
    return figures
