"""Networks: the multilayer perceptron of encoder and decoder, and the denoiser of the chain."""

import torch
from torch import nn

ACTIVATIONS = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


def linear(n_in, n_out, generator, gain=1.0):
    """Return a linear layer drawn from a local generator.

    Weights are uniform with standard deviation ``gain / sqrt(n_in)`` (He et al. 2015 with the
    gain of the activation left to the caller), biases are zero.

    Parameters
    ----------
    n_in, n_out : int
    generator : torch.Generator or None
        None gives a layer without memory, on torch's "meta" device, for weights that are loaded.
    gain : float

    Returns
    -------
    layer : torch.nn.Linear
    """
    if generator is None:
        return nn.Linear(n_in, n_out, dtype=torch.float32, device="meta")
    # skip_init leaves the weights unset, so that torch's global generator is never drawn from.
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out, dtype=torch.float32)
    bound = gain * (3.0 / max(n_in, 1)) ** 0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.zero_()
    return layer


def multilayer_perceptron(n_in, hidden_layer_sizes, activation, generator):
    """Return the hidden layers of a perceptron and the width that they end in.

    Parameters
    ----------
    n_in : int
    hidden_layer_sizes : sequence of int
        Widths; empty for no hidden layer, so that what follows is linear in its input.
    activation : str
        A key of ``ACTIVATIONS``.
    generator : torch.Generator

    Returns
    -------
    layers : torch.nn.Sequential
        Maps (n, n_in) to (n, width).
    width : int
    """
    gain = 2.0**0.5 if activation in ("relu", "silu") else 1.0
    layers = []
    for n_out in hidden_layer_sizes:
        layers += [linear(n_in, n_out, generator, gain), ACTIVATIONS[activation]()]
        n_in = n_out
    return nn.Sequential(*layers), n_in


# Biases of the decoder's first layer start within this many standard deviations of the prior, so
# that its units bend all over the latent space and not only at its centre.
DECODER_BIAS_RANGE = 1.5


class Projection(nn.Module):
    """A fixed linear map of the rows, for an encoder that sees fewer numbers than there are.

    Parameters
    ----------
    n_inputs, n_outputs : int
    """

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_outputs, n_inputs))

    def forward(self, inputs):
        """Return (n, n_outputs) for (n, n_inputs)."""
        return nn.functional.linear(inputs, self.weight)


class Decoder(nn.Module):
    """Latents to the likelihood's output: a perceptron on standardised latents.

    Parameters
    ----------
    loc, scale : (d,) tensor
        Mean and standard deviation of the prior.
    hidden_layer_sizes, activation, generator
        See :func:`multilayer_perceptron`.
    initial_output : (p,) tensor
        What an untrained decoder says, whatever the latents.
    """

    def __init__(self, loc, scale, hidden_layer_sizes, activation, initial_output, generator):
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        self.body, width = multilayer_perceptron(
            len(loc), hidden_layer_sizes, activation, generator
        )
        if len(self.body):
            with torch.no_grad():
                self.body[0].bias.uniform_(
                    -DECODER_BIAS_RANGE, DECODER_BIAS_RANGE, generator=generator
                )
        self.output = linear(width, len(initial_output), generator, 0.1)
        with torch.no_grad():
            self.output.bias.copy_(initial_output)

    def forward(self, z):
        """Return the output (..., n, p) for latents (..., n, d) in the prior's units.

        Mixed precision ends here: counts and their densities need more digits.
        """
        output = self.output(self.body((z - self.loc) / self.scale))
        return output.float() if output.dtype == torch.bfloat16 else output

    def linearised(self, z, std):
        """Return the output at latents (n, d), and how it changes over a std of each of them.

        The derivatives along the standardised latents times ``std`` (n, d), as (d, n, p).
        """
        hidden = (z - self.loc) / self.scale
        tangents = torch.diag_embed(std).movedim(1, 0)
        for layer in [*self.body, self.output]:
            if isinstance(layer, nn.Linear):
                # In one product: it is the small ones that take their time.
                both = nn.functional.linear(torch.cat([hidden[None], tangents]), layer.weight)
                hidden, tangents = both[0] + layer.bias, both[1:]
            else:
                with torch.enable_grad():
                    inputs = hidden.detach().requires_grad_()
                    outputs = layer(inputs)
                    (slope,) = torch.autograd.grad(outputs.sum(), inputs)
                hidden, tangents = outputs.detach(), tangents * slope
        return hidden, tangents


class ContextNetwork(nn.Module):
    """Two hidden layers, and a context of the row that enters as a bias of both.

    So the context is computed once, however often the network is used. The last layer starts at
    zero.

    Parameters
    ----------
    n_inputs, n_outputs : int
    width : int
        Width of the hidden layers; the context has twice this size.
    generator : torch.Generator
    """

    def __init__(self, n_inputs, n_outputs, width, generator):
        super().__init__()
        self.inputs = linear(n_inputs, width, generator)
        self.hidden = linear(width, width, generator, 2.0**0.5)
        self.output = linear(width, n_outputs, generator, 0.0)

    def forward(self, inputs, first, second, tape=None):
        """Return (..., n, n_outputs) for (..., n, n_inputs) and the biases (n, width) of layers.

        On a ``tape``, a list, is put what :meth:`backward` asks for.
        """
        a = self.inputs(inputs) + first
        h = nn.functional.silu(a)
        b = self.hidden(h) + second
        k = nn.functional.silu(b)
        if tape is not None:
            tape += inputs, a, h, b, k
        return self.output(k)

    def weights(self):
        """Return weights and biases of the layers, in the order of :meth:`backward`."""
        return [p for layer in (self.inputs, self.hidden, self.output) for p in layer.parameters()]

    def backward(self, grad, tape, grad_weights):
        """Return the gradients of the arguments of :meth:`forward`, given that of its output.

        Those of the weights are added to ``grad_weights``, tensors like :meth:`weights`.
        """
        inputs, a, h, b, k = tape
        grad_k = _linear_backward(self.output, k, grad, grad_weights[4:])
        grad_b = torch.ops.aten.silu_backward(grad_k, b)
        grad_h = _linear_backward(self.hidden, h, grad_b, grad_weights[2:4])
        grad_a = torch.ops.aten.silu_backward(grad_h, a)
        return _linear_backward(self.inputs, inputs, grad_a, grad_weights[:2]), grad_a, grad_b


def _linear_backward(layer, inputs, grad, grad_weights):
    """Return the gradient of a linear layer's inputs; those of weight and bias are added up."""
    rows = grad.flatten(0, -2)
    grad_weights[0].addmm_(rows.T, inputs.flatten(0, -2))
    grad_weights[1].add_(rows.sum(0))
    return grad @ layer.weight


class Denoiser(ContextNetwork):
    """The correction that the chain learns to the prior's prediction of z at each step.

    The step enters as a learned bias.

    Parameters
    ----------
    n_components : int
        d, the dimension of the latents.
    n_steps : int
        T, the number of diffusion steps.
    width : int
        Width of the hidden layers; the context has twice this size.
    generator : torch.Generator
    """

    def __init__(self, n_components, n_steps, width, generator):
        super().__init__(2 * n_components, n_components, width, generator)
        self.width = width
        self.step_bias = nn.Parameter(torch.zeros(n_steps + 1, width))

    def forward(self, y, residual, first, second, tape=None):
        """Return the correction, (..., n, d).

        Parameters
        ----------
        y : (..., n, d) tensor
            The noised latents.
        residual : (..., n, d) tensor
            Their whitened distance from the mean of the row's evidence.
        first, second : (..., n, width) tensor
            Biases of the hidden layers: halves of the context, the first with ``step_bias`` added.
        tape : list or None
            See :meth:`ContextNetwork.forward`.
        """
        return super().forward(torch.cat([y, residual], dim=-1), first, second, tape)


class MaskedNetwork(nn.Module):
    """A :class:`ContextNetwork` whose k-th outputs see only the inputs before the k-th.

    MADE (Germain et al. 2015) with two outputs for each input. A hidden unit of degree h sees the
    first h inputs, from none to all but the last; those of degree 0 see the context alone, so that
    the first outputs depend on it too.

    Parameters
    ----------
    n_components : int
    width : int
    generator : torch.Generator
    backward : bool
        Whether the inputs are taken in reverse order.
    """

    def __init__(self, n_components, width, generator, backward):
        super().__init__()
        self.network = ContextNetwork(n_components, 2 * n_components, width, generator)
        rank = torch.arange(n_components)
        rank = rank.flip(0) if backward else rank
        degree = torch.arange(width) % n_components
        masks = (
            degree[:, None] > rank,
            degree[:, None] >= degree,
            rank.repeat(2)[:, None] >= degree,
        )
        for name, mask in zip(("inputs", "hidden", "output"), masks, strict=True):
            self.register_buffer(f"{name}_mask", mask.float())

    def forward(self, inputs, context):
        """Return two tensors like ``inputs``, (..., n, d), for a context (n, 2 width)."""
        first, second = context.chunk(2, dim=-1)
        h = nn.functional.silu(self._masked("inputs", inputs) + first)
        h = nn.functional.silu(self._masked("hidden", h) + second)
        return self._masked("output", h).chunk(2, dim=-1)

    def _masked(self, name, inputs):
        layer = getattr(self.network, name)
        mask = getattr(self, f"{name}_mask")
        return nn.functional.linear(inputs, layer.weight * mask, layer.bias)
