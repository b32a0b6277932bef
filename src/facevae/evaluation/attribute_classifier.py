"""A small classifier of a face's attributes, whose features describe images for the metrics.

It is independent of the VAE: it depends on the parameters of the data alone. Metrics on its
features are therefore comparable between models of the same data, and with nothing else.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from facevae.common.errors import UserError
from facevae.common.files import check_file, check_zip, has_only
from facevae.common.parameters import CHANNELS
from facevae.model.layers import MOMENTUM, FusedBatchNormalization, ZeroBiasGradConv2D
from facevae.model.saving import save_model
from facevae.shards.batches import Shards, images, labelled_batches
from facevae.shards.blocks import Images, blocks, images_at_once

FEATURES = 128  # size of an image's feature vector

NAMES = "names.json"
NETWORK = "network.keras"
is_classifier = has_only(NAMES, NETWORK)  # for `atomic_write`

# With one layer less, the last layer's receptive field is too small to recognise a smile.
_FILTERS = (16, 32, 64, FEATURES, FEATURES)
_BATCH_SIZE = 32
_LEARNING_RATE = 2e-3
# Eight epochs of the built-in faces; one of CelebA.
_IMAGES_SEEN = 12_000
_SEED = 1


@keras.saving.register_keras_serializable("facevae")
class AttributeClassifier(keras.Model):
    """Five convolutions of stride 2, global average pooling, a Dense layer.

    Maps images (batch, size, size, 3) in [0, 1] to probabilities (batch, attributes). Its part
    `features` maps them to (batch, `FEATURES`).

    Args:
        image_size: side of the images, pixels.
        attributes: number of attributes.
    """

    def __init__(
        self, image_size: int, attributes: int, name: str = "attributes", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)  # Keras' default name has a counter
        self._config = {"image_size": image_size, "attributes": attributes}
        x = inputs = keras.Input((image_size, image_size, CHANNELS), name="images")
        for layer, filters in enumerate(_FILTERS, start=1):
            x = ZeroBiasGradConv2D(filters, 3, strides=2, padding="same", name=f"conv_{layer}")(x)
            x = FusedBatchNormalization(momentum=MOMENTUM, name=f"normalization_{layer}")(x)
            x = keras.layers.Activation("relu", name=f"activation_{layer}")(x)
        x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
        self.features = keras.Model(inputs, x, name="features")
        self.classifier = keras.layers.Dense(attributes, "sigmoid", name="classifier")
        self.build((None, image_size, image_size, CHANNELS))

    def build(self, input_shape: Any) -> None:
        self.classifier.build((None, FEATURES))
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        return self.classifier(self.features(images, training=training))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._config}


def learned_attributes(shards: Shards) -> tuple[str, ...]:
    """The attributes that the classifier learns, in the data's order; empty without labels.

    Left out are those of which some labels in the train split are unknown, and the known ones are
    not of both kinds.
    """
    labels = shards.labels("train")
    both = (labels == 1).any(axis=0) & (labels == -1).any(axis=0)
    learned = both | labels.all(axis=0)
    return tuple(name for name, kept in zip(shards.attributes, learned, strict=True) if kept)


def masked_crossentropy(labels: Any, found: Any) -> Any:
    """Binary cross-entropy of each image, whose mean over a batch is that over all known labels.

    Args:
        labels: (batch, attributes): 1, -1 or 0 (unknown); at least one is known.
        found: predicted probabilities, (batch, attributes).

    Returns:
        (batch,)
    """
    known = keras.ops.cast(keras.ops.not_equal(labels, 0), labels.dtype)
    each = keras.ops.binary_crossentropy((labels + 1) / 2, found) * known
    return keras.ops.mean(each, axis=-1) / keras.ops.mean(known)


def train_classifier(
    shards: Shards,
    *,
    images_seen: int = _IMAGES_SEEN,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> AttributeClassifier:
    """Train on the known labels of the train split: binary cross-entropy, unweighted.

    Weights to balance CelebA's rare attributes would be as large as 50; `attribute_metrics` moves
    the decision threshold instead.

    Args:
        shards: data with `learned_attributes`.
        images_seen: images to train on, rounded up to whole epochs.
        progress: called with (images done, images in all) after each batch.
    """
    names = learned_attributes(shards)
    count = int(shards.labels("train", names).any(axis=1).sum())
    epochs = -(-images_seen // count)
    steps = epochs * -(-count // _BATCH_SIZE)
    size = shards.image_size, len(names)
    network = AttributeClassifier(*size)
    rate = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    # XLA, Keras' default, is slower on a CPU.
    network.compile(keras.optimizers.Adam(rate), masked_crossentropy, jit_compile=False)
    step = 0

    def report(batch: int, logs: object = None) -> None:
        nonlocal step
        step += 1
        progress(step * epochs * count // steps, epochs * count)

    batches = labelled_batches(shards, names, batch_size=_BATCH_SIZE, seed=_SEED)
    callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=report)]
    network.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    bare = AttributeClassifier(*size)  # without the optimizer and its state
    bare.set_weights(network.get_weights())
    return bare


def probabilities(network: AttributeClassifier, shards: Shards, split: str) -> np.ndarray:
    """Predicted probabilities for each image of a split, (images, attributes) float32."""
    return _outputs(network, images(shards, split, images_at_once(shards.image_size, _BATCH_SIZE)))


def _outputs(network: keras.Model, batches: Iterable[Any]) -> np.ndarray:
    found = [network(batch, training=False) for batch in batches]
    return np.concatenate([keras.ops.convert_to_numpy(batch) for batch in found])


def _share(right: np.ndarray) -> float | None:
    return float(np.mean(right)) if right.size else None


def _rounded_mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 6) if known else None


def thresholds(train_labels: np.ndarray) -> np.ndarray:
    """The probability above which each attribute counts as found, (attributes,) float64.

    It is the attribute's share in training, which is optimal for the balanced accuracy.

    Args:
        train_labels: (images, attributes): 1, -1 or 0 (unknown); some of each attribute are known.
    """
    return (train_labels == 1).sum(axis=0) / (train_labels != 0).sum(axis=0)


def attribute_metrics(
    found: np.ndarray, labels: np.ndarray, train_labels: np.ndarray
) -> list[dict]:
    """Accuracy of the predictions of each attribute, and of a constant prediction.

    Images whose label is unknown are left out, of each attribute its own.

    Args:
        found: predicted probabilities, (images, attributes).
        labels: true labels, (images, attributes): 1, -1 or 0 (unknown).
        train_labels: labels of the images that the network was trained on, in the same form; some
            of each attribute are known.

    Returns:
        One dict per attribute:
            share: share of the images that have the attribute.
            accuracy: at the threshold 1/2, which is optimal for it.
            majority_accuracy: of always predicting the more frequent label in training.
            balanced_accuracy: mean of the accuracies over the images with the attribute and over
                those without it, 1/2 for guessing, at `thresholds`. None if all images have the
                attribute, or none.
        All are None if no label is known.
    """
    rows = []
    for guesses, truths, share in zip(found.T, labels.T, thresholds(train_labels), strict=True):
        guess, truth = guesses[truths != 0], truths[truths != 0] == 1
        yes = guess > share
        with_it, without = _share(yes[truth]), _share(~yes[~truth])
        balanced = None if with_it is None or without is None else (with_it + without) / 2
        rows.append(
            {
                "share": _rounded_mean([_share(truth)]),
                "balanced_accuracy": _rounded_mean([balanced]),
                "accuracy": _rounded_mean([_share((guess > 0.5) == truth)]),
                "majority_accuracy": _rounded_mean([_share(truth == (share > 0.5))]),
            }
        )
    return rows


def summary(shards: Shards, network: AttributeClassifier | None) -> dict[str, Any]:
    """`attribute_metrics` on the validation split: means over attributes, and each attribute's.

    A metric that is not defined is None. Without labels all means are None, and there are no
    attributes.
    """
    names, rows = learned_attributes(shards), []
    if network is not None:
        found = probabilities(network, shards, "validation")
        rows = attribute_metrics(
            found, *(shards.labels(split, names) for split in ("validation", "train"))
        )
    return {
        **{
            name: _rounded_mean([row[name] for row in rows])
            for name in ("balanced_accuracy", "accuracy", "majority_accuracy")
        },
        "attributes": dict(zip(names, rows, strict=True)),
    }


def save_classifier(
    network: AttributeClassifier | None, names: tuple[str, ...], folder: Path
) -> None:
    """Write a folder with `NAMES`, the attributes in the order of the outputs, and `NETWORK`.

    Args:
        network: None for data without `learned_attributes`: the list of names is then empty, and
            there is no file `NETWORK`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAMES).write_text(json.dumps(names) + "\n", encoding="utf-8")
    if network is not None:
        save_model(network, folder / NETWORK)


def load_classifier(folder: Path) -> AttributeClassifier | None:
    """Read the folder that `save_classifier` wrote; None for data without `learned_attributes`.

    Raises:
        UserError: the folder or one of its files is missing or damaged.
    """
    remedy = "train it again: dvc repro --force --single-item attributes"
    try:
        check_file(folder / NAMES)
        if not json.loads((folder / NAMES).read_text(encoding="utf-8")):
            return None
        check_zip(folder / NETWORK, remedy)
        return keras.saving.load_model(folder / NETWORK)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder}: the attribute classifier is missing or damaged ({reason}); {remedy}"
        ) from None


def features(network: AttributeClassifier, pictures: Images) -> np.ndarray:
    """The network's feature vectors of images, (count, `FEATURES`) float32.

    Args:
        pictures: (count, size, size, 3) in [0, 1], of the size that the network was trained on.
    """
    at_once = images_at_once(pictures.shape[1], _BATCH_SIZE)
    return _outputs(network.features, (pictures[part] for part in blocks(len(pictures), at_once)))
