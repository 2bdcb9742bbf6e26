"""Networks of the user's own in the place of the encoder's and the decoder's perceptrons."""

from contextlib import contextmanager

import torch
from torch import nn


class UserNetwork(nn.Module):
    """A network that a user's factory makes, checked, for rows with any leading dimensions.

    Parameters
    ----------
    name : str
        The parameter that holds the factory, for errors.
    factory : callable
        ``factory(n_inputs, n_outputs)`` returns a torch.nn.Module that maps (n, n_inputs) to
        (n, n_outputs).
    n_inputs, n_outputs : int
    generator : torch.Generator or None
        Source of the initial weights. None for weights that are loaded.

    Raises
    ------
    TypeError
        When the factory returns no module.
    ValueError
        When the module cannot map (2, n_inputs), or not to (2, n_outputs).
    """

    def __init__(self, name, factory, n_inputs, n_outputs, generator):
        super().__init__()
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        # The CPU also where weights will be loaded: a factory may compute with what it makes.
        with global_random_numbers(generator), torch.device("cpu"):
            network = factory(n_inputs, n_outputs)
            if not isinstance(network, nn.Module):
                raise TypeError(
                    f"{name} must be a function of n_inputs and n_outputs that returns a "
                    f"torch.nn.Module, found that it returns {type(network).__name__}."
                )
            self.network = network.float()
            _check_shapes(name, self.network, n_inputs, n_outputs)

    def forward(self, x):
        """Return (..., n, n_outputs) for (..., n, n_inputs)."""
        return self.network(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


class UserDecoder(nn.Module):
    """Latents to the likelihood's output: a user's network on standardised latents.

    To its output a learned vector is added, at first what an untrained decoder is to say. The
    network itself thus need not find the level of the features.

    Parameters
    ----------
    loc, scale : (d,) tensor
        Mean and standard deviation of the prior.
    factory : callable
        See :class:`UserNetwork`.
    initial_output : (p,) tensor
    generator : torch.Generator or None
    """

    def __init__(self, loc, scale, factory, initial_output, generator):
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        self.body = UserNetwork("decoder", factory, len(loc), len(initial_output), generator)
        self.level = nn.Parameter(initial_output.detach().clone().float())

    def forward(self, z):
        """Return the output (..., n, p) for latents (..., n, d) in the prior's units."""
        return self.body((z - self.loc) / self.scale) + self.level

    def linearised(self, z, std):
        """Return the output at latents (n, d), and how it changes over a std of each of them.

        See :meth:`Decoder.linearised`. By a gradient of a gradient, which more kinds of layers have
        than a derivative in forward mode, and without the noise and the running means that the
        network may have in training.
        """
        is_training = self.training
        self.eval()
        try:
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                output = self(z)
                # The gradient of z is linear in that of the output, with the tangents as slopes.
                of_output = torch.zeros_like(output).requires_grad_()
                (of_z,) = torch.autograd.grad(output, z, of_output, create_graph=True)
                along = torch.diag_embed(std * self.scale).movedim(1, 0)
                tangents = [
                    torch.autograd.grad((of_z * each).sum(), of_output, retain_graph=True)[0]
                    for each in along
                ]
        finally:
            self.train(is_training)
        return output.detach(), torch.stack(tangents)


def user_buffers(model):
    """Return what the users' networks of a model keep beside parameters, as running means."""
    networks = [module for module in model.modules() if isinstance(module, UserNetwork)]
    return [buffer for network in networks for buffer in network.buffers()]


@contextmanager
def global_random_numbers(generator):
    """Let what draws from torch's global generators depend on a local one, and leave no trace.

    A user's network cannot be told of a generator: its layers are initialised, and its dropout is
    drawn, from the global one of its device.
    """
    device = generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@torch.no_grad()
def _check_shapes(name, network, n_inputs, n_outputs):
    """Raise unless a network maps two rows to two rows of the right width."""
    is_training = network.training
    wanted = f"{name} must return a network that maps (n, {n_inputs}) to (n, {n_outputs})"
    try:
        found = network.eval()(torch.zeros(2, n_inputs, dtype=torch.float32))
    except Exception as error:
        raise ValueError(
            f"{wanted}, found one that fails on rows of shape (2, {n_inputs}): {error}"
        ) from error
    found = tuple(found.shape) if torch.is_tensor(found) else type(found).__name__
    if found != (2, n_outputs):
        raise ValueError(
            f"{wanted}, found {found} for rows of shape (2, {n_inputs}). The width of the "
            "encoder's output is the last of hidden_layer_sizes, that of the decoder's the number "
            "of features."
        )
    network.train(is_training)
