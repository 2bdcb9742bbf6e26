"""Latents that leave no part of the prior empty."""

import math
from numbers import Real

import torch

from ._common import RememberingRegularizer

# Draws of the prior in each step, and latents of earlier steps that are remembered.
N_DRAWS, N_REMEMBERED = 256, 1024
# In standard deviations of the prior.
BANDWIDTHS = 0.001, 10.0
# Nats by which a term of a sum of exponentials is too small to count.
NEGLIGIBLE = 60.0
# Distances by differences: those by products of matrices lose digits that a narrow kernel sees.
EXACT = "donot_use_mm_for_euclid_dist"
# Features for each nat of the weight "auto", and the most it can be.
FEATURES_A_NAT, LARGEST_WEIGHT = 256.0, 3.0


class PriorCoverage(RememberingRegularizer):
    r"""Leave no part of the prior without rows.

    The bound punishes latents where the prior has no mass, but hardly a hole: prior mass where no
    row lies. Samples from a hole are decoded to what is between groups of rows, and a shape chosen
    as ``prior``, a pinwheel say, is filled only in part. This penalty is the mean over draws
    :math:`u` of the prior of

    .. math:: - \log \frac{1}{n} \sum_i \mathcal{N}(u; z_i, h^2 \operatorname{diag}(s^2)) ,

    with s the prior's standard deviations: the negative log-likelihood, in nats, of the prior under
    a kernel density of the latents. Up to a constant and the width of the kernel, it is the
    divergence of the prior from the latents, which the bound has in the other direction only. Each
    step draws 256 times from the prior; the :math:`z_i` are the latents of its batch, and the 1,024
    latents that were drawn for rows before it.

    :class:`skddvi.DDVAETransformer` has it by default where thousands of rows are to fill a curved
    prior. Made for two or three latent dimensions, in which a kernel density is telling, and for
    thousands of rows; not for priors with heavy tails, whose rare draws far out would be all it
    sees. Latents of a few hundred rows fill the prior by being uncertain, so that the noise-free
    ones are not spread more evenly; and a weight that is too large for the rows fills it with
    latents that know nothing of them, which ``score`` tells.

    Parameters
    ----------
    weight : float or "auto", default="auto"
        Factor of the penalty in the loss, whose bound is in nats a row. "auto" is the number of
        features, which the bound grows with, divided by 256, but at most 3.
    bandwidth : float, default=0.1
        Width h of the kernel, in standard deviations of the prior, from 0.001 to 10: smaller holes
        remain.

    See Also
    --------
    skddvi.metrics.latent_nll : A like figure of new rows.
    skddvi.baselines.AdversarialAutoencoder : Latents that a critic keeps close to the prior.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skddvi import DDVAETransformer
    >>> from skddvi.regularizers import PriorCoverage
    >>> model = DDVAETransformer(
    ...     prior="square", regularizer=PriorCoverage(), max_iter=2, random_state=0
    ... ).fit(load_iris().data)
    >>> len(model.history_["prior_coverage"])
    2
    """

    name = "prior_coverage"

    def __init__(self, weight="auto", bandwidth=0.1):
        self.weight = weight
        self.bandwidth = bandwidth

    def fit(self, X):
        """Settle the weight.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows.

        Returns
        -------
        self : PriorCoverage
            The regulariser, ready for :meth:`attach`.

        Raises
        ------
        ValueError
            When bandwidth is out of its range, or weight is text other than "auto".
        """
        low, high = BANDWIDTHS
        is_number = isinstance(self.bandwidth, Real) and self.bandwidth is not True
        if not is_number or not low <= self.bandwidth <= high:
            raise ValueError(
                f"bandwidth must be a number from {low} to {high}, found {self.bandwidth!r}."
            )
        self._settle_weight(X.shape[1], FEATURES_A_NAT, LARGEST_WEIGHT)
        return self

    def attach(self, view):
        """Remember nothing yet.

        Parameters
        ----------
        view : TrainingView
            What the training shows of itself.
        """
        self._view = view
        self._generator = torch.Generator(view.loc.device).manual_seed(view.seed)
        self._memory = view.loc.new_empty(0, len(view.loc))

    def __call__(self, z, rows):
        """Return the penalty of a mini-batch, a scalar tensor in nats."""
        view, h = self._view, self.bandwidth
        with torch.no_grad():
            draws = (view.sample_prior(N_DRAWS, self._generator) - view.loc) / view.scale
        seen = (z.to(view.loc) - view.loc) / view.scale
        # By differences, not cdist: its square root has no gradient at zero distance.
        of_seen = _log_sum_kernel((draws[:, None] - seen).square().sum(-1), h)
        distances = torch.cdist(draws, self._memory, compute_mode=EXACT)
        of_remembered = _log_sum_kernel(distances.square(), h)
        log_density = torch.logaddexp(of_seen, of_remembered).mean()
        n_places = len(seen) + len(self._memory)
        log_density = log_density - math.log(n_places)
        log_density = log_density - (math.sqrt(2.0 * math.pi) * h * view.scale).log().sum()
        self._memory = torch.cat([seen.detach(), self._memory])[:N_REMEMBERED]
        # A step moves the remembered latents too, as it moves those of the batch, but only the
        # batch has a gradient: it stands for all of them.
        return -torch.lerp(log_density.detach(), log_density, n_places / len(seen))


def _log_sum_kernel(squares, bandwidth):
    """Return the log of the sum over j of a kernel without its factor; distances (m, n) to (m,)."""
    if squares.shape[1] == 0:
        return squares.new_full(squares.shape[:1], -math.inf)
    log_kernel = -0.5 / bandwidth**2 * squares
    # Terms that far below the largest do not count, and denormal numbers are slow.
    least = log_kernel.detach().amax(1, keepdim=True) - NEGLIGIBLE
    return torch.maximum(log_kernel, least).logsumexp(1)
