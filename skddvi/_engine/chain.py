"""The steps of the diffusion chain, one after the other, with their gradient written out.

Each step is dozens of operations on small tensors. For automatic differentiation they would all be
nodes of its graph, which cost more than the arithmetic; so a chain is one node.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch

from .moments import Moments
from .threads import limited_threads


class Step(NamedTuple):
    """What the chain needs at a step t, tensors that broadcast against latents.

    ``mean_y``, ``mean_z``, ``std``, ``alpha`` and ``sigma`` are A_t, B_t, C_t, alpha_t and
    sigma_t, ``input_scale`` makes y_t of unit variance over the prior, ``output_scale`` is the
    denoiser's. Of the rows are the others: ``gain`` is g_t, ``whitening`` makes the residual
    y_t - alpha_t m of unit variance, ``first`` and ``second`` are the denoiser's, ``moments`` is
    what the prior says. ``spread`` is a learned factor of the step's spread, where there is one.
    """

    mean_y: torch.Tensor
    mean_z: torch.Tensor
    std: torch.Tensor
    alpha: torch.Tensor
    sigma: torch.Tensor
    input_scale: torch.Tensor
    output_scale: torch.Tensor
    gain: torch.Tensor
    whitening: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    moments: Moments
    spread: torch.Tensor | None = None

    def unbind(self):
        """Return the steps along the first axis, of which the second biases know nothing."""
        # In one go: gradients of slices taken one by one are added up in full size.
        parts = {
            name: part.unbind()
            for name, part in self._asdict().items()
            if part is not None and name != "second"
        }
        names, parts = parts.keys(), zip(*parts.values(), strict=True)
        return [self._replace(**dict(zip(names, part, strict=True))) for part in parts]


class Record(NamedTuple):
    """What the gradient of a step asks for.

    The ``std`` is without the factor of the spread; ``moments_tape`` is that of the step's moments,
    ``denoiser_tape`` the denoiser's.
    """

    residual: torch.Tensor
    evidence: torch.Tensor
    std: torch.Tensor
    moments_tape: list
    denoiser_tape: list


def walk(posterior, y, steps, condition, noises=()):
    """Run the chain back from y and return what it predicts.

    Parameters
    ----------
    posterior : DiffusionPosterior
    y : (..., n, d) tensor
        What the first of the steps starts from.
    steps : sequence of k Step
    condition : tuple of tensors
        What the posterior keeps of the rows.
    noises : sequence of k - 1 (..., n, d) tensors
        Standard normal noise of every step but the last. None for a path without noise.

    Returns
    -------
    predictions, stds : two sequences of k (..., n, d) tensors
        zhat and the std of the step back, of every step.
    """
    if not torch.is_grad_enabled():
        return _walk(posterior, y, steps, condition, noises)
    inputs = [y, condition[2], steps[0].second]
    inputs += [each for step in steps for each in _differentiable(step)]
    inputs += [*posterior.denoiser.weights(), *posterior.prior.parameters()]
    found = _Walk.apply(posterior, steps, condition, noises, *inputs)
    predictions, stds = found[: len(steps)], found[len(steps) :]
    return predictions, stds or [step.moments.std.expand_as(y) for step in steps]


def step_back(y, step, predicted, std, noise=None):
    """Return y_{t-1} = A_t y_t + B_t zhat + std * noise, (..., n, d); equation (3)."""
    y = torch.addcmul(step.mean_y * y, step.mean_z, predicted)
    return y if noise is None else torch.addcmul(y, std, noise)


def _walk(posterior, y, steps, condition, noises, records=None):
    """Return the results of :func:`walk` and put a :class:`Record` of each step on a list."""
    predictions, stds = [], []
    # The denoiser is so small that casts would cost more than they save.
    with torch.autocast(y.device.type, enabled=False):
        for i, step in enumerate(steps):
            predicted, std = _predict(posterior, y, step, condition, records)
            predictions.append(predicted)
            stds.append(std)
            if i + 1 < len(steps):
                y = step_back(y, step, predicted, std, noises[i] if noises else None)
    return predictions, stds


def _predict(posterior, y, step, condition, records):
    mean = condition[2]
    residual = torch.addcmul(y, step.alpha, mean, value=-1.0)
    evidence = torch.addcmul(mean, residual, step.gain)
    tapes = (None, None) if records is None else ([], [])
    start, std = step.moments.predict(posterior, evidence, step, tapes[0])
    correction = posterior.denoiser(
        y * step.input_scale, residual * step.whitening, step.first, step.second, tapes[1]
    )
    if records is not None:
        # Not the tensor that is returned: the graph would hold on to itself, for ever.
        records.append(Record(residual, evidence, std.detach(), *tapes))
    if step.spread is not None:
        std = std * step.spread
    return torch.addcmul(start, correction, step.output_scale), std


# What a step has that gradients are taken of, beside what all of them have and what the prior says.
STEP_INPUTS = "gain", "whitening", "first", "spread"


def _differentiable(step):
    return *(getattr(step, name) for name in STEP_INPUTS), *step.moments.tensors


class _Walk(torch.autograd.Function):
    """:func:`walk` and its gradient: backpropagation through time."""

    @staticmethod
    def forward(ctx, posterior, steps, condition, noises, *inputs):
        """Return the predictions and then the stds, unless they are known beforehand."""
        ctx.posterior, ctx.steps, ctx.condition, ctx.noises = posterior, steps, condition, noises
        ctx.records, ctx.n_prior = [], len(list(posterior.prior.parameters()))
        with _threads(posterior, inputs[0]):
            predictions, stds = _walk(posterior, inputs[0], steps, condition, noises, ctx.records)
        # Whether one was changed in place is checked where they are asked for again.
        ctx.save_for_backward(*inputs)
        known = steps[0].moments.std is not None
        return tuple(predictions) if known else (*predictions, *stds)

    @staticmethod
    def backward(ctx, *grads):
        """Return the gradients of the inputs."""
        inputs = ctx.saved_tensors
        full = torch.autocast(inputs[0].device.type, enabled=False)
        with _threads(ctx.posterior, inputs[0]), full:
            # With a graph where a gradient of the gradient will be asked for.
            own = (_again if torch.is_grad_enabled() else _back)(ctx, inputs, grads)
        return None, None, None, None, *own


def _threads(posterior, y):
    """Return a context in which the steps, small as they are, do not wait for many threads."""
    if torch.get_num_threads() == 1:
        return nullcontext()  # a limit takes as long as a small product
    return limited_threads(posterior.denoiser, y.numel() // y.shape[-1])


def _back(ctx, inputs, grads):
    """Return the gradients of the inputs, going through the steps once more from the last on."""
    posterior, steps, mean = ctx.posterior, ctx.steps, ctx.condition[2]
    d, k = mean.shape[-1], len(steps)
    n_weights = len(inputs) - ctx.n_prior
    learned = [p for p in inputs[n_weights:] if p.requires_grad]
    of_learned = [torch.zeros_like(p) for p in learned]
    of_mean, of_second = torch.zeros_like(mean), torch.zeros_like(inputs[2])
    of_weights = [torch.zeros_like(w) for w in posterior.denoiser.weights()]
    of_steps, of_y = [], None
    for i in reversed(range(k)):
        step, record = steps[i], ctx.records[i]
        of_predicted, of_std = grads[i], grads[k + i] if step.moments.std is None else None
        if of_y is not None:  # from y_{t-1}, see step_back
            of_predicted = torch.addcmul(of_predicted, step.mean_z, of_y)
            if ctx.noises:
                of_noise = ctx.noises[i] * of_y
                of_std = of_noise if of_std is None else of_std + of_noise
            of_y = step.mean_y * of_y
        of_spread = None
        if step.spread is not None:
            of_spread, of_std = of_std * record.std, of_std * step.spread
        of_evidence, of_moments, of_prior = step.moments.backward(
            posterior, step, record, of_predicted, of_std, learned
        )
        for total, part in zip(of_learned, of_prior, strict=True):
            total.add_(part)
        of_inputs, of_first, of_second_bias = posterior.denoiser.backward(
            of_predicted * step.output_scale, record.denoiser_tape, of_weights
        )
        of_scaled, of_whitened = of_inputs.split(d, dim=-1)
        of_residual = torch.addcmul(of_whitened * step.whitening, of_evidence, step.gain)
        of_mean += _like(torch.addcmul(of_evidence, step.alpha, of_residual, value=-1.0), mean)
        of_second += _like(of_second_bias, of_second)
        own = (
            of_evidence * record.residual,
            of_whitened * record.residual,
            of_first,
            of_spread,
            *of_moments,
        )
        pairs = zip(own, _differentiable(step), strict=True)
        of_steps.append([_like(grad, tensor) for grad, tensor in pairs])
        of_residual = torch.addcmul(of_residual, of_scaled, step.input_scale)
        of_y = of_residual if of_y is None else of_y + of_residual
    of_steps = [gradient for each in reversed(of_steps) for gradient in each]
    of_prior = iter(of_learned)
    of_prior = [next(of_prior) if p.requires_grad else None for p in inputs[n_weights:]]
    return of_y, of_mean, of_second, *of_steps, *of_weights, *of_prior


def _again(ctx, inputs, grads):
    """Return the gradients of the inputs with a graph of their own, by walking once more."""
    n_inputs = len(_differentiable(ctx.steps[0]))
    n_own = 3 + len(ctx.steps) * n_inputs
    # Views, so that what one input owes to another is not counted twice.
    inputs = [
        each.view_as(each) if i < n_own and each is not None else each
        for i, each in enumerate(inputs)
    ]
    condition = [*ctx.condition]
    y, condition[2], second, *of_steps = inputs[:n_own]
    steps = []
    for i, step in enumerate(ctx.steps):
        own = of_steps[i * n_inputs : (i + 1) * n_inputs]
        moments = step.moments.replaced(own[len(STEP_INPUTS) :])
        own = dict(zip(STEP_INPUTS, own[: len(STEP_INPUTS)], strict=True))
        steps.append(step._replace(second=second, moments=moments, **own))
    predictions, stds = _walk(ctx.posterior, y, steps, condition, ctx.noises)
    outputs = [*predictions, *stds][: len(grads)]
    used = [i for i, each in enumerate(inputs) if each is not None and each.requires_grad]
    # The moments of a user's prior may be constants, and with them the stds.
    pairs = zip(outputs, grads, strict=True)
    outputs, grads = zip(*((out, grad) for out, grad in pairs if out.requires_grad), strict=True)
    found = torch.autograd.grad(
        outputs,
        [inputs[i] for i in used],
        grads,
        create_graph=True,
        allow_unused=True,
    )
    own = [None] * len(inputs)
    for i, gradient in zip(used, found, strict=True):
        own[i] = gradient
    return own


def _like(grad, tensor):
    """Return a gradient summed over the axes along which the tensor was broadcast."""
    if grad is None or grad.shape == tensor.shape:
        return grad
    return grad.sum_to_size(tensor.shape)
