"""The two terms of the VAE's loss, and the sampling between them.

Per image x with D = height * width * channels pixel values in [0, 1], latent size L:

    loss = reconstruction(x, x') + kl_weight * KL(q(z|x) || N(0, I))

    mse: reconstruction = sum over D of (x - x')^2
    bce: reconstruction = -sum over D of [x ln x' + (1 - x) ln(1 - x')]
    KL   = -1/2 sum over L of [1 + log_var - mu^2 - exp(log_var)]
           (Kingma & Welling 2013, arXiv 1312.6114, appendix B)

KL and bce are in nats, mse in squared pixel values. With mse the loss is 2 sigma^2 times the
negative ELBO of a Gaussian decoder of variance sigma^2 = kl_weight / 2, up to a constant. The 2022
series averages its reconstruction over the three channels and multiplies the KL by `fact`; summing
over channels instead makes its weight kl_weight = 3 * fact (15 for its BCE with fact 5; 0.06 for
its MSE with fact 0.02).

The terms are computed in float32, and everything here works on any Keras backend.
"""

import keras

# exp(log_var) overflows and kills training if log_var runs away; sigma stays in [4.5e-5, 148].
LOG_VAR_RANGE = (-20.0, 10.0)

# Keeps ln x' finite where a sigmoid has saturated.
_SMALLEST_PROBABILITY = 1e-7


def sample_latent(mu, log_var, epsilon):
    """z = mu + sigma * epsilon, the reparameterisation of arXiv 1312.6114.

    Args:
        mu, log_var, epsilon: tensors (batch, latent); epsilon drawn from N(0, I).

    Returns:
        z, (batch, latent).
    """
    return mu + keras.ops.exp(0.5 * log_var) * epsilon


def squared_error(images, reconstructions):
    """Sum over height, width and channels of the squared error, per image.

    Args:
        images, reconstructions: (batch, height, width, channels) in [0, 1].

    Returns:
        (batch,) float32.
    """
    difference = keras.ops.cast(reconstructions, "float32") - keras.ops.cast(images, "float32")
    return keras.ops.sum(keras.ops.square(difference), axis=(1, 2, 3))


def binary_crossentropy(images, reconstructions):
    """Sum over height, width and channels of the binary cross-entropy, nats per image.

    Args and Returns: as `squared_error`.
    """
    images = keras.ops.cast(images, "float32")
    probabilities = keras.ops.clip(
        keras.ops.cast(reconstructions, "float32"),
        _SMALLEST_PROBABILITY,
        1.0 - _SMALLEST_PROBABILITY,
    )
    terms = images * keras.ops.log(probabilities)
    terms += (1.0 - images) * keras.ops.log1p(-probabilities)
    return -keras.ops.sum(terms, axis=(1, 2, 3))


def kl_per_unit(mu, log_var):
    """KL(q(z|x) || N(0, 1)) of every latent unit, nats.

    Args:
        mu, log_var: (batch, latent).

    Returns:
        (batch, latent) float32, never negative.
    """
    mu = keras.ops.cast(mu, "float32")
    log_var = keras.ops.cast(log_var, "float32")
    # expm1 keeps the small KL of an almost collapsed unit from drowning in rounding.
    return 0.5 * (keras.ops.square(mu) + keras.ops.expm1(log_var) - log_var)


RECONSTRUCTION_LOSSES = {"mse": squared_error, "bce": binary_crossentropy}
