"""Priors that are a curve in the plane plus isotropic noise."""

import itertools
import math

import numpy as np
import torch

from ._common import check_count, check_number, randn
from ._kernel import KernelPrior


class CurvePrior(KernelPrior):
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
        rules = []
        for n_nodes in (_n_nodes, _n_denoising_nodes):
            # Long panels are cut: computing a rule of thousands of nodes would take minutes.
            n_cuts = math.ceil(length / 64)
            x, w = np.polynomial.legendre.leggauss(n_nodes(length / n_cuts))
            x = np.concatenate([(k + (x + 1) / 2) / n_cuts for k in range(n_cuts)])
            x, w = torch.from_numpy(x), torch.from_numpy(np.tile(w, n_cuts))
            left, width = edges[:, :-1, None], edges.diff(dim=1)[:, :, None]
            t = (left + width * x).flatten(1)
            log_w = (width * w).log().flatten(1)
            if log_density is not None:
                log_w = log_w + log_density(t)
            log_w = log_w - torch.logsumexp(log_w, dim=1, keepdim=True)
            rules.append((self._curve(t, torch.arange(self.n_parts)[:, None]), log_w))
        scale = torch.tensor(float(self.noise), dtype=torch.float64)
        self._set_nodes(*rules[0], scale, denoising=rules[1])

    def _draw(self, part, generator):
        u = torch.rand(len(part), generator=generator, device=generator.device, dtype=torch.float64)
        eps = randn((len(part), 2), generator)
        return self._curve(self._parameter(u, part), part) + self.noise * eps


class PinwheelPrior(CurvePrior):
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
        check_count("n_arms", n_arms)
        check_number("radial_std", radial_std, 0.001, 0.4)
        check_number("twist", twist, -10.0, 10.0)
        check_number("noise", noise, 0.001, 0.5)
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


class SwissRollPrior(CurvePrior):
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
        check_count("n_parts", n_parts)
        check_number("n_turns", n_turns, 0.1, 10.0)
        check_number("noise", noise, 0.001, 0.9)
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


class SquarePrior(CurvePrior):
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
        check_count("n_parts", n_parts)
        check_number("noise", noise, 0.001, 0.9)
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


def _n_nodes(length):
    """Return the number of nodes for a panel of ``length`` noise standard deviations.

    Found by comparing with many more nodes: near the mass (|z| up to 3) the log density is exact
    to rounding in float64. Farther out, where only the end of a curve nearest to z counts, the
    error is below 1e-6 of the log density at |z| = 5 and 1e-4 of it at any distance.
    """
    return 16 + math.ceil(1.6 * length)


def _n_denoising_nodes(length):
    """Return the number of nodes for a panel where only :meth:`Prior.denoise` needs them.

    Found as for :func:`_n_nodes`. Near the mass, means are within 1e-6 standard deviations under
    the default priors, 1e-4 under thin ones and 5e-3 at the limits of the parameters; far from it
    (|y| = 5, little noise) within a few hundredths. A posterior that is led by them is no less a
    posterior, so they need not be exact.
    """
    return 8 + math.ceil(length)
