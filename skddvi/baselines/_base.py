"""What the baselines share, and where their docstrings come from."""

import inspect
import re

from .._base import STRUCTURE, BaseDDVAE
from ..transformer import DDVAETransformer

# Parameters that every baseline has, in the order of its signature.
MODEL = ("n_components", "prior", "likelihood")
TRAINING = (
    "init",
    "regularizer",
    "hidden_layer_sizes",
    "activation",
    "n_input_components",
    "encoder",
    "decoder",
    "alpha",
    "batch_size",
    "learning_rate_init",
    "max_iter",
    "tol",
    "early_stopping",
    "validation_fraction",
    "n_iter_no_change",
    "warm_start",
    "checkpoint",
    "precision",
    "device",
    "random_state",
    "verbose",
)
ATTRIBUTES = ("prior_", "likelihood_", "n_features_in_", "feature_names_in_")
# What is said of the terms in history_ that all have.
HISTORY = """\
- "start", the term of ``init``, before its weight, where there is one, and 0 when over;
- "weight_penalty", the penalty of ``alpha`` on the decoder, where there is one;
- "loss", as ``loss_curve_``, and the name of each regulariser, before its weight;
- ``"validation_"`` and "kl_per_dimension" and each name of the first group, where there are
  held-out rows."""


class Baseline(DDVAETransformer):
    """Base class of the baselines: the transformer without a chain and without a sleep term.

    What a baseline has no parameter for is a constant of its class.
    """

    noising = "cosine"
    n_diffusion_steps = 0
    denoiser_width = 128
    sleep = "off"
    sleep_weight = 0.0
    n_refinements = n_map_steps = 0


def constraints(*names, **own):
    """Return the constraints of the parameters that all share, of ``names``, and of its own."""
    shared = {
        name: DDVAETransformer._parameter_constraints[name] for name in (*MODEL, *names, *TRAINING)
    }
    # A baseline has no regulariser unless it is given one.
    return shared | {"regularizer": BaseDDVAE._parameter_constraints["regularizer"]} | own


def structure(*own):
    """Return the parameters that a warm start may not change."""
    return (*STRUCTURE, *own)


def document(cls):
    """Fill in a docstring: what a parameter means is said once, by :class:`DDVAETransformer`.

    A line ``{name}`` stands for the description of that parameter or attribute, ``{model}``,
    ``{training}`` and ``{attributes}`` for those of groups. Defaults are those of the class.
    """
    if cls.__doc__ is None:  # python -OO
        return cls
    text = inspect.cleandoc(DDVAETransformer.__doc__)
    found = re.findall(r"^((\w+) : .+\n(?:(?: {4}.*)?\n)*? {4}.*)(?=\n\S|\n\n\S)", text, re.M)
    blocks = {name: block for block, name in found}
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in blocks:
            default = f"default={parameter.default}"
            blocks[name] = re.sub("default=[0-9.]+$", default, blocks[name], count=1, flags=re.M)
    given = re.sub(r'\s"auto"\s+is\s.*', "", blocks["regularizer"], flags=re.S)
    kind = ": callable or list of callables, default=None"
    blocks["regularizer"] = re.sub(': "auto", .*', kind, given)
    for group, names in {"model": MODEL, "training": TRAINING, "attributes": ATTRIBUTES}.items():
        blocks[group] = "\n".join(blocks[name] for name in names)
    blocks["history"] = HISTORY
    cls.__doc__ = re.sub(
        r"^( *)\{(\w+)\}$",
        lambda line: blocks[line[2]].replace("\n", "\n" + line[1]).join([line[1], ""]),
        inspect.cleandoc(cls.__doc__) + "\n",
        flags=re.M,
    )
    return cls
