"""Latent-variable models with diffusion posteriors, as scikit-learn estimators."""

__version__ = "0.1.0"

from .cluster_number import ClusterNumberScan, cluster_number_scan
from .clusterer import DDVAEClusterer
from .transformer import DDVAETransformer

__all__ = [
    "ClusterNumberScan",
    "DDVAEClusterer",
    "DDVAETransformer",
    "__version__",
    "cluster_number_scan",
]
