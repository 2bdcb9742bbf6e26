"""From a parameter value to a likelihood."""

import copy

from ._base import Likelihood
from ._bounded import BernoulliLikelihood, BinomialLikelihood
from ._counts import NegativeBinomialLikelihood, PoissonLikelihood
from ._gaussian import GaussianLikelihood

_LIKELIHOODS = {
    kind.name: kind
    for kind in (
        GaussianLikelihood,
        BernoulliLikelihood,
        BinomialLikelihood,
        PoissonLikelihood,
        NegativeBinomialLikelihood,
    )
}


def resolve_likelihood(likelihood):
    """Return the likelihood that a parameter value stands for.

    Parameters
    ----------
    likelihood : str or Likelihood
        One of "gaussian", "bernoulli", "binomial", "poisson", "negative_binomial", or an instance
        of a subclass of `Likelihood`, which is not altered.

    Returns
    -------
    Likelihood
        A new likelihood; nothing is shared with the caller's.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If it is neither a name nor a `Likelihood`.

    Examples
    --------
    >>> from skddvi.likelihoods import resolve_likelihood
    >>> resolve_likelihood("binomial")
    BinomialLikelihood(n_trials=2)
    """
    if isinstance(likelihood, Likelihood):
        return copy.deepcopy(likelihood)
    if not isinstance(likelihood, str):
        raise TypeError(
            f"likelihood must be one of {sorted(_LIKELIHOODS)} or an instance of "
            f"skddvi.likelihoods.Likelihood, got {likelihood!r}"
        )
    if likelihood not in _LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {sorted(_LIKELIHOODS)}, got {likelihood!r}")
    return _LIKELIHOODS[likelihood]()
