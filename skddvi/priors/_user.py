"""A user's own object as a prior."""

import torch
from torch import nn

from ._base import Prior
from ._common import check_count


class UserPrior(Prior):
    """Adapter that gives a user's object the interface of :class:`Prior`.

    Parameters
    ----------
    prior : object
        Object with an attribute ``n_components`` (int) and methods ``sample(n, generator)`` ->
        (n, n_components) and ``log_prob(z)`` -> (n,), the normalised log density in nats,
        differentiable by torch. If it also has ``n_parts``, ``part_log_prob(z)`` ->
        (n, n_parts), ``part_weights`` and ``sample(n, generator, part)``, its parts are used. If
        it has ``denoise(y, variance)``, (n, n_components) each, that returns E[z | y] and Var[z |
        y] of the same shape as :meth:`Prior.denoise` does, the posterior follows them; without it,
        those of a normal with the mean and the variance of the prior. A :class:`torch.nn.Module`
        becomes a submodule.

    Raises
    ------
    ValueError
        When an attribute is missing.

    Examples
    --------
    >>> import torch
    >>> from skddvi.priors import UserPrior
    >>> class Laplace:
    ...     n_components = 2
    ...
    ...     def sample(self, n, generator):
    ...         u = torch.rand(2, n, 2, generator=generator, device=generator.device)
    ...         return u[0].log() - u[1].log()
    ...
    ...     def log_prob(self, z):
    ...         return -(2 * torch.nn.functional.softplus(-z.abs()) + z.abs()).sum(-1)
    >>> UserPrior(Laplace()).log_prob(torch.zeros(1, 2))
    tensor([-2.7726])
    """

    name = "user"

    def __init__(self, prior):
        missing = [a for a in ("n_components", "sample", "log_prob") if not hasattr(prior, a)]
        if missing:
            raise ValueError(
                f"prior must have n_components, sample(n, generator) and log_prob(z), found "
                f"{type(prior).__name__} without {', '.join(missing)}."
            )
        n_components = check_count("prior.n_components", prior.n_components)
        has_parts = all(hasattr(prior, a) for a in ("n_parts", "part_log_prob", "part_weights"))
        super().__init__(n_components, prior.part_weights if has_parts else (1.0,))
        self.prior = prior
        self._has_parts = has_parts

    def part_log_prob(self, z):
        """Return the log density (..., n_parts) in nats of every part."""
        z = self._check_z(z)
        flat = z.reshape(-1, self.n_components)
        if self._has_parts:
            value, shape = self.prior.part_log_prob(flat), (len(flat), self.n_parts)
        else:
            value, shape = self.prior.log_prob(flat), (len(flat),)
        if not torch.is_tensor(value) or value.shape != shape:
            found = tuple(value.shape) if torch.is_tensor(value) else type(value).__name__
            raise ValueError(
                f"the log density of prior={type(self.prior).__name__} must be a tensor of shape "
                f"{shape} for z of shape {tuple(flat.shape)}, found {found}."
            )
        return value.to(z.dtype).reshape(*z.shape[:-1], self.n_parts)

    def denoise(self, y, variance, part=None):
        """Return the object's E[z | y] and Var[z | y], each (..., n_components), or None."""
        if part is not None or not hasattr(self.prior, "denoise"):
            return None
        shape = -1, self.n_components
        flat, noise = y.reshape(shape), variance.expand_as(y).reshape(shape)
        moments = tuple(self.prior.denoise(flat, noise))
        found = [tuple(value.shape) for value in moments]
        if found != [flat.shape] * 2:
            raise ValueError(
                f"the posterior moments of prior={type(self.prior).__name__} must be two tensors "
                f"of shape {tuple(flat.shape)}, found shapes {found}."
            )
        mean, left = (value.to(y.dtype).reshape(y.shape) for value in moments)
        return mean, left

    def _draw(self, part, generator):
        n_samples = len(part)
        if self._has_parts:
            z = self.prior.sample(n_samples, generator, part)
        else:
            z = self.prior.sample(n_samples, generator)
        # Nothing is learned by way of draws.
        z = torch.as_tensor(z).detach() if hasattr(z, "__len__") else torch.empty(0)
        if z.shape != (n_samples, self.n_components):
            raise ValueError(
                f"the samples of prior={type(self.prior).__name__} must have shape "
                f"{(n_samples, self.n_components)}, found {tuple(z.shape)}."
            )
        return z

    def extra_repr(self):
        """Return the wrapped object; a module prints itself."""
        return "" if isinstance(self.prior, nn.Module) else f"prior={self.prior!r}"
