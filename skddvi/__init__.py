"""Latent-variable models with diffusion posteriors, as scikit-learn estimators."""

__version__ = "0.1.0"

from .persistence import load, save
from .transformer import DDVAETransformer

__all__ = ["DDVAETransformer", "__version__", "load", "save"]
