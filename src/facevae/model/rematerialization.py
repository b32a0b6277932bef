"""Rematerialization: recompute activations for the gradients and do not store them.

Chen et al. 2016, arXiv 1604.06174. Results that are cheap to compute (normalisation, activation,
dropout) are discarded after the forward pass and recomputed in the backward pass. Expensive ones,
the outputs of convolutions and Dense layers, are stored. TensorFlow only.

`keras.RematScope` does not do this: it recomputes single layers, each of which stores its own
input, and in a compiled TensorFlow function it fails for layers that are called with `training`
(Keras 3.15).
"""

from typing import Any

import keras


def rematerialized_call(network: keras.Model, inputs):
    """`network(inputs, training=True)`: the same outputs, gradients and updates, in less memory.

    Each layer with a kernel is grouped with the layers between it and the preceding layers with a
    kernel. The layers in between run a second time for the gradients. Only the forward pass updates
    their state (moving averages, seeds of dropout), and dropout draws the same mask both times.

    Args:
        network: a functional model in which no layer is called twice.
        inputs: a tensor, as the network takes it.

    Returns:
        What `network(inputs, training=True)` returns.
    """
    import tensorflow as tf

    values = {id(network.inputs[0]): inputs}
    # For each tensor that is not stored: the layers that recompute it, and the tensors that these
    # start from.
    origins: dict[int, tuple[list[keras.Layer], list[int]]] = {}
    states: dict[keras.Layer, list[Any]] = {}

    def run(layer: keras.Layer, known: dict[int, Any]) -> None:
        arguments = tf.nest.map_structure(lambda tensor: known[id(tensor)], layer.input)
        known[id(layer.output)] = layer(arguments, training=True)

    for layer in network.layers[1:]:
        layers, sources = [], []
        for tensor in tf.nest.flatten(layer.input):
            before, starts = origins.get(id(tensor), ([], [id(tensor)]))
            layers += [other for other in before if other not in layers]
            sources += [start for start in starts if start not in sources]
        layers.append(layer)
        states[layer] = [tf.identity(state.value) for state in layer.non_trainable_variables]
        run(layer, values)
        if not hasattr(layer, "kernel"):
            origins[id(layer.output)] = layers, sources
        elif len(layers) > 1:
            output = id(layer.output)
            values[output] = _with_recomputation(run, layers, sources, values, states)
    outputs = [values[id(tensor)] for tensor in network.outputs]
    return outputs if len(outputs) > 1 else outputs[0]


def _with_recomputation(run, layers, sources, values, states):
    """The output of the last layer; its gradient runs the layers before it a second time."""
    import tensorflow as tf

    *between, last = layers
    forward = values[id(last.output)]
    kept = [(state, value) for layer in layers for state, value in _pairs(layer, states)]
    weights = [weight for layer in layers for weight in layer.trainable_variables]

    @tf.custom_gradient
    def compute(*tensors):
        def gradient(upstream):
            others = tensors[: len(tensors) - len(last.trainable_variables)]
            own = tensors[len(others) :]
            recomputed = dict(zip(sources, tensors[: len(sources)], strict=True))
            given = zip(weights, tensors[len(sources) :], strict=True)
            scope = keras.StatelessScope(state_mapping=[*given, *kept])
            # Wait for the upstream gradient: recomputing earlier would save no memory, and
            # TensorFlow would merge this computation with the same one of the forward pass.
            with tf.control_dependencies([upstream]), tf.GradientTape() as tape:
                tape.watch(others)
                with scope:
                    for layer in between:
                        run(layer, recomputed)
            inputs = recomputed[id(last.input)]
            with tf.control_dependencies([upstream]), tf.GradientTape() as last_tape:
                last_tape.watch([inputs, *own])
                with scope:
                    run(last, recomputed)
            of_inputs, *of_own = last_tape.gradient(
                recomputed[id(last.output)], [inputs, *own], upstream
            )
            # The inputs are freed once the kernel has its gradient. Compute that first, or the
            # inputs of several layers pile up.
            with tf.control_dependencies(of_own):
                of_inputs = tf.identity(of_inputs)
            return [*tape.gradient(inputs, others, of_inputs), *of_own]

        return forward, gradient

    return compute(
        *(values[source] for source in sources),
        *(tf.convert_to_tensor(weight.value) for weight in weights),
    )


def _pairs(layer: keras.Layer, states: dict[keras.Layer, list[Any]]):
    return zip(layer.non_trainable_variables, states[layer], strict=True)
