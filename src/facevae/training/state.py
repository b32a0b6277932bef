"""All that decides how a training goes on and what its history says."""

import keras
import numpy as np

from facevae.common.errors import UserError
from facevae.model.vae import VAE

HISTORY_COLUMNS = (
    "epoch",
    "kl_weight",
    "loss",
    "reconstruction",
    "kl",
    "val_loss",
    "val_reconstruction",
    "val_kl",
)

SMALLER_STEPS = "try a smaller train.learning_rate"


class TrainingState:
    """All that decides how a training goes on and what its history says.

    Attributes:
        epoch: epochs that are through.
        step: steps taken in the epoch after them.
        totals: the two terms, summed over these steps; (2,) float32.
        history: a row per epoch, NaN in those to come; (epochs, columns) float64.
        best: the weights after the epoch of the smallest validation loss; None if not wanted.
    """

    def __init__(
        self, vae: VAE, optimizer: keras.Optimizer, epochs: int, *, keep_best: bool
    ) -> None:
        self.epoch = 0
        self.step = 0
        self.totals = np.zeros(2, np.float32)
        self.history = np.full((epochs, len(HISTORY_COLUMNS)), np.nan)
        # The VAE's include the statistics of batch normalisation and the seeds of dropout.
        self._variables = [*vae.variables, *optimizer.variables]
        self._weights = vae.weights
        self.best = [weight.numpy() for weight in vae.weights] if keep_best else None

    def end_epoch(self, row: dict[str, float]) -> None:
        self.history[self.epoch] = [row[column] for column in HISTORY_COLUMNS]
        self.epoch += 1
        self.step = 0
        if self.best is not None and self.best_epoch() == self.epoch:
            self.best = [weight.numpy() for weight in self._weights]
        self.totals = np.zeros(2, np.float32)

    def best_epoch(self) -> int:
        """The first epoch, counted from 1, with the smallest validation loss; 0 before its end."""
        losses = self.history[: self.epoch, HISTORY_COLUMNS.index("val_loss")]
        return 1 + int(np.argmin(losses)) if len(losses) else 0

    def arrays(self) -> dict[str, np.ndarray]:
        """For a checkpoint.

        Raises:
            UserError: a weight is not finite, and going on from there of no use.
        """
        variables = [variable.numpy() for variable in self._variables]
        if not all(np.isfinite(variable).all() for variable in variables):
            raise UserError(
                f"a weight is not finite after step {self.step} of epoch {self.epoch + 1}; "
                f"{SMALLER_STEPS}"
            )
        return {
            "position": np.array([self.epoch, self.step]),
            "totals": self.totals,
            "history": self.history,
            **{f"variable_{number}": value for number, value in enumerate(variables)},
            **{f"best_{number}": value for number, value in enumerate(self.best or [])},
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go back to where `arrays` was called."""
        self.epoch, self.step = arrays["position"].tolist()
        self.totals = arrays["totals"]
        self.history = arrays["history"]
        for number, variable in enumerate(self._variables):
            variable.assign(arrays[f"variable_{number}"])
        if self.best is not None:
            self.best = [arrays[f"best_{number}"] for number in range(len(self.best))]
