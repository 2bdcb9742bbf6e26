"""The training loop."""

import copy
import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from .._warn import warn
from ..priors import UserPrior
from .adversarial import Adversary
from .beside import Beside, may_run_beside
from .objective import bound_terms, kl_per_dimension, noise_shape, training_loss
from .optimizer import Adam
from .threads import limited_threads
from .user_networks import UserNetwork, global_random_numbers, user_buffers

# Rows held at once where no gradient is taken.
CHUNK_ROWS = 4096
# Over this share of the steps the learning rate rises to the line along which it falls to zero.
WARMUP_SHARE = 0.05
# Over this share of the steps after the warm-up ``kl_weight`` rises to ``kl_growth`` times itself.
GROWTH_SHARE = 0.5
# From this share of the steps on what the encoder says is corrected. Before, the encoder learns to
# do without, and the decoder has little to say.
REFINEMENT_START = 0.4
# The likelihood's own parameters, few and on a log scale, move faster than the weights.
LIKELIHOOD_PACE = 30.0
# After a loss or a gradient that is not finite: how much slower, and how often to try again.
RECOVERY_FACTOR, MAX_RECOVERIES = 0.3, 3
# alpha / n from which on the penalty on the decoder's weights may be what is not finite.
HEAVY_DECAY = 1e6


class Term(NamedTuple):
    """A term of the loss beside the bound: a name for the history, a factor, and what it says.

    That is a callable of latents and row numbers that returns a scalar tensor in nats. Where there
    is an ``end``, the factor falls along a line to zero over this share of the steps. The
    ``remedy`` is what else to do but lower the weight, should training diverge.
    """

    name: str
    weight: float
    penalty: Callable
    end: float | None = None
    remedy: str | None = None

    def weight_at(self, progress):
        """Return the factor when this share of the steps has been taken."""
        if self.end is None:
            return self.weight
        return self.weight * max(0.0, 1.0 - progress / self.end)

    def is_over(self, progress):
        """Return whether there is nothing left of the term."""
        return self.end is not None and progress >= self.end


@dataclass(frozen=True)
class Schedule:
    """What the training loop is asked to do; names and defaults are the estimators'."""

    max_iter: int
    batch_size: int
    learning_rate: float
    kl_weight: float = 1.0
    kl_warmup: float = 0.0
    kl_growth: float = 1.0
    sleep: str = "conditional"
    sleep_weight: float = 2.0
    n_importance_samples: int = 1
    adversarial_weight: float = 0.0
    alpha: float = 0.0
    terms: tuple = ()  # of Term
    early_stopping: bool = False
    n_iter_no_change: int = 10
    tol: float = 1e-4
    # What early stopping goes by: a name of :meth:`BoundTerms.means`.
    criterion: str = "elbo"
    bfloat16: bool = False


class TrainingDiverged(FloatingPointError):
    """Training met a value that is not finite and had no complete epoch to fall back on."""


class _NotFiniteError(Exception):
    def __init__(self, term):
        self.term = term


def train(
    model,
    rows,
    schedule,
    *,
    generator,
    validation_rows=None,
    on_epoch=None,
    make_loop=None,
    checkpoint=None,
):
    """Train a model in place and return its history.

    Parameters
    ----------
    model : LatentVariableModel
    rows : Rows
    schedule : Schedule
    generator : torch.Generator
        Source of every random number of the training, on the CPU or the model's device.
    validation_rows : Rows or None
        Rows whose bound decides which epoch is kept and when to stop.
    on_epoch : callable or None
        Called with the epoch's number and its figures (a dict); a true return value stops.
    make_loop : callable or None
        Makes the loop in place of :class:`Loop`, from the same arguments.
    checkpoint : object or None
        Keeps the state of the loop: ``resume(loop)`` gives the loop a state that was kept, if there
        is one, ``save(state)`` keeps that of a complete epoch, and ``end(complete)`` says that the
        training is over, or was stopped from outside.

    Returns
    -------
    history : dict of str to list
        One value an epoch for every term, in nats a row; those of the validation rows with the
        prefix "validation_".

    Raises
    ------
    TrainingDiverged
        When the objective is not finite in the first epoch, however small the steps.
    """
    loop = (make_loop or Loop)(model, rows, schedule, generator, validation_rows)
    start = loop.last_epoch
    if checkpoint is not None:
        checkpoint.resume(loop)
    try:
        complete = loop.run(on_epoch, checkpoint)
    except KeyboardInterrupt:
        complete = False
        # A warm start that was interrupted at once goes back to the model that it started from.
        loop.restore(loop.last_epoch)
        if not loop.epoch:
            raise
        warn(
            f"Training was interrupted in epoch {loop.epoch + 1}; the model is that of the last "
            "complete epoch.",
        )
    except BaseException:
        # A warm start that fails, in a regulariser of the user's for one, leaves the model alone.
        loop.restore(start)
        raise
    finally:
        loop.beside.close()
    if loop.best_epoch is not None:
        loop.restore(loop.best_epoch)
    if checkpoint is not None:
        checkpoint.end(complete)
    return dict(loop.history)


@dataclass(frozen=True)
class TrainingView:
    """What a regulariser with a method ``attach`` is shown of a training.

    Parameters
    ----------
    n_rows : int
        How many training rows there are.
    rows : callable
        The training rows of given numbers: (m,) tensor of int64 to (m, n_features).
    features : callable
        Rows as a metric of the user's sees them: raw, but counts as logarithms of normalised
        counts, without NaN, and centred; tensor to tensor.
    embed : callable
        The noise-free latents of rows; (m, n_features) to (m, d). A second tensor, (m, n_features)
        of bool, masks features that the encoder does not see: it gets 0, its input's mean. They
        are as the encoder of the moment says, with its corrections if it has any by then and
        nothing is masked, and without the climb of the transformer's ``n_map_steps``.
    loc, scale : (d,) tensor
        Mean and standard deviation of the prior.
    seed : int
        Of the fit.
    sample_prior : callable
        Latents drawn from the prior: their number m and a torch.Generator to (m, d).

    Examples
    --------
    A regulariser by which a row's latents do not change when noise is added to the row:

    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from skddvi import DDVAETransformer
    >>> class Stability:
    ...     name = "stability"
    ...     def attach(self, view):
    ...         self.view = view
    ...         self.generator = torch.Generator().manual_seed(view.seed)
    ...     def __call__(self, z, rows):
    ...         x = self.view.rows(rows)
    ...         noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
    ...         moved = self.view.embed(x + 0.1 * noise) - self.view.embed(x)
    ...         return moved.square().sum(1).mean()
    >>> model = DDVAETransformer(regularizer=Stability(), max_iter=2, random_state=0)
    >>> len(model.fit(load_iris().data).history_["stability"])
    2
    """

    n_rows: int
    rows: Callable
    features: Callable
    embed: Callable
    loc: torch.Tensor
    scale: torch.Tensor
    seed: int
    sample_prior: Callable


class Loop:
    """The state of one training: optimiser, snapshots and history.

    What is minimised, and what is said of the held-out rows, is the business of :meth:`losses` and
    :meth:`held_out_terms`; the rest is the same for every objective.
    """

    # What is kept of the loop as it is; see :meth:`state`.
    NUMBERS = (
        "epoch",
        "slowdown",
        "n_recoveries",
        "best_bound",
        "n_no_change",
        "converged",
        "refines",
    )

    def __init__(self, model, rows, schedule, generator, validation_rows):
        self.model, self.rows, self.schedule = model, rows, schedule
        self.generator, self.validation_rows = generator, validation_rows
        own = [p for p in model.likelihood.parameters() if p.requires_grad]
        apart, self.adversary = list(own), None
        self.terms = schedule.terms
        if model.posterior.critic is not None:
            self.adversary = Adversary(model)
            apart += self.adversary.optimizer.parameters
            penalty = self.adversary.penalty
            penalty = Term("generator_loss", schedule.adversarial_weight, penalty)
            self.terms = (*self.terms, penalty)
        rest = [p for p in model.parameters() if p.requires_grad and all(p is not q for q in apart)]
        self.optimizer = Adam([(rest, 1.0), (own, LIKELIHOOD_PACE)])
        # Of the decoder's last layer W: the factor of |W|^2 / 2 in the loss.
        self.weight_decay = schedule.alpha / len(rows)
        self.buffers = user_buffers(model)
        self.has_user_networks = any(isinstance(each, UserNetwork) for each in model.modules())
        self.is_own = all(map(_is_own, model.modules()))
        self.apart = [term for term in self.terms if may_run_beside(term.penalty)]
        self.together = [term for term in self.terms if not may_run_beside(term.penalty)]
        self.beside = Beside(self.optimizer.parameters, self.has_spare_thread())
        # A warm start goes on with corrections that have been learned.
        self.refines = model.refines = all(each.is_trained() for each in model.refiners)
        self.n_batches = math.ceil(len(rows) / schedule.batch_size)
        self.n_steps = self.n_batches * schedule.max_iter
        self.step = self.epoch = self.n_recoveries = 0
        self.slowdown = 1.0
        self.history = defaultdict(list)
        self.best_epoch, self.best_bound, self.n_no_change = None, -math.inf, 0
        self.converged = False
        self.model.eval()  # a user's networks draw nothing here
        for term in self.terms:
            if hasattr(term.penalty, "attach"):
                term.penalty.attach(self.view())
        self.last_epoch = self.snapshot()

    def has_spare_thread(self):
        """Return whether there are penalties to compute beside the rest, and a thread for them."""
        spare = self.rows.device.type == "cpu" and torch.get_num_threads() > 1
        # What is not the package's own may not bear to be called by two threads at once.
        return bool(self.apart) and spare and self.is_own

    def view(self):
        """Return what regularisers are shown."""
        model, likelihood = self.model, self.model.likelihood

        def embed(x, masked=None):
            # Casts of weights are not shared with another thread.
            with self.evaluation(), self.precision(x, cache_enabled=False):
                return model.embed(x, masked).float()

        return TrainingView(
            n_rows=len(self.rows),
            rows=self.rows.batch,
            features=lambda x: likelihood.encode(x) * likelihood.input_scale,
            embed=embed,
            loc=model.posterior.loc,
            scale=model.posterior.scale,
            seed=self.generator.initial_seed(),
            sample_prior=model.sample_prior,
        )

    @contextmanager
    def evaluation(self):
        """Keep what is not the package's own from drawing noise, as it may in training."""
        training = self.model.training
        if not self.is_own:  # else there is nothing to switch, and another thread may be training
            self.model.eval()
        try:
            yield
        finally:
            if not self.is_own:
                self.model.train(training)

    def precision(self, x, **options):
        """Return a context that computes in the schedule's precision where x is."""
        enabled = self.schedule.bfloat16
        return torch.autocast(x.device.type, torch.bfloat16, enabled=enabled, **options)

    def threads(self):
        """Return a context in which a step uses no more threads than it is worth."""
        n_spared = self.beside.n_threads if self.current(self.apart) else 0
        n_rows = min(self.schedule.batch_size, len(self.rows))
        return limited_threads(self.model, n_rows, n_spared)

    def current(self, terms):
        """Return those of the terms that are not over."""
        return [term for term in terms if not term.is_over(self.step / self.n_steps)]

    def run(self, on_epoch, checkpoint=None):
        """Train epoch after epoch; return whether to the end, and not until ``on_epoch`` stops."""
        while self.epoch < self.schedule.max_iter and not self.converged:
            try:
                with self.threads(), self.random_numbers():
                    figures = self.train_epoch()
                    if self.epoch + 1 == self.schedule.max_iter:
                        self.check_last_step()
            except _NotFiniteError as error:
                if not self.recover(error.term):
                    return True
                continue
            if self.validation_rows is not None:
                with self.threads():
                    figures |= self.validate()
            self.epoch += 1
            self.last_epoch = self.snapshot()
            for name, value in figures.items():
                self.history[name].append(value)
            self.converged = self.schedule.early_stopping and self.keep_best(figures)
            if checkpoint is not None:
                checkpoint.save(self.state())
            if on_epoch is not None and on_epoch(self.epoch, figures):
                return False
        return True

    def random_numbers(self):
        """Return a context in which what users' networks draw comes from the fit's seed."""
        if self.has_user_networks:
            return global_random_numbers(self.generator)
        return nullcontext()

    def train_epoch(self):
        """One pass over the rows in random order; return the mean of every term."""
        self.model.train()
        totals, seen = defaultdict(float), defaultdict(float)
        for indices in self.rows.order(self.generator).split(self.schedule.batch_size):
            try:
                figures = self.train_batch(indices)
            except RuntimeError:  # torch draws nothing from a mixture of weights that are NaN
                self.check_weights()
                raise
            for name, value in figures.items():
                share = len(indices) / len(self.rows)
                totals[name] = totals[name] + value * share
                seen[name] += share
        for term in self.terms:
            if term.end is not None:  # it may have been over before the epoch was
                totals[term.name] = totals[term.name] / (seen[term.name] or 1.0)
        return {name: _plain(value) for name, value in totals.items()}

    def train_batch(self, indices):
        # At once: what is computed beside may ask for embeddings.
        self.refines = self.refines or self.step >= REFINEMENT_START * self.n_steps
        self.model.refines = self.refines
        apart, progress = self.current(self.apart), self.step / self.n_steps
        penalties = [
            partial(_penalty, term.name, term.penalty.penalty_of_rows, indices) for term in apart
        ]
        with self.beside.running(penalties) as results:
            loss, figures, z = self.own_loss(indices)
            self.take_gradients(loss, figures)
            for term, result in zip(apart, results, strict=True):
                weight = term.weight_at(progress)
                figures[term.name], gradients = result()
                # Last, behind the term that it is to blame on where it is not finite.
                figures["loss"] = figures.pop("loss") + weight * figures[term.name]
                _check_finite(figures)
                self.add_gradients(gradients, weight)
                term.penalty.remember(z, indices)
        self.update()
        return figures

    def own_loss(self, indices):
        """Return the loss of a batch without what is computed beside it, figures, and latents."""
        x = self.rows.batch(indices)
        with self.precision(x):
            loss, figures, z = self.losses(x, indices, self.warmth())
        if self.adversary is not None:
            figures["critic_loss"] = self.adversary.step(z, self.generator, self.learning_rate())
        for term in self.current(self.together):
            penalty = _penalty(term.name, term.penalty, z, indices)
            figures[term.name] = penalty.detach()
            loss = loss + term.weight_at(self.step / self.n_steps) * penalty
        figures["loss"] = loss.detach()
        if self.weight_decay > 0.0:
            norm = self.model.decoder.output.weight.detach().norm()
            figures["weight_penalty"] = 0.5 * self.weight_decay * norm.square()
            figures["loss"] = figures["loss"] + figures["weight_penalty"]
        return loss, figures, z

    def warmth(self):
        """Return the share of ``kl_weight`` and ``sleep_weight`` that has been reached, 0 to 1."""
        n_cold = self.n_steps * self.schedule.kl_warmup
        return min(1.0, self.step / n_cold) if n_cold > 0.0 else 1.0

    def kl_weight(self, warmth):
        """Return the factor of everything but log p(x|z) in this step."""
        schedule = self.schedule
        share = (self.step + 1) / self.n_steps - schedule.kl_warmup
        share /= GROWTH_SHARE * (1.0 - schedule.kl_warmup) or 1.0
        growth = min(1.0, max(0.0, share)) * (schedule.kl_growth - 1.0)
        return schedule.kl_weight * warmth * (1.0 + growth)

    def losses(self, x, indices, warmth):
        """Return the loss of rows x, a scalar, the figures of its terms, and the rows' latents."""
        schedule = self.schedule
        loss, terms, sleep_loss = training_loss(
            self.model,
            x,
            generator=self.generator,
            kl_weight=self.kl_weight(warmth),
            sleep=schedule.sleep if schedule.sleep_weight > 0.0 else "off",
            sleep_weight=schedule.sleep_weight * warmth,
            n_importance_samples=schedule.n_importance_samples,
        )
        figures = terms.means()
        if terms.posterior:
            figures["kl_per_dimension"] = kl_per_dimension(self.model, terms)
        if sleep_loss is not None:
            figures["sleep"] = sleep_loss.detach()
        # Of several draws a row the first stands for it.
        return loss, figures, terms.z if terms.z.ndim == 2 else terms.z[0]

    def check_last_step(self):
        """Raise where the loss after the last step is not finite: no further step would tell."""
        self.check_weights()
        state = self.generator.get_state()
        indices = torch.arange(min(len(self.rows), self.schedule.batch_size))
        _, figures, _ = self.losses(self.rows.batch(indices), indices, 1.0)
        self.generator.set_state(state)
        _check_finite(figures)

    def check_weights(self):
        """Raise where a step has left weights that are not finite."""
        _check_finite({"weights": torch.stack([p.sum() for p in self.optimizer.parameters])})

    def take_gradients(self, loss, figures):
        """Give the parameters the gradients of a loss, unless it is not finite."""
        _check_finite(figures)
        # An interruption may have left gradients behind, to which these would be added.
        for parameter in self.optimizer.parameters:
            parameter.grad = None
        loss.backward()
        if self.weight_decay > 0.0:
            weight = self.model.decoder.output.weight
            weight.grad.add_(weight.detach(), alpha=self.weight_decay)

    def add_gradients(self, gradients, weight):
        """Add a part's gradients, times its weight, to those of the parameters."""
        for parameter, gradient in zip(self.optimizer.parameters, gradients, strict=True):
            if gradient is not None and parameter.grad is not None:
                parameter.grad.add_(gradient, alpha=weight)
            elif gradient is not None:
                parameter.grad = weight * gradient

    def update(self):
        """Take one step of the optimiser, unless the gradient is not finite."""
        if not torch.isfinite(self.optimizer.step(self.learning_rate())):
            raise _NotFiniteError("gradient")
        self.step += 1

    def learning_rate(self):
        progress = (self.step + 1) / self.n_steps
        rise = min(1.0, progress / WARMUP_SHARE)
        fall = 1.0 - self.step / self.n_steps
        return self.schedule.learning_rate * self.slowdown * rise * fall

    @torch.no_grad()
    def validate(self):
        """Return the terms of the bound of the validation rows, at the same noise every epoch."""
        self.model.eval()
        generator = torch.Generator().manual_seed(0)
        totals, n_rows = defaultdict(float), len(self.validation_rows)
        for start in range(0, n_rows, CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            x = self.validation_rows.batch(rows)
            n_draws = self.schedule.n_importance_samples
            shape = noise_shape(self.model.posterior, len(x), n_draws)
            noise = torch.randn(shape, generator=generator, dtype=torch.float32)
            for name, value in self.held_out_terms(x, rows, noise.to(x.device)).items():
                share = value.double() * (len(x) / n_rows)
                totals["validation_" + name] = totals["validation_" + name] + share
        return {name: _plain(value) for name, value in totals.items()}

    def held_out_terms(self, x, rows, noise):
        """Return the mean of every term of the bound of held-out rows x, one draw a row."""
        condition = self.model.infer(x)
        terms = bound_terms(self.model, x, condition, noise)
        figures = terms.means()
        if terms.posterior:
            figures["kl_per_dimension"] = kl_per_dimension(self.model, terms)
        return figures

    def keep_best(self, figures):
        """Keep the weights of the best held-out bound; return whether it has stopped growing."""
        bound = figures[f"validation_{self.schedule.criterion}"]
        # While a term is on its way out, the bound is not all that is trained for.
        is_passing = any(term.end is not None for term in self.current(self.terms))
        has_grown = bound > self.best_bound + self.schedule.tol
        self.n_no_change = 0 if has_grown or is_passing else self.n_no_change + 1
        if bound > self.best_bound:
            self.best_bound, self.best_epoch = bound, self.last_epoch
        has_converged = self.n_no_change >= self.schedule.n_iter_no_change
        if has_converged and not self.refines:  # the bound may rise further
            self.refines, self.n_no_change, has_converged = True, 0, False
        return has_converged

    def snapshot(self):
        states = [optimizer.snapshot() for optimizer in self.optimizers()]
        buffers = [buffer.clone() for buffer in self.buffers]
        remembered = [copy.deepcopy(each.state_dict()) for each in self.penalties_with_state()]
        return states, self.step, buffers, remembered

    def restore(self, snapshot):
        states, self.step, buffers, remembered = snapshot
        for optimizer, state in zip(self.optimizers(), states, strict=True):
            optimizer.restore(state)
        for buffer, saved in zip(self.buffers, buffers, strict=True):
            buffer.copy_(saved)
        for penalty, saved in zip(self.penalties_with_state(), remembered, strict=True):
            penalty.load_state_dict(saved)

    def state(self):
        """Return what :meth:`load_state` goes on from, as of the epoch just finished.

        Returns
        -------
        state : dict
            Numbers, lists and tensors. What was not copied is not changed by further training.
        """
        return {name: getattr(self, name) for name in self.NUMBERS} | {
            "last_epoch": self.last_epoch,
            "best_epoch": self.best_epoch,
            "history": {name: list(values) for name, values in self.history.items()},
            "generator": self.generator.get_state(),
        }

    def load_state(self, state):
        """Go on from a :meth:`state` of a loop that was made with the same arguments."""
        for name in self.NUMBERS:
            setattr(self, name, state[name])
        self.last_epoch, self.best_epoch = state["last_epoch"], state["best_epoch"]
        self.restore(self.last_epoch)
        self.history.update({name: list(values) for name, values in state["history"].items()})
        self.generator.set_state(state["generator"])

    def penalties_with_state(self):
        """Return the terms' callables that remember something from batch to batch."""
        return [term.penalty for term in self.terms if hasattr(term.penalty, "state_dict")]

    def optimizers(self):
        """Return the optimiser of the model and, where there is one, the critic's."""
        return [self.optimizer] + ([self.adversary.optimizer] if self.adversary else [])

    def recover(self, term):
        """Go back to the last complete epoch with smaller steps; return whether to go on."""
        complete = self.epoch > 0
        self.restore(self.last_epoch)
        self.n_recoveries += 1
        self.slowdown *= RECOVERY_FACTOR
        remedy = (
            f"the term {term!r} was not finite in epoch {self.epoch + 1}, with X in "
            f"{self.input_range()}; lower learning_rate_init={self.schedule.learning_rate:g} or "
            "rescale X, for example with StandardScaler"
        )
        for each in self.current(self.terms):
            lower = f"lower the weight {each.weight:g} of {each.name!r}"
            remedy += f", or {each.remedy or lower}"
        if self.weight_decay > HEAVY_DECAY:
            remedy += f", or lower alpha={self.schedule.alpha:.3g}"
        if self.n_recoveries <= MAX_RECOVERIES:
            start = "goes on from the last complete epoch" if complete else "starts again"
            warn(f"Training diverged: {remedy}. It {start} with smaller steps.", RuntimeWarning)
            return True
        if not complete:
            raise TrainingDiverged(f"Training diverged: {remedy}.")
        warn(
            f"Training diverged {self.n_recoveries} times and stopped: {remedy}. The best weights "
            "so far are kept.",
            RuntimeWarning,
        )
        return False

    def input_range(self):
        low, high = math.inf, -math.inf
        for x in self.rows.chunks(CHUNK_ROWS):
            seen = x[~torch.isnan(x)]
            if seen.numel():
                low, high = min(low, seen.min().item()), max(high, seen.max().item())
        return f"[{low:g}, {high:g}]"


def _check_finite(figures):
    # All at once: most of the time there is nothing to name. A regulariser's may be elsewhere.
    device = next(iter(figures.values())).device
    if not torch.cat([value.flatten().to(device) for value in figures.values()]).isfinite().all():
        raise _NotFiniteError(next(n for n, v in figures.items() if not v.isfinite().all()))


def _penalty(name, regularizer, *args):
    """Return what a regulariser of that name says, a scalar tensor."""
    penalty = regularizer(*args)
    if not torch.is_tensor(penalty) or penalty.ndim:
        raise TypeError(
            f"regularizer {name!r} must return a tensor with one number, as z.mean() does, found "
            f"{penalty!r:.100}."
        )
    return penalty


def _is_own(module):
    """Return whether a part of a model is the package's, with nothing of a user's in it."""
    package = type(module).__module__.split(".")[0]
    return package in ("skddvi", "torch") and not isinstance(module, UserNetwork | UserPrior)


def _plain(value):
    return value.tolist() if torch.is_tensor(value) else value
