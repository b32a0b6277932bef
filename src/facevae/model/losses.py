"""The two terms of the VAE's loss, and the sampling between them.

Per image x with D = height * width * channels pixel values in [0, 1], latent size L:

    loss = reconstruction(x, x') + kl_weight * KL(q(z|x) || N(0, I))

    mse: reconstruction = sum over D of (x - x')^2
    bce: reconstruction = -sum over D of [x ln x' + (1 - x) ln(1 - x')]
    gaussian: reconstruction = sum over D of (x - x')^2 / (2 sigma^2) + D (ln sigma + ln(2 pi) / 2)
    KL   = -1/2 sum over L of [1 + log_var - mu^2 - exp(log_var)]
           (Kingma & Welling 2013, arXiv 1312.6114, appendix B)

KL, bce and gaussian are in nats, mse in squared pixel values. gaussian is the negative log density
of a Gaussian around x', so that with kl_weight 1 the loss is the negative ELBO. Its sigma is given,
or learned: the optimum sigma^2 = mean squared error of the batch, which has no gradient (the
sigma-VAE of Rybkin et al. 2020, arXiv 2006.13202). With mse the loss is 2 sigma^2 times the
negative ELBO of a Gaussian decoder of variance sigma^2 = kl_weight / 2, up to a constant. The 2022
series averages its reconstruction over the three channels and multiplies the KL by `fact`; summing
over channels instead makes its weight kl_weight = 3 * fact (15 for its BCE with fact 5; 0.06 for
its MSE with fact 0.02).

Where free bits f are asked for (Kingma et al. 2016, arXiv 1606.04934, section 2.4), what is
minimised has, in place of the KL, the sum over L of max(f, mean over the batch of the unit's KL).
What is reported, as KL and in the loss, is the true KL always.

The terms are computed in float32, and everything here works on any Keras backend.
"""

import math

import keras

# exp(log_var) overflows and kills training if log_var runs away; sigma stays in [4.5e-5, 148].
LOG_VAR_RANGE = (-20.0, 10.0)

# Keeps ln x' finite where a sigmoid has saturated.
_MIN_PROBABILITY = 1e-7

# Below this a learned sigma would make of rounding errors large gradients (arXiv 2006.13202).
MIN_LOG_SIGMA = -6.0


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
        _MIN_PROBABILITY,
        1.0 - _MIN_PROBABILITY,
    )
    terms = images * keras.ops.log(probabilities)
    terms += (1.0 - images) * keras.ops.log1p(-probabilities)
    return -keras.ops.sum(terms, axis=(1, 2, 3))


def optimal_log_sigma(images, reconstructions):
    """ln sigma of the Gaussian decoder that makes a whole batch most likely, without gradient.

    sigma^2 = mean squared error over the batch, its devices, height, width and channels (arXiv
    2006.13202, equation 7); ln sigma is at least -6.

    Args:
        images, reconstructions: as of `squared_error`.

    Returns:
        () float32.
    """
    pixels = math.prod(images.shape[1:])
    error = keras.ops.mean(squared_error(images, reconstructions)) / pixels
    error = mean_over_devices(keras.ops.stop_gradient(error))
    return keras.ops.maximum(0.5 * keras.ops.log(error), MIN_LOG_SIGMA)


def gaussian_negative_log_density(images, reconstructions, log_sigma):
    """-ln of a Gaussian of standard deviation sigma around the reconstructions, nats per image.

    Args:
        images, reconstructions: as of `squared_error`.
        log_sigma: ln sigma, sigma in units of the pixel values; () or a number.

    Returns:
        (batch,) float32.
    """
    pixels = math.prod(images.shape[1:])
    error = 0.5 * keras.ops.exp(-2.0 * log_sigma) * squared_error(images, reconstructions)
    return error + pixels * (log_sigma + 0.5 * math.log(2.0 * math.pi))


def mean_over_devices(value):
    """The mean over the devices that TensorFlow has split a batch over; else the value itself."""
    if keras.backend.backend() != "tensorflow":
        return value
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)


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


def kl_beyond_free_bits(per_unit, free_bits: float):
    """sum over the latent of max(free_bits, mean over the batch of a unit's KL), nats.

    The mean that decides is that over all devices; the gradient is the own images'.

    Args:
        per_unit: (batch, latent), of `kl_per_unit`.

    Returns:
        () float32, at least free_bits * latent.
    """
    means = keras.ops.mean(per_unit, axis=0)
    of_all = mean_over_devices(keras.ops.stop_gradient(means))
    return keras.ops.sum(keras.ops.where(of_all > free_bits, means, free_bits))


# gaussian wants sigma as well, see `facevae.model.vae.VAE`.
RECONSTRUCTION_LOSSES = {"mse": squared_error, "bce": binary_crossentropy}
