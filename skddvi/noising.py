"""Noising processes r(y_1, ..., y_T | z) of the diffusion, y_0 = z.

A process is Gaussian and Markov and is given by its coefficients alpha_t and sigma_t,

    r(y_t | z) = N(alpha_t z, sigma_t^2 I),        t = 0, ..., T,

with alpha_0 = 1 and sigma_0 = 0. The signal-to-noise ratio SNR_t = alpha_t^2 / sigma_t^2 falls
strictly with t, which is exactly the condition that the steps r(y_t | y_{t-1}) exist.
"""

import copy
import math
from numbers import Integral, Real

import numpy as np

__all__ = [
    "NoisingProcess",
    "VarianceExploding",
    "VariancePreserving",
    "posterior_coefficients",
    "resolve_noising",
    "transition_coefficients",
]


class NoisingProcess:
    """Base class of the noising processes.

    A subclass implements :meth:`coefficients`. Any object with that method may be used instead.
    """

    def coefficients(self, n_steps):
        """Return alpha_t and sigma_t for t = 0, ..., n_steps.

        Parameters
        ----------
        n_steps : int
            Number T of steps.

        Returns
        -------
        alpha : ndarray of shape (n_steps + 1,)
            Factors of the signal, float64; alpha[0] = 1.
        sigma : ndarray of shape (n_steps + 1,)
            Standard deviations of the noise, float64; sigma[0] = 0.
        """
        raise NotImplementedError


class VariancePreserving(NoisingProcess):
    """Variance preserving process: alpha_t^2 + sigma_t^2 = 1.

    r(y_t | y_{t-1}) = N(sqrt(1 - beta_t) y_{t-1}, beta_t I), equation (2).

    Parameters
    ----------
    schedule : {"cosine", "linear", "even"} or array-like of shape (n_steps,), default="cosine"
        "cosine" is the schedule of Nichol & Dhariwal (2021, equation 17) with offset 0.008 and
        betas of at most 0.999. "linear" is that of Ho et al. (2020) in continuous time
        (Song et al. 2021, equation 33): beta rises linearly from 0.1 to 20 over the unit
        interval, so that alpha at the last step is about 0.007 for any number of steps. "even"
        is made for few steps, each of which should do as much as the others: sigma_t^2 rises by
        equal amounts from 0.3 at the first step to 0.9 at the last; with one step it is 0.9. An
        array gives the betas themselves, each between 0 and 1, both excluded.

    References
    ----------
    Ho, J., Jain, A. & Abbeel, P. (2020). Denoising diffusion probabilistic models. NeurIPS.

    Nichol, A. & Dhariwal, P. (2021). Improved denoising diffusion probabilistic models. ICML.

    Song, Y. et al. (2021). Score-based generative modeling through stochastic differential
    equations. ICLR.

    Examples
    --------
    >>> from skddvi.noising import VariancePreserving
    >>> alpha, sigma = VariancePreserving([0.19, 0.36]).coefficients(2)
    >>> alpha.round(3)
    array([1.  , 0.9 , 0.72])
    """

    _offset = 0.008
    _max_beta = 0.999
    _beta_min, _beta_max = 0.1, 20.0
    _even_first, _even_last = 0.3, 0.9

    def __init__(self, schedule="cosine"):
        self.schedule = schedule

    def coefficients(self, n_steps):
        """Return alpha_t and sigma_t of equation (2), for t = 0, ..., n_steps; (n_steps + 1,).

        Raises
        ------
        ValueError
            When the schedule is unknown, or its betas are not ``n_steps`` numbers between 0
            and 1.
        """
        n_steps = _check_steps(n_steps)
        time = np.arange(n_steps + 1) / max(n_steps, 1)
        if isinstance(self.schedule, str) and self.schedule == "linear":
            b, slope = self._beta_min, self._beta_max - self._beta_min
            log_abar = -(b * time + 0.5 * slope * time**2)
        elif isinstance(self.schedule, str) and self.schedule == "cosine":
            f = np.cos((time + self._offset) / (1 + self._offset) * np.pi / 2) ** 2
            betas = np.minimum(1 - f[1:] / f[:-1], self._max_beta)
            log_abar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
        elif isinstance(self.schedule, str) and self.schedule == "even":
            first = self._even_first if n_steps > 1 else self._even_last
            squares = np.linspace(first, self._even_last, n_steps)
            log_abar = np.concatenate([[0.0], np.log1p(-squares)])
        else:
            betas = _check_betas(self.schedule)
            if len(betas) != n_steps:
                raise ValueError(
                    f"noising gives {len(betas)} betas, one per step, found "
                    f"n_diffusion_steps={n_steps}."
                )
            log_abar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
        # expm1 keeps the digits of a small sigma, which 1 - exp would cancel.
        return np.exp(0.5 * log_abar), np.sqrt(0.0 - np.expm1(log_abar))

    def __repr__(self):
        """Return the constructor call."""
        return f"VariancePreserving(schedule={self.schedule!r})"


class VarianceExploding(NoisingProcess):
    """Variance exploding process: alpha_t = 1 and sigma_t grows geometrically.

    sigma_t runs from ``sigma_min`` at t = 1 to ``sigma_max`` at t = T (Song et al. 2021,
    equation 31). Latents have about unit variance, so ``sigma_max`` says how far the noise
    outgrows them. With one step, sigma_1 = sigma_max.

    Parameters
    ----------
    sigma_min : float, default=0.05
        Standard deviation of the noise at the first step.
    sigma_max : float, default=10.0
        Standard deviation of the noise at the last step.

    References
    ----------
    Song, Y. et al. (2021). Score-based generative modeling through stochastic differential
    equations. ICLR.

    Examples
    --------
    >>> from skddvi.noising import VarianceExploding
    >>> alpha, sigma = VarianceExploding(sigma_min=0.1, sigma_max=10.0).coefficients(3)
    >>> sigma
    array([ 0. ,  0.1,  1. , 10. ])
    """

    def __init__(self, sigma_min=0.05, sigma_max=10.0):
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def coefficients(self, n_steps):
        """Return alpha_t and sigma_t, each of shape (n_steps + 1,), for t = 0, ..., n_steps.

        Raises
        ------
        ValueError
            Unless 0 < sigma_min < sigma_max.
        """
        n_steps = _check_steps(n_steps)
        low, high = self.sigma_min, self.sigma_max
        ok = isinstance(low, Real) and isinstance(high, Real) and 0 < low < high < math.inf
        if not ok:
            raise ValueError(
                f"sigma_min and sigma_max must be finite with 0 < sigma_min < sigma_max, found "
                f"sigma_min={low!r}, sigma_max={high!r}."
            )
        sigma = np.zeros(n_steps + 1)
        if n_steps == 1:
            sigma[1] = high
        elif n_steps > 1:
            sigma[1:] = np.geomspace(low, high, n_steps)
        return np.ones(n_steps + 1), sigma

    def __repr__(self):
        """Return the constructor call."""
        return f"VarianceExploding(sigma_min={self.sigma_min!r}, sigma_max={self.sigma_max!r})"


def resolve_noising(noising, n_steps):
    """Return the noising process that a parameter value stands for, checked for ``n_steps``.

    Parameters
    ----------
    noising : {"cosine", "linear", "even", "variance_exploding"}, array-like of betas, or object
        A name, an array of ``n_steps`` betas of a variance preserving process, or an object
        with a method ``coefficients(n_steps)`` as :class:`NoisingProcess` describes.
    n_steps : int
        Number of diffusion steps, 0 or more.

    Returns
    -------
    object
        The process; an object is copied deeply, so that nothing is shared with the caller's.

    Raises
    ------
    ValueError
        When the name is unknown, or the coefficients have wrong shapes, do not start at
        alpha = 1 and sigma = 0, are not finite, or their signal-to-noise ratio does not fall.

    Examples
    --------
    >>> from skddvi.noising import resolve_noising
    >>> resolve_noising("cosine", n_steps=8)
    VariancePreserving(schedule='cosine')
    """
    n_steps = _check_steps(n_steps)
    if isinstance(noising, str):
        named = {
            "cosine": lambda: VariancePreserving("cosine"),
            "linear": lambda: VariancePreserving("linear"),
            "even": lambda: VariancePreserving("even"),
            "variance_exploding": VarianceExploding,
        }
        if noising not in named:
            raise ValueError(
                f"noising must be one of {', '.join(map(repr, named))}, an array of betas or an "
                f"object with coefficients(n_steps), found {noising!r}."
            )
        process = named[noising]()
    elif isinstance(noising, type):
        raise ValueError(f"noising must be an object, found the class {noising.__name__}.")
    elif hasattr(noising, "coefficients"):
        process = copy.deepcopy(noising)
    else:
        process = VariancePreserving(_check_betas(noising))
    _check_coefficients(process.coefficients(n_steps), n_steps)
    return process


def transition_coefficients(alpha, sigma):
    """Return the coefficients of the single steps r(y_t | y_{t-1}) = N(a_t y_{t-1}, s_t^2 I).

    Parameters
    ----------
    alpha, sigma : ndarray of shape (T + 1,)
        Coefficients of a noising process.

    Returns
    -------
    a : ndarray of shape (T,)
        Factors alpha_t / alpha_{t-1} for t = 1, ..., T.
    s : ndarray of shape (T,)
        Standard deviations; s_t^2 = sigma_t^2 - a_t^2 sigma_{t-1}^2.

    Examples
    --------
    >>> from skddvi.noising import VariancePreserving, transition_coefficients
    >>> a, s = transition_coefficients(*VariancePreserving([0.19, 0.36]).coefficients(2))
    >>> [array.round(3).tolist() for array in (a, s)]
    [[0.9, 0.8], [0.436, 0.6]]
    """
    alpha, sigma = np.asarray(alpha, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    a = alpha[1:] / alpha[:-1]
    # A difference of squares as a product loses fewer digits.
    carried = a * sigma[:-1]
    return a, np.sqrt((sigma[1:] - carried) * (sigma[1:] + carried))


def posterior_coefficients(alpha, sigma):
    """Return the coefficients of r(y_{t-1} | y_t, z) = N(A_t y_t + B_t z, C_t^2 I).

    By Bayes' rule from r(y_{t-1} | z) and r(y_t | y_{t-1}); for a variance preserving process
    these are equations 6 and 7 of Ho et al. (2020).

    Parameters
    ----------
    alpha, sigma : ndarray of shape (T + 1,)
        Coefficients of a noising process.

    Returns
    -------
    A : ndarray of shape (T,)
        Factors of y_t, for t = 1, ..., T; A[0] = 0.
    B : ndarray of shape (T,)
        Factors of z; B[0] = 1.
    C : ndarray of shape (T,)
        Standard deviations; C[0] = 0, since y_0 is z itself.

    Examples
    --------
    >>> from skddvi.noising import VariancePreserving, posterior_coefficients
    >>> A, B, C = posterior_coefficients(*VariancePreserving([0.5, 0.5]).coefficients(2))
    >>> [array.round(3).tolist() for array in (A, B, C)]
    [[0.0, 0.471], [1.0, 0.471], [0.0, 0.577]]
    """
    a, s = transition_coefficients(alpha, sigma)
    before, after = np.asarray(sigma)[:-1], np.asarray(sigma)[1:]
    kept = (s / after) ** 2
    return a * (before / after) ** 2, np.asarray(alpha)[:-1] * kept, before * s / after


def _check_steps(n_steps):
    if not isinstance(n_steps, Integral) or isinstance(n_steps, bool) or n_steps < 0:
        raise ValueError(f"n_steps must be an integer of at least 0, found {n_steps!r}.")
    return int(n_steps)


def _check_betas(betas):
    if isinstance(betas, str):
        raise ValueError(
            f"schedule must be 'cosine', 'linear', 'even' or an array of betas, found {betas!r}."
        )
    try:
        array = np.array(betas, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if array.ndim == 0:
        raise ValueError(
            f"noising must be a name, an array of betas or an object with coefficients(n_steps), "
            f"found {betas!r}."
        )
    if array.ndim != 1:
        raise ValueError(f"noising must be a 1-D array of betas, found shape {array.shape}.")
    bad = array[~((array > 0) & (array < 1))]
    if len(bad):
        raise ValueError(
            f"noising must hold betas between 0 and 1, both excluded, found {len(bad)} outside, "
            f"the first {bad[0]}."
        )
    return array


def _check_coefficients(coefficients, n_steps):
    try:
        alpha, sigma = (np.asarray(c, dtype=np.float64) for c in coefficients)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"noising.coefficients({n_steps}) must return two arrays, alpha and sigma, found "
            f"{type(coefficients).__name__}."
        ) from error
    wanted = (n_steps + 1,)
    if alpha.shape != wanted or sigma.shape != wanted:
        raise ValueError(
            f"noising.coefficients({n_steps}) must return arrays of shape {wanted}, found "
            f"alpha {alpha.shape} and sigma {sigma.shape}."
        )
    if alpha[0] != 1 or sigma[0] != 0:
        raise ValueError(
            f"noising must start at alpha=1 and sigma=0, found alpha={alpha[0]} and "
            f"sigma={sigma[0]}."
        )
    if not (np.isfinite(alpha).all() and np.isfinite(sigma).all()):
        raise ValueError("noising must give finite alpha and sigma, found NaN or infinity.")
    if (alpha <= 0).any() or (sigma[1:] <= 0).any():
        raise ValueError(
            f"noising must give alpha > 0 and, after the start, sigma > 0, found alpha down to "
            f"{alpha.min()} and sigma down to {sigma[1:].min()}."
        )
    root_snr = alpha[1:] / sigma[1:]
    rising = np.flatnonzero(np.diff(root_snr) >= 0)
    if len(rising):
        t = int(rising[0]) + 1
        raise ValueError(
            f"the signal-to-noise ratio of noising must fall at every step, found "
            f"{root_snr[t - 1] ** 2:.6g} at t={t} and {root_snr[t] ** 2:.6g} at t={t + 1}."
        )
