"""Adversarial training of the encoder: a posterior without spread, a critic, and its steps."""

import torch
from torch import nn

from .networks import linear, multilayer_perceptron
from .optimizer import Adam
from .posteriors import Draw, Posterior

GRADIENT_PENALTY = 10.0


class PointPosterior(Posterior):
    """The deterministic encoder of the adversarial autoencoder (Makhzani et al. 2015).

    Each row has one latent and no density around it, so that there are no terms of a bound. What
    draws the latents of all rows together towards the prior is the critic.

    Parameters
    ----------
    critic : {"gan", "wasserstein"}
    critic_width : int
    n_critic_steps : int
    """

    def __init__(
        self,
        n_inputs,
        loc,
        scale,
        *,
        critic,
        critic_width,
        n_critic_steps,
        hidden_layer_sizes,
        activation,
        generator,
    ):
        d = len(loc)
        super().__init__(n_inputs, loc, scale, d, hidden_layer_sizes, activation, generator)
        self.noise_size = d
        self.critic = Critic(d, critic, critic_width, n_critic_steps, generator)

    def _condition(self, statistics, part):
        return (statistics,)

    def draw(self, condition, noise):
        """Return the latents of the rows, as often as there is noise, which has no effect."""
        return Draw(self.mode(condition).expand_as(noise), {})

    def mode(self, condition):
        return self._unstandardise(condition[0])


class Critic(nn.Module):
    """Tells latents of rows from draws of the prior.

    Parameters
    ----------
    n_components : int
    kind : {"gan", "wasserstein"}
        The discriminator of Goodfellow et al. (2014), whose output is log-odds, with the generator
        loss that does not saturate; or the critic of Arjovsky et al. (2017), whose slope is held
        near 1 by the gradient penalty of Gulrajani et al. (2017).
    width : int
        Width of the two hidden layers.
    n_steps : int
        Steps of the critic for each of the encoder.
    generator : torch.Generator
    """

    def __init__(self, n_components, kind, width, n_steps, generator):
        super().__init__()
        self.kind, self.n_steps = kind, n_steps
        body, n_outputs = multilayer_perceptron(n_components, (width, width), "silu", generator)
        self.layers = nn.Sequential(body, linear(n_outputs, 1, generator))

    def forward(self, u):
        """Return a number for each latent, (n,); larger for those that look like the prior's."""
        return self.layers(u).squeeze(-1)

    def loss(self, of_prior, of_rows, generator):
        """Return what the critic minimises, a scalar, for two samples (n, d)."""
        if self.kind == "gan":
            loss = nn.functional.softplus(-self(of_prior)) + nn.functional.softplus(self(of_rows))
            return loss.mean()
        share = torch.rand(
            len(of_rows), 1, generator=generator, device=of_rows.device, dtype=of_rows.dtype
        )
        between = torch.lerp(of_prior, of_rows, share).requires_grad_()
        slope = torch.autograd.grad(self(between).sum(), between, create_graph=True)[0].norm(dim=-1)
        penalty = GRADIENT_PENALTY * (slope - 1.0).square()
        return (self(of_rows) - self(of_prior) + penalty).mean()

    def generator_loss(self, of_rows):
        """Return what the encoder minimises, a scalar, for its latents (n, d)."""
        if self.kind == "gan":
            return nn.functional.softplus(-self(of_rows)).mean()
        return -self(of_rows).mean()


class Adversary:
    """The critic's part in the training loop: its optimiser, its steps, and the encoder's penalty.

    Parameters
    ----------
    model : LatentVariableModel
        Its posterior has a critic.
    """

    def __init__(self, model):
        self.model, self.critic = model, model.posterior.critic
        self.optimizer = Adam([(list(self.critic.parameters()), 1.0)])

    def step(self, z, generator, learning_rate):
        """Train the critic on latents of a batch, (n, d), and return its mean loss, a scalar."""
        of_rows = self.model.posterior._standardise(z.detach())
        losses = []
        for _ in range(self.critic.n_steps):
            draws = self.model.sample_prior(len(z), generator).to(z)
            # The encoder's penalty has left gradients here, which are not the critic's.
            for parameter in self.optimizer.parameters:
                parameter.grad = None
            loss = self.critic.loss(self.model.posterior._standardise(draws), of_rows, generator)
            loss.backward()
            self.optimizer.step(learning_rate)
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def penalty(self, z, rows):
        """Return the encoder's loss, a scalar; it has the form of a regulariser."""
        return self.critic.generator_loss(self.model.posterior._standardise(z))
