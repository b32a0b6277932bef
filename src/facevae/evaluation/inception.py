"""FID's features: Keras' InceptionV3, with weights from a file that the user has.

FID is `feature_metrics.frechet_distance` of the 2,048 numbers of its last pooling (Heusel et al.
2017, arXiv 1706.08500). It is of the published kind, but not comparable with published figures:

    - Those come from TensorFlow's Inception graph of 2015 (TF-GAN; pytorch-fid has a copy of its
      weights). Keras' network was trained on ImageNet anew and sees other features.
    - Images are resized to 299 pixels here bilinearly, with half-pixel centres and antialiasing;
      each implementation does it differently, which alone moves FID (Parmar et al. 2022,
      arXiv 2104.11222).
    - They are made with 10,000 images or more. Of fewer images, FID is larger for the same model
      (Chong & Forsyth 2020, arXiv 1911.07023), and of less than 2,049 images the covariances have
      no full rank. Compare at equal counts, and with the figure of fresh real images.

Nothing is ever downloaded. The file is keras.applications' own, with or without the classifier:
inception_v3_weights_tf_dim_ordering_tf_kernels.h5 or ..._kernels_notop.h5.
"""

from pathlib import Path

import h5py
import keras
import numpy as np

from facevae.common.errors import UserError

_SIDE = 299
_CLASSES = 1000
# Numbers in the file, without and with the classifier (keras.io/api/applications/inceptionv3).
_WITHOUT_CLASSIFIER, _WITH_CLASSIFIER = 21_802_784, 23_851_784
_BATCH_SIZE = 16


def _count_weights(path: Path) -> int:
    """Numbers in a file in the form of Keras 2, which the public weights have; 0 in another."""
    with h5py.File(path) as file:
        group = file.get("model_weights", file)
        if "layer_names" not in group.attrs:
            return 0
        sizes: list[int] = []
        group.visititems(lambda _, item: sizes.append(getattr(item, "size", 0)))
        return sum(sizes)


def check_inception_weights(path: Path) -> bool:
    """Look whether a file holds InceptionV3's weights, at little cost.

    Returns:
        Whether those of the classifier are among them.

    Raises:
        UserError: there is no such file, or it is another one, or is cut short.
    """
    if not path.is_file():
        raise UserError(f"evaluate.inception_weights: there is no file {path}")
    try:
        count = _count_weights(path)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"evaluate.inception_weights: {path} is not a whole .h5 file ({reason})"
        ) from None
    if count not in (_WITHOUT_CLASSIFIER, _WITH_CLASSIFIER):
        raise UserError(
            f"evaluate.inception_weights: {path} does not hold the weights of Keras' InceptionV3 "
            f"(inception_v3_weights_tf_dim_ordering_tf_kernels.h5, or ..._notop.h5)"
        )
    return count == _WITH_CLASSIFIER


def load_inception(path: Path) -> keras.Model:
    """InceptionV3 up to its last pooling: images (batch, 299, 299, 3) in [-1, 1] to (batch, 2048).

    Raises:
        UserError: the file cannot be used.
    """
    with_classifier = check_inception_weights(path)
    network = keras.applications.InceptionV3(
        include_top=with_classifier, weights=None, pooling="avg", classes=_CLASSES
    )
    try:
        network.load_weights(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"evaluate.inception_weights: {path} is damaged ({reason})") from None
    if not with_classifier:
        return network
    return keras.Model(network.input, network.get_layer("avg_pool").output)


def inception_features(network: keras.Model, pictures: np.ndarray) -> np.ndarray:
    """What `load_inception`'s network says of images, (count, 2048) float32.

    Args:
        pictures: (count, height, width, 3) in [0, 1], of any size.
    """
    found = []
    for start in range(0, len(pictures), _BATCH_SIZE):
        block = keras.ops.convert_to_tensor(pictures[start : start + _BATCH_SIZE], "float32")
        large = keras.ops.image.resize(block, (_SIDE, _SIDE), "bilinear", antialias=True)
        # Not `predict`, for which XLA would compile for a minute, and compute more slowly.
        described = network(large * 2.0 - 1.0, training=False)
        found.append(keras.ops.convert_to_numpy(described))
    return np.concatenate(found)
