"""Prior distributions p(z) over the latent space.

Every prior samples and has an exact, normalised, differentiable log density in nats. A prior
may be made of *parts* (components, arms, stretches of a curve) that carry class indices; its
density is the mixture ``sum_k part_weights[k] * p(z | k)``.

The curved priors are a curve plus isotropic Gaussian noise: a parameter u is drawn, the curve
gives the point c(u), and z = c(u) + noise * eps. Their density is the integral

    p(z | k) = int N(z; c(u), noise^2 I) p(u | k) du,

computed by Gauss-Legendre quadrature with enough nodes to be exact to rounding.
"""

import copy
import itertools
import math
from numbers import Integral, Real

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

__all__ = [
    "EmpiricalPrior",
    "GaussianMixturePrior",
    "NormalPrior",
    "PinwheelPrior",
    "Prior",
    "SquarePrior",
    "SwissRollPrior",
    "UserPrior",
    "resolve_prior",
]

_LOG_2PI = math.log(2.0 * math.pi)
# Most distances (rows x nodes) held at once, so that memory does not grow with the number of rows.
# On a CPU they fit in a core's cache, elsewhere launching many small blocks would cost more.
_BLOCK_SIZE_CPU = 2**16
_BLOCK_SIZE = 2**24


class Prior(nn.Module):
    """Base class of the priors.

    A subclass implements :meth:`part_log_prob` and ``_draw``.

    Parameters
    ----------
    n_components : int
        Dimension d of the latent space.
    part_weights : array-like of shape (n_parts,), default=(1.0,)
        Probabilities of the parts. They are divided by their sum.

    Attributes
    ----------
    n_components : int
        Dimension d of the latent space.
    n_parts : int
        Number of parts; 1 when the prior has none.
    name : str
        Short name.
    part_weights : Tensor of shape (n_parts,)
        Probabilities of the parts, a buffer. Its dtype and device are those of the samples.
    """

    name = "prior"

    def __init__(self, n_components, part_weights=(1.0,)):
        super().__init__()
        weights = torch.as_tensor(part_weights, dtype=torch.float64).detach().cpu()
        weights = weights / weights.sum()
        self.n_components = int(n_components)
        self.n_parts = len(weights)
        self.register_buffer("part_weights", weights.float())
        # Constants are kept in float64 and cast when used: a float32 buffer moved to float64
        # would have lost half of its digits for good.
        self._masters = {"log_part_weights": weights.log()}
        self._cache = {}

    def __getstate__(self):
        """Return the state without the cached casts, which may live on another device."""
        return {**self.__dict__, "_cache": {}}

    def _apply(self, fn, recurse=True):
        """Move the buffer as any module does, then refill it from float64."""
        super()._apply(fn, recurse)
        weights = self._masters["log_part_weights"].exp()
        self.part_weights = weights.to(self.part_weights)
        return self

    def _constants(self, dtype, device):
        """Return the float64 masters cast to ``dtype`` on ``device``, cached."""
        key = (dtype, device)
        if key not in self._cache:
            # A tensor made in inference mode could never again take part in a backward pass.
            with torch.inference_mode(False):
                self._cache[key] = {
                    name: value.to(dtype=dtype, device=device)
                    for name, value in self._masters.items()
                }
        return self._cache[key]

    def sample(self, n_samples, generator=None, part=None):
        """Draw from the prior.

        Parameters
        ----------
        n_samples : int
            Number of draws.
        generator : torch.Generator, default=None
            Source of the random numbers. By default a fresh one; the global state of torch is
            neither used nor changed.
        part : int or int Tensor of shape (n_samples,), default=None
            The part of each draw. By default drawn with probabilities ``part_weights``.

        Returns
        -------
        Tensor of shape (n_samples, n_components)
            The draws, in the dtype and on the device of ``part_weights``. The random numbers
            are drawn in float64, so that a seed gives the same draws in any dtype.
        """
        if generator is None:
            generator = torch.Generator()
            generator.seed()
        device = generator.device
        if part is None:
            part = self._draw_parts(n_samples, generator)
        else:
            part = self._check_part(part, (n_samples,), device)
        with torch.no_grad():
            z = self._draw(part, generator)
        return z.to(dtype=self.part_weights.dtype, device=self.part_weights.device)

    def log_prob(self, z, part=None):
        """Return the log density in nats.

        Parameters
        ----------
        z : Tensor of shape (..., n_components)
            Points. The computation is done in their dtype (float32 at least).
        part : int or int Tensor that broadcasts to shape (...), default=None
            By default the marginal density; otherwise the density of that part.

        Returns
        -------
        Tensor of shape (...)
            log p(z), or log p(z | part).

        Raises
        ------
        ValueError
            When the last axis of ``z`` has not ``n_components`` entries, or ``part`` is not in
            0..n_parts - 1 or has another shape.
        """
        by_part = self.part_log_prob(z)
        if part is not None:
            part = self._check_part(part, by_part.shape[:-1], by_part.device)
            return by_part.gather(-1, part[..., None])[..., 0]
        if self.n_parts == 1:
            return by_part[..., 0]
        weights = self._constants(by_part.dtype, by_part.device)["log_part_weights"]
        return torch.logsumexp(by_part + weights, dim=-1)

    def part_log_prob(self, z):
        """Return the log density of every part in nats.

        Parameters
        ----------
        z : Tensor of shape (..., n_components)
            Points.

        Returns
        -------
        Tensor of shape (..., n_parts)
            log p(z | part).
        """
        raise NotImplementedError

    def _draw(self, part, generator):
        """Return draws (n, n_components) in float64 of the parts ``part`` (n,)."""
        raise NotImplementedError

    def _draw_parts(self, n_samples, generator):
        if self.n_parts == 1:
            return torch.zeros(n_samples, dtype=torch.long, device=generator.device)
        weights = self._masters["log_part_weights"].exp().to(generator.device)
        if n_samples == 0:
            return torch.zeros(0, dtype=torch.long, device=generator.device)
        return torch.multinomial(weights, n_samples, replacement=True, generator=generator)

    def _check_z(self, z):
        """Return ``z`` in float32 or float64 after checking its last axis."""
        if z.ndim == 0 or z.shape[-1] != self.n_components:
            raise ValueError(
                f"z must have n_components={self.n_components} entries on its last axis, "
                f"found shape {tuple(z.shape)}."
            )
        return z if z.dtype in (torch.float32, torch.float64) else z.float()

    def _check_part(self, part, shape, device):
        """Return ``part`` as a long tensor of shape ``shape`` after checking its range."""
        part = torch.as_tensor(part, device=device)
        if part.is_floating_point() or part.is_complex() or part.dtype == torch.bool:
            raise ValueError(f"part must hold integers, found dtype {part.dtype}.")
        if part.numel() and (int(part.min()) < 0 or int(part.max()) >= self.n_parts):
            raise ValueError(
                f"part must lie in 0..{self.n_parts - 1}, found values from {int(part.min())} to "
                f"{int(part.max())}."
            )
        try:
            return part.long().expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"part must have shape {tuple(shape)}, found {tuple(part.shape)}."
            ) from error


class NormalPrior(Prior):
    """Standard normal prior N(0, I).

    Parameters
    ----------
    n_components : int, default=2
        Dimension of the latent space.

    Examples
    --------
    >>> import torch
    >>> from skddvi.priors import NormalPrior
    >>> NormalPrior(n_components=2).log_prob(torch.zeros(1, 2))
    tensor([-1.8379])
    """

    name = "normal"

    def __init__(self, n_components=2):
        super().__init__(_check_count("n_components", n_components))

    def part_log_prob(self, z):
        """Return the log density (..., 1) in nats of the only part."""
        z = self._check_z(z)
        return -0.5 * (z.square().sum(-1, keepdim=True) + self.n_components * _LOG_2PI)

    def _draw(self, part, generator):
        return _randn((len(part), self.n_components), generator)

    def extra_repr(self):
        """Return the constructor arguments."""
        return f"n_components={self.n_components}"


class GaussianMixturePrior(Prior):
    """Mixture of Gaussians with diagonal covariances; the parts are its components.

    Parameters
    ----------
    means : array-like of shape (n_parts, n_components)
        Centres of the components.
    scales : float or array-like of shape (n_parts,) or (n_parts, n_components)
        Standard deviations, all above zero: one for all, one per component, or one per
        component and axis.
    weights : array-like of shape (n_parts,), default=None
        Probabilities of the components, all above zero; divided by their sum. By default equal.

    Raises
    ------
    ValueError
        When the shapes do not agree or a scale or weight is not above zero.

    Examples
    --------
    >>> import torch
    >>> from skddvi.priors import GaussianMixturePrior
    >>> prior = GaussianMixturePrior([[-1.0, 0.0], [1.0, 0.0]], scales=0.2)
    >>> prior.n_parts
    2
    >>> prior.log_prob(torch.tensor([[1.0, 0.0]]))
    tensor([0.6879])
    """

    name = "gaussian_mixture"

    def __init__(self, means, scales, weights=None):
        centres = _as_matrix("means", means)
        n_parts, n_components = centres.shape
        spread = _as_float64("scales", scales)
        if spread.ndim == 1:
            spread = spread[:, None]
        if spread.ndim > 2 or (spread.ndim and spread.shape not in ((n_parts, 1), centres.shape)):
            raise ValueError(
                f"scales must be a number or have shape ({n_parts},) or ({n_parts}, "
                f"{n_components}), found shape {np.shape(scales)}."
            )
        if not bool((spread > 0).all()):
            raise ValueError(f"scales must be above 0, found {float(spread.min())}.")
        probs = _as_float64("weights", [1.0] * n_parts if weights is None else weights)
        if probs.shape != (n_parts,):
            raise ValueError(
                f"weights must have one entry per component, shape ({n_parts},), found shape "
                f"{tuple(probs.shape)}."
            )
        if not bool((probs > 0).all()):
            raise ValueError(f"weights must be above 0, found {float(probs.min())}.")
        super().__init__(n_components, probs)
        self.means = means
        self.scales = scales
        self.weights = weights
        self._masters["means"] = centres
        self._masters["scales"] = spread.expand(n_parts, n_components).clone()

    def part_log_prob(self, z):
        """Return the log density (..., n_parts) in nats of every component."""
        z = self._check_z(z)
        c = self._constants(z.dtype, z.device)
        scaled = (z[..., None, :] - c["means"]) / c["scales"]
        norm = c["scales"].log().sum(-1) + 0.5 * self.n_components * _LOG_2PI
        return -0.5 * scaled.square().sum(-1) - norm

    def _draw(self, part, generator):
        c = self._constants(torch.float64, generator.device)
        eps = _randn((len(part), self.n_components), generator)
        return c["means"][part] + c["scales"][part] * eps

    def extra_repr(self):
        """Return the constructor arguments, arrays by their shapes."""
        text = f"means={_brief(self.means)}, scales={_brief(self.scales)}"
        return text if self.weights is None else f"{text}, weights={_brief(self.weights)}"


class _KernelPrior(Prior):
    """Prior whose parts are weighted sums of Gaussians of one common scale.

    The masters ``nodes`` (n_parts, m, d), ``log_weights`` (n_parts, m) and ``scale`` (d,) are
    set by the subclass; log_weights sums to one within a part.
    """

    def _set_nodes(self, nodes, log_weights, scale):
        scale = scale.expand(self.n_components).clone()
        self._masters["scale"] = scale
        self._masters["nodes"] = nodes / scale
        self._masters["log_weights"] = log_weights
        self._log_norm = float(scale.log().sum()) + 0.5 * self.n_components * _LOG_2PI

    def part_log_prob(self, z):
        """Return the log density (..., n_parts) in nats of every part."""
        z = self._check_z(z)
        c = self._constants(z.dtype, z.device)
        flat = (z / c["scale"]).reshape(-1, self.n_components)
        log_prob = _LogKernelSum.apply(flat, c["nodes"], c["log_weights"]) - self._log_norm
        return log_prob.reshape(*z.shape[:-1], self.n_parts)


class _LogKernelSum(torch.autograd.Function):
    """log sum_j w_kj exp(-|z_i - c_kj|^2 / 2) and its gradient in z.

    The gradient of entry (i, k) is mean_j(c_kj) - z_i, the mean taken with the weights of the
    sum; it is computed beside the value, so that nothing of size (rows, nodes) is kept. The
    squared distances are sums of squared differences: the expansion |z|^2 - 2 z c + |c|^2 would
    cancel in float32, and in matrix products of reduced precision even more.
    """

    @staticmethod
    def forward(ctx, z, nodes, log_weights):
        """Return the sums (n, n_parts) for z (n, d), nodes (n_parts, m, d)."""
        n_parts, m, d = nodes.shape
        need_grad = ctx.needs_input_grad[0]
        out = z.new_empty(len(z), n_parts)
        pull = z.new_empty(len(z), n_parts, d) if need_grad else None
        block = _BLOCK_SIZE_CPU if z.device.type == "cpu" else _BLOCK_SIZE
        step = max(1, block // (n_parts * m))
        axes = nodes.unbind(-1)
        for start in range(0, len(z), step):
            rows = slice(start, start + step)
            zs = z[rows, :, None, None].unbind(1)
            logits = (zs[0] - axes[0]).square_()
            for z_axis, axis in zip(zs[1:], axes[1:], strict=True):
                diff = z_axis - axis
                logits.addcmul_(diff, diff)
            logits = torch.add(log_weights, logits, alpha=-0.5, out=logits)
            top = logits.amax(-1, keepdim=True)
            # Terms below e^-80 of the largest are far below rounding, in float64 too, and an exp
            # that underflows is ten times slower.
            share = logits.sub_(top).clamp_(min=-80.0).exp_()
            total = share.sum(-1)
            out[rows] = top[..., 0] + total.log()
            if need_grad:
                for k, axis in enumerate(axes):
                    mean = (share * axis).sum(-1) / total
                    pull[rows, :, k] = mean - z[rows, k, None]
        if need_grad:
            ctx.save_for_backward(pull)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Return the gradient (n, d) in z."""
        (pull,) = ctx.saved_tensors
        return (grad[..., None] * pull).sum(1), None, None


class EmpiricalPrior(_KernelPrior):
    """Gaussian kernel density estimate over given samples.

    Parameters
    ----------
    samples : array-like of shape (n, n_components)
        The samples, at least two when ``bandwidth`` is None.
    bandwidth : float or array-like of shape (n_components,), default=None
        Standard deviation of the kernel, for all axes or per axis. By default Scott's rule:
        n^(-1 / (n_components + 4)) times the standard deviation of the samples on each axis.

    Raises
    ------
    ValueError
        When ``samples`` is not a finite matrix, or the bandwidth is not above zero (also when
        Scott's rule meets an axis without spread).

    Notes
    -----
    Time grows with rows x samples x n_components: a thousand samples in the plane cost about as
    much as the pinwheel, so pass a subset of a large set.

    References
    ----------
    Scott, D. W. (1992). Multivariate Density Estimation. Wiley. Equation 6.42.

    Examples
    --------
    >>> import torch
    >>> from skddvi.priors import EmpiricalPrior
    >>> prior = EmpiricalPrior([[-1.0], [1.0]], bandwidth=0.5)
    >>> prior.log_prob(torch.tensor([[1.0]]))
    tensor([-0.9186])
    """

    name = "empirical"

    def __init__(self, samples, bandwidth=None):
        points = _as_matrix("samples", samples)
        n, d = points.shape
        if bandwidth is None:
            if n < 2:
                raise ValueError("samples must hold at least 2 rows for Scott's rule, found 1.")
            scale = n ** (-1.0 / (d + 4)) * points.std(0)
            if not bool((scale > 0).all()):
                raise ValueError(
                    f"samples must vary on every axis for Scott's rule, found axis "
                    f"{int(scale.argmin())} constant; give bandwidth a number above 0."
                )
        else:
            scale = _as_float64("bandwidth", bandwidth)
            if scale.ndim and scale.shape != (d,):
                raise ValueError(
                    f"bandwidth must be a number or have shape ({d},), found shape "
                    f"{tuple(scale.shape)}."
                )
            if not bool((scale > 0).all()):
                raise ValueError(f"bandwidth must be above 0, found {float(scale.min())}.")
        super().__init__(d)
        self.samples = samples
        self.bandwidth = bandwidth
        log_weights = torch.full((1, n), -math.log(n), dtype=torch.float64)
        self._set_nodes(points[None], log_weights, scale)

    def _draw(self, part, generator):
        c = self._constants(torch.float64, generator.device)
        n = c["nodes"].shape[1]
        index = torch.randint(n, (len(part),), generator=generator, device=generator.device)
        eps = _randn((len(part), self.n_components), generator)
        return (c["nodes"][0, index] + eps) * c["scale"]

    def extra_repr(self):
        """Return the constructor arguments, arrays by their shapes."""
        return f"samples={_brief(self.samples)}, bandwidth={_brief(self.bandwidth)}"


class _CurvePrior(_KernelPrior):
    """A curve in the plane, in parts of equal probability, plus isotropic noise.

    A subclass sets what its curve needs, calls ``_set_panels``, and implements
    ``_parameter(u, part)``, the quantile function of the curve parameter within a part, and
    ``_curve(t, part)`` -> (..., 2).
    """

    def __init__(self, n_parts, noise):
        super().__init__(2, [1.0] * n_parts)
        self.noise = noise

    def _set_panels(self, edges, length, log_density=None):
        """Place Gauss-Legendre nodes.

        ``edges`` (n_parts, n_panels + 1) are the ends of the panels over the range of the
        parameter; ``length`` is that of the longest panel on the curve, or a bound;
        ``log_density`` the log density of the parameter within its part up to a constant, by
        default uniform.
        """
        length = length / self.noise
        # Long panels are cut, because computing a rule of thousands of nodes would take minutes.
        n_cuts = math.ceil(length / 64)
        x, w = np.polynomial.legendre.leggauss(_n_nodes(length / n_cuts))
        x = np.concatenate([(k + (x + 1) / 2) / n_cuts for k in range(n_cuts)])
        w = np.tile(w, n_cuts)
        x, w = torch.from_numpy(x), torch.from_numpy(w)
        left, width = edges[:, :-1, None], edges.diff(dim=1)[:, :, None]
        t = (left + width * x).flatten(1)
        log_w = (width * w).log().flatten(1)
        if log_density is not None:
            log_w = log_w + log_density(t)
        log_w = log_w - torch.logsumexp(log_w, dim=1, keepdim=True)
        nodes = self._curve(t, torch.arange(self.n_parts)[:, None])
        self._set_nodes(nodes, log_w, torch.tensor(float(self.noise), dtype=torch.float64))

    def _draw(self, part, generator):
        u = torch.rand(len(part), generator=generator, device=generator.device, dtype=torch.float64)
        eps = _randn((len(part), 2), generator)
        return self._curve(self._parameter(u, part), part) + self.noise * eps


class PinwheelPrior(_CurvePrior):
    """Pinwheel: arms around the origin, each a spiral, plus isotropic noise in the plane.

    The radius on an arm is normal, cut at three standard deviations; the angle of arm k is
    2 pi k / n_arms + twist * (radius - mean radius). The mean radius is such that each axis has
    variance one. The parts are the arms.

    Parameters
    ----------
    n_arms : int, default=10
        Number of arms.
    radial_std : float, default=0.2
        Standard deviation of the radius along an arm before the cut, from 0.001 to 0.4; the
        arms do not reach the origin.
    twist : float, default=0.6
        Turn of an arm in radians per unit of radius, from -10 to 10.
    noise : float, default=0.055
        Standard deviation of the isotropic noise, from 0.001 to 0.5.

    Raises
    ------
    ValueError
        When an argument is out of range.

    References
    ----------
    The shape follows the pinwheel data of Johnson et al. (2016), "Composing graphical models
    with neural networks for structured representations and fast inference", NeurIPS.

    Examples
    --------
    >>> import torch
    >>> from skddvi.priors import PinwheelPrior
    >>> prior = PinwheelPrior(n_arms=5)
    >>> z = prior.sample(3, generator=torch.Generator().manual_seed(0), part=2)
    >>> prior.part_log_prob(z).argmax(dim=1)
    tensor([2, 2, 2])
    """

    name = "pinwheel"
    _cut = 3.0

    def __init__(self, n_arms=10, radial_std=0.2, twist=0.6, noise=0.055):
        _check_count("n_arms", n_arms)
        _check_number("radial_std", radial_std, 0.001, 0.4)
        _check_number("twist", twist, -10.0, 10.0)
        _check_number("noise", noise, 0.001, 0.5)
        # Variance of a normal cut at +-c: 1 - 2 c pdf(c) / (2 cdf(c) - 1).
        c = self._cut
        pdf = math.exp(-0.5 * c * c) / math.sqrt(2 * math.pi)
        radial_variance = radial_std**2 * (1 - 2 * c * pdf / math.erf(c / math.sqrt(2)))
        super().__init__(n_arms, noise)
        self.n_arms = n_arms
        self.radial_std = radial_std
        self.twist = twist
        self._mean_radius = math.sqrt(2 - radial_variance - 2 * noise**2)
        outer = self._mean_radius + c * radial_std
        length = 2 * c * radial_std * math.hypot(1.0, twist * outer)
        edges = torch.tensor([[-c, c]], dtype=torch.float64).repeat(n_arms, 1)
        self._set_panels(edges, length, log_density=lambda t: -0.5 * t * t)

    def _parameter(self, u, part):
        # u in [0, 1] -> standard normal cut at +-c, by inversion.
        tail = 0.5 * math.erfc(self._cut / math.sqrt(2))
        return torch.special.ndtri(tail + (1 - 2 * tail) * u)

    def _curve(self, t, part):
        radius = self._mean_radius + self.radial_std * t
        angle = 2 * math.pi * part / self.n_arms + self.twist * self.radial_std * t
        return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)

    def extra_repr(self):
        """Return the constructor arguments."""
        return (
            f"n_arms={self.n_arms}, radial_std={self.radial_std}, twist={self.twist}, "
            f"noise={self.noise}"
        )


class SwissRollPrior(_CurvePrior):
    """Swiss roll: one spiral in the plane plus isotropic noise.

    The curve is proportional to (t cos t, t sin t) with t uniform from 1.5 pi to
    (1.5 + 2 n_turns) pi, shifted and scaled so that the mean is zero and the mean variance of
    the two axes is one. The parts are stretches of equal probability, from the inside out.

    Parameters
    ----------
    n_parts : int, default=10
        Number of stretches.
    n_turns : float, default=1.5
        Length of the spiral in turns, from 0.1 to 10.
    noise : float, default=0.15
        Standard deviation of the isotropic noise, from 0.001 to 0.9.

    Raises
    ------
    ValueError
        When an argument is out of range.

    Examples
    --------
    >>> import torch
    >>> from skddvi.priors import SwissRollPrior
    >>> SwissRollPrior().sample(2, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 2])
    """

    name = "swiss_roll"

    def __init__(self, n_parts=10, n_turns=1.5, noise=0.15):
        _check_count("n_parts", n_parts)
        _check_number("n_turns", n_turns, 0.1, 10.0)
        _check_number("noise", noise, 0.001, 0.9)
        super().__init__(n_parts, noise)
        self.n_turns = n_turns
        self._first = 1.5 * math.pi
        self._last = self._first + 2 * math.pi * n_turns
        # Mean and variance of (t cos t, t sin t) under the uniform law of t, as E[t^2] - |mean|^2.
        a, b = self._first, self._last
        mean = torch.tensor(
            [
                (b * math.sin(b) + math.cos(b)) - (a * math.sin(a) + math.cos(a)),
                (math.sin(b) - b * math.cos(b)) - (math.sin(a) - a * math.cos(a)),
            ],
            dtype=torch.float64,
        ) / (b - a)
        variance = (a * a + a * b + b * b) / 3 - float(mean.square().sum())
        self._scale = math.sqrt((1 - noise**2) * 2 / variance)
        self._centre = mean * self._scale
        length = self._scale * math.hypot(1.0, b) * (b - a) / n_parts
        edges = torch.linspace(a, b, n_parts + 1, dtype=torch.float64)
        self._set_panels(torch.stack([edges[:-1], edges[1:]], dim=1), length)

    def _parameter(self, u, part):
        return self._first + (self._last - self._first) * (part + u) / self.n_parts

    def _curve(self, t, part):
        roll = self._scale * t[..., None] * torch.stack([t.cos(), t.sin()], dim=-1)
        return roll - self._centre.to(roll.device)

    def extra_repr(self):
        """Return the constructor arguments."""
        return f"n_parts={self.n_parts}, n_turns={self.n_turns}, noise={self.noise}"


class SquarePrior(_CurvePrior):
    """Outline of a square plus isotropic noise in the plane.

    The four edges are uniformly covered and lie so that each axis has variance one. The parts
    are stretches of equal length, counter-clockwise from the lower left corner.

    Parameters
    ----------
    n_parts : int, default=10
        Number of stretches.
    noise : float, default=0.1
        Standard deviation of the isotropic noise, from 0.001 to 0.9.

    Raises
    ------
    ValueError
        When an argument is out of range.

    Examples
    --------
    >>> import torch
    >>> from skddvi.priors import SquarePrior
    >>> prior = SquarePrior(n_parts=4)
    >>> z = prior.sample(3, generator=torch.Generator().manual_seed(0), part=0)
    >>> z[:, 1] < -0.9  # the lower edge
    tensor([True, True, True])
    """

    name = "square"

    def __init__(self, n_parts=10, noise=0.1):
        _check_count("n_parts", n_parts)
        _check_number("noise", noise, 0.001, 0.9)
        super().__init__(n_parts, noise)
        # Half of the outline has x = +-h, half has x uniform: variance (h^2 + h^2 / 3) / 2.
        self._half = math.sqrt(1.5 * (1 - noise**2))
        # The parameter runs over [0, 4], one unit per edge. A panel must not contain a corner,
        # where the curve is not smooth; all stretches are cut into the same number of panels.
        edges = np.linspace(0, 4, n_parts + 1)
        cuts = [
            [left, *(k for k in (1.0, 2.0, 3.0) if left < k < right), right]
            for left, right in itertools.pairwise(edges)
        ]
        most = max(len(cut) for cut in cuts)
        for cut in cuts:
            while len(cut) < most:
                widest = int(np.argmax(np.diff(cut)))
                cut.insert(widest + 1, (cut[widest] + cut[widest + 1]) / 2)
        cuts = torch.tensor(cuts, dtype=torch.float64)
        self._set_panels(cuts, 2 * self._half * float(cuts.diff().max()))

    def _parameter(self, u, part):
        return 4.0 * (part + u) / self.n_parts

    def _curve(self, t, part):
        # Distances along the outline from a corner, turned into coordinates by clamping.
        x = t.clamp(0, 1) - (t - 2).clamp(0, 1)
        y = (t - 1).clamp(0, 1) - (t - 3).clamp(0, 1)
        return self._half * (2 * torch.stack([x, y], dim=-1) - 1)

    def extra_repr(self):
        """Return the constructor arguments."""
        return f"n_parts={self.n_parts}, noise={self.noise}"


class UserPrior(Prior):
    """Adapter that gives a user's object the interface of :class:`Prior`.

    Parameters
    ----------
    prior : object
        Object with an attribute ``n_components`` (int) and methods ``sample(n, generator)`` ->
        (n, n_components) and ``log_prob(z)`` -> (n,), the normalised log density in nats,
        differentiable by torch. If it also has ``n_parts``, ``part_log_prob(z)`` ->
        (n, n_parts), ``part_weights`` and ``sample(n, generator, part)``, its parts are used. A
        :class:`torch.nn.Module` becomes a submodule.

    Raises
    ------
    ValueError
        When an attribute is missing.

    Examples
    --------
    >>> import torch
    >>> from skddvi.priors import UserPrior
    >>> class Laplace:
    ...     n_components = 2
    ...
    ...     def sample(self, n, generator):
    ...         u = torch.rand(2, n, 2, generator=generator)
    ...         return u[0].log() - u[1].log()
    ...
    ...     def log_prob(self, z):
    ...         return -(2 * torch.nn.functional.softplus(-z.abs()) + z.abs()).sum(-1)
    >>> UserPrior(Laplace()).log_prob(torch.zeros(1, 2))
    tensor([-2.7726])
    """

    name = "user"

    def __init__(self, prior):
        missing = [a for a in ("n_components", "sample", "log_prob") if not hasattr(prior, a)]
        if missing:
            raise ValueError(
                f"prior must have n_components, sample(n, generator) and log_prob(z), found "
                f"{type(prior).__name__} without {', '.join(missing)}."
            )
        n_components = _check_count("prior.n_components", prior.n_components)
        has_parts = all(hasattr(prior, a) for a in ("n_parts", "part_log_prob", "part_weights"))
        super().__init__(n_components, prior.part_weights if has_parts else (1.0,))
        self.prior = prior
        self._has_parts = has_parts

    def part_log_prob(self, z):
        """Return the log density (..., n_parts) in nats of every part."""
        z = self._check_z(z)
        flat = z.reshape(-1, self.n_components)
        if self._has_parts:
            value, shape = self.prior.part_log_prob(flat), (len(flat), self.n_parts)
        else:
            value, shape = self.prior.log_prob(flat), (len(flat),)
        if not torch.is_tensor(value) or value.shape != shape:
            found = tuple(value.shape) if torch.is_tensor(value) else type(value).__name__
            raise ValueError(
                f"the log density of prior={type(self.prior).__name__} must be a tensor of shape "
                f"{shape} for z of shape {tuple(flat.shape)}, found {found}."
            )
        return value.to(z.dtype).reshape(*z.shape[:-1], self.n_parts)

    def _draw(self, part, generator):
        n_samples = len(part)
        if self._has_parts:
            z = self.prior.sample(n_samples, generator, part)
        else:
            z = self.prior.sample(n_samples, generator)
        z = torch.as_tensor(z)
        if z.shape != (n_samples, self.n_components):
            raise ValueError(
                f"the samples of prior={type(self.prior).__name__} must have shape "
                f"{(n_samples, self.n_components)}, found {tuple(z.shape)}."
            )
        return z

    def extra_repr(self):
        """Return the wrapped object; a module prints itself."""
        return "" if isinstance(self.prior, nn.Module) else f"prior={self.prior!r}"


def resolve_prior(prior, n_components, n_parts=10, gap=4.3):
    """Return the prior that a parameter value stands for.

    Parameters
    ----------
    prior : {"normal", "gaussian_mixture", "pinwheel", "swiss_roll", "square"} or object
        A name, a :class:`Prior`, or a user's object as :class:`UserPrior` describes.
        "gaussian_mixture" has its components on a ring in two dimensions, spread as evenly as the
        dimension allows elsewhere.
    n_components : int
        Dimension of the latent space.
    n_parts : int, default=10
        Number of parts of a prior that is named; "normal" has one.
    gap : float, default=4.3
        Distance of neighbouring components of "gaussian_mixture" in their standard deviations.

    Returns
    -------
    Prior
        A new prior; an object is copied deeply, so that nothing is shared with the caller's.

    Raises
    ------
    ValueError
        When the name is unknown, the object lacks a method, or the prior lives in another
        dimension.

    Examples
    --------
    >>> from skddvi.priors import resolve_prior
    >>> resolve_prior("pinwheel", n_components=2).n_parts
    10
    >>> resolve_prior("pinwheel", n_components=3)
    Traceback (most recent call last):
    ...
    ValueError: prior='pinwheel' lives in 2 dimensions, found n_components=3.
    """
    named = {
        "normal": lambda: NormalPrior(n_components),
        "gaussian_mixture": lambda: GaussianMixturePrior(
            *_even_mixture(n_parts, n_components, gap)
        ),
        "pinwheel": lambda: PinwheelPrior(n_parts),
        "swiss_roll": lambda: SwissRollPrior(n_parts),
        "square": lambda: SquarePrior(n_parts),
    }
    if isinstance(prior, str):
        if prior not in named:
            raise ValueError(
                f"prior must be one of {', '.join(map(repr, named))} or an object, found {prior!r}."
            )
        resolved, label = named[prior](), repr(prior)
    else:
        # Checked before copying: a class or a number would copy without complaint.
        if isinstance(prior, type):
            raise ValueError(f"prior must be an object, found the class {prior.__name__}.")
        resolved = copy.deepcopy(prior if isinstance(prior, Prior) else UserPrior(prior))
        label = type(prior).__name__
    if resolved.n_components != n_components:
        raise ValueError(
            f"prior={label} lives in {resolved.n_components} dimensions, found "
            f"n_components={n_components}."
        )
    return resolved


def _even_mixture(n_parts, n_components, gap):
    """Return means and scales of evenly spread components with variance one on every axis.

    The centres are (cos t, sin t, cos 2t, sin 2t, ...) at n_parts angles t, with (-1)^k as an
    odd last axis: a ring in two dimensions, a regular simplex in n_parts - 1. Axes beyond that
    are standard normal. Neighbours lie ``gap`` standard deviations apart.
    """
    if n_components == 1:
        means = np.linspace(-1, 1, n_parts)[:, None]
    else:
        index = np.arange(n_parts)
        used = min(n_components, n_parts - 1)
        means = np.zeros((n_parts, n_components))
        for axis in range(used):
            angle = 2 * np.pi * (axis // 2 + 1) * index / n_parts
            means[:, axis] = np.sin(angle) if axis % 2 else np.cos(angle)
        if used % 2:
            means[:, used - 1] = (-1.0) ** index
    std = means.std(axis=0)
    occupied = std > 0
    means[:, occupied] /= std[occupied]
    gaps = np.linalg.norm(means[:, None] - means[None], axis=-1)
    nearest = gaps[gaps > 0].min()
    scale = nearest / math.hypot(gap, nearest)
    scales = np.where(occupied, scale, 1.0)
    return means * math.sqrt(1 - scale**2), np.tile(scales, (n_parts, 1))


def _n_nodes(length):
    """Return the number of nodes for a panel of ``length`` noise standard deviations.

    Found by comparing with many more nodes: near the mass (|z| up to 3) the log density is exact
    to rounding in float64. Farther out, where only the end of a curve nearest to z counts, the
    error is below 1e-6 of the log density at |z| = 5 and 1e-4 of it at any distance.
    """
    return 16 + math.ceil(1.6 * length)


def _randn(shape, generator):
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)


def _brief(value):
    """Return the repr of a number or None, the shape of anything larger."""
    if value is None or np.ndim(value) == 0:
        return repr(value)
    return f"array{tuple(np.shape(value))}"


def _check_count(name, value):
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, found {value!r}.")
    return int(value)


def _check_number(name, value, low, high):
    ok = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high
    if not ok:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, found {value!r}.")


def _as_float64(name, value):
    """Return ``value`` as a finite float64 tensor that shares no memory with it."""
    if torch.is_tensor(value):
        value = value.detach().cpu().numpy()
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers, found {type(value).__name__}.") from error
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise ValueError(f"{name} must be finite, found {count} NaN or infinite entries.")
    return torch.from_numpy(array)


def _as_matrix(name, value):
    matrix = _as_float64(name, value)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"{name} must be a matrix with at least one row and one column, found shape "
            f"{tuple(matrix.shape)}."
        )
    return matrix
