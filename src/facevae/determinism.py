"""The same calls, the same bits."""

import keras
import tensorflow as tf


def make_repeatable(seed: int) -> None:
    """From here on the same calls give the same bits: seeds set, TensorFlow's kernels ordered."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
