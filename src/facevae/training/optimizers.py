"""Adam, and two optimizers that keep less per weight, each with Keras' own as its portable twin."""

import keras
import tensorflow as tf

from facevae.common.parameters import Train


class FusedAdam(keras.optimizers.Adam):
    """`keras.optimizers.Adam` (Kingma & Ba 2014, arXiv 1412.6980), one kernel per variable.

    Keras composes each update of a dozen kernels, which on a CPU read and write the large Dense
    weights again and again. The fused kernel does the same arithmetic in one pass: at batch 32
    training is 1.13 times as fast (`make bench-rewrites`). TensorFlow only; dense gradients only.
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


class FusedSGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` with momentum, one kernel per variable.

    Keras composes each update of several kernels and needs room for two more copies of the
    weights that are being updated; the fused kernel needs none. TensorFlow only; dense gradients
    only; not for Nesterov's momentum.
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


class FactoredAdafactor(keras.optimizers.Adafactor):
    """`keras.optimizers.Adafactor` (Shazeer & Stern 2018, arXiv 1804.04235), without first moment.

    The second moment of a weight of two or more dimensions is kept as the means of its rows and of
    its columns, over the last two dimensions, and nothing else is: Keras keeps their product as
    well, as large as the weight. A step is the learning rate times the root mean square of the
    weight (algorithm 5 of the paper), with the learning rate as it is given; Keras' is never above
    1 / sqrt(step). TensorFlow only; dense gradients only.
    """

    def build(self, var_list):
        if self.built:
            return
        # Not Adafactor's own, which makes the product, too.
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
            news = [squares + self.epsilon_1]
        else:
            news = [tf.reduce_mean(squares, axis) + self.epsilon_1 for axis in (-1, -2)]
        for moment, new in zip(moments, news, strict=True):
            self.assign(moment, decay * moment + (1.0 - decay) * new)
        if len(moments) == 1:
            update = gradient * tf.math.rsqrt(velocity)
        else:
            rows, columns = (tf.convert_to_tensor(moment) for moment in moments)
            rows /= tf.reduce_mean(rows, axis=-1, keepdims=True)
            update = gradient * tf.math.rsqrt(rows)[..., tf.newaxis]
            update *= tf.math.rsqrt(columns)[..., tf.newaxis, :]
        longest = tf.maximum(1.0, tf.sqrt(mean_square(update)) / self.clip_threshold)
        size = tf.maximum(self.epsilon_2, tf.sqrt(mean_square(variable)))
        step = tf.cast(learning_rate, variable.dtype) * size / longest
        self.assign_sub(variable, step * update)


def learning_rate(
    settings: Train, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate over all steps of a training.

    In the warm-up it grows in equal steps from learning_rate / (warmup_steps + 1). Then it stays
    ("constant"), or falls as half a cosine to 0 with the last step ("cosine": Loshchilov & Hutter
    2016, arXiv 1608.03983, without restarts).

    Args:
        settings: learning_rate, warmup_steps and learning_rate_schedule are read.
        steps: steps of the training, warm-up included.

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
    """The optimizer, for networks of the precision of the settings.

    float16 has too few exponents for small gradients: there the loss is scaled up, a step whose
    gradients overflow is left out, and the scale follows (arXiv 1710.03740).

    Args:
        settings: optimizer and precision are read. What an optimizer keeps beside the weights, all
            in float32: "adam" two numbers per weight; "sgd", with momentum 0.9, one; "adafactor"
            one per row and column of a weight.

    Raises:
        ValueError: an unknown optimizer.
    """
    optimizer: keras.Optimizer
    if settings.optimizer == "adam":
        optimizer = FusedAdam(learning_rate)
    elif settings.optimizer == "sgd":
        optimizer = FusedSGD(learning_rate, momentum=0.9)
    elif settings.optimizer == "adafactor":
        optimizer = FactoredAdafactor(learning_rate)
    else:
        raise ValueError(f"train.optimizer: there is no {settings.optimizer!r}")
    if settings.precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
