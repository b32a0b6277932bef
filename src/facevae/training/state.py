"""The state of a training: everything that its continuation and its history depend on."""

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
    """Everything that the continuation of a training and its history depend on.

    Args:
        vae, optimizer: their variables belong to the state; the optimizer is built.
        epochs: epochs of the whole training.
        keep_best: whether to keep the weights of the best epoch, for early stopping.

    Attributes:
        epoch: number of complete epochs.
        step: number of steps taken in the current epoch.
        totals: reconstruction term and KL, summed over these steps; (2,) float32.
        history: one row per epoch, NaN for epochs to come; (epochs, columns) float64.
        best: the weights after the epoch with the smallest validation loss; None without
            `keep_best`.
    """

    def __init__(
        self, vae: VAE, optimizer: keras.Optimizer, epochs: int, *, keep_best: bool
    ) -> None:
        self.epoch = 0
        self.step = 0
        self.totals = np.zeros(2, np.float32)
        self.history = np.full((epochs, len(HISTORY_COLUMNS)), np.nan)
        # `vae.variables` includes the statistics of batch normalisation and the seeds of dropout.
        self._variables = [*vae.variables, *optimizer.variables]
        self._weights = vae.weights
        self.best = [weight.numpy() for weight in vae.weights] if keep_best else None

    def end_epoch(self, row: dict[str, float]) -> None:
        """Add a row with the columns `HISTORY_COLUMNS` to the history, and start the next epoch."""
        self.history[self.epoch] = [row[column] for column in HISTORY_COLUMNS]
        self.epoch += 1
        self.step = 0
        if self.best is not None and self.best_epoch() == self.epoch:
            self.best = [weight.numpy() for weight in self._weights]
        self.totals = np.zeros(2, np.float32)

    def best_epoch(self) -> int:
        """The first epoch with the smallest validation loss, counted from 1; 0 during the first."""
        losses = self.history[: self.epoch, HISTORY_COLUMNS.index("val_loss")]
        return 1 + int(np.argmin(losses)) if len(losses) else 0

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays by name, for a checkpoint.

        Raises:
            UserError: a weight is not finite, so that resuming from this state is useless.
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
        """Restore the state that `arrays` returned."""
        self.epoch, self.step = arrays["position"].tolist()
        self.totals = arrays["totals"]
        self.history = arrays["history"]
        for number, variable in enumerate(self._variables):
            variable.assign(arrays[f"variable_{number}"])
        if self.best is not None:
            self.best = [arrays[f"best_{number}"] for number in range(len(self.best))]
