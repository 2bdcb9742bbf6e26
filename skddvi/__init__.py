"""Latent-variable models with diffusion posteriors, as scikit-learn estimators."""

__version__ = "0.1.0"

from .classifier import DDVAEClassifier
from .transformer import DDVAETransformer

__all__ = ["DDVAEClassifier", "DDVAETransformer", "__version__"]
