"""Sizes of the two networks."""

import keras
import numpy as np

from facevae.model.vae import VAE


def _parameters(network: keras.Model) -> dict[str, int]:
    trainable = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    return {"params": network.count_params(), "trainable_params": trainable}


def encoder_sizes(vae: VAE) -> dict[str, int]:
    """params, trainable_params, and flattened: outputs of the Encoder's Flatten layer."""
    flattened = vae.encoder.get_layer("flatten").output.shape[1]
    return {**_parameters(vae.encoder), "flattened": flattened}


def decoder_sizes(vae: VAE) -> dict[str, int]:
    """params and trainable_params."""
    return _parameters(vae.decoder)
