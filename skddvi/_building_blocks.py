"""The classes whose objects can stand in a file, by the names that stand for them there.

Their constructors take what they have as attributes; of modules, the tensors are kept as well.
"""

from . import likelihoods, noising, priors, regularizers
from .mixture_prior import MixturePrior

BUILDING_BLOCKS = {
    cls.__name__: cls
    for cls in (
        priors.NormalPrior,
        priors.GaussianMixturePrior,
        priors.PinwheelPrior,
        priors.SwissRollPrior,
        priors.SquarePrior,
        priors.EmpiricalPrior,
        MixturePrior,
        likelihoods.GaussianLikelihood,
        likelihoods.BernoulliLikelihood,
        likelihoods.BinomialLikelihood,
        likelihoods.PoissonLikelihood,
        likelihoods.NegativeBinomialLikelihood,
        noising.VariancePreserving,
        noising.VarianceExploding,
        regularizers.NeighborhoodPreservation,
        regularizers.PriorCoverage,
    )
}
