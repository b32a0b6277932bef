"""Activations that are computed again for the gradients, not kept (TensorFlow only).

Chen et al. 2016, arXiv 1604.06174: what is cheap to compute, normalisation, activation and dropout,
is dropped after the forward pass, and what is dear is kept, the outputs of convolutions and Dense
layers.
"""

from typing import Any

import keras


def rematerialized_call(network: keras.Model, inputs):
    """`network(inputs, training=True)`: the same outputs, gradients and updates, in less memory.

    Each layer with a kernel is taken together with all that lies between it and the layers with a
    kernel before it; for the gradients, these layers in between run once more. Their state is moved
    on by the forward pass alone, and dropout draws the same mask twice.

    Args:
        network: functional; none of its layers is called twice in it.
        inputs: a tensor.

    Returns:
        What the network returns.
    """
    import tensorflow as tf

    values = {id(network.inputs[0]): inputs}
    # By tensor, the layers to run and the tensors to start from if it is not kept.
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
            values[output] = _computed_again(run, layers, sources, values, states)
    outputs = [values[id(tensor)] for tensor in network.outputs]
    return outputs if len(outputs) > 1 else outputs[0]


def _computed_again(run, layers, sources, values, states):
    """The last layer's output, with gradients for which all that is before it runs again."""
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
            again = dict(zip(sources, tensors[: len(sources)], strict=True))
            given = zip(weights, tensors[len(sources) :], strict=True)
            scope = keras.StatelessScope(state_mapping=[*given, *kept])
            # Not before its turn; and TensorFlow must not take it for the first computation.
            with tf.control_dependencies([upstream]), tf.GradientTape() as tape:
                tape.watch(others)
                with scope:
                    for layer in between:
                        run(layer, again)
            inputs = again[id(last.input)]
            with tf.control_dependencies([upstream]), tf.GradientTape() as last_tape:
                last_tape.watch([inputs, *own])
                with scope:
                    run(last, again)
            of_inputs, *of_own = last_tape.gradient(
                again[id(last.output)], [inputs, *own], upstream
            )
            # The inputs go when the kernel has its gradient: it is not to wait while they pile up.
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
