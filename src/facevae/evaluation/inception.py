"""The features of FID: Keras' InceptionV3, with weights from a file that the user provides.

FID is `feature_metrics.frechet_distance` on the 2,048 outputs of the last pooling layer (Heusel et
al. 2017, arXiv 1706.08500). The values are not comparable with published ones:

    - Published values come from TensorFlow's Inception graph of 2015 (TF-GAN; pytorch-fid has a
      copy of its weights). Keras' network is the result of another training on ImageNet and has
      other features.
    - Images are resized to 299 pixels bilinearly, with half-pixel centres and antialiasing. Each
      implementation resizes differently, which alone changes FID (Parmar et al. 2022,
      arXiv 2104.11222).
    - Published values are from 10,000 images or more. With fewer images FID is larger for the same
      model (Chong & Forsyth 2020, arXiv 1911.07023). With fewer than 2,049 images the covariances
      do not have full rank.

Compare values at equal numbers of images, and with the real-data reference.

Nothing is downloaded. The file is that of keras.applications, with or without the classifier:
inception_v3_weights_tf_dim_ordering_tf_kernels.h5 or ..._kernels_notop.h5.
"""

from pathlib import Path

import keras
import numpy as np

from facevae.common.errors import UserError
from facevae.common.requests import check_inception_weights
from facevae.shards.blocks import Images, blocks

_SIDE = 299
_CLASSES = 1000
_BATCH_SIZE = 16


def load_inception(path: Path) -> keras.Model:
    """InceptionV3 up to its last pooling layer, with the weights of a file.

    Returns:
        A model that maps images (batch, 299, 299, 3) in [-1, 1] to features (batch, 2048).

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


def inception_features(network: keras.Model, pictures: Images) -> np.ndarray:
    """Inception's features of images, (count, 2048) float32.

    Args:
        network: from `load_inception`.
        pictures: (count, height, width, 3) in [0, 1], of any size.
    """
    found = []
    for block in blocks(len(pictures), _BATCH_SIZE):
        images = keras.ops.convert_to_tensor(pictures[block], "float32")
        large = keras.ops.image.resize(images, (_SIDE, _SIDE), "bilinear", antialias=True)
        # Not `predict`: XLA would take a minute to compile, and run more slowly.
        described = network(large * 2.0 - 1.0, training=False)
        found.append(keras.ops.convert_to_numpy(described))
    return np.concatenate(found)
