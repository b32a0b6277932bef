"""Optimizers that are faster or take less memory than Keras' own, for TensorFlow only."""

from typing import Any

import keras
import tensorflow as tf

from facevae.common.parameters import Train


class _LeanAverages(keras.optimizers.Optimizer):
    """Averages weights as Keras does with `use_ema`, with one temporary tensor at a time.

    Keras multiplies each average before the weight is there that is added. TensorFlow does so at
    the start of the step, and the products, as large as all weights, wait for its end.
    """

    def _update_model_variables_moving_average(self, trainable_variables):
        if not self.use_ema:
            return
        averages = self._model_variables_moving_average
        for weight, average in zip(trainable_variables, averages, strict=True):
            # The first step copies the weights.
            share = tf.where(self.iterations == 0, 1.0, 1.0 - self.ema_momentum)
            average.assign_sub(share * (average - weight))


class FusedAdam(_LeanAverages, keras.optimizers.Adam):
    """`keras.optimizers.Adam` (Kingma & Ba 2014, arXiv 1412.6980) with one kernel per variable.

    Keras computes an update with a dozen kernels, each of which reads and writes the large Dense
    weights. The fused kernel does the same arithmetic in one pass, a few percent of a step faster
    on a CPU (`make bench-rewrites`). For dense gradients only.
    """

    def update_step(self, gradient, variable, learning_rate):
        number = tf.cast(self.iterations + 1, variable.dtype)
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), number),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), number),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class FusedSGD(_LeanAverages, keras.optimizers.SGD):
    """`keras.optimizers.SGD` with momentum, with one kernel per variable.

    Keras computes an update with several kernels and needs memory for two copies of the variable;
    the fused kernel needs none: a step's peak is 142 MiB, with Keras' own 171 MiB (direct, batch
    32; measured with `facevae.measurement.step_peak`). For dense gradients only, without Nesterov's
    momentum.
    """

    def update_step(self, gradient, variable, learning_rate):
        momentum = self.momentums[self._get_variable_index(variable)]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=momentum.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype),
        )


class FactoredAdafactor(_LeanAverages, keras.optimizers.Adafactor):
    """`keras.optimizers.Adafactor` (Shazeer & Stern 2018, arXiv 1804.04235), without first moment.

    For a weight with two or more dimensions, only the means of the second moment's rows and columns
    (over the last two dimensions) are stored. Keras stores their product as well, which is as large
    as the weight: 30 MiB for the default networks instead of 0.2, and a step's peak of 144 MiB
    instead of 110 (direct, batch 32; measured with `facevae.measurement.step_peak`). The size of a
    step is the learning rate times the root mean square of the weight (algorithm 5 of the paper).
    The learning rate is used as given; Keras by default limits it to 1 / sqrt(step). For dense
    gradients only.
    """

    def build(self, var_list):
        if self.built:
            return
        # Skips Adafactor's own `build`, which would create the product as well.
        super(keras.optimizers.Adafactor, self).build(var_list)
        self._moments = []
        for variable in var_list:
            shape = tuple(variable.shape)
            factors = {"velocity": shape}
            if len(shape) > 1:
                factors = {"rows": shape[:-1], "columns": (*shape[:-2], shape[-1])}
            self._moments.append(
                [
                    self.add_variable(shape, dtype=variable.dtype, name=f"{variable.name}_{name}")
                    for name, shape in factors.items()
                ]
            )

    def update_step(self, gradient, variable, learning_rate):
        def mean_square(x):
            return 2.0 * tf.nn.l2_loss(x) / tf.cast(tf.size(x), x.dtype)  # without a copy of x

        number = tf.cast(self.iterations + 1, variable.dtype)
        decay = 1.0 - tf.pow(number, self.beta_2_decay)
        squares = tf.square(gradient)
        moments = self._moments[self._get_variable_index(variable)]
        if len(moments) == 1:
            (velocity,) = moments
            new_values = [squares + self.epsilon_1]
        else:
            new_values = [tf.reduce_mean(squares, axis) + self.epsilon_1 for axis in (-1, -2)]
        for moment, new in zip(moments, new_values, strict=True):
            self.assign(moment, decay * moment + (1.0 - decay) * new)
        if len(moments) == 1:
            update = gradient * tf.math.rsqrt(velocity)
        else:
            rows, columns = (tf.convert_to_tensor(moment) for moment in moments)
            rows /= tf.reduce_mean(rows, axis=-1, keepdims=True)
            update = gradient * tf.math.rsqrt(rows)[..., tf.newaxis]
            update *= tf.math.rsqrt(columns)[..., tf.newaxis, :]
        clipping = tf.maximum(1.0, tf.sqrt(mean_square(update)) / self.clip_threshold)
        scale = tf.maximum(self.epsilon_2, tf.sqrt(mean_square(variable)))
        step = tf.cast(learning_rate, variable.dtype) * scale / clipping
        self.assign_sub(variable, step * update)


def learning_rate(
    settings: Train, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate over all steps of a training.

    During the warm-up it grows linearly from learning_rate / (warmup_steps + 1). Then it stays
    constant ("constant"), or falls as half a cosine to 0 at the last step ("cosine": Loshchilov &
    Hutter 2016, arXiv 1608.03983, equation 5 without restarts).

    Args:
        settings: learning_rate, warmup_steps and learning_rate_schedule are read.
        steps: number of steps of the training, warm-up included.

    Returns:
        A number, or a schedule that takes the number of the step, from 0.

    Raises:
        ValueError: an unknown schedule.
    """
    schedules = keras.optimizers.schedules
    largest, warmup = settings.learning_rate, settings.warmup_steps
    first = largest / (warmup + 1)
    match settings.learning_rate_schedule:
        case "constant" if not warmup:
            return largest
        case "constant":
            return schedules.PolynomialDecay(first, warmup, largest, power=1.0)
        case "cosine":
            falling = max(1, steps - warmup)
            if not warmup:
                return schedules.CosineDecay(largest, falling)
            return schedules.CosineDecay(first, falling, warmup_target=largest, warmup_steps=warmup)
        case unknown:
            raise ValueError(f"train.learning_rate_schedule: there is no {unknown!r}")


def build_optimizer(
    settings: Train, learning_rate: float | keras.optimizers.schedules.LearningRateSchedule
) -> keras.Optimizer:
    """The optimizer that the settings name.

    float16 cannot represent small gradients. With it the loss is scaled up, a step whose gradients
    overflow is skipped, and the scale is adapted (Micikevicius et al. 2017, arXiv 1710.03740).

    Args:
        settings: optimizer, ema_momentum and precision are read. Optimizers store, in float32 and
            beside the weights: "adam" two numbers per weight; "sgd", with momentum 0.9, one;
            "adafactor" one per row and column of a weight. With ema_momentum each stores the
            moving average of every weight, too: its `finalize_variable_values` replaces the weights
            by their averages.
        learning_rate: from `learning_rate`.

    Raises:
        ValueError: an unknown optimizer.
    """
    optimizer: keras.Optimizer
    average: dict[str, Any] = {}
    if settings.ema_momentum is not None:
        average = {"use_ema": True, "ema_momentum": settings.ema_momentum}
    if settings.optimizer == "adam":
        optimizer = FusedAdam(learning_rate, **average)
    elif settings.optimizer == "sgd":
        optimizer = FusedSGD(learning_rate, momentum=0.9, **average)
    elif settings.optimizer == "adafactor":
        optimizer = FactoredAdafactor(learning_rate, **average)
    else:
        raise ValueError(f"train.optimizer: there is no {settings.optimizer!r}")
    if settings.precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
