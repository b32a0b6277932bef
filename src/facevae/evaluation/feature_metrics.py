"""Metrics of features: the Frechet distance, and precision and recall, of two sets of images.

The features of an image are a vector in which a network describes it: see `attribute_classifier`
and `inception`.
"""

from typing import Any

import numpy as np

from facevae.evaluation.attribute_classifier import features
from facevae.evaluation.inception import inception_features, load_inception
from facevae.evaluation.inputs import RealSets, SampleMetrics
from facevae.shards.blocks import Images, blocks

NEIGHBOURS = 3  # of precision and recall; a set has more images
_AT_ONCE = 64  # points whose distances to all others are computed at a time


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), m the means and S the sample covariances (Heusel
    et al. 2017, arXiv 1706.08500, equation 6). With the features of Inception this is FID.

    Args:
        real, generated: features (count, dimensions), at least two of each.
    """
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    shift = real.mean(axis=0) - generated.mean(axis=0)
    # S = R'R. R has min(points, dimensions) rows.
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
    """Share of points inside a ball around a point of `manifold`.

    The radius of each ball is the distance of its centre to the k-th nearest neighbour.
    """
    radii = np.concatenate(
        [
            # Index 0 is the point itself.
            np.partition(_squared_distances(manifold[block], manifold), neighbours)[:, neighbours]
            for block in blocks(len(manifold), _AT_ONCE)
        ]
    )
    inside = [
        (_squared_distances(points[block], manifold) <= radii).any(axis=1)
        for block in blocks(len(points), _AT_ONCE)
    ]
    return float(np.mean(np.concatenate(inside)))


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, *, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Share of generated images that could be real, and of real images that could be generated.

    Kynkäänniemi et al. 2019, arXiv 1904.06991: the manifold of a set is the union of balls around
    its points; the radius of each is the distance to the `neighbours`-th nearest neighbour.
    Precision is the share of generated points in the real manifold. Recall is the share of real
    points in the generated manifold.

    Args:
        real, generated: features (count, dimensions).
        neighbours: the published value is 3; both sets have more points than this.

    Raises:
        ValueError: a set has too few points.
    """
    fewest = min(len(real), len(generated))
    if fewest <= neighbours:
        raise ValueError(f"{fewest} points are too few: each needs {neighbours} neighbours")
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    # Distances do not depend on the origin; rounding errors are smallest near the mean.
    origin = real.mean(axis=0)
    real, generated = real - origin, generated - origin
    return _coverage(generated, real, neighbours), _coverage(real, generated, neighbours)


class AttributeFeatures(SampleMetrics):
    """frechet_distance, precision and recall on the attribute classifier's features.

    All are None without an attribute classifier, and for sets of at most three images.

    Precision on these features detects neither blur nor noise: the features of spoiled faces lie
    between those of real faces, where the balls overlap, and precision may even rise. Recall and
    the distance detect both.
    """

    def __init__(self, sets: RealSets) -> None:
        network = sets.attribute_classifier
        self._network = network if len(sets.real) > NEIGHBOURS else None
        self._real = None if self._network is None else features(self._network, sets.real)

    def of(self, images: Images) -> dict[str, Any]:
        names = ("frechet_distance", "precision", "recall")
        if self._network is None or self._real is None:
            return dict.fromkeys(names)
        found = features(self._network, images)
        values = frechet_distance(self._real, found), *precision_and_recall(self._real, found)
        return dict(zip(names, values, strict=True))


class InceptionFeatures(SampleMetrics):
    """fid: None without Inception's weights, and for sets of one image.

    Raises:
        UserError: the file of the weights cannot be used.
    """

    def __init__(self, sets: RealSets) -> None:
        weights = sets.inception_weights if len(sets.real) > 1 else None
        self._network = None if weights is None else load_inception(weights)
        self._real = None if self._network is None else inception_features(self._network, sets.real)

    def of(self, images: Images) -> dict[str, Any]:
        if self._network is None or self._real is None:
            return {"fid": None}
        return {"fid": frechet_distance(self._real, inception_features(self._network, images))}
