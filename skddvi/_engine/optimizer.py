"""Adam, by torch's functional form."""

import torch
from torch.optim.adam import adam

MAX_GRADIENT_NORM = 10.0
# How much a step leaves of the running means of gradients and of their squares. The usual .999 for
# the squares remembers a thousand steps, which here is a good part of a training.
DECAY, SQUARE_DECAY = 0.9, 0.95


class Adam:
    """Adam (Kingma and Ba 2015) with fused updates and clipped gradients.

    torch.optim.Adam makes the same updates, but its first step in a process imports torch's
    compiler, which takes as long as a whole fit of small data.

    Parameters
    ----------
    groups : list of (list of torch.nn.Parameter, float)
        Parameters with the factor of the learning rate that is theirs.
    """

    def __init__(self, groups):
        self.groups = [(params, pace) for params, pace in groups if params]
        self.parameters = [p for params, _ in self.groups for p in params]
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        self.n_steps = [p.new_zeros((), dtype=torch.float32) for p in self.parameters]

    @torch.no_grad()
    def step(self, learning_rate):
        """Update the parameters and clear their gradients.

        Returns
        -------
        norm : scalar tensor
            Norm of the gradient before clipping. Where it is not finite nothing is updated.
        """
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if torch.isfinite(norm):
            if norm > MAX_GRADIENT_NORM:
                torch._foreach_mul_(grads, MAX_GRADIENT_NORM / norm)
            start = 0
            for params, pace in self.groups:
                own = slice(start, start + len(params))
                start = own.stop
                # A parameter that the loss did not use has no gradient and stays.
                used = [
                    i for i in range(own.start, own.stop) if self.parameters[i].grad is not None
                ]
                adam(
                    [self.parameters[i] for i in used],
                    [self.parameters[i].grad for i in used],
                    [self.mean[i] for i in used],
                    [self.square[i] for i in used],
                    [],
                    [self.n_steps[i] for i in used],
                    fused=True,
                    amsgrad=False,
                    beta1=DECAY,
                    beta2=SQUARE_DECAY,
                    lr=learning_rate * pace,
                    weight_decay=0.0,
                    eps=1e-8,
                    maximize=False,
                )
        for parameter in self.parameters:
            parameter.grad = None
        return norm

    def state(self):
        """Return the tensors that :meth:`load` takes, the parameters first."""
        return [*self.parameters, *self.mean, *self.square, *self.n_steps]

    def snapshot(self):
        """Return copies of the parameters and of all that the updates depend on."""
        return [tensor.detach().clone() for tensor in self.state()]

    @torch.no_grad()
    def restore(self, snapshot):
        """Go back to a snapshot."""
        for tensor, saved in zip(self.state(), snapshot, strict=True):
            tensor.copy_(saved)
