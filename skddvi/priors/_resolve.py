"""From a parameter value to a prior."""

import copy

from ._base import Prior
from ._curves import PinwheelPrior, SquarePrior, SwissRollPrior
from ._mixture import GaussianMixturePrior, even_mixture
from ._normal import NormalPrior
from ._user import UserPrior


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
        "gaussian_mixture": lambda: GaussianMixturePrior(*even_mixture(n_parts, n_components, gap)),
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
