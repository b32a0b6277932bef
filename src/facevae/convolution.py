"""A transposed convolution for few filters, on any Keras backend."""

import math

import keras


@keras.saving.register_keras_serializable("facevae")
class SubpixelConv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` computed at the size of its input.

    A transposed convolution of stride s is one of stride 1 with s * s times the filters, whose
    maps are then interleaved (Shi et al. 2016, arXiv 1609.05158). CPUs' kernels are made for more
    channels than three colours: forwards and backwards this takes about half as long. The weights
    are those of its parent. For square kernels and padding "same", with bias, without activation.
    """

    def call(self, inputs):
        size, stride = self.kernel_size[0], self.strides[0]
        if stride == 1:
            return super().call(inputs)
        # Zeros around the kernel, so that the stride's blocks meet its edges.
        front = -(max(size - stride, 0) // 2) % stride
        blocks = math.ceil((front + size) / stride)
        around = (front, blocks * stride - front - size)
        kernel = keras.ops.pad(self.kernel, (around, around, (0, 0), (0, 0)))
        channels = inputs.shape[-1]
        shape = (blocks, stride, blocks, stride, self.filters, channels)
        kernel = keras.ops.transpose(keras.ops.reshape(kernel, shape), (0, 2, 1, 3, 4, 5))
        maps = stride * stride * self.filters
        kernel = keras.ops.reshape(kernel, (blocks, blocks, maps, channels))
        outputs = keras.ops.conv_transpose(inputs, kernel, strides=1, padding="same")
        outputs = keras.ops.add(outputs, keras.ops.tile(self.bias, stride * stride))
        return keras.ops.depth_to_space(outputs, stride)
