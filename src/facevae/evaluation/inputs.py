"""What metrics are computed from: a trained VAE, batches of the test split, and sets of images."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from facevae.evaluation.attribute_classifier import AttributeClassifier
from facevae.latent.generation import DecodedImages, prior_codes
from facevae.latent.priors import Prior
from facevae.model.losses import kl_per_unit, sample_latent
from facevae.model.vae import VAE
from facevae.shards.batches import Shards, StoredImages, images, noise
from facevae.shards.blocks import Images, images_at_once
from facevae.shards.subsets import random_subset

SEED = 0  # of all random numbers of the evaluation

# Images in a set of samples, at most: the metrics of features compare each image with every other.
_MAX_SAMPLES = 2048

# Images of up to 96 pixels that go through the VAE at a time. It is to take no more than training
# took on each of several devices: with the default networks these take 82 MiB, and training with a
# single image on a device takes 78 to 121 MiB, by its optimizer.
_AT_ONCE = 32

DRAWS = 5  # sets of samples from each prior

# The metrics ask for the images of a set several times. Up to this size, bytes, a set is held in
# memory. A larger set of real images is read, and a larger one of samples, which takes longer, is
# decoded each time.
_HELD = 64 * 2**20
_HELD_SAMPLES = 256 * 2**20


@dataclass(frozen=True)
class Inputs:
    """A trained VAE, the data to evaluate it on, and the networks that describe images.

    Attributes:
        batch_size: images that go through the VAE at a time, at most.
        prior: distribution of the latent codes of samples; None: N(0, I).
        attribute_classifier: trained on the same data; None if it has no labels to learn.
        inception_weights: file for `facevae.evaluation.inception`; None: no FID.
        faces: whether to find and describe faces, with `facevae.evaluation.face_metrics`.
    """

    vae: VAE
    shards: Shards
    batch_size: int
    prior: Prior | None
    attribute_classifier: AttributeClassifier | None
    inception_weights: Path | None
    faces: bool

    @property
    def fitted_prior(self) -> Prior | None:
        """The prior; None if it is N(0, I)."""
        return None if self.prior is None or self.prior.is_standard_normal else self.prior

    @property
    def at_once(self) -> int:
        """Images that go through the VAE at a time."""
        return min(self.batch_size, images_at_once(self.shards.image_size, _AT_ONCE))


@dataclass(frozen=True)
class ReconstructedBatch:
    """Images of the test split and what the VAE computes from them.

    Attributes:
        images: (batch, size, size, 3) float32 in [0, 1].
        reconstructions: decoded from mu, of the shape of `images`.
        mu, log_var: means and log variances of q(z|x), (batch, latent) float32.
        z: one code per image, drawn from q(z|x) with noise from a fixed seed, (batch, latent).
        loss_terms: reconstruction term of `z` and KL, (2,) float32, means over the batch.
        kl_per_unit: KL of each latent unit, nats, (latent,) float32, mean over the batch.
    """

    images: np.ndarray
    reconstructions: np.ndarray
    mu: np.ndarray
    log_var: np.ndarray
    z: np.ndarray
    loss_terms: np.ndarray
    kl_per_unit: np.ndarray


def reconstructed_batches(inputs: Inputs) -> Iterator[ReconstructedBatch]:
    """The test split, batch by batch, in file order."""
    vae = inputs.vae

    @tf.function(reduce_retracing=True, autograph=False)
    def compute(batch, position):
        epsilon = noise(SEED, position, (tf.shape(batch)[0], vae.latent_size))
        outputs = vae({"images": batch, "epsilon": epsilon}, training=False)
        mu, log_var = outputs["mu"], outputs["log_var"]
        terms = tf.stack(vae.loss_terms(batch, outputs))
        per_unit = tf.reduce_mean(kl_per_unit(mu, log_var), axis=0)
        z = sample_latent(mu, log_var, epsilon)
        return vae.decoder(mu, training=False), mu, log_var, z, terms, per_unit

    for position, batch in enumerate(images(inputs.shards, "test", inputs.at_once)):
        computed = compute(batch, tf.constant(position, tf.int64))
        yield ReconstructedBatch(batch.numpy(), *(tensor.numpy() for tensor in computed))


class SplitMetrics(ABC):
    """A family of metrics of the test split that needs one pass over it, batch by batch."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    @abstractmethod
    def update(self, batch: ReconstructedBatch) -> None:
        """Take in one more batch."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """The metrics over all batches taken in, at least one."""


class ImageMean:
    """The mean over images of values that are given as means over batches.

    Attributes:
        images: how many images are in it.
    """

    def __init__(self) -> None:
        self.images = 0
        self._total: np.ndarray | float = 0.0

    def update(self, batch_mean: np.ndarray, images: int) -> None:
        self._total = self._total + batch_mean.astype(np.float64) * images
        self.images += images

    def result(self) -> np.ndarray:
        """Float64, of the shape of a batch's mean."""
        return np.asarray(self._total / self.images)


@dataclass(frozen=True)
class RealSets:
    """Two sets of real images that the training has not seen, and networks that describe images.

    A set is an array if it is small, else its images are read each time they are asked for.

    Attributes:
        real: a random subset of the test split, (count, size, size, 3) in [0, 1]. Samples are
            compared with it.
        reference: a random subset of the validation split, of the shape of `real`. Compared with
            `real`, it gives the real-data reference of a metric: its value for other real images.
            The distance between two finite sets of real images is above 0.
        attribute_classifier, inception_weights, faces: those of `Inputs`.
    """

    real: Images
    reference: Images
    attribute_classifier: AttributeClassifier | None
    inception_weights: Path | None
    faces: bool


class SampleMetrics(ABC):
    """A family of metrics of samples. What it needs of the real images is computed once."""

    @abstractmethod
    def __init__(self, sets: RealSets) -> None: ...

    @abstractmethod
    def of(self, images: Images) -> dict[str, Any]:
        """The metrics of a set of the shape of `RealSets.real`, compared with that."""


def _held_up_to(most: int, images: Images) -> Images:
    """A set as an array if that takes at most so many bytes."""
    size = math.prod(images.shape) * np.dtype(np.float32).itemsize
    return images[:] if size <= most else images


def real_sets(inputs: Inputs) -> RealSets:
    """Sets of as many images as the smaller of the test and validation splits has, at most 2,048.

    The train split plays no part: the attribute classifier has memorised it.
    """
    shards = inputs.shards
    count = min(shards.counts["test"], shards.counts["validation"], _MAX_SAMPLES)

    def stored(split: str) -> Images:
        numbers = random_subset(shards.counts[split], count)
        return _held_up_to(_HELD, StoredImages(shards, split, numbers))

    return RealSets(
        real=stored("test"),
        reference=stored("validation"),
        attribute_classifier=inputs.attribute_classifier,
        inception_weights=inputs.inception_weights,
        faces=inputs.faces,
    )


def sample_sets(inputs: Inputs, prior: Prior | None, count: int) -> Iterator[Images]:
    """`DRAWS` sets of so many samples, each of other latent codes, drawn from a prior.

    Args:
        prior: None: N(0, I). The draws from N(0, I) that it transforms are the same for all priors.
    """
    vae = inputs.vae
    decode = tf.function(
        lambda z: vae.decoder(z, training=False), reduce_retracing=True, autograph=False
    )
    for draw in range(DRAWS):
        codes = prior_codes(count, vae.latent_size, SEED + draw, prior)
        images = DecodedImages(decode, codes, inputs.shards.image_size, inputs.at_once)
        yield _held_up_to(_HELD_SAMPLES, images)
