"""FID with random weights in the format of the public file, and with bad files."""

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from helpers import make_vae, write_shards
from PIL import Image

from facevae.common.errors import UserError
from facevae.evaluation import feature_metrics
from facevae.evaluation import inputs as inputs_module
from facevae.evaluation.evaluate import evaluate
from facevae.evaluation.feature_metrics import frechet_distance
from facevae.evaluation.inception import check_inception_weights, inception_features, load_inception
from facevae.latent.generation import samples
from facevae.shards.batches import Shards, load_images


def _write_weights(path: Path, network: keras.Model) -> None:
    """In the format of Keras 2, that of the public files."""
    with h5py.File(path, "w") as file:
        layers = [layer for layer in network.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            weights = {f"{layer.name}/{weight.name}:0": weight for weight in layer.weights}
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, weight in weights.items():
                group[name] = weight.numpy()


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, keras.Model]:
    """A file with the classifier, and the network with the same random weights."""
    keras.utils.set_random_seed(2)
    network = keras.applications.InceptionV3(weights=None)
    path = tmp_path_factory.mktemp("inception") / "weights.h5"
    _write_weights(path, network)
    return path, network


@pytest.mark.slow
def test_inception_features_and_fid(
    public: tuple[Path, keras.Model], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, network = public
    limit = {"train": 2, "validation": 2, "test": 2}
    write_shards(source, tmp_path, image_size=8, limit=limit)
    vae = make_vae(image_size=8, filters=[4], kernel_sizes=[3], strides=[2], latent_size=2)
    shards = Shards(tmp_path)
    real, fresh = (load_images(shards, split) for split in ("test", "validation"))

    inception = load_inception(path)
    found = inception_features(inception, real)
    assert found.shape == (2, 2048)
    pooled = keras.Model(network.input, network.get_layer("avg_pool").output)
    large = [
        [
            Image.fromarray(channel).resize((299, 299), Image.Resampling.BILINEAR)
            for channel in np.moveaxis(image, -1, 0)
        ]
        for image in real
    ]
    pixels = np.moveaxis(np.array([[np.asarray(c) for c in image] for image in large]), 1, -1)
    prepared = keras.applications.inception_v3.preprocess_input(255.0 * pixels)
    expected = pooled(prepared, training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4)

    monkeypatch.setattr(inputs_module, "DRAWS", 2)
    # To build it takes seconds: the one that was loaded from this path serves again.
    monkeypatch.setattr(feature_metrics, "load_inception", {path: inception}.__getitem__)
    got = evaluate(vae, shards, batch_size=2, inception_weights=path)

    def fid(images: np.ndarray) -> float:
        return frechet_distance(found, inception_features(inception, images))

    drawn = [fid(samples(vae, 2, seed)) for seed in range(2)]
    assert got["samples"]["fid"] == pytest.approx(np.mean(drawn), rel=1e-3, abs=1e-5)
    assert got["real_images"]["fid"] == pytest.approx(fid(fresh), rel=1e-3, abs=1e-5)


def test_inception_weights_without_the_classifier_are_accepted(
    public: tuple[Path, keras.Model], tmp_path: Path
) -> None:
    path, _ = public
    assert check_inception_weights(path)
    with h5py.File(path) as whole, h5py.File(tmp_path / "notop.h5", "w") as part:
        names = list(whole.attrs["layer_names"])
        part.attrs["layer_names"] = names[:-1]
        for name in names[:-1]:
            whole.copy(name, part)
    assert not check_inception_weights(tmp_path / "notop.h5")


def test_bad_input_inception_weights(public: tuple[Path, keras.Model], tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(UserError) as raised:
            check_inception_weights(path)
        sentence = str(raised.value)
        assert sentence.startswith("evaluate.inception_weights: ")
        assert str(path) in sentence
        assert "\n" not in sentence
        return sentence

    assert "there is no file" in refusal(tmp_path / "nothing.h5")
    assert "there is no file" in refusal(tmp_path)
    page = tmp_path / "page.h5"
    page.write_text("<!DOCTYPE html>")
    assert "is not an .h5 file or is incomplete" in refusal(page)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(public[0].read_bytes()[:1_000_000])
    assert "is not an .h5 file or is incomplete" in refusal(cut)
    other = tmp_path / "other.h5"
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    _write_weights(other, small)
    assert "does not hold the weights of Keras' InceptionV3" in refusal(other)
    newer = tmp_path / "newer.weights.h5"
    small.save_weights(newer)
    assert "does not hold the weights of Keras' InceptionV3" in refusal(newer)
