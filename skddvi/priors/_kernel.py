"""Priors that are weighted sums of Gaussians of one scale; kernel density estimates."""

import math

import torch
from torch.autograd.function import once_differentiable

from ._base import Prior
from ._common import LOG_2PI, as_float64, as_matrix, brief, randn

# Most distances (rows x nodes) held at once, so that memory does not grow with the number of rows.
# On a CPU they fit in a core's cache, elsewhere launching many small blocks would cost more.
_BLOCK_SIZE_CPU = 2**16
_BLOCK_SIZE = 2**24
# Of the logarithm of a weight that is this much below the largest.
_NEGLIGIBLE = 50.0


class KernelPrior(Prior):
    """Prior whose parts are weighted sums of Gaussians of one common scale.

    The masters ``nodes`` (n_parts, m, d), ``log_weights`` (n_parts, m) and ``scale`` (d,) are
    set by the subclass; log_weights sums to one within a part. Others may be given for
    :meth:`denoise`, whose cost is that of as many nodes.
    """

    def _set_nodes(self, nodes, log_weights, scale, denoising=None):
        scale = scale.expand(self.n_components).clone()
        self._masters["scale"] = scale
        self._masters["nodes"] = nodes / scale
        self._masters["log_weights"] = log_weights
        # For the posterior given a noised point. Counted from their middle, the nodes are small
        # numbers, so that their squares keep their digits in float32.
        nodes, log_weights = denoising or (nodes, log_weights)
        every = nodes.flatten(0, 1) / scale
        middle = every.mean(0)
        every = every - middle
        self._masters["middle"], self._masters["variance"] = middle * scale, scale.square()
        self._masters["moments"] = torch.cat(
            [every, every.square(), torch.ones_like(every[:, :1])], dim=-1
        )
        log_part_weights = self._masters["log_part_weights"][:, None]
        self._masters["moment_log_weights"] = log_weights
        self._masters["node_log_weights"] = (log_weights + log_part_weights).flatten()
        self._log_norm = float(scale.log().sum()) + 0.5 * self.n_components * LOG_2PI

    def part_log_prob(self, z):
        """Return the log density (..., n_parts) in nats of every part."""
        z = self._check_z(z)
        c = self._constants(z.dtype, z.device)
        flat = (z / c["scale"]).reshape(-1, self.n_components)
        log_prob = _LogKernelSum.apply(flat, c["nodes"], c["log_weights"]) - self._log_norm
        return log_prob.reshape(*z.shape[:-1], self.n_parts)

    def denoise(self, y, variance, part=None):
        """Return E[z | y] and Var[z | y], each (..., n_components)."""
        flat = y.reshape(-1, self.n_components)
        noise = variance.expand_as(y).reshape(-1, self.n_components)
        parts = () if part is None else (part.expand(y.shape[:-1]).reshape(-1),)
        moments = by_blocks(self._denoise, len(self._masters["moments"]), flat, noise, *parts)
        return tuple(moment.reshape(y.shape) for moment in moments)

    def _denoise(self, y, variance, part=None):
        """Return the moments for a block of rows (n, n_components)."""
        c = self._constants(y.dtype, y.device)
        log_weights = c["node_log_weights"]
        if part is not None:
            own = self._log_weights_of(part, y).unsqueeze(-1)
            log_weights = (c["moment_log_weights"] + own).flatten(-2)
        return _Moments.apply(y, variance, c, log_weights)


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


class _Moments(torch.autograd.Function):
    """E[z | y] and Var[z | y] under a sum of Gaussians of one scale, and their gradients."""

    @staticmethod
    def forward(ctx, y, variance, c, log_weights):
        """Return mean and variance, (n, d) each.

        Parameters
        ----------
        y, variance : Tensor of shape (n, d)
            Noised latents and the variance of their noise.
        c : dict of str to Tensor
            ``scale``, its square ``variance`` and ``middle``, (d,) each, and ``moments``, (n_nodes,
            2 d + 1): the nodes in units of the scale and from the middle on, their squares, and
            ones.
        log_weights : Tensor of shape (n_nodes,) or (n, n_nodes)
        """
        keep = any(ctx.needs_input_grad)
        mean, left, *tape = _moments(y, variance, c, log_weights, keep)
        if keep:
            ctx.c, ctx.log_weights = c, log_weights
            ctx.save_for_backward(y, variance, *tape)
        return mean, left

    @staticmethod
    def backward(ctx, of_mean, of_left):
        """Return the gradients (n, d) in y and the variance."""
        inputs = ctx.saved_tensors[:2]
        # Products of low precision would not do, in the gradient neither.
        with torch.autocast(of_mean.device.type, enabled=False):
            if torch.is_grad_enabled():  # a gradient of the gradient will be asked for
                # Views, so that what one owes to the other is not counted twice.
                inputs = [each.view_as(each) for each in inputs]
                outputs = _moments(*inputs, ctx.c, ctx.log_weights)
                used = [each for each in inputs if each.requires_grad]
                found = torch.autograd.grad(outputs, used, (of_mean, of_left), create_graph=True)
                own = iter(found)
                own = [next(own) if each.requires_grad else None for each in inputs]
            else:
                own = _moments_backward(of_mean, of_left, *inputs, ctx.saved_tensors[2:], ctx.c)
        return *own, None, None


def _moments_backward(of_mean, of_left, y, variance, tape, c):
    """Return the gradients (n, d) in y and the variance, given those of :func:`_moments`."""
    y, v = (y - c["middle"]) / c["scale"], variance / c["variance"]
    p = (v + 1.0).reciprocal()
    gain, centre, spread = p * v, *tape[:2]
    of_mean, of_left = of_mean * c["scale"], of_left * c["variance"]
    of_y, of_p = node_moments_backward(
        of_mean * gain, of_left * gain.square(), y, p, tape, c["moments"]
    )
    of_gain = torch.addcmul(of_left, of_left * gain, spread, value=2.0)
    of_gain = torch.addcmul(of_gain, of_mean, centre - y)
    of_v = p.square() * (of_gain - of_p)
    return torch.addcmul(of_y, of_mean, p) / c["scale"], of_v / c["variance"]


def _moments(y, variance, c, log_weights, keep=False):
    """Return E[z | y] and Var[z | y], (n, d) each, and what :func:`node_moments` keeps.

    In units of the scale, with p = 1 / (1 + v) and the mean m and the variance V of the nodes, they
    are y + p v (m - y) and p v + (p v)^2 V.
    """
    y, v = (y - c["middle"]) / c["scale"], variance / c["variance"]
    p = (v + 1.0).reciprocal()
    gain = p * v
    # Products of low precision would not do.
    with torch.autocast(y.device.type, enabled=False):
        centre, spread, *tape = node_moments(y, p, c["moments"], log_weights, keep)
    mean, left = torch.lerp(y, centre, gain), torch.addcmul(gain, gain.square(), spread)
    if keep:
        tape = centre, spread, *tape
    return torch.addcmul(c["middle"], mean, c["scale"]), left * c["variance"], *tape


def node_moments(y, precision, moments, log_weights, keep=False):
    """Return the mean and the variance of the nodes in view of y, (n, d) each.

    The shares of the nodes c_j are softmax_j(log w_j - p |y - c_j|^2 / 2).

    Parameters
    ----------
    y, precision : Tensor of shape (n, d)
        y, and p.
    moments : Tensor of shape (n_nodes, 2 d + 1)
        The nodes, their squares, and ones.
    log_weights : Tensor of shape (n_nodes,) or (n, n_nodes)
    keep : bool
        Whether to return, too, what :func:`node_moments_backward` asks for. Otherwise the results
        have a graph, where one is recorded.
    """
    k = moments.shape[1] - 1
    # Terms that are the same for all nodes drop out.
    natural = torch.cat([y * precision, -0.5 * precision], dim=-1)
    weights = torch.addmm(log_weights, natural, moments[:, :k].T)
    if torch.is_grad_enabled() and not keep:
        sums = torch.softmax(weights, -1) @ moments[:, :k]
    else:
        weights = weights.sub_(weights.amax(-1, keepdim=True))
        # Smaller terms are lost in rounding, and numbers that underflow, here or in a product, are
        # ten times slower.
        weights = weights.clamp_(min=-_NEGLIGIBLE).exp_()
        sums = weights @ moments
        sums, total = sums[:, :k], sums[:, k:]
        sums = sums / total
    centre, square = sums.chunk(2, dim=-1)
    spread = torch.addcmul(square, centre, centre, value=-1.0).clamp(min=0.0)
    return (centre, spread, weights, total, sums) if keep else (centre, spread)


def node_moments_backward(of_centre, of_spread, y, precision, tape, moments):
    """Return the gradients of y and the precision, given those of :func:`node_moments`.

    ``tape`` is what that returned with ``keep``.
    """
    centre, spread, weights, total, sums = tape
    of_spread = torch.where(spread > 0.0, of_spread, 0.0)
    of_centre = torch.addcmul(of_centre, of_spread, centre, value=-2.0)
    # Through the softmax, of whose gradient the mean over nodes is known.
    of_sums = torch.cat([of_centre, of_spread], dim=-1)
    of_sums = torch.cat([of_sums, -(of_sums * sums).sum(-1, keepdim=True)], dim=-1) / total
    of_logits = (of_sums @ moments.T).mul_(weights)
    of_scaled, of_square = (of_logits @ moments[:, :-1]).chunk(2, dim=-1)
    return of_scaled * precision, torch.addcmul(-0.5 * of_square, of_scaled, y)


def by_blocks(function, n_nodes, *rows):
    """Return what a function makes of rows, calling it for so many that memory does not grow."""
    n_rows = max(1, _BLOCK_SIZE // n_nodes)
    if len(rows[0]) <= n_rows:
        return function(*rows)
    blocks = zip(*(each.split(n_rows) for each in rows), strict=True)
    return tuple(torch.cat(each) for each in zip(*(function(*b) for b in blocks), strict=True))


class EmpiricalPrior(KernelPrior):
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
        points = as_matrix("samples", samples)
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
            scale = as_float64("bandwidth", bandwidth)
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
        eps = randn((len(part), self.n_components), generator)
        return (c["nodes"][0, index] + eps) * c["scale"]

    def extra_repr(self):
        """Return the constructor arguments, arrays by their shapes."""
        return f"samples={brief(self.samples)}, bandwidth={brief(self.bandwidth)}"
