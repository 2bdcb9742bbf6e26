"""Latent-variable models with diffusion posteriors, as scikit-learn estimators."""

__version__ = "0.1.0"

from .classifier import DDVAEClassifier
from .cluster_number import ClusterNumberScan, cluster_number_scan
from .clusterer import DDVAEClusterer
from .persistence import load, save
from .transformer import DDVAETransformer

__all__ = [
    "ClusterNumberScan",
    "DDVAEClassifier",
    "DDVAEClusterer",
    "DDVAETransformer",
    "__version__",
    "cluster_number_scan",
    "load",
    "save",
]
