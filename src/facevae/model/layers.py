"""The layers that the networks are made of, where Keras' own are slower or larger on TensorFlow.

Each has Keras' own layer as its portable twin on other backends.
"""

import keras

# Between two evils. Keras' 0.99 remembers several hundred steps, and the built-in training has no
# more. At 0.9 the statistics of so few batches jitter: after 30 epochs of batch 32 on real images,
# averaging over more of them took the test loss from 456 to 428.
MOMENTUM = 0.97


@keras.saving.register_keras_serializable("facevae")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` for (batch, height, width, channels), scaled and centred.

    Keras 3 composes the training pass of several TensorFlow kernels; with the one fused kernel
    training is 1.3 to 1.4 times as fast on a CPU (`make bench-rewrites`). On another backend and at
    inference this class is its parent. Where a batch is split over several devices, its statistics
    are still those of the whole batch, by TensorFlow's composed kernels.
    """

    def call(self, inputs, training=None, mask=None):
        if not training or not self.trainable or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            mean, variance = tf.nn.moments(tf.cast(inputs, tf.float32), (0, 1, 2))
            mean, square = context.all_reduce(
                tf.distribute.ReduceOp.MEAN, [mean, variance + tf.square(mean)]
            )
            variance = square - tf.square(mean)
            scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
            outputs = inputs * tf.cast(scale, inputs.dtype)
            outputs += tf.cast(self.beta - mean * scale, inputs.dtype)
        else:
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
            )
            # The kernel hands out the unbiased variance; Keras keeps the biased one.
            count = tf.cast(tf.size(inputs) / tf.size(mean), variance.dtype)
            variance *= (count - 1.0) / count
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs


# Batch normalisation subtracts the batch's mean, and any constant with it: the gradient of a bias
# in front of it is exactly 0. Keras' layers sum that gradient over all pixels and get rounding
# errors, from which Adam makes steps as large as any other. The two convolutions below return 0.
# They keep the bias (`use_bias=False` would train the same), so that parameter counts are those of
# the post.
# TensorFlow's custom gradients take tensors, not variables: hence the callers' reshape.
@keras.ops.custom_gradient
def _add_constant(outputs, bias):
    def gradient(*arguments, upstream=None):
        if upstream is None:  # which of the two it is depends on the backend
            (upstream,) = arguments
        return upstream, keras.ops.zeros_like(bias)

    return keras.ops.add(outputs, bias), gradient


@keras.saving.register_keras_serializable("facevae")
class ZeroBiasGradConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a bias, without an activation, and a normalisation behind it."""

    def call(self, inputs):
        outputs = self.convolution_op(inputs, self.kernel)
        return _add_constant(outputs, keras.ops.reshape(self.bias, (-1,)))


@keras.saving.register_keras_serializable("facevae")
class ZeroBiasGradConv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose`, likewise."""

    def call(self, inputs):
        outputs = keras.ops.conv_transpose(
            inputs, self.kernel, strides=list(self.strides), padding=self.padding
        )
        return _add_constant(outputs, keras.ops.reshape(self.bias, (-1,)))


@keras.saving.register_keras_serializable("facevae")
def output_grad_leaky_relu(x):
    """`keras.activations.leaky_relu`, whose gradient reads the output and not the input.

    Both have the same sign. So the input need not be kept for the gradient, and the output takes
    its place in memory.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.activations.leaky_relu(x)
    import tensorflow as tf

    @tf.custom_gradient
    def activate(x):
        y = keras.activations.leaky_relu(x)

        def gradient(upstream):
            return tf.raw_ops.LeakyReluGrad(gradients=upstream, features=y, alpha=0.2)

        return y, gradient

    return activate(x)


@keras.saving.register_keras_serializable("facevae")
class ReplicaConsistentDropout(keras.layers.Dropout):
    """`keras.layers.Dropout`; where a batch is split, each part drops what the whole would have.

    Keras' own draws from the same seed on every device, and so would drop the same activations of
    every part. Drawing for the whole batch and taking a part of it costs time on many devices; on
    one device, on another backend and at inference this class is its parent.
    """

    def call(self, inputs, training=False):
        if not training or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training)
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return super().call(inputs, training=training)
        size, *others = tf.unstack(tf.shape(inputs))
        whole = tf.ones((context.num_replicas_in_sync * size, *others), inputs.dtype)
        kept = super().call(whole, training=training)
        first = context.replica_id_in_sync_group * size
        return inputs * kept[first : first + size]
