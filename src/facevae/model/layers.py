"""Layers that replace Keras' own where those are slow or take much memory on TensorFlow.

Each computes what Keras' layer computes, up to rounding, and works on any Keras backend.
"""

import keras
import numpy as np

# Of the moving averages, which validation during a training uses, and the attribute classifier;
# those of a trained VAE are computed again (`facevae.training.statistics`). Keras' default of 0.99
# averages over several hundred steps, which is most of the built-in training; at 0.9 the
# average covers few batches and is noisy.
MOMENTUM = 0.97


@keras.saving.register_keras_serializable("facevae")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of (batch, height, width, channels), with gamma and beta.

    Batch normalisation: Ioffe & Szegedy 2015, arXiv 1502.03167. Keras 3 computes its training pass
    with several TensorFlow kernels; with one fused kernel, training is 1.3 to 1.4 times as fast on
    a CPU (`make bench-rewrites`). If a batch is split over several devices, the statistics are
    those of the whole batch, computed with separate kernels. At inference and on another backend
    the parent class computes.
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
            # The kernel returns the unbiased variance; Keras averages the biased one.
            count = tf.cast(tf.size(inputs) / tf.size(mean), variance.dtype)
            variance *= (count - 1.0) / count
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs


# Batch normalisation subtracts the mean of the batch, and with it any constant: the gradient of a
# bias in front of it is exactly 0. Keras' layers compute it as a sum over all pixels, which leaves
# rounding errors, and Adam turns these into steps of full size. The two convolutions below return a
# gradient of 0. They keep the bias (`use_bias=False` would train the same), so that parameter
# counts are those of the blog post of 2022.
# TensorFlow's custom gradients take tensors, not variables: hence the reshape at the callers.
@keras.ops.custom_gradient
def _add_constant(outputs, bias):
    def gradient(*arguments, upstream=None):
        if upstream is None:  # some backends pass it by position, others by name
            (upstream,) = arguments
        return upstream, keras.ops.zeros_like(bias)

    return keras.ops.add(outputs, bias), gradient


@keras.saving.register_keras_serializable("facevae")
class ZeroBiasGradConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose bias has gradient 0, for use in front of a normalisation.

    With a bias and without an activation.
    """

    def call(self, inputs):
        outputs = self.convolution_op(inputs, self.kernel)
        return _add_constant(outputs, keras.ops.reshape(self.bias, (-1,)))


@keras.saving.register_keras_serializable("facevae")
class ZeroBiasGradConv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` whose bias has gradient 0; as `ZeroBiasGradConv2D`."""

    def call(self, inputs):
        outputs = keras.ops.conv_transpose(
            inputs, self.kernel, strides=list(self.strides), padding=self.padding
        )
        return _add_constant(outputs, keras.ops.reshape(self.bias, (-1,)))


@keras.saving.register_keras_serializable("facevae")
class ResizeConv2D(keras.layers.Conv2DTranspose):
    """Repeats each pixel `stride` times a side, then convolves; square, with padding "same".

    Where the padding of a kernel with an even side cannot be the same on both edges, the first one
    has a pixel more; with Keras' Conv2D it is the last one.

    Resize-convolution (Odena, Dumoulin & Olah 2016, "Deconvolution and Checkerboard Artifacts",
    Distill, https://doi.org/10.23915/distill.00003): unlike a transposed convolution whose kernel
    is no multiple of the stride, it gives all output pixels the same number of summands, so that
    there is no grid in them.

    The enlarged images are never computed. Repeating pixels is a transposed convolution with a
    kernel of ones, so that both steps together are one transposed convolution, whose kernel is the
    full convolution of the ones and the mirrored kernel w: K = M w M^T for each pair of channels,
    with stride + side - 1 rows and columns. Its weights have the names and shapes of those of
    Conv2DTranspose.
    """

    def _convolve(self, inputs):
        (side, _), (stride, _) = self.kernel_size, self.strides
        rows = np.arange(side + stride - 1)[:, None] - (side - 1 - np.arange(side))
        spread = ((rows >= 0) & (rows < stride)).astype(np.float32)  # M
        spread = keras.ops.cast(spread, self.compute_dtype)
        kernel = keras.ops.einsum("ai,ijoc,bj->aboc", spread, self.kernel, spread)
        return keras.ops.conv_transpose(
            inputs, kernel, strides=list(self.strides), padding=self.padding
        )

    def call(self, inputs):
        return self._convolve(inputs) + self.bias


@keras.saving.register_keras_serializable("facevae")
class ZeroBiasGradResizeConv2D(ResizeConv2D):
    """`ResizeConv2D` whose bias has gradient 0; as `ZeroBiasGradConv2D`."""

    def call(self, inputs):
        return _add_constant(self._convolve(inputs), keras.ops.reshape(self.bias, (-1,)))


@keras.saving.register_keras_serializable("facevae")
def output_grad_leaky_relu(x):
    """`keras.activations.leaky_relu` (slope 0.2), whose gradient reads the output, not the input.

    The gradient depends on the sign alone, which is the same for both. So only the output has to
    stay in memory for the backward pass, and the next layer needs it there anyway.
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
    """`keras.layers.Dropout` that drops the same activations on any number of devices.

    Keras' layer draws from the same seed on every device, so that every part of a split batch would
    get the same mask. Here each device draws the mask of the whole batch and uses its own part of
    it, which costs time with many devices. On one device, at inference and on another backend the
    parent class computes.
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
        mask = super().call(whole, training=training)
        first = context.replica_id_in_sync_group * size
        return inputs * mask[first : first + size]
