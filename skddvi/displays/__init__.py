"""Pictures of fitted models, in the form of scikit-learn's displays.

``from_estimator`` computes what is to be seen and draws it; ``plot`` draws it again, on axes of
your own if need be. The numbers are attributes, and so are the axes. matplotlib is imported when
something is drawn and not before; it comes with the extra ``skddvi[plots]``.
"""

from ._cluster_number import ClusterNumberDisplay
from ._decoded_grid import DecodedGridDisplay
from ._history import HistoryDisplay
from ._latent_space import LatentSpaceDisplay
from ._posterior import PosteriorDisplay
from ._reliability import ReliabilityDisplay
from ._trajectory import TrajectoryDisplay

__all__ = [
    "ClusterNumberDisplay",
    "DecodedGridDisplay",
    "HistoryDisplay",
    "LatentSpaceDisplay",
    "PosteriorDisplay",
    "ReliabilityDisplay",
    "TrajectoryDisplay",
]
