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
    with several TensorFlow kernels; with one fused kernel, training is 1.1 to 1.4 times as fast on
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


def _subpixel_conv_transpose(inputs, kernel, bias, stride: int):
    """A transposed convolution with padding "same", and its bias, as a sub-pixel convolution.

    Sub-pixel convolution: Shi et al. 2016, arXiv 1609.05158. With T = ceil(side / stride), a kernel
    of T x T taps computes the stride^2 output pixels that lie in front of each input pixel as so
    many times more channels, which are then laid out as pixels. CPU kernels compute at least 16
    channels at a time, so that a transposed convolution to the 3 of an image wastes most of its
    arithmetic. The gradients are those of the transposed convolution, which waste less.

    Args:
        inputs: (batch, size, size, channels), a TensorFlow tensor.
        kernel: (side, side, filters, channels).
        bias: (filters,).

    Returns:
        (batch, size * stride, size * stride, filters).
    """
    import tensorflow as tf

    side, _, filters, channels = kernel.shape
    size = inputs.shape[1]
    taps = -(-side // stride)
    edge = max(side - stride, 0) // 2  # rows and columns that the padding cuts off first
    strides = [1, stride, stride, 1]

    @tf.custom_gradient
    def compute(inputs, kernel, bias):
        # Row stride * t + r of the kernel weighs, for the r-th of an input's rows of output, the
        # input t rows earlier; a convolution has the earliest input first.
        missing = [0, taps * stride - side]
        split = tf.reshape(
            tf.pad(kernel, [missing, missing, [0, 0], [0, 0]]),
            (taps, stride, taps, stride, filters, channels),
        )
        split = tf.transpose(tf.reverse(split, [0, 2]), (0, 2, 5, 1, 3, 4))
        around = [taps - 1, taps - 1]
        found = tf.nn.conv2d(
            tf.pad(inputs, [[0, 0], around, around, [0, 0]]),
            tf.reshape(split, (taps, taps, channels, stride**2 * filters)),
            strides=1,
            padding="VALID",
        )
        found = tf.nn.bias_add(found, tf.tile(bias, [stride**2]))
        rows = size + taps - 1
        pixels = tf.reshape(found, (-1, rows, stride, stride * filters))
        pixels = tf.reshape(
            tf.transpose(pixels, (0, 2, 1, 3)), (-1, rows * stride, rows * stride, filters)
        )
        end = edge + size * stride

        def gradient(upstream):
            of_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=upstream,
                filter_sizes=kernel.shape,
                out_backprop=inputs,
                strides=strides,
                padding="SAME",
            )
            # Sums of long rows: those of 3 numbers, one for each filter, take three times as long.
            columns = tf.reduce_sum(tf.reshape(upstream, (-1, size * stride * filters)), 0)
            of_bias = tf.reduce_sum(tf.reshape(columns, (-1, filters)), 0)
            return tf.nn.conv2d(upstream, kernel, strides, "SAME"), of_kernel, of_bias

        return pixels[:, edge:end, edge:end], gradient

    return compute(inputs, tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias))


@keras.saving.register_keras_serializable("facevae")
class SubpixelConv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` to few filters, such as the colours of an image.

    Square, with padding "same", a bias and no activation; see `_subpixel_conv_transpose`, which
    computes it on TensorFlow.
    """

    def call(self, inputs):
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs)
        return _subpixel_conv_transpose(inputs, self.kernel, self.bias, self.strides[0])


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
    with stride + side - 1 rows and columns. With the Kronecker product of M and itself that is one
    product for all pairs, which is faster than an einsum. The weights have the names and shapes of
    those of Conv2DTranspose.
    """

    def _composed_kernel(self):
        (side, _), (stride, _) = self.kernel_size, self.strides
        rows = np.arange(side + stride - 1)[:, None] - (side - 1 - np.arange(side))
        spread = ((rows >= 0) & (rows < stride)).astype(np.float32)  # M
        both = keras.ops.cast(np.kron(spread, spread), self.compute_dtype)
        composed = keras.ops.matmul(both, keras.ops.reshape(self.kernel, (side**2, -1)))
        return keras.ops.reshape(composed, (len(rows), len(rows), *self.kernel.shape[2:]))

    def _convolve(self, inputs):
        return keras.ops.conv_transpose(
            inputs, self._composed_kernel(), strides=list(self.strides), padding=self.padding
        )

    def call(self, inputs):
        return self._convolve(inputs) + self.bias


@keras.saving.register_keras_serializable("facevae")
class SubpixelResizeConv2D(ResizeConv2D):
    """`ResizeConv2D` to few filters; as `SubpixelConv2DTranspose`."""

    def call(self, inputs):
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs)
        kernel = self._composed_kernel()
        return _subpixel_conv_transpose(inputs, kernel, self.bias, self.strides[0])


@keras.saving.register_keras_serializable("facevae")
class ZeroBiasGradResizeConv2D(ResizeConv2D):
    """`ResizeConv2D` whose bias has gradient 0; as `ZeroBiasGradConv2D`."""

    def call(self, inputs):
        return _add_constant(self._convolve(inputs), keras.ops.reshape(self.bias, (-1,)))


@keras.ops.custom_gradient
def _multiply(inputs, kernel):
    def gradient(*arguments, upstream=None):
        if upstream is None:
            (upstream,) = arguments
        # One product in a batch of one: TensorFlow would rewrite it without the batch.
        of_inputs = keras.ops.einsum("abo,aio->abi", upstream[None], kernel[None])[0]
        return of_inputs, keras.ops.matmul(keras.ops.transpose(inputs), upstream)

    return keras.ops.matmul(inputs, kernel), gradient


@keras.saving.register_keras_serializable("facevae")
class EinsumGradDense(keras.layers.Dense):
    """`keras.layers.Dense` of (batch, inputs), whose gradient of the inputs is an einsum.

    TensorFlow computes that of a Dense layer as a product with the transposed kernel. For the
    Decoder's first layer, of 256 inputs and 9,216 outputs, that product is slower than the einsum,
    which reads the kernel as it lies (`make bench-rewrites` has the gain of a whole step).
    """

    def call(self, inputs, training=None):
        kernel = keras.ops.reshape(self.kernel, self.kernel.shape)
        return self.activation(_multiply(inputs, kernel) + self.bias)


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
