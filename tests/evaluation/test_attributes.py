"""The attribute classifier: its accuracy, the metrics on its features, and its stage's outputs."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from built_in_pictures import WORN, Row, compared, corner_difference, recalls
from helpers import blurred, make_vae, noisy, write_shards
from PIL import Image

from facevae.common.errors import UserError
from facevae.common.parameters import Parameters
from facevae.common.runtime import enable_determinism
from facevae.data.synthetic import ATTRIBUTE_NAMES, synthesize
from facevae.evaluation.attribute_classifier import (
    FEATURES,
    NETWORK,
    AttributeClassifier,
    attribute_metrics,
    features,
    learned_attributes,
    load_classifier,
    masked_crossentropy,
    probabilities,
    save_classifier,
    summary,
    thresholds,
    train_classifier,
)
from facevae.evaluation.feature_metrics import frechet_distance, precision_and_recall
from facevae.latent.priors import normal_prior, save_prior
from facevae.model.saving import save_model
from facevae.shards.batches import Shards, load_images
from facevae.shards.requests import check_request

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """400 drawn faces of 32 pixels: 320 train, 40 validation, 40 test."""
    folder = tmp_path_factory.mktemp("labelled")
    synthesize(folder / "source", images=400, seed=5)
    write_shards(folder / "source", folder / "shards", image_size=32, images_per_shard=200)
    return Shards(folder / "shards")


@pytest.fixture(scope="module")
def unlabelled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 drawn faces of 16 pixels without the file of their attributes."""
    folder = tmp_path_factory.mktemp("unlabelled")
    (folder / "source").mkdir()
    for name in ("img_align_celeba.zip", "list_eval_partition.txt"):
        (folder / "source" / name).write_bytes((source / name).read_bytes())
    write_shards(folder / "source", folder / "shards", images_per_shard=60)
    return folder / "shards"


@pytest.fixture(scope="module")
def network(labelled: Shards) -> AttributeClassifier:
    enable_determinism(1)
    return train_classifier(labelled, images_seen=6000)


@pytest.fixture(scope="module")
def faces(labelled: Shards) -> np.ndarray:
    """The train split, (320, 32, 32, 3)."""
    return load_images(labelled, "train")


def test_attribute_classifier_recognises_visible_attributes(
    network: AttributeClassifier, labelled: Shards
) -> None:
    found = summary(labelled, network)
    assert list(found["attributes"]) == list(labelled.attributes)
    for name in ("Bangs", "Eyeglasses", "Gray_Hair", "Wearing_Hat"):
        assert found["attributes"][name]["balanced_accuracy"] > 0.85, name
    for name in ("balanced_accuracy", "accuracy", "majority_accuracy"):
        values = [metrics[name] for metrics in found["attributes"].values()]
        known = [value for value in values if value is not None]
        assert found[name] == pytest.approx(np.mean(known), abs=1e-6)
    assert found["accuracy"] > found["majority_accuracy"]
    assert found["balanced_accuracy"] > 0.7


def test_pictures_without_what_is_worn_miss_their_bars(
    network: AttributeClassifier, labelled: Shards, faces: np.ndarray
) -> None:
    names, labels = labelled.attributes, labelled.labels("train")

    def rows(images: np.ndarray, grid: float | None) -> list[Row]:
        of_originals, recalled = (
            recalls(network.predict(each, verbose=0), labels, thresholds(labels), names)
            for each in (faces, images)
        )
        return compared(recalled, of_originals, corner_difference(faces, images), {"samples": grid})

    assert all(kept for *_, kept in rows(faces, 1.05))
    bare = faces[(labels[:, [names.index(name) for name in WORN]] == -1).all(axis=1)]
    others = np.resize(bare, faces.shape)
    assert not any(kept for *_, kept in rows(others, 1.2))
    assert rows(faces, None)[-1][1:] == (None, "<= 1.1", True)


def test_corners_are_compared_by_their_mean_colours() -> None:
    black = np.zeros((2, 32, 32, 3), np.float32)
    changed = black.copy()
    changed[:, 8:24, :] = changed[:, :, 8:24] = 1.0  # outside the corners
    assert corner_difference(black, changed) == 0.0
    changed[0, -8:, :8, 1] = np.tile([0.2, 0.6], (8, 4))  # 0.4 in 1 of 24 corners and channels
    assert corner_difference(black, changed) == pytest.approx(255 * 0.4 / 24)


def test_attribute_metrics_by_hand() -> None:
    labels = np.array([[1, -1, 0], [1, -1, 0], [-1, -1, 0], [-1, -1, 0]])
    trained_on = np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [-1, 1, 0]])  # 1/4, 3/4, 2/3
    found = np.array([[0.9, 0.1, 0.7], [0.3, 0.6, 0.7], [0.2, 0.9, 0.1], [0.4, 0.8, 0.1]])
    first, second, third = attribute_metrics(found, labels, trained_on)
    # Above 1/4: both images with the attribute and one without. Above 1/2: the first image alone.
    assert first == {
        "share": 0.5, "balanced_accuracy": 0.75, "accuracy": 0.75, "majority_accuracy": 0.5,
    }  # fmt: skip
    assert second == {
        "share": 0.0, "balanced_accuracy": None, "accuracy": 0.25, "majority_accuracy": 0.0,
    }  # fmt: skip
    assert set(third.values()) == {None}
    # An image whose label is unknown, also one of training, changes nothing.
    further = np.vstack([labels, [0, 0, 0]]), np.vstack([trained_on, [0, 0, 0]])
    assert attribute_metrics(np.vstack([found, [0.9] * 3]), *further) == [first, second, third]


def test_unknown_labels_are_masked_in_the_loss() -> None:
    labels = np.array([[1, -1], [0, 1], [0, 0]], np.float32)
    found = np.array([[0.9, 0.3], [0.2, 0.6], [0.7, 0.7]], np.float32)
    expected = -np.log([0.9, 0.7, 0.6]).mean()
    loss = np.mean(masked_crossentropy(labels, found))
    assert loss == pytest.approx(expected, rel=1e-5)
    found[1:, 0] = found[2, 1] = 0.01
    assert np.mean(masked_crossentropy(labels, found)) == loss


def _zeroed(source: Path, target: Path, change: Callable[[int, list[str]], None]) -> Path:
    """A copy of a source whose labels `change` has changed: it is given each face's number."""
    target.mkdir()
    for name in ("img_align_celeba.zip", "list_eval_partition.txt"):
        (target / name).write_bytes((source / name).read_bytes())
    first, names, *rows = (source / "list_attr_celeba.txt").read_text().splitlines()
    told = [row.split() for row in rows]
    for number, row in enumerate(told, start=1):
        change(number, row)
    text = "\n".join([first, names, *map(" ".join, told), ""])
    (target / "list_attr_celeba.txt").write_text(text)
    return target


def _bytes_of_classifier(shards: Shards, folder: Path) -> dict[str, bytes]:
    enable_determinism(0)
    network = train_classifier(shards, images_seen=48)
    save_classifier(network, learned_attributes(shards), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_attribute_classifier_has_the_same_bytes_again_and_without_unlabelled_images(
    source: Path, tmp_path: Path
) -> None:
    """It is trained twice, with images whose labels are unknown and without them.

    The first image has no labels in both sets, so that the same attributes are learned.
    """

    def some_unknown(number: int, row: list[str]) -> None:
        if number == 1 or number > 40:
            row[1:] = ["0"] * (len(row) - 1)

    copy = _zeroed(source, tmp_path / "source", some_unknown)
    write_shards(copy, tmp_path / "all")
    write_shards(copy, tmp_path / "labelled", limit={"train": 40})
    first, second = (Shards(tmp_path / name) for name in ("all", "labelled"))
    assert (first.counts["train"], second.counts["train"]) == (48, 40)
    assert learned_attributes(first) == learned_attributes(second) != ()
    networks = [_bytes_of_classifier(each, tmp_path / f"{each.folder.name}-network")
                for each in (first, second)]  # fmt: skip
    assert networks[0] == networks[1]


def test_attributes_without_known_labels_of_both_kinds_are_left_out(
    stage, source: Path, tmp_path: Path
) -> None:
    """Of the classifier and its metrics; if no label is known: as without labels."""
    names = ATTRIBUTE_NAMES

    def some_unknown(number: int, row: list[str]) -> None:
        row[1 + names.index("Bangs")] = "0"
        for name, only in (("Smiling", "1"), ("Bald", "-1")):
            place = 1 + names.index(name)
            row[place] = only if row[place] == only else "0"

    def all_unknown(number: int, row: list[str]) -> None:
        row[1:] = ["0"] * (len(row) - 1)

    def prepared(change: Callable[[int, list[str]], None]) -> Shards:
        folder = tmp_path / change.__name__
        write_shards(_zeroed(source, folder, change), folder / "shards")
        return Shards(folder / "shards")

    shards, kept = prepared(some_unknown), set(names) - {"Bangs", "Smiling", "Bald"}
    assert set(learned_attributes(shards)) == kept
    metrics = summary(shards, AttributeClassifier(16, len(kept)))
    assert list(metrics["attributes"]) == [name for name in names if name in kept]

    shards = prepared(all_unknown)
    assert shards.attributes == names
    folder, told = tmp_path / "network", tmp_path / "metrics.json"
    assert not stage(
        "attributes", "--shards", str(shards.folder), "--network", str(folder),
        "--metrics", str(told),
    )  # fmt: skip
    assert load_classifier(folder) is None
    assert json.loads(told.read_text()) == {
        "balanced_accuracy": None, "accuracy": None, "majority_accuracy": None, "attributes": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ("1", "none of the 48 training images looked at is known to lack Smiling, so it has no"),
        ("-1", "none of the 48 training images looked at is known to have Smiling, so it has no"),
        ("0", "none of the 48 training images looked at is known to have Smiling, so it has no"),
    ],
)
def test_bad_input_direction_of_an_attribute_without_known_labels(
    parameters: Parameters, source: Path, tmp_path: Path, known: str, sentence: str
) -> None:
    place = 1 + ATTRIBUTE_NAMES.index("Smiling")

    def one_kind(number: int, row: list[str]) -> None:
        row[place] = known if row[place] == known else "0"

    write_shards(_zeroed(source, tmp_path / "source", one_kind), tmp_path / "shards")
    settings = parameters.with_changes(
        {"generate.rows": 2, "generate.columns": 2, "generate.attributes": ["Smiling"]}
    )
    with pytest.raises(UserError, match=sentence):
        check_request(settings, tmp_path / "shards")


def test_attribute_features_are_what_the_last_layer_sees(
    network: AttributeClassifier, labelled: Shards, tmp_path: Path
) -> None:
    save_classifier(network, labelled.attributes, tmp_path)
    loaded = load_classifier(tmp_path)
    assert loaded is not None
    pictures = load_images(labelled, "validation")
    found = features(loaded, pictures)
    assert found.shape == (40, FEATURES)
    kernel, bias = network.classifier.get_weights()
    expected = 1 / (1 + np.exp(-(found @ kernel + bias)))
    predicted = probabilities(network, labelled, "validation")
    np.testing.assert_allclose(predicted, expected, atol=1e-5)


def _measured(
    network: AttributeClassifier, real: np.ndarray, others: np.ndarray
) -> tuple[float, ...]:
    """Frechet distance, precision and recall."""
    first, second = features(network, real), features(network, others)
    return frechet_distance(first, second), *precision_and_recall(first, second)


def test_attribute_features_detect_blur_and_noise_except_by_precision(
    network: AttributeClassifier, faces: np.ndarray
) -> None:
    real, fresh = faces[:160], faces[160:]
    assert _measured(network, real, real) == pytest.approx((0.0, 1.0, 1.0), abs=1e-3)
    reference, precision, recall = _measured(network, real, fresh)
    assert precision > 0.6
    assert recall > 0.6
    twice = blurred(blurred(fresh))
    for once, worse in ((twice, blurred(blurred(twice))), (noisy(fresh, 0.1), noisy(fresh, 0.3))):
        little, large = (_measured(network, real, spoiled) for spoiled in (once, worse))
        # Features of spoiled faces lie between the others: precision hardly falls, or even rises.
        assert reference < little[0] < large[0]
        assert recall > little[2] > large[2]


def test_attribute_features_detect_dropped_modes(
    network: AttributeClassifier, faces: np.ndarray, labelled: Shards
) -> None:
    """Only dark-haired faces: each looks real, but many real faces are not covered."""
    real, fresh = faces[:160], faces[160:]
    dark = labelled.labels("train", ["Black_Hair"])[160:, 0] == 1
    reference, precision, recall = _measured(network, real, fresh)
    distance, same_precision, less_recall = _measured(network, real, fresh[dark])
    assert distance > 2 * reference
    assert same_precision > precision - 0.1
    assert less_recall < recall - 0.3
    # One face, repeated.
    _, _, none = _measured(network, real, np.repeat(fresh[:1], 160, axis=0))
    assert none < 0.02


def test_attributes_stage_without_labels(stage, unlabelled: Path, tmp_path: Path) -> None:
    folder, metrics = tmp_path / "attributes", tmp_path / "attributes.json"
    assert not stage(
        "attributes", "--shards", str(unlabelled), "--network", str(folder),
        "--metrics", str(metrics),
    )  # fmt: skip
    assert [path.name for path in folder.iterdir()] == ["names.json"]
    assert load_classifier(folder) is None
    assert json.loads(metrics.read_text()) == {
        "balanced_accuracy": None, "accuracy": None, "majority_accuracy": None, "attributes": {},
    }  # fmt: skip


def test_bad_input_attribute_classifier(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train it again: dvc repro --force --single-item attr"):
        load_classifier(tmp_path)
    save_classifier(AttributeClassifier(16, 2), ("Bald", "Bangs"), tmp_path)
    (tmp_path / NETWORK).write_bytes((tmp_path / NETWORK).read_bytes()[:1000])
    with pytest.raises(UserError, match=r"network.keras: is damaged, .+; train it again") as raised:
        load_classifier(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    vae = make_vae(image_size=16, filters=[4], kernel_sizes=[3], strides=[2], latent_size=2)
    save_model(vae, path)
    save_prior(normal_prior(2), path.with_name("prior.npz"))
    return path


def _common(model: Path, folder: Path) -> list[str]:
    prior = model.with_name("prior.npz")
    return ["--model", str(model), "--prior", str(prior), "--reports", str(folder)]


def test_attributes_grid_has_a_column_each(
    stage, model: Path, shards: Path, unlabelled: Path, tmp_path: Path
) -> None:
    common = _common(model, tmp_path)
    generate = {"rows": 2, "columns": 2, "attributes": ["Smiling", "Black_Hair", "No_Beard"]}
    for folder, columns in ((shards, 5), (unlabelled, 2)):
        assert not stage("generate", "--shards", str(folder), *common, generate=generate)
        with Image.open(tmp_path / "attributes.png") as picture:
            assert picture.width == 2 + 18 * columns
            below = np.asarray(picture)[-2 * 18 - 2 :]
        first = load_images(Shards(folder), "test", 2)
        shown = np.stack([below[2:18, 2:18], below[20:36, 2:18]])
        np.testing.assert_array_equal(shown, np.round(first * 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["Smiling", "Charming", "Rich"], "the data has no Charming and no Rich; it has Bald, Ba"),
        (["Bald"], "none of the 4 training images looked at have Bald, so it has no direction"),
    ],
)
def test_bad_input_attributes_to_draw(
    stage, model: Path, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture,
    asked: list[str], sentence: str,
) -> None:  # fmt: skip
    write_shards(source, tmp_path / "shards", limit={"train": 4})
    generate = {"rows": 2, "columns": 2, "attributes": asked}
    arguments = ["--shards", str(tmp_path / "shards"), *_common(model, tmp_path)]
    assert stage("generate", *arguments, generate=generate, train={"batch_size": 4}) == 2
    message = capfd.readouterr().err
    assert message.startswith("generate.attributes: ")
    assert sentence in message
    assert not (tmp_path / "attributes.png").exists()


def test_bad_input_grid_of_more_images_than_the_test_split_has(
    stage, model: Path, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    generate = {"rows": 4, "columns": 2}
    arguments = ["--shards", str(shards), *_common(model, tmp_path)]
    assert stage("generate", *arguments, generate=generate) == 2
    assert "needs 8 held-out images, and the test split has 6" in capfd.readouterr().err
    assert not (tmp_path / "samples.png").exists()
