"""Metrics of features: the Frechet distance, and precision and recall, of two sets of images.

The features of an image are a vector in which a network describes it: see `attribute_classifier`
and `inception`.
"""

from typing import Any

import numpy as np

from facevae.evaluation.attribute_classifier import features
from facevae.evaluation.image_metrics import blocks
from facevae.evaluation.inception import inception_features, load_inception
from facevae.evaluation.inputs import ImageSets

NEIGHBOURS = 3  # of precision and recall; a set has more images


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), S the sample covariances (Heusel et al. 2017,
    arXiv 1706.08500, equation 6; FID with the features of Inception).

    Args:
        real, generated: (count, dimensions), at least two of each.
    """
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    shift = real.mean(axis=0) - generated.mean(axis=0)
    # S = R'R, R with as many rows as there are points, or dimensions, whichever are fewer.
    first, second = (
        np.linalg.qr((x - x.mean(axis=0)) / np.sqrt(len(x) - 1)).R for x in (real, generated)
    )
    # The eigenvalues of S1 S2 are the squares of the singular values of R1 R2'.
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return float(shift @ shift + np.square(first).sum() + np.square(second).sum() - 2.0 * cross)


def _squared_distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    squares = np.square(points).sum(1)[:, None] + np.square(others).sum(1)
    return np.maximum(squares - 2.0 * points @ others.T, 0.0)


def _coverage(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> float:
    """Share of points within the ball of a point of `manifold` to its k-th nearest neighbour."""
    radii = np.concatenate(
        [
            # The nearest is the point itself.
            np.partition(_squared_distances(manifold[block], manifold), neighbours)[:, neighbours]
            for block in blocks(len(manifold))
        ]
    )
    inside = [
        (_squared_distances(points[block], manifold) <= radii).any(axis=1)
        for block in blocks(len(points))
    ]
    return float(np.mean(np.concatenate(inside)))


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, *, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """How much of what is generated could be real, and how much of what is real is generated.

    Kynkäänniemi et al. 2019, arXiv 1904.06991: a set's manifold is the union of balls around its
    points, each as large as the distance to its `neighbours`-th nearest neighbour. Precision is
    the share of generated points in the real manifold, recall that of real ones in the generated.

    Args:
        real, generated: features (count, dimensions).
        neighbours: the published 3; both sets have more points.

    Raises:
        ValueError: a set has too few points.
    """
    if min(len(real), len(generated)) <= neighbours:
        raise ValueError(f"no point has {neighbours} neighbours in a set of so few")
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    # Distances do not change with the origin, and lose least to rounding near the mean.
    origin = real.mean(axis=0)
    real, generated = real - origin, generated - origin
    return _coverage(generated, real, neighbours), _coverage(real, generated, neighbours)


def attribute_feature_metrics(sets: ImageSets) -> dict[str, Any]:
    """frechet_distance, precision and recall on the attribute classifier's features.

    Each is against the real images, and each with _floor is the real-data reference. All are None
    without an attribute classifier, and for sets of so few images that none has three neighbours.

    Precision on these features sees neither blur nor noise: spoiled faces move to between the real
    ones, where the balls overlap, and precision may even rise. Recall and the distance see both.
    """
    names = ("frechet_distance", "precision", "recall")
    network, compared = sets.attribute_classifier, sets.compared()
    if network is None or len(sets.real) <= NEIGHBOURS:
        return {f"{name}{suffix}": None for suffix in compared for name in names}
    real = features(network, sets.real)
    found: dict[str, float] = {}
    for suffix, images in compared.items():
        others = features(network, images)
        values = frechet_distance(real, others), *precision_and_recall(real, others)
        found |= {f"{name}{suffix}": value for name, value in zip(names, values, strict=True)}
    return found


def inception_metrics(sets: ImageSets) -> dict[str, Any]:
    """fid against the real images, and fid_floor, its real-data reference.

    None without the weights of Inception, and for sets of one image.

    Raises:
        UserError: the file of the weights cannot be used.
    """
    compared = sets.compared()
    if sets.inception_weights is None or len(sets.real) < 2:
        return {f"fid{suffix}": None for suffix in compared}
    network = load_inception(sets.inception_weights)
    real = inception_features(network, sets.real)
    return {
        f"fid{suffix}": frechet_distance(real, inception_features(network, images))
        for suffix, images in compared.items()
    }
