"""Prior distributions p(z) over the latent space.

Every prior samples and has an exact, normalised, differentiable log density in nats. A prior
may be made of *parts* (components, arms, stretches of a curve) that carry class indices; its
density is the mixture ``sum_k part_weights[k] * p(z | k)``.

The curved priors are a curve plus isotropic Gaussian noise: a parameter u is drawn, the curve
gives the point c(u), and z = c(u) + noise * eps. Their density is the integral

    p(z | k) = int N(z; c(u), noise^2 I) p(u | k) du,

computed by Gauss-Legendre quadrature with enough nodes to be exact to rounding.
"""

from ._base import Prior
from ._curves import PinwheelPrior, SquarePrior, SwissRollPrior
from ._kernel import EmpiricalPrior
from ._mixture import GaussianMixturePrior
from ._normal import NormalPrior
from ._resolve import resolve_prior
from ._user import UserPrior

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
