"""The networks: exact parameter counts, mirrored shapes, files that open in any process."""

import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import make_vae, settings, small_vae

from facevae.common.errors import UserError
from facevae.model.layers import (
    EinsumGradDense,
    FusedBatchNormalization,
    ResizeConv2D,
    SubpixelConv2DTranspose,
    SubpixelResizeConv2D,
    ZeroBiasGradConv2D,
    ZeroBiasGradConv2DTranspose,
    ZeroBiasGradResizeConv2D,
    output_grad_leaky_relu,
)
from facevae.model.saving import load_model, save_model
from facevae.model.vae import VAE


def _trainable(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(
    ("latent_size", "inter_dense", "encoder", "decoder"),
    [
        (256, 0, (5_109_440, 5_108_480), (2_757_571, 2_757_123)),
        (256, 256, (2_881_472, 2_880_512), (2_757_571, 2_757_123)),
        (256, 384, (4_126_784, 4_125_824), (2_757_571, 2_757_123)),
        (512, 0, (9_828_544, 9_827_584), (5_116_867, 5_116_419)),
    ],
)
def test_parameter_table_of_the_source(
    latent_size: int, inter_dense: int, encoder, decoder
) -> None:
    vae = make_vae(latent_size=latent_size, inter_dense=inter_dense)
    assert (vae.encoder.count_params(), _trainable(vae.encoder)) == encoder
    assert (vae.decoder.count_params(), _trainable(vae.decoder)) == decoder


@pytest.mark.parametrize(
    ("filters", "kernel_sizes", "strides"),
    [
        ([32, 64, 128, 256], [3, 3, 3, 3], [2, 2, 2, 2]),
        ([8, 8, 8], [3, 5, 3], [2, 2, 2]),
        ([8, 16, 32], [5, 3, 3], [4, 3, 2]),
        ([4, 8, 8, 16, 16], [3, 3, 3, 3, 3], [2, 2, 2, 2, 2]),
        ([8], [3], [2]),
    ],
)
def test_decoder_mirrors_the_encoder(filters, kernel_sizes, strides) -> None:
    vae = make_vae(
        image_size=96,
        filters=filters,
        kernel_sizes=kernel_sizes,
        strides=strides,
        latent_size=4,
        inter_dense=8,
        dropout=0.1,
    )
    inward = [
        layer.output.shape[1:3]
        for layer in vae.encoder.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    outward = [
        layer.input.shape[1:3]
        for layer in vae.decoder.layers
        if isinstance(layer, keras.layers.Conv2DTranspose)
    ]
    assert inward == outward[::-1]
    images = np.random.default_rng(0).random((2, 96, 96, 3), dtype=np.float32)
    outputs = vae(images)
    assert outputs["reconstructions"].shape == (2, 96, 96, 3)
    assert outputs["mu"].shape == outputs["log_var"].shape == (2, 4)
    assert 0 <= np.min(outputs["reconstructions"]) <= np.max(outputs["reconstructions"]) <= 1


@pytest.mark.parametrize("inter_dense", [0, 16])
@pytest.mark.parametrize("batch_normalization", [False, True])
def test_residual_blocks_weigh_what_the_formula_says(
    inter_dense: int, batch_normalization: bool
) -> None:
    """k k c c' + c' weights per convolution; 4 c per normalisation, of which 2 c are trained."""
    filters, latent = [8, 16, 12], 5
    vae = make_vae(
        image_size=32, filters=filters, kernel_sizes=[3, 5, 3], strides=[2, 2, 4],
        latent_size=latent, inter_dense=inter_dense, batch_normalization=batch_normalization,
        block="residual",
    )  # fmt: skip
    per_channel = 4 if batch_normalization else 0

    def block(c: int) -> int:
        return 9 * c * c + c + per_channel * c

    flat, units = 2 * 2 * 12, inter_dense or 2 * 2 * 12
    convolutions = (9 * 3 * 8 + 8) + (25 * 8 * 16 + 16) + (9 * 16 * 12 + 12)
    encoder = convolutions + sum(per_channel * c + block(c) for c in filters)
    encoder += (flat + 1) * inter_dense + 2 * (units + 1) * latent
    assert vae.encoder.count_params() == encoder
    transposed = (9 * 12 * 16 + 16) + (25 * 16 * 8 + 8) + (9 * 8 * 3 + 3)
    decoder = (latent + 1) * flat + transposed + sum(per_channel * c + block(c) for c in (16, 8))
    assert vae.decoder.count_params() == decoder
    frozen = 2 if batch_normalization else 0
    assert _trainable(vae.encoder) == encoder - frozen * 2 * sum(filters)
    assert _trainable(vae.decoder) == decoder - frozen * 2 * (16 + 8)


def test_residual_blocks_add_to_what_they_are_given() -> None:
    """With zero kernels a block is its activation, here ReLU, which keeps what is activated."""
    common: dict[str, Any] = {
        "image_size": 16, "filters": [4, 6], "kernel_sizes": [3, 3], "strides": [2, 2],
        "latent_size": 3, "activation": "relu",
    }  # fmt: skip
    plain, residual = make_vae(**common), make_vae(**common, block="residual")
    for ours, theirs in ((residual.encoder, plain.encoder), (residual.decoder, plain.decoder)):
        names = {layer.name for layer in theirs.layers}
        for layer in ours.layers:
            if layer.name in names:
                layer.set_weights(theirs.get_layer(layer.name).get_weights())
            elif layer.name.endswith("_residual"):
                layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    images = np.random.default_rng(0).random((2, 16, 16, 3), dtype=np.float32)
    for name, expected in plain(images).items():
        np.testing.assert_allclose(residual(images)[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": 90}, "layer 2 has stride 2, which does not divide its input of 45x45"),
        ({"strides": [2, 2, 2]}, "encoder.strides: has 3 entries and encoder.filters has 4"),
    ],
)
def test_what_cannot_be_mirrored_is_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        VAE(
            settings().encoder.model_copy(update=changes),
            settings().decoder,
            settings().loss,
            image_size=changes.get("image_size", 96),
            precision="float32",
            seed=1,
        )


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("encoder", {"block": "dense"}),
        ("loss", {"reconstruction": "mae"}),
    ],
)
def test_names_that_the_library_does_not_know_are_refused(section: str, change: dict) -> None:
    """Also in a section that was built without the checks of `Parameters`."""
    known = settings()
    sections: dict[str, Any] = {
        "encoder": known.encoder, "decoder": known.decoder, "loss": known.loss
    }  # fmt: skip
    sections[section] = sections[section].model_copy(update=change)
    (name,) = change.values()
    with pytest.raises(ValueError, match=name):
        VAE(**sections, image_size=96, precision="float32", seed=1)
    with pytest.raises(ValueError, match="half"):
        VAE(known.encoder, known.decoder, known.loss, image_size=96, precision="half", seed=1)


def test_variants_with_one_seed_start_alike() -> None:
    """Every layer that both have starts with the same weights, the whole Decoder too."""
    with_layer, without, other = (
        make_vae(inter_dense=units, seed=seed) for units, seed in ((8, 1), (0, 1), (8, 2))
    )

    def kernels(vae: VAE) -> dict[str, np.ndarray]:
        layers = [*vae.encoder.layers, *vae.decoder.layers]
        return {layer.name: layer.get_weights()[0] for layer in layers if hasattr(layer, "kernel")}

    start = kernels(with_layer)
    alike = {name for name, kernel in kernels(without).items() if kernel.shape == start[name].shape}
    convs = {f"conv_{number}" for number in range(1, 5)}
    assert alike == convs | {name.replace("conv", "conv_transpose") for name in convs} | {"dense"}
    for name in alike:
        np.testing.assert_array_equal(kernels(without)[name], start[name])
        assert not np.array_equal(kernels(other)[name], start[name])
    # No two layers draw the same numbers.
    assert len({kernel.flat[0] / np.abs(kernel).max() for kernel in start.values()}) == len(start)


def test_log_var_is_clamped() -> None:
    vae = make_vae(image_size=16, filters=[4], kernel_sizes=[3], strides=[2], latent_size=3)
    kernel, bias = vae.encoder.get_layer("log_var").get_weights()
    vae.encoder.get_layer("log_var").set_weights([kernel, np.add(bias, [1e9, -1e9, 0.0])])
    images = np.zeros((1, 16, 16, 3), np.float32)
    _, log_var = vae.encode(images)
    np.testing.assert_array_equal(np.asarray(log_var)[0, :2], [10.0, -20.0])
    reconstruction, kl = vae.loss_terms(images, vae({"images": images, "epsilon": np.ones((1, 3))}))
    assert np.isfinite(reconstruction)
    assert np.isfinite(kl)


def test_sampling_uses_the_noise_it_is_given() -> None:
    keras.utils.set_random_seed(0)
    vae = make_vae(image_size=16, filters=[4], kernel_sizes=[3], strides=[2], latent_size=3)
    images = np.random.default_rng(0).random((2, 16, 16, 3), dtype=np.float32)
    epsilon = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    outputs = vae({"images": images, "epsilon": epsilon})
    z = outputs["mu"] + np.exp(0.5 * np.asarray(outputs["log_var"])) * epsilon
    np.testing.assert_allclose(outputs["reconstructions"], vae.decoder(z), rtol=1e-5, atol=1e-6)


def _vae(block: str) -> VAE:
    keras.utils.set_random_seed(0)
    return make_vae(
        block=block,
        image_size=16, filters=[4, 8], kernel_sizes=[3, 3], strides=[2, 2], latent_size=5,
        inter_dense=6, activation="relu", dropout=0.2, reconstruction="bce", kl_weight=0.25,
    )  # fmt: skip


@pytest.fixture(params=["plain", "residual"])
def small(request: pytest.FixtureRequest) -> VAE:
    return _vae(request.param)


@pytest.mark.slow
def test_saved_models_open_in_a_fresh_process_in_safe_mode(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, 16, 16, 3), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    expected = {}
    for block in ("plain", "residual"):
        vae = _vae(block)
        for layer in vae.encoder.layers + vae.decoder.layers:
            if isinstance(layer, FusedBatchNormalization):  # not the initial value
                layer.moving_mean.assign(layer.moving_mean + 0.3)
        expected[block] = np.asarray(vae(images)["reconstructions"])
        save_model(vae, tmp_path / f"{block}.keras")
    script = (
        "import keras, numpy as np, facevae.model.vae\n"
        "for block in ('plain', 'residual'):\n"
        "    vae = keras.saving.load_model(f'{block}.keras', safe_mode=True)\n"
        "    assert (vae.kl_weight, vae.reconstruction) == (0.25, 'bce')\n"
        "    np.save(f'{block}.npy', vae(np.load('images.npy'))['reconstructions'])\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    for block, decoded in expected.items():
        # Another process may choose other kernels, by the alignment of its memory.
        np.testing.assert_allclose(np.load(tmp_path / f"{block}.npy"), decoded, atol=1e-6)


def test_the_same_model_gives_the_same_file(small: VAE, tmp_path: Path) -> None:
    save_model(small, tmp_path / "now.keras")
    time.sleep(2.1)  # a zip keeps times to two seconds, Keras' metadata to one
    save_model(small, tmp_path / "later.keras")
    assert (tmp_path / "now.keras").read_bytes() == (tmp_path / "later.keras").read_bytes()
    save_model(load_model(tmp_path / "now.keras"), tmp_path / "again.keras")
    assert (tmp_path / "now.keras").read_bytes() == (tmp_path / "again.keras").read_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"encoder": {', '"networks": {'),  # settings that are not there
        ('"block": ', '"blocks": '),  # a setting of another name
        ("facevae>VAE", "facevae>OtherVAE"),  # a class that is not there
    ],
)
def test_a_model_of_another_version_is_one_sentence(
    small: VAE, tmp_path: Path, old: str, new: str
) -> None:
    save_model(small, tmp_path / "now.keras")
    other = tmp_path / "other.keras"
    with zipfile.ZipFile(tmp_path / "now.keras") as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                assert old.encode() in content
                content = content.replace(old.encode(), new.encode())
            target.writestr(name, content)
    with pytest.raises(
        UserError, match=r"written by another version of facevae; train the model again"
    ):
        load_model(other)


def test_a_model_for_images_of_another_size_is_one_sentence(small: VAE, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    save_model(small, path)
    assert load_model(path, small.image_size).image_size == small.image_size
    with pytest.raises(UserError, match=r"model.keras: was trained on images of .+ of 99; train"):
        load_model(path, 99)


def test_a_broken_model_file_is_one_sentence(small: VAE, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model; train it first"):
        load_model(tmp_path / "model.keras")
    save_model(small, tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "model.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model.keras: is damaged, .+; train the model again"):
        load_model(tmp_path / "model.keras")
    np.savez(tmp_path / "model.keras.npz", whole=np.ones(3))
    os.replace(tmp_path / "model.keras.npz", tmp_path / "model.keras")
    with pytest.raises(UserError, match=r"model.keras: .+; train the model again"):
        load_model(tmp_path / "model.keras")
    (tmp_path / "model.keras").unlink()
    os.mkfifo(tmp_path / "model.keras")
    with pytest.raises(UserError, match=r"model.keras: is a named pipe, where a file is expected"):
        load_model(tmp_path / "model.keras")


def test_a_model_file_with_a_flipped_byte_is_one_sentence_or_the_same(tmp_path: Path) -> None:
    """In a header, in contents, and in the directory at its end."""
    path, vae = tmp_path / "model.keras", small_vae()
    save_model(vae, path)
    whole = path.read_bytes()
    directory = whole.index(b"PK\1\2")
    sentences, same = [], 0
    for position in (7, 20, *range(100, directory, 30_011), *range(directory, len(whole), 9)):
        content = bytearray(whole)
        content[position] ^= (0x01, 0x08, 0x80)[position % 3]
        path.write_bytes(content)
        try:
            found = load_model(path)
        except UserError as error:
            sentences.append(str(error))
            continue
        same += 1
        for ours, theirs in zip(vae.get_weights(), found.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert len(sentences) > same > 0
    assert all(each.startswith(f"{path}: ") and "\n" not in each for each in sentences), sentences


def test_fused_normalisation_is_kerass() -> None:
    """Outputs, gradients and moving statistics equal those of Keras' layer, over three steps."""
    theirs = keras.layers.BatchNormalization(momentum=0.9)
    ours = FusedBatchNormalization(momentum=0.9)
    for step in range(3):
        inputs = tf.random.stateless_normal((16, 6, 6, 8), seed=(1, step), mean=2.0, stddev=3.0)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            expected = theirs(inputs, training=True)
            got = ours(inputs, training=True)
            losses = [tf.reduce_sum(x**3) for x in (expected, got)]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        gradients = [
            tape.gradient(loss, [inputs, layer.gamma, layer.beta])
            for loss, layer in zip(losses, (theirs, ours), strict=True)
        ]
        for a, b in zip(*gradients, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)
    for a, b in zip(theirs.weights, ours.weights, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours(inputs), theirs(inputs), rtol=1e-5, atol=1e-5)


def _outputs_and_gradients(layers: list[Any], inputs: Any, loss: Callable[[Any], Any]) -> list:
    """Of each layer, all with the weights of the first: outputs, and the gradients of the loss."""
    results = []
    for layer in layers:
        layer.build(inputs.shape)
        layer.set_weights(layers[0].get_weights())
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs)
            value = loss(outputs)
        results.append([outputs, *tape.gradient(value, [inputs, layer.kernel, layer.bias])])
    return results


@pytest.mark.parametrize(
    ("plain", "ours"),
    [
        (keras.layers.Conv2D, ZeroBiasGradConv2D),
        (keras.layers.Conv2DTranspose, ZeroBiasGradConv2DTranspose),
        (ResizeConv2D, ZeroBiasGradResizeConv2D),
    ],
)
def test_convolution_before_a_normalisation_is_the_plain_one(plain: type, ours: type) -> None:
    """Outputs and gradients are equal; the bias gets 0 where Keras' has rounding errors."""
    inputs = tf.random.stateless_normal((8, 6, 6, 4), seed=(1, 2))
    layers = [layer(5, 3, 2, padding="same", bias_initializer="normal") for layer in (plain, ours)]
    normalization = FusedBatchNormalization()
    results = _outputs_and_gradients(
        layers, inputs, lambda y: tf.reduce_sum(normalization(y, training=True) ** 3)
    )
    bias_gradients = [found.pop() for found in results]
    for expected, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(bias_gradients[0], 0, atol=0.02)
    np.testing.assert_array_equal(bias_gradients[1], np.zeros(5))


@pytest.mark.parametrize(("side", "stride"), [(3, 2), (5, 2), (3, 4), (3, 1), (4, 2)])
def test_resize_convolution_is_resizing_and_then_convolving(side: int, stride: int) -> None:
    """The outputs, and the gradients of the inputs and the kernel, are those of two layers."""
    inputs = tf.random.stateless_normal((2, 6, 5, 4), seed=(1, 2))
    weights = tf.random.stateless_normal((2, 6 * stride, 5 * stride, 3), seed=(3, 4))
    ours = ResizeConv2D(3, side, stride, padding="same", bias_initializer="normal")
    ours.build(inputs.shape)
    enlarge = keras.layers.UpSampling2D(stride, interpolation="nearest")
    first = side // 2  # pixels in front of the first
    pad = keras.layers.ZeroPadding2D(((first, side - 1 - first),) * 2)
    convolve = keras.layers.Conv2D(3, side)
    convolve.build((2, 6 * stride, 5 * stride, 4))
    kernel, bias = ours.get_weights()
    convolve.set_weights([kernel.transpose(0, 1, 3, 2), bias])
    results = []
    for layer, call in ((ours, ours), (convolve, lambda x: convolve(pad(enlarge(x))))):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = call(inputs)
            loss = tf.reduce_sum(weights * outputs)
        results.append([outputs, *tape.gradient(loss, [inputs, layer.kernel, layer.bias])])
    ours_found, theirs_found = results
    theirs_found[2] = tf.transpose(theirs_found[2], (0, 1, 3, 2))
    for expected, got in zip(theirs_found, ours_found, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "stride"), [(3, 2), (4, 2), (5, 2), (2, 3), (3, 1), (5, 4)])
@pytest.mark.parametrize(
    ("plain", "ours"),
    [
        (keras.layers.Conv2DTranspose, SubpixelConv2DTranspose),
        (ResizeConv2D, SubpixelResizeConv2D),
    ],
)
def test_subpixel_convolution_is_the_transposed_one(
    plain: type, ours: type, side: int, stride: int
) -> None:
    inputs = tf.random.stateless_normal((2, 6, 6, 5), seed=(1, 2))
    weights = tf.random.stateless_normal((2, 6 * stride, 6 * stride, 3), seed=(3, 4))
    layers = [
        layer(3, side, stride, padding="same", bias_initializer="normal") for layer in (plain, ours)
    ]
    results = _outputs_and_gradients(layers, inputs, lambda y: tf.reduce_sum(weights * y))
    for expected, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_dense_layer_with_an_einsum_is_kerass(dtype: str) -> None:
    inputs = tf.random.stateless_normal((4, 6), seed=(1, 2))
    layers = [
        layer(5, "elu", bias_initializer="normal", dtype=dtype)
        for layer in (keras.layers.Dense, EinsumGradDense)
    ]
    results = _outputs_and_gradients(
        layers, inputs, lambda y: tf.reduce_sum(tf.cast(y, tf.float32) ** 3)
    )
    for expected, got in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        tolerance = 1e-5 if dtype == "float32" else 2**-6  # bfloat16 has 8 significant bits
        np.testing.assert_allclose(
            tf.cast(got, tf.float32), tf.cast(expected, tf.float32), rtol=tolerance, atol=tolerance
        )


def test_decoder_has_the_layers_of_its_section() -> None:
    """The first kernel is of the outermost layer, which mirrors the Encoder's first."""
    small: dict[str, Any] = {
        "image_size": 32, "filters": [4, 6, 8], "strides": [2, 2, 4], "latent_size": 3,
    }  # fmt: skip
    vae = make_vae(
        **small,
        kernel_sizes=[5, 3, 3],
        decoder_kernel_sizes=[7, 4, 5],
        resize_layers=2,
    )
    inward = [vae.decoder.get_layer(f"conv_transpose_{place}") for place in (3, 2, 1)]
    assert [layer.kernel.shape for layer in inward] == [(7, 7, 3, 4), (4, 4, 4, 6), (5, 5, 6, 8)]
    assert [isinstance(layer, ResizeConv2D) for layer in inward] == [True, True, False]
    assert vae.encoder.get_layer("conv_1").kernel.shape[:2] == (5, 5)
    assert vae.decoder.output_shape == (None, 32, 32, 3)
    same = make_vae(**small, kernel_sizes=[5, 3, 3])
    assert same.decoder.get_layer("conv_transpose_3").kernel.shape[:2] == (5, 5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_lean_leaky_relu_is_kerass(dtype: str) -> None:
    x = tf.cast(tf.constant([-3.0, -0.5, 0.0, 0.5, 3.0]), dtype)
    results = []
    for function in (keras.activations.leaky_relu, output_grad_leaky_relu):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
            loss = tf.reduce_sum(y * y)
        results.append((y, tape.gradient(loss, x)))
    for expected, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_other_backends_train_and_agree_with_tensorflow(tmp_path: Path) -> None:
    pytest.importorskip("jax", reason="JAX is not among the pinned packages: pip install jax")
    keras.utils.set_random_seed(0)
    vae = make_vae(image_size=16, filters=[4, 8], kernel_sizes=[3, 3], strides=[2, 2], dropout=0.1)
    save_model(vae, tmp_path / "vae.keras")
    images = np.random.default_rng(1).random((8, 16, 16, 3), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    script = (
        "import numpy as np\n"
        "from facevae.model.saving import load_model\n"
        "vae, images = load_model('vae.keras'), np.load('images.npy')\n"
        "np.save('made.npy', vae(images)['reconstructions'])\n"
        "vae.compile('adam')\n"
        "batch = {'images': images, 'epsilon': np.zeros((8, vae.latent_size), 'float32')}\n"
        "losses = vae.fit(batch, epochs=8, batch_size=4, verbose=0).history['loss']\n"
        "assert losses[-1] < losses[0], losses\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    expected = np.asarray(vae(images)["reconstructions"])
    np.testing.assert_allclose(np.load(tmp_path / "made.npy"), expected, atol=1e-5)
