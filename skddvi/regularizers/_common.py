"""What the regularisers share."""

from sklearn.base import BaseEstimator


class RememberingRegularizer(BaseEstimator):
    """Base class of regularisers that remember latents from batch to batch.

    They are in ``_memory``, and ``_generator`` is the source of random numbers.
    """

    def _settle_weight(self, n_features, features_a_nat, largest):
        """Set ``weight_``: the weight, or where it is "auto" the one for so many features.

        That grows with them, as the bound does, up to the ``largest``.
        """
        self.weight_ = self.weight
        if isinstance(self.weight, str):
            if self.weight != "auto":
                raise ValueError(f'weight must be a number or "auto", found {self.weight!r}.')
            self.weight_ = min(n_features / features_a_nat, largest)

    def state_dict(self):
        """Return what is remembered.

        Returns
        -------
        state : dict of str to torch.Tensor
            Latents, and the state of the source of random numbers.
        """
        return {"memory": self._memory, "generator": self._generator.get_state()}

    def load_state_dict(self, state):
        """Remember something else.

        Parameters
        ----------
        state : dict of str to torch.Tensor
            As :meth:`state_dict` returns it; copied.
        """
        self._memory = state["memory"].to(self._memory, copy=True)
        self._generator.set_state(state["generator"])
