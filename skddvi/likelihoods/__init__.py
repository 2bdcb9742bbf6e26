"""Likelihoods p(x | z): how the decoder's output becomes a distribution over rows of X.

A likelihood owns everything that depends on the units of the data: it checks X, learns the training
statistics, turns raw rows into network input of about unit scale, and turns the decoder's output
into log-densities, means and draws in original units. Networks never see raw values.

=========================  =======================================  ===============================
name                       data                                     decoder's output
=========================  =======================================  ===============================
``"gaussian"``             any real values                          mean on the standardised scale
``"bernoulli"``            values in [0, 1]                         logits
``"binomial"``             genotype dosages 0, 1, 2; NaN = missing  logits of the allele frequency
``"poisson"``              counts                                   logits of the shares of features
``"negative_binomial"``    overdispersed counts                     logits of the shares of features
=========================  =======================================  ===============================

Shapes: ``n`` rows, ``p`` features; an output may have leading sample dimensions, ``(K, n, p)``, and
broadcasts against ``x`` of shape ``(n, p)``. Log-densities are in nats.
"""

from ._base import Likelihood
from ._bounded import BernoulliLikelihood, BinomialLikelihood
from ._counts import NegativeBinomialLikelihood, PoissonLikelihood
from ._gaussian import GaussianLikelihood
from ._resolve import resolve_likelihood

__all__ = [
    "BernoulliLikelihood",
    "BinomialLikelihood",
    "GaussianLikelihood",
    "Likelihood",
    "NegativeBinomialLikelihood",
    "PoissonLikelihood",
    "resolve_likelihood",
]
