"""What the prior says of z given evidence: where a step of the chain starts from.

The evidence is m ~ N(z, v), in standardised latents. What does not depend on m is computed before
the chain is walked, for all of its steps at once; how much that is depends on the kind of prior.
"""

import torch

from ..priors import NormalPrior
from ..priors._kernel import KernelPrior, by_blocks, node_moments, node_moments_backward


def moments_at(posterior, variance, mean_z, std, part):
    """Return what the prior says at steps.

    Parameters
    ----------
    posterior : DiffusionPosterior
    variance : (..., n, d) tensor
        v_t of the rows.
    mean_z, std : (..., 1) tensor
        B_t and C_t.
    part : (n,) tensor or None
        The part of the prior that each row's latent is in.

    Returns
    -------
    moments : Moments
    """
    prior = posterior.prior
    if _has_methods_of(NormalPrior, prior, "denoise"):
        return NormalMoments.at(posterior, variance, mean_z, std)
    fixed = next(prior.parameters(), None) is None
    if part is None and fixed and _has_methods_of(KernelPrior, prior, "denoise", "_denoise"):
        return KernelMoments.at(posterior, variance, mean_z, std)
    return PriorMoments(variance, part=part)


def _has_methods_of(kind, prior, *names):
    """Return whether neither a subclass nor a user has put others in their place."""
    return all(
        getattr(getattr(prior, name, None), "__func__", None) is getattr(kind, name)
        for name in names
    )


class Moments:
    """What the prior says at one step, or at several whose tensors have leading axes.

    Parameters
    ----------
    *tensors : (..., n, d) tensors
        What was computed beforehand. The chain takes their gradients.
    **constants
        What has no gradient.
    """

    # The std of a step back, where it is known before the evidence is.
    std = None

    def __init__(self, *tensors, **constants):
        self.tensors, self.constants = tensors, constants

    def replaced(self, tensors):
        """Return the same with other tensors."""
        return type(self)(*tensors, **self.constants)

    def unbind(self):
        """Return those of each step, along the first axis."""
        return [
            self.replaced(each) for each in zip(*(t.unbind() for t in self.tensors), strict=True)
        ]

    def predict(self, posterior, evidence, step, tape):
        """Return the prediction of z and the std of a step back, (..., n, d) each.

        Before the denoiser corrects the one and a learned factor the other. On a ``tape``, a list,
        is put what :meth:`backward` asks for.
        """
        raise NotImplementedError

    def backward(self, posterior, step, record, of_predicted, of_std, learned):
        """Return the gradients of the evidence, of the tensors and of ``learned``.

        Those of the results are given, and what is ``learned`` are parameters of the prior.
        """
        raise NotImplementedError


class NormalMoments(Moments):
    """Under a normal prior the mean is linear in the evidence, and the variance known before it."""

    @property
    def std(self):
        """See :class:`Moments`."""
        return self.tensors[2]

    def spread_by(self, factor):
        """Return the same with a std that is multiplied by a factor."""
        shrinkage, offset, std = self.tensors
        return NormalMoments(shrinkage, offset, std * factor)

    @classmethod
    def at(cls, posterior, variance, mean_z, std):
        """See :func:`moments_at`."""
        shrinkage = (1.0 + variance * posterior.scale.square()).reciprocal()
        offset = (shrinkage - 1.0) * (posterior.loc / posterior.scale)
        back = torch.addcmul(std.square(), mean_z.square(), variance * shrinkage).sqrt()
        return cls(shrinkage, offset, back)

    def predict(self, posterior, evidence, step, tape):
        """See :meth:`Moments.predict`."""
        shrinkage, offset, std = self.tensors
        return torch.addcmul(offset, evidence, shrinkage), std.expand_as(evidence)

    def backward(self, posterior, step, record, of_predicted, of_std, learned):
        """See :meth:`Moments.backward`."""
        own = of_predicted * record.evidence, of_predicted, of_std
        return of_predicted * self.tensors[0], own, [torch.zeros_like(p) for p in learned]


class KernelMoments(Moments):
    """Under a sum of Gaussians of one scale: the mean and the variance of its nodes.

    In units of that scale, with p = 1 / (1 + v), the mean is m + p v (m_nodes - m) and the variance
    p v + (p v)^2 V_nodes, see :func:`node_moments`. Gradients are damped as
    :meth:`DiffusionPosterior._denoise` damps them, by one over the slope of the mean.
    """

    @classmethod
    def at(cls, posterior, variance, mean_z, std):
        """See :func:`moments_at`."""
        c = posterior.prior._constants(variance.dtype, variance.device)
        unit = c["scale"] / posterior.scale
        middle = (c["middle"] - posterior.loc) / posterior.scale
        v = variance / unit.square()
        p = (v + 1.0).reciprocal()
        gain = p * v
        factor = mean_z.square() * unit.square()
        return cls(
            p,
            gain,
            torch.addcmul(std.square(), factor, gain),
            factor * gain.square(),
            unit=unit,
            middle=middle,
            per_unit=unit.reciprocal(),
            origin=-middle / unit,
            nodes=c["moments"],
            log_weights=c["node_log_weights"],
        )

    def predict(self, posterior, evidence, step, tape):
        """See :meth:`Moments.predict`."""
        p, gain, least, per_spread = self.tensors
        c, blocks = self.constants, []

        def of_block(y, p):
            found = node_moments(y, p, c["nodes"], c["log_weights"], keep=tape is not None)
            blocks.append(found)
            return found[:2]

        y = torch.addcmul(c["origin"], evidence, c["per_unit"])
        rows = y.flatten(0, -2), p.expand_as(y).flatten(0, -2)
        centre, spread = (each.view_as(y) for each in by_blocks(of_block, len(c["nodes"]), *rows))
        centre = torch.addcmul(c["middle"], centre, c["unit"])
        if tape is not None:
            tape += y, centre, spread, blocks
        mean = torch.lerp(evidence, centre, gain)
        variance = torch.addcmul(least, per_spread, spread)
        if torch.is_grad_enabled():
            damping = _damping(p.detach(), gain.detach(), spread.detach())
            mean, variance = damped(mean, damping), damped(variance, damping)
        return mean, variance.sqrt()

    def backward(self, posterior, step, record, of_predicted, of_std, learned):
        """See :meth:`Moments.backward`."""
        p, gain, _, per_spread = self.tensors
        y, centre, spread, blocks = record.moments_tape
        c, blocks, damping = self.constants, iter(blocks), _damping(p, gain, spread)
        of_predicted, of_variance = of_predicted * damping, 0.5 * of_std / record.std * damping
        rows = of_predicted * gain * c["unit"], of_variance * per_spread, y, p.expand_as(y)
        of_y, of_p = by_blocks(
            lambda *rows: node_moments_backward(*rows, next(blocks), c["nodes"]),
            len(c["nodes"]),
            *(each.flatten(0, -2) for each in rows),
        )
        of_evidence = torch.addcmul(of_predicted * p, of_y.view_as(y), c["per_unit"])
        of_gain = of_predicted * (centre - record.evidence)
        return of_evidence, (of_p.view_as(y), of_gain, of_variance, of_variance * spread), ()


def _damping(p, gain, spread):
    """Return one over the slope of the mean in the evidence, where that is above one."""
    return torch.addcmul(p, p * gain, spread).clamp_(min=1.0).reciprocal_()


class PriorMoments(Moments):
    """Under any prior: :meth:`Prior.denoise`, with a graph of its operations."""

    def predict(self, posterior, evidence, step, tape):
        """See :meth:`Moments.predict`."""
        start, left = posterior._denoise(evidence, self.tensors[0], self.constants["part"], tape)
        return start, torch.addcmul(step.std.square(), step.mean_z.square(), left).sqrt()

    def backward(self, posterior, step, record, of_predicted, of_std, learned):
        """See :meth:`Moments.backward`."""
        of_left = of_std * (0.5 * step.mean_z.square()) / record.std
        of_evidence, of_variance, *of_learned = posterior._denoise_backward(
            of_predicted, of_left, record.moments_tape, learned
        )
        return of_evidence, (of_variance,), of_learned


def damped(tensor, factor):
    """Return the same values, with gradients multiplied by a factor of at most 1.

    The slope of E[z | y] in y is Var[z | y] / variance. A normal prior keeps it below 1, but
    between two parts of another prior it is as steep as they are thin, and the product of the
    slopes along a chain drowns what the other rows of a batch have to say.
    """
    return torch.lerp(tensor.detach(), tensor, factor)
