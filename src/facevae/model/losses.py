"""The two terms of the VAE's loss, and the sampling of z.

Per image x with D = height * width * channels pixel values in [0, 1], latent size L:

    loss = reconstruction(x, x') + kl_weight * KL(q(z|x) || N(0, I))

    mse: reconstruction = sum over D of (x - x')^2
    bce: reconstruction = -sum over D of [x ln x' + (1 - x) ln(1 - x')]
    gaussian: reconstruction = sum over D of (x - x')^2 / (2 sigma^2) + D (ln sigma + ln(2 pi) / 2)
    KL   = -1/2 sum over L of [1 + log_var - mu^2 - exp(log_var)]
           (Kingma & Welling 2013, arXiv 1312.6114, appendix B)

KL, bce and gaussian are in nats, mse in squared pixel values. gaussian is the negative log density
of a Gaussian around x', so that with kl_weight 1 the loss is the negative ELBO. Its sigma is a
given number, or learned: sigma^2 = mean squared error of the batch, which is its optimum and is
used without a gradient (the sigma-VAE of Rybkin et al. 2020, arXiv 2006.13202). With mse the loss
is 2 sigma^2 times the negative ELBO of a Gaussian decoder of variance sigma^2 = kl_weight / 2, up
to a constant. The blog series of 2022 averages its reconstruction over the three channels and
multiplies the KL by `fact`. Summing over channels instead, its weight is kl_weight = 3 * fact (15
for its BCE with fact 5; 0.06 for its MSE with fact 0.02).

With free bits f > 0 (Kingma et al. 2016, arXiv 1606.04934, "Objective with Free Bits"), training
minimises, in place of the KL, the sum over L of max(f, mean over the batch of the unit's KL). The
reported KL and the reported loss contain the true KL in any case.

All terms are computed in float32, on any Keras backend.
"""

import math

import keras

# Without limits exp(log_var) may overflow, which ruins a training. sigma stays in [4.5e-5, 148].
LOG_VAR_RANGE = (-20.0, 10.0)

# Keeps ln x' finite where a sigmoid has saturated.
_MIN_PROBABILITY = 1e-7

# A smaller learned sigma would turn rounding errors into large gradients (arXiv 2006.13202).
MIN_LOG_SIGMA = -6.0


def sample_latent(mu, log_var, epsilon):
    """z = mu + sigma * epsilon, the reparameterisation of arXiv 1312.6114, section 2.4.

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
    """ln sigma that makes a batch most likely under the Gaussian decoder, without a gradient.

    sigma^2 = mean squared error over height, width, channels and the batch, on all its devices
    (arXiv 2006.13202, equation 7); ln sigma is at least -6.

    Args:
        images, reconstructions: as `squared_error` takes them.

    Returns:
        () float32.
    """
    pixels = math.prod(images.shape[1:])
    error = keras.ops.mean(squared_error(images, reconstructions)) / pixels
    error = mean_over_devices(keras.ops.stop_gradient(error))
    return keras.ops.maximum(0.5 * keras.ops.log(error), MIN_LOG_SIGMA)


def gaussian_negative_log_density(images, reconstructions, log_sigma):
    """-ln of a Gaussian density around the reconstructions, nats per image.

    Args:
        images, reconstructions: as `squared_error` takes them.
        log_sigma: ln of its standard deviation in pixel values; () or a number.

    Returns:
        (batch,) float32.
    """
    pixels = math.prod(images.shape[1:])
    error = 0.5 * keras.ops.exp(-2.0 * log_sigma) * squared_error(images, reconstructions)
    return error + pixels * (log_sigma + 0.5 * math.log(2.0 * math.pi))


def mean_over_devices(value):
    """The mean of a tensor over the devices that share a batch; on one device the tensor itself."""
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
    # expm1 keeps the small KL of an almost collapsed unit accurate: exp(x) - 1 would round it off.
    return 0.5 * (keras.ops.square(mu) + keras.ops.expm1(log_var) - log_var)


def kl_beyond_free_bits(per_unit, free_bits: float):
    """Sum over the latent units of max(free_bits, mean over the batch of the unit's KL), nats.

    Kingma et al. 2016, arXiv 1606.04934, "Objective with Free Bits". A unit's mean over all devices
    decides whether it is above free_bits; the gradient is that of this device's images.

    Args:
        per_unit: (batch, latent), from `kl_per_unit`.
        free_bits: nats per latent unit.

    Returns:
        () float32, at least free_bits * latent on a single device.
    """
    means = keras.ops.mean(per_unit, axis=0)
    over_devices = mean_over_devices(keras.ops.stop_gradient(means))
    return keras.ops.sum(keras.ops.where(over_devices > free_bits, means, free_bits))


# "gaussian" needs sigma as well: `facevae.model.vae.VAE` computes it.
RECONSTRUCTION_LOSSES = {"mse": squared_error, "bce": binary_crossentropy}
