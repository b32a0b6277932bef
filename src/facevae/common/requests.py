"""What params.yaml asks of the data and of files, checked before anything trains.

The numbers of images are known early: the limits from params.yaml itself, the rest from the
manifest of the prepared images.
"""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from facevae.common.errors import UserError

# Codes of training images that a fitted prior needs: 10 for each Gaussian.
CODES_PER_GAUSSIAN = 10
GAUSSIANS = {"gaussian": 1, "mixture": 10}


def reconstructed_rows(rows: int) -> int:
    """Rows of originals in reconstructions.png, each with a row of reconstructions below it."""
    return max(1, rows // 2)


def held_out_images(rows: int, columns: int) -> int:
    """Images of the test split that the grids show."""
    return max(reconstructed_rows(rows) * columns, 2 * rows)


def prior_mistake(kind: str, images: int) -> str | None:
    """Why a prior cannot be fitted to the codes of so many training images; None if it can."""
    gaussians = GAUSSIANS.get(kind, 0)
    needed = gaussians * CODES_PER_GAUSSIAN
    if images >= needed:
        return None
    return (
        f"generate.prior: a {kind} needs at least {needed} training images, and there are "
        f"{images}; take normal{', or gaussian' if gaussians > 1 else ''}"
    )


def batch_mistake(batch_size: int, images: int) -> str | None:
    """Why so many training images make no batch; None if they do."""
    if images >= batch_size:
        return None
    return (
        f"train.batch_size: {batch_size} is more than the {images} images of the train split; "
        f"take a smaller batch"
    )


def count_mistakes(parameters: Mapping[str, Any], counts: Mapping[str, int | None]) -> list[str]:
    """What the numbers of images do not suffice for.

    Args:
        parameters: the sections train and generate, as dicts.
        counts: number of images by split; None where it is not known.

    Returns:
        One line per mistake.
    """
    train, generate = parameters["train"], parameters["generate"]
    rows, columns = generate["rows"], generate["columns"]
    found: list[str | None] = []
    if (images := counts["train"]) is not None:
        found += [
            batch_mistake(train["batch_size"], images), prior_mistake(generate["prior"], images)
        ]  # fmt: skip
    needed = held_out_images(rows, columns)
    if (images := counts["test"]) is not None and images < needed:
        found.append(
            f"generate.rows, generate.columns: {rows} x {columns} needs {needed} held-out images, "
            f"and the test split has {images}; use smaller numbers"
        )
    return [mistake for mistake in found if mistake]


def attribute_mistakes(wanted: Sequence[str], there: Sequence[str]) -> list[str]:
    """Which of the attributes that pictures are to show the data does not have.

    Without any labels there are no such pictures, and no mistake.
    """
    unknown = [name for name in wanted if name not in there]
    if not unknown or not there:
        return []
    return [
        f"generate.attributes: the data has no {' and no '.join(unknown)}; it has "
        f"{', '.join(there)}"
    ]


# Weights in the file, without and with the classifier (keras.io/api/applications/inceptionv3).
_WITHOUT_CLASSIFIER, _WITH_CLASSIFIER = 21_802_784, 23_851_784


def _count_weights(path: Path) -> int:
    """Number of weights in a file in the format of Keras 2, that of the public files; else 0."""
    import h5py  # imported here, because few runs have such a file

    with h5py.File(path) as file:
        group = file.get("model_weights", file)
        if "layer_names" not in group.attrs:
            return 0
        sizes: list[int] = []
        group.visititems(lambda _, item: sizes.append(getattr(item, "size", 0)))
        return sum(sizes)


def check_inception_weights(path: Path) -> bool:
    """Check that a file holds InceptionV3's weights, without building the network.

    Returns:
        Whether the file includes the weights of the classifier.

    Raises:
        UserError: the file does not exist, is incomplete or holds something else.
    """
    try:
        there = path.is_file()
    except OSError:  # such as a name that is too long
        there = False
    if not there:
        place = "" if path.is_absolute() else f" in {Path.cwd()}; give its absolute path"
        raise UserError(f"evaluate.inception_weights: there is no file {path}{place}")
    try:
        count = _count_weights(path)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"evaluate.inception_weights: {path} is not an .h5 file or is incomplete ({reason})"
        ) from None
    if count not in (_WITHOUT_CLASSIFIER, _WITH_CLASSIFIER):
        raise UserError(
            f"evaluate.inception_weights: {path} does not hold the weights of Keras' InceptionV3 "
            f"(inception_v3_weights_tf_dim_ordering_tf_kernels.h5, or ..._notop.h5)"
        )
    return count == _WITH_CLASSIFIER


# What evaluate.faces needs: the modules, and the packages that have them.
_FACE_PACKAGES = {"dlib": "dlib-bin", "face_recognition_models": "face-recognition-models"}


def check_face_packages() -> None:
    """Check that the packages of the extra `faces` are installed, without importing them.

    Raises:
        UserError: one or both are not.
    """
    missing = [
        package
        for module, package in _FACE_PACKAGES.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise UserError(
            f"evaluate.faces: true needs {' and '.join(missing)}, which {sys.executable} lacks; "
            f"install what it needs into .venv with `make faces`, or set it to false"
        )
