"""The base class of the priors."""

import math

import torch

from .._by_value import ByValueModule


class Prior(ByValueModule):
    """Base class of the priors.

    A subclass implements :meth:`part_log_prob` and ``_draw``.

    Parameters
    ----------
    n_components : int
        Dimension d of the latent space.
    part_weights : array-like of shape (n_parts,), default=(1.0,)
        Probabilities of the parts. They are divided by their sum.

    Attributes
    ----------
    n_components : int
        Dimension d of the latent space.
    n_parts : int
        Number of parts; 1 when the prior has none.
    name : str
        Short name.
    part_weights : Tensor of shape (n_parts,)
        Probabilities of the parts, a buffer. Its dtype and device are those of the samples.
    """

    name = "prior"

    def __init__(self, n_components, part_weights=(1.0,)):
        super().__init__()
        self.n_components = int(n_components)
        # Constants are kept in float64 and cast when used: a float32 buffer moved to float64
        # would have lost half of its digits for good.
        self._masters, self._cache = {}, {}
        if part_weights is not None:  # else they are a subclass's own to keep
            weights = torch.as_tensor(part_weights, dtype=torch.float64).detach().cpu()
            weights = weights / weights.sum()
            self.n_parts = len(weights)
            self.register_buffer("part_weights", weights.float())
            self._masters["log_part_weights"] = weights.log()

    def __getstate__(self):
        """Return the state without the cached casts, which may live on another device."""
        return {**super().__getstate__(), "_cache": {}}

    def _apply(self, fn, recurse=True):
        """Move the buffer as any module does, then refill it from float64."""
        super()._apply(fn, recurse)
        if "log_part_weights" in self._masters:
            weights = self._masters["log_part_weights"].exp()
            self.part_weights = weights.to(self.part_weights)
        return self

    def _log_part_weights(self, dtype, device):
        """Return the logarithms of ``part_weights``, (n_parts,)."""
        return self._constants(dtype, device)["log_part_weights"]

    def _log_weights_of(self, part, like):
        """Return log p(k), (n_parts,), or log 1[k = part], (..., n_parts), where that is given."""
        weights = self._log_part_weights(like.dtype, like.device)
        if part is None:
            return weights
        parts = torch.arange(self.n_parts, device=like.device)
        return torch.zeros_like(weights).masked_fill(parts != part[..., None], -math.inf)

    def _constants(self, dtype, device):
        """Return the float64 masters cast to ``dtype`` on ``device``, cached."""
        key = (dtype, device)
        if key not in self._cache:
            # A tensor made in inference mode could never again take part in a backward pass.
            with torch.inference_mode(False):
                self._cache[key] = {
                    name: value.to(dtype=dtype, device=device)
                    for name, value in self._masters.items()
                }
        return self._cache[key]

    def sample(self, n_samples, generator=None, part=None):
        """Draw from the prior.

        Parameters
        ----------
        n_samples : int
            Number of draws.
        generator : torch.Generator, default=None
            Source of the random numbers. By default a fresh one; the global state of torch is
            neither used nor changed.
        part : int or int Tensor of shape (n_samples,), default=None
            The part of each draw. By default drawn with probabilities ``part_weights``.

        Returns
        -------
        Tensor of shape (n_samples, n_components)
            The draws, in the dtype and on the device of ``part_weights``. The random numbers
            are drawn in float64, so that a seed gives the same draws in any dtype.
        """
        if generator is None:
            generator = torch.Generator()
            generator.seed()
        device = generator.device
        if part is None:
            part = self._draw_parts(n_samples, generator)
        else:
            part = self._check_part(part, (n_samples,), device)
        with torch.no_grad():
            z = self._draw(part, generator)
        return z.to(dtype=self.part_weights.dtype, device=self.part_weights.device)

    def log_prob(self, z, part=None):
        """Return the log density in nats.

        Parameters
        ----------
        z : Tensor of shape (..., n_components)
            Points. The computation is done in their dtype (float32 at least).
        part : int or int Tensor that broadcasts to shape (...), default=None
            By default the marginal density; otherwise the density of that part.

        Returns
        -------
        Tensor of shape (...)
            log p(z), or log p(z | part).

        Raises
        ------
        ValueError
            When the last axis of ``z`` has not ``n_components`` entries, or ``part`` is not in
            0..n_parts - 1 or has another shape.
        """
        by_part = self.part_log_prob(z)
        if part is not None:
            part = self._check_part(part, by_part.shape[:-1], by_part.device)
            return by_part.gather(-1, part[..., None])[..., 0]
        if self.n_parts == 1:
            return by_part[..., 0]
        weights = self._log_part_weights(by_part.dtype, by_part.device)
        return torch.logsumexp(by_part + weights, dim=-1)

    def part_log_prob(self, z):
        """Return the log density of every part in nats.

        Parameters
        ----------
        z : Tensor of shape (..., n_components)
            Points.

        Returns
        -------
        Tensor of shape (..., n_parts)
            log p(z | part).
        """
        raise NotImplementedError

    def denoise(self, y, variance, part=None):
        """Return the mean and variance of latents that were seen through Gaussian noise.

        Of z ~ p(z) given y = z + sqrt(variance) * eps with eps standard normal: the part of the
        posterior that is known before anything is learned.

        Parameters
        ----------
        y : Tensor of shape (..., n_components)
            Noised latents.
        variance : Tensor that broadcasts to the shape of ``y``
            Variance of the noise on each axis, above zero.
        part : int Tensor that broadcasts to shape (...), default=None
            The part that z is in. By default not known.

        Returns
        -------
        moments : tuple of two Tensors of shape (..., n_components), or None
            E[z | y] and Var[z | y] on each axis; None where there is no closed form.
        """
        return None

    def _draw(self, part, generator):
        """Return draws (n, n_components) in float64 of the parts ``part`` (n,)."""
        raise NotImplementedError

    def _draw_parts(self, n_samples, generator):
        if self.n_parts == 1:
            return torch.zeros(n_samples, dtype=torch.long, device=generator.device)
        weights = self._log_part_weights(torch.float64, generator.device).exp()
        if n_samples == 0:
            return torch.zeros(0, dtype=torch.long, device=generator.device)
        return torch.multinomial(weights, n_samples, replacement=True, generator=generator)

    def _check_z(self, z):
        """Return ``z`` in float32 or float64 after checking its last axis."""
        if z.ndim == 0 or z.shape[-1] != self.n_components:
            raise ValueError(
                f"z must have n_components={self.n_components} entries on its last axis, "
                f"found shape {tuple(z.shape)}."
            )
        return z if z.dtype in (torch.float32, torch.float64) else z.float()

    def _check_part(self, part, shape, device):
        """Return ``part`` as a long tensor of shape ``shape`` after checking its range."""
        part = torch.as_tensor(part, device=device)
        if part.is_floating_point() or part.is_complex() or part.dtype == torch.bool:
            raise ValueError(f"part must hold integers, found dtype {part.dtype}.")
        if part.numel() and (int(part.min()) < 0 or int(part.max()) >= self.n_parts):
            raise ValueError(
                f"part must lie in 0..{self.n_parts - 1}, found values from {int(part.min())} to "
                f"{int(part.max())}."
            )
        try:
            return part.long().expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"part must have shape {tuple(shape)}, found {tuple(part.shape)}."
            ) from error
