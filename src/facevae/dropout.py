"""Dropout that does not depend on how many devices a batch is split over."""

import keras


@keras.saving.register_keras_serializable("facevae")
class SplitDropout(keras.layers.Dropout):
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
