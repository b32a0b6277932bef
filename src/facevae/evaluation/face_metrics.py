"""What people see in a face: whether an image shows one, and whether two faces are one person's.

A detector and a network of dlib answer this; neither has seen the data of this project.

    - The detector slides a linear classifier of histograms of oriented gradients over the image at
      several scales (Dalal & Triggs 2005, "Histograms of oriented gradients for human detection";
      King 2015, arXiv 1502.00046). It finds faces seen from the front.
    - The network, a ResNet with 29 convolutions (He et al. 2015, arXiv 1512.03385), describes a
      face in 128 numbers. Its loss puts the faces of each person into a ball of radius 0.6, so that
      two faces nearer to each other than that are taken for the same person.

Both come with the packages of the extra `faces`; nothing is downloaded. A descriptor takes a
processor about 0.1 s, so that at most 256 of a set are computed.
"""

import functools
import importlib.metadata
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from facevae.common.requests import check_face_packages
from facevae.evaluation.feature_metrics import frechet_distance
from facevae.evaluation.inputs import (
    Inputs,
    RealSets,
    ReconstructedBatch,
    SampleMetrics,
    SplitMetrics,
)
from facevae.shards.blocks import Images, blocks, images_at_once, one_by_one
from facevae.shards.subsets import random_subset

DESCRIPTOR = 128  # numbers in a descriptor
SAME_PERSON = 0.6  # distance of descriptors below which two faces are taken for one person's

# Descriptors of a set, and pairs of the test split, at most: these take about half a minute.
MOST = 256

_SIDE = 192  # pixels; smaller images are enlarged to this, for the detector needs faces of 80
_AT_ONCE = 64  # images of up to 96 pixels that are asked for at a time
_LANDMARKS = "shape_predictor_5_face_landmarks.dat"
_NETWORK = "dlib_face_recognition_resnet_model_v1.dat"

# Names of the metrics.
_OF_PAIRS = ("face_pairs", "face_share", "face_distance", "same_person")
_OF_SETS = ("face_share", "face_frechet_distance")


@functools.cache
def _networks() -> tuple[Any, Any, Any]:
    """The detector, the finder of a face's landmarks, and the network of descriptors."""
    check_face_packages()
    import dlib  # imported here, because it is optional

    # The package of the models is not imported: it needs a module that setuptools no longer has.
    package = importlib.metadata.distribution("face-recognition-models")
    folder = package.locate_file("face_recognition_models/models")
    return (
        dlib.get_frontal_face_detector(),
        dlib.shape_predictor(f"{folder}/{_LANDMARKS}"),
        dlib.face_recognition_model_v1(f"{folder}/{_NETWORK}"),
    )


class Faces(NamedTuple):
    """The faces that were found in a set of images, in the images' order.

    Attributes:
        found: whether a face was found, (count,) bool.
        descriptors: of the faces found, or of some of them, (faces, 128) float64.
    """

    found: np.ndarray
    descriptors: np.ndarray


def _enlarged(image: np.ndarray) -> np.ndarray:
    pixels = Image.fromarray(np.round(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8))
    if len(image) < _SIDE:
        pixels = pixels.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return np.asarray(pixels)


def describe(images: Images, most: int) -> Faces:
    """Find the clearest face of each image, and describe the faces that are found.

    Images smaller than 192 pixels are enlarged to this size, bicubically. The pixels are those of
    an 8-bit image.

    Args:
        images: (count, size, size, 3) in [0, 1].
        most: descriptors to compute, at most. Of more faces, so many are drawn at random.

    Raises:
        UserError: the packages of the extra `faces` are not installed.
    """
    detector, landmarks, network = _networks()
    places: list[Any] = []  # the landmarks of each image's face
    for image in one_by_one(images, _AT_ONCE):
        large = _enlarged(image)
        faces = detector(large)  # the clearest first
        places.append(landmarks(large, faces[0]) if faces else None)
    found = np.array([place is not None for place in places], bool)
    numbers = np.flatnonzero(found)
    numbers = numbers[random_subset(len(numbers), most)]
    descriptors: list[Any] = []
    for block in blocks(len(numbers), images_at_once(images.shape[1], _AT_ONCE)):
        chosen = numbers[block]
        descriptors.extend(
            network.compute_face_descriptor(_enlarged(image), places[number])
            for number, image in zip(chosen, images[chosen], strict=True)
        )
    return Faces(found, np.array(descriptors, np.float64).reshape(-1, DESCRIPTOR))


def pair_distances(originals: Faces, reconstructions: Faces) -> np.ndarray:
    """Distance of the descriptors of each original and its reconstruction.

    Pairs in whose original no face is found are left out: nothing can be said of them.

    Args:
        originals, reconstructions: of as many images, with the descriptors of all faces found.

    Returns:
        (pairs,) float64, at least 0; infinite where no face is found in the reconstruction.
    """
    distances = np.full(len(originals.descriptors), np.inf)
    both = originals.found & reconstructions.found
    first = originals.descriptors[both[originals.found]]
    second = reconstructions.descriptors[both[reconstructions.found]]
    distances[both[originals.found]] = np.linalg.norm(first - second, axis=1)
    return distances


def identity_metrics(distances: np.ndarray) -> dict[str, Any]:
    """face_pairs, face_share, face_distance and same_person of `pair_distances`.

    face_pairs is their number; face_share the share of reconstructions in which a face is found;
    face_distance the median, in which a face that is not found is farther than any other, so that
    it is None unless more than half are found; same_person the share of all below 0.6. Without
    pairs, all but their number are None.
    """
    if not len(distances):
        return {**dict.fromkeys(_OF_PAIRS), "face_pairs": 0}
    median = float(np.median(distances))
    return {
        "face_pairs": len(distances),
        "face_share": np.mean(np.isfinite(distances)),
        "face_distance": median if np.isfinite(median) else None,
        "same_person": np.mean(distances < SAME_PERSON),
    }


def set_metrics(real: Faces, others: Faces) -> dict[str, Any]:
    """face_share and face_frechet_distance of a set of images, compared with real ones.

    face_share is the share of images in which a face is found. The Frechet distance is that of the
    descriptors, as many of both sets, the more numerous drawn at random; None for fewer than two.
    """
    descriptors = real.descriptors, others.descriptors
    count = min(map(len, descriptors))
    distance = None
    if count > 1:
        distance = frechet_distance(
            *(each[random_subset(len(each), count)] for each in descriptors)
        )
    return {"face_share": np.mean(others.found), "face_frechet_distance": distance}


class ReconstructedFaces(SplitMetrics):
    """`identity_metrics` of at most 256 images of the test split, drawn at random, from mu.

    All are None unless `Inputs.faces`.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        count = inputs.shards.counts["test"]
        self._drawn = np.isin(np.arange(count), random_subset(count, MOST))
        self._seen = 0
        self._distances: list[np.ndarray] = []

    def update(self, batch: ReconstructedBatch) -> None:
        if not self.inputs.faces:
            return
        drawn = self._drawn[self._seen :][: len(batch.images)]
        self._seen += len(batch.images)
        pairs = (images[drawn] for images in (batch.images, batch.reconstructions))
        self._distances.append(pair_distances(*(describe(images, MOST) for images in pairs)))

    def result(self) -> dict[str, Any]:
        if not self.inputs.faces:
            return dict.fromkeys(_OF_PAIRS)
        return identity_metrics(np.concatenate(self._distances))


class FacesOfSamples(SampleMetrics):
    """`set_metrics`, with the descriptors of at most 256 faces of each set, drawn at random.

    All are None unless `RealSets.faces`.
    """

    def __init__(self, sets: RealSets) -> None:
        self._real = describe(sets.real, MOST) if sets.faces else None

    def of(self, images: Images) -> dict[str, Any]:
        """The metrics of one set, compared with the real images."""
        if self._real is None:
            return dict.fromkeys(_OF_SETS)
        return set_metrics(self._real, describe(images, MOST))
