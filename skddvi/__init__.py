"""Latent-variable models with diffusion posteriors, as scikit-learn estimators."""

__version__ = "0.1.0"

from .clusterer import DDVAEClusterer
from .transformer import DDVAETransformer

__all__ = ["DDVAEClusterer", "DDVAETransformer", "__version__"]
