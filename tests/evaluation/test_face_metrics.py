"""Faces found and described: drawn ones, and real ones where FACEVAE_CELEBA names some."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import small_vae, write_shards
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import pdist

from facevae.evaluation import face_metrics
from facevae.evaluation.evaluate import evaluate
from facevae.evaluation.face_metrics import (
    Faces,
    ReconstructedFaces,
    describe,
    identity_metrics,
    pair_distances,
    set_metrics,
)
from facevae.evaluation.feature_metrics import frechet_distance
from facevae.evaluation.inputs import Inputs, ReconstructedBatch
from facevae.latent.generation import samples
from facevae.shards.batches import Shards, load_images
from facevae.shards.subsets import random_subset

_CELEBA = Path(os.environ.get("FACEVAE_CELEBA", ""))


def _prepared(source: Path, folder: Path, **limit: int) -> Shards:
    write_shards(source, folder, image_size=96, limit=limit)
    return Shards(folder)


@pytest.fixture(scope="module")
def drawn(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("faces") / "shards"
    return _prepared(source, folder, train=4, validation=4, test=5)


@pytest.fixture(scope="module")
def faces(drawn: Shards) -> np.ndarray:
    return load_images(drawn, "test")


@pytest.fixture(scope="module")
def described(faces: np.ndarray) -> Faces:
    return describe(faces, len(faces))


def _enlarged(image: np.ndarray) -> np.ndarray:
    pixels = Image.fromarray(np.round(image * 255).astype(np.uint8))
    return np.asarray(pixels.resize((192, 192), Image.Resampling.BICUBIC)) / np.float32(255)


def test_faces_are_found_and_described(faces: np.ndarray, described: Faces) -> None:
    found, descriptors = described
    assert found.shape == (5,)
    assert found.sum() >= 3
    assert descriptors.shape == (found.sum(), 128)
    # The same alone and in a set, and enlarged before.
    grey, last = np.full_like(faces[:1], 0.5), np.flatnonzero(found)[-1]
    first = np.concatenate([grey, faces[[last]], faces])
    found_among, all_of_them = describe(first, len(first))
    np.testing.assert_array_equal(found_among, [False, True, *found])
    np.testing.assert_array_equal(all_of_them, descriptors[[-1, *range(len(descriptors))]])
    np.testing.assert_array_equal(describe(_enlarged(faces[last])[None], 1)[1], descriptors[-1:])


def test_described_faces_are_drawn_from_the_whole_set(faces: np.ndarray, described: Faces) -> None:
    """The order of the images may be that of their sources."""
    found = described.found
    many = np.concatenate([faces, faces, faces])
    found_among, some = describe(many, len(described.descriptors))
    np.testing.assert_array_equal(found_among, np.tile(found, 3))
    # In which third of the set the faces of that many images, drawn at random, lie.
    drawn = random_subset(3 * found.sum(), found.sum())
    assert len(set(drawn // found.sum())) > 1
    np.testing.assert_array_equal(some, described.descriptors[drawn % found.sum()])
    assert describe(many, 0).descriptors.shape == (0, 128)


def test_sets_of_faces_are_compared_at_equal_counts_drawn_from_the_whole() -> None:
    random = np.random.default_rng(0)
    real = Faces(np.ones(40, bool), random.random((40, 128)))
    others = Faces(np.arange(25) < 20, random.random((20, 128)))
    some = random_subset(40, 20)
    assert some[-1] > 20
    expected = frechet_distance(real.descriptors[some], others.descriptors)
    assert set_metrics(real, others) == {"face_share": 0.8, "face_frechet_distance": expected}
    alone = Faces(np.ones(1, bool), others.descriptors[:1])
    assert set_metrics(real, alone) == {"face_share": 1.0, "face_frechet_distance": None}


def test_distances_of_pairs() -> None:
    random = np.random.default_rng(0)
    first, second = random.random((2, 4, 128))
    found, found_again = np.array([[1, 0, 1, 1, 0], [1, 1, 0, 1, 0]], bool)
    apart = pair_distances(Faces(found, first[:3]), Faces(found_again, second[:3]))
    expected = [np.sqrt(sum((first[0] - second[0]) ** 2)), np.inf,
                np.sqrt(sum((first[2] - second[2]) ** 2))]  # fmt: skip
    np.testing.assert_allclose(apart, expected, rtol=1e-12)
    none = Faces(np.zeros(5, bool), np.empty((0, 128)))
    assert pair_distances(none, Faces(found, first[:3])).shape == (0,)
    np.testing.assert_array_equal(pair_distances(Faces(found, first[:3]), none), [np.inf] * 3)


def test_a_face_that_is_not_found_is_a_failure() -> None:
    some = identity_metrics(np.array([0.25, np.inf, 0.625, 0.5]))
    assert some == {
        "face_pairs": 4, "face_share": 0.75, "face_distance": 0.5625, "same_person": 0.5,
    }  # fmt: skip
    half = identity_metrics(np.array([0.25, np.inf]))
    assert half == {"face_pairs": 2, "face_share": 0.5, "face_distance": None, "same_person": 0.5}
    none = identity_metrics(np.full(3, np.inf))
    assert none == {"face_pairs": 3, "face_share": 0, "face_distance": None, "same_person": 0}
    no_pairs = dict.fromkeys(("face_share", "face_distance", "same_person"))
    assert identity_metrics(np.empty(0)) == {"face_pairs": 0, **no_pairs}


def test_reconstructions_are_drawn_from_the_whole_split(
    drawn: Shards, faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ones, however the split is divided into batches."""
    monkeypatch.setattr(face_metrics, "MOST", 3)
    inputs = Inputs(small_vae(image_size=96), drawn, 4, None, None, None, True)
    # Darker from image to image, so that each has another distance.
    spoiled = faces * np.linspace(0.9, 0.5, len(faces), dtype=np.float32)[:, None, None, None]

    def measured(*sizes: int) -> dict:
        metrics, unused = ReconstructedFaces(inputs), [np.empty(0)] * 5
        for end, size in zip(np.cumsum(sizes), sizes, strict=True):
            part = slice(end - size, end)
            batch = ReconstructedBatch(faces[part], spoiled[part], *unused)
            metrics.update(batch)
        return metrics.result()

    drawn_ones = np.sort(np.random.default_rng(0).permutation(5)[:3])
    assert drawn_ones[0] < 3 <= drawn_ones[-1]  # of both batches
    pairs = (describe(images[drawn_ones], 5) for images in (faces, spoiled))
    expected = identity_metrics(pair_distances(*pairs))
    assert measured(3, 2) == expected
    assert expected["face_distance"] > 0


@pytest.mark.slow
def test_evaluation_of_faces(drawn: Shards, described: Faces) -> None:
    """Of four images in each set, and of the whole test split."""
    vae = small_vae(image_size=96, reconstruction="bce")  # whose likelihood is not computed
    got = evaluate(vae, drawn, batch_size=4, faces=True)
    found = described.found
    # An untrained Decoder draws no face.
    assert not describe(samples(vae, 4, seed=0), 0)[0].any()
    failed = identity_metrics(np.full(found.sum(), np.inf))
    assert {name: got["test"][name] for name in failed} == failed
    assert got["samples"]["face_share"] == 0
    assert got["samples"]["face_frechet_distance"] is None
    (_, real), (fresh, others) = (
        describe(load_images(drawn, split)[random_subset(drawn.counts[split], 4)], 4)
        for split in ("test", "validation")
    )
    assert got["real_images"]["face_share"] == pytest.approx(fresh.mean(), abs=1e-6)
    count = min(len(real), len(others))
    assert count > 1
    expected = frechet_distance(*(each[random_subset(len(each), count)] for each in (real, others)))
    assert got["real_images"]["face_frechet_distance"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(
    not (_CELEBA / "img_align_celeba.zip").is_file(),
    reason="FACEVAE_CELEBA does not name a folder with img_align_celeba.zip",
)
def test_real_faces_become_others_with_blur(tmp_path: Path) -> None:
    """`python -m benchmarks.face_metrics` measures more, of more images."""
    images = load_images(_prepared(_CELEBA, tmp_path, train=1, validation=1, test=12), "test")
    originals = describe(images, 12)
    assert originals.found.sum() >= 10
    people = np.median(pdist(originals.descriptors))
    assert 0.7 < people < 0.95
    slightly, strongly = (
        identity_metrics(
            pair_distances(originals, describe(gaussian_filter(images, (0, pixels, pixels, 0)), 12))
        )
        for pixels in (1.0, 2.0)
    )
    assert slightly["face_share"] >= 0.85
    assert 0.15 < slightly["face_distance"] < 0.35
    assert slightly["same_person"] >= 0.85
    assert slightly["face_distance"] + 0.1 < strongly["face_distance"] < people
    assert strongly["face_share"] < slightly["face_share"]
