"""Convolutions in front of a batch normalisation, on any Keras backend.

The normalisation subtracts the batch's mean, and any constant with it: the gradient of the bias is
exactly 0. Plain layers sum it up over all pixels all the same and get rounding errors, of which
Adam makes steps as large as any other. These layers say 0.
"""

import keras


# TensorFlow's custom gradients take tensors, not variables: hence the callers' reshape.
@keras.ops.custom_gradient
def _add_constant(outputs, bias):
    def gradient(*arguments, upstream=None):
        if upstream is None:  # which of the two it is depends on the backend
            (upstream,) = arguments
        return upstream, keras.ops.zeros_like(bias)

    return keras.ops.add(outputs, bias), gradient


@keras.saving.register_keras_serializable("facevae")
class NormalizedConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a bias, without an activation, and a normalisation behind it."""

    def call(self, inputs):
        outputs = self.convolution_op(inputs, self.kernel)
        return _add_constant(outputs, keras.ops.reshape(self.bias, (-1,)))


@keras.saving.register_keras_serializable("facevae")
class NormalizedConv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose`, likewise."""

    def call(self, inputs):
        outputs = keras.ops.conv_transpose(
            inputs, self.kernel, strides=list(self.strides), padding=self.padding
        )
        return _add_constant(outputs, keras.ops.reshape(self.bias, (-1,)))
