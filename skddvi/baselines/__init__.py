"""The rivals of DDVI: the same model and training, with another posterior.

Each estimator is :class:`skddvi.DDVAETransformer` with one part of its engine exchanged, so that a
comparison compares that part. Prior, likelihood, networks, optimiser and batches are the same code.
"""

from ._adversarial import AdversarialAutoencoder
from ._flow import InverseAutoregressiveFlowVAE
from ._hierarchical import HierarchicalVAE
from ._unconditional import UnconditionalLatentDiffusion
from ._variational import IWAE, GaussianVAE

__all__ = [
    "IWAE",
    "AdversarialAutoencoder",
    "GaussianVAE",
    "HierarchicalVAE",
    "InverseAutoregressiveFlowVAE",
    "UnconditionalLatentDiffusion",
]
