"""Denoising Diffusion Variational Inference for scikit-learn users."""

__version__ = "0.1.0"

from .cluster_number import ClusterNumberScan, cluster_number_scan
from .clusterer import DDVAEClusterer
from .persistence import load, save
from .transformer import DDVAETransformer

__all__ = [
    "ClusterNumberScan",
    "DDVAEClusterer",
    "DDVAETransformer",
    "__version__",
    "cluster_number_scan",
    "load",
    "save",
]
