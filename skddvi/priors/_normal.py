"""The standard normal prior."""

from ._base import Prior
from ._common import LOG_2PI, check_count, randn


class NormalPrior(Prior):
    """Standard normal prior N(0, I).

    Parameters
    ----------
    n_components : int, default=2
        Dimension of the latent space.

    Examples
    --------
    >>> import torch
    >>> from skddvi.priors import NormalPrior
    >>> NormalPrior(n_components=2).log_prob(torch.zeros(1, 2))
    tensor([-1.8379])
    """

    name = "normal"

    def __init__(self, n_components=2):
        super().__init__(check_count("n_components", n_components))

    def part_log_prob(self, z):
        """Return the log density (..., 1) in nats of the only part."""
        z = self._check_z(z)
        return -0.5 * (z.square().sum(-1, keepdim=True) + self.n_components * LOG_2PI)

    def denoise(self, y, variance, part=None):
        """Return E[z | y] and Var[z | y], each (..., n_components)."""
        shrinkage = 1.0 / (1.0 + variance)
        return y * shrinkage, (variance * shrinkage).expand_as(y)

    def _draw(self, part, generator):
        return randn((len(part), self.n_components), generator)

    def extra_repr(self):
        """Return the constructor arguments."""
        return f"n_components={self.n_components}"
