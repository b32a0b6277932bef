"""ONNX files compute what the Keras networks compute, whatever params.yaml asks for."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
from helpers import small_vae

from facevae.common.parameters import Encoder
from facevae.export.onnx_files import write_decoder, write_encoder
from facevae.model.vae import VAE

# Each with some of what the networks can be made of, and all of it together.
_NETWORKS: dict[str, dict[str, Any]] = {
    "default": {"resize_layers": 3},
    "post": {"resize_layers": 0, "inter_dense": 0},
    "residual": {"block": "residual", "activation": "relu", "resize_layers": 1},
    "plain": {"batch_normalization": False, "activation": "elu", "dropout": 0.2},
    "residual plain": {"block": "residual", "batch_normalization": False, "activation": "gelu"},
    "no stride": {"strides": [1, 2], "kernel_sizes": [5, 3], "activation": "silu"},
    "even kernels": {"strides": [2, 4], "kernel_sizes": [4, 6], "resize_layers": 2},
    "even kernels, transposed": {
        "strides": [2, 4], "kernel_sizes": [4, 6], "resize_layers": 0, "activation": "gelu",
    },
    "small kernels": {"strides": [4, 2], "kernel_sizes": [1, 1], "resize_layers": 2},
    "small kernels, transposed": {
        "strides": [4, 4], "kernel_sizes": [3, 2], "resize_layers": 0, "activation": "silu",
    },
    "the Decoder's own kernels": {"decoder_kernel_sizes": [7, 2], "resize_layers": 1},
    "one layer": {"filters": [4], "kernel_sizes": [3], "strides": [8]},
}  # fmt: skip


def _trained(**changes: Any) -> VAE:
    """A VAE none of whose weights has the value at which it starts, as after a training."""
    vae = small_vae(**changes)
    random = np.random.default_rng(1)
    for network in (vae.encoder, vae.decoder):
        for weight in network.weights:
            noise = random.random(weight.shape, dtype=np.float32)
            weight.assign(weight + 0.5 * noise if len(weight.shape) == 1 else weight)
    return vae


def _run(path: Path, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of a file, by their names."""
    session = onnxruntime.InferenceSession(path)
    (given,), made = session.get_inputs(), [each.name for each in session.get_outputs()]
    return dict(zip(made, session.run(made, {given.name: inputs}), strict=True))


def _both(vae: VAE, folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of outputs, Keras' first: mu, log_var, and images decoded from codes around N(0, I)."""
    write_encoder(vae, folder / "encoder.onnx")
    write_decoder(vae, folder / "decoder.onnx")
    random = np.random.default_rng(2)
    images = random.random((5, vae.image_size, vae.image_size, 3), dtype=np.float32)
    z = 2 * random.standard_normal((7, vae.latent_size), dtype=np.float32)
    codes, decoded = _run(folder / "encoder.onnx", images), _run(folder / "decoder.onnx", z)
    expected = [*vae.encode(images), vae.decoder(z, training=False)]
    found = [codes["mu"], codes["log_var"], decoded["images"]]
    return list(zip(map(keras.ops.convert_to_numpy, expected), found, strict=True))


@pytest.mark.parametrize("name", _NETWORKS)
def test_onnxruntime_computes_what_keras_computes(name: str, tmp_path: Path) -> None:
    for expected, found in _both(_trained(**_NETWORKS[name]), tmp_path):
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        scale = max(1.0, np.abs(expected).max())
        assert np.ptp(expected) > 1e-3 * scale  # else all would agree
        np.testing.assert_allclose(found, expected, atol=1e-5 * scale)


def test_every_activation_is_among_these_networks() -> None:
    allowed = set(Encoder.model_fields["activation"].annotation.__args__)  # type: ignore[union-attr]
    default = small_vae().encoder_settings.activation
    assert {network.get("activation", default) for network in _NETWORKS.values()} == allowed


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_files_compute_in_float32_whatever_the_training_did(precision: str, tmp_path: Path) -> None:
    exact, rough = _trained(), _trained(precision=precision)
    for path, vae in ((tmp_path / "exact", exact), (tmp_path / "rough", rough)):
        path.mkdir()
        write_decoder(vae, path / "decoder.onnx")
    assert (tmp_path / "rough/decoder.onnx").read_bytes() == (
        tmp_path / "exact/decoder.onnx"
    ).read_bytes()
    for expected, found in _both(rough, tmp_path):
        np.testing.assert_allclose(found, expected, atol=0.05 * max(1, np.abs(expected).max()))


def test_log_var_is_clamped_as_the_vae_clamps_it(tmp_path: Path) -> None:
    vae = _trained()
    head = vae.encoder.get_layer("log_var")
    head.bias.assign([-50.0, 50.0, 0.0, 1.0])
    (_, (expected, found), _) = _both(vae, tmp_path)
    assert (found[:, 0] == -20).all()
    assert (found[:, 1] == 10).all()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_files_say_what_they_take_and_give_and_are_the_same_each_time(tmp_path: Path) -> None:
    vae = small_vae()
    for name in ("one.onnx", "other.onnx"):
        write_encoder(vae, tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()
    write_decoder(vae, tmp_path / "decoder.onnx")
    shapes = []
    for name in ("one.onnx", "decoder.onnx"):
        session = onnxruntime.InferenceSession(tmp_path / name)
        for values in (session.get_inputs(), session.get_outputs()):
            shapes.append({each.name: each.shape for each in values})
    image, code = ["batch", 16, 16, 3], ["batch", 4]
    codes = {"mu": code, "log_var": code}
    assert shapes == [{"images": image}, codes, {"z": code}, {"images": image}]
