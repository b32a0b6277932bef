"""The explorer in a real browser: it draws what Keras draws, and each control does its work."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import run_stage, settings, small_vae, write_params
from PIL import Image

from benchmarks.browser import browser, missing, open_explorer
from facevae.common.parameters import VARIANTS, Parameters
from facevae.explorer.decoder import quantized

ATTRIBUTES = ["Smiling", "Black_Hair"]
OF_SMALL = {
    "image_size": 16, "filters": [8, 16], "kernel_sizes": [3, 3], "strides": [2, 2],
    "latent_size": 4,
}  # fmt: skip
# What params.yaml allows of a Decoder, with each activation and prior at least once.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "residual": {"block": "residual", "activation": "gelu", "dropout": 0.2, "prior": "mixture"},
    "without normalisation": {
        "batch_normalization": False, "block": "residual", "activation": "elu",
        "kernel_sizes": [5, 4], "strides": [4, 2], "resize_layers": 0, "prior": "normal",
    },
    "kernels smaller than strides": {
        "kernel_sizes": [3, 2], "strides": [1, 4], "resize_layers": 0, "activation": "silu",
    },
    "all layers resize": {
        "filters": [5, 6, 7], "kernel_sizes": [3, 2, 5], "strides": [2, 4, 1], "resize_layers": 3,
        "decoder_kernel_sizes": [4, 3, 2], "activation": "relu", "attributes": [],
    },
    "one layer": {"filters": [9], "kernel_sizes": [3], "strides": [16], "resize_layers": 1},
}  # fmt: skip


class Explorer(NamedTuple):
    """A page and what it was made of."""

    page: Path
    vaes: dict[str, Any]
    priors: dict[str, Any]


def _with_random_weights(vae: Any, seed: int) -> Any:
    """As if it were trained: no bias, gamma, beta, mean or variance is what it starts with."""
    generator = np.random.default_rng(seed)
    for weight in vae.decoder.weights:
        if len(weight.shape) == 1:
            changed = weight + generator.normal(0, 0.3, weight.shape)
            weight.assign(np.abs(changed) + 0.1 if "variance" in weight.path else changed)
    return vae


def _parameters(prior: str, attributes: list[str], **changes: Any) -> Parameters:
    made = settings(**{**OF_SMALL, **changes})
    return made.with_changes({"generate.prior": prior, "generate.attributes": attributes})


def _explorer(
    folder: Path, shards: Path, *, prior: str = "gaussian", attributes: list[str] | None = None,
    **changes: Any,
) -> Explorer:  # fmt: skip
    from facevae.explorer.page import explorer_html
    from facevae.latent.priors import fit_prior, normal_prior
    from facevae.shards.batches import Shards

    vaes = {
        name: _with_random_weights(small_vae(inter_dense=8 * number, **changes), number)
        for number, name in enumerate(VARIANTS)
    }
    codes = np.random.default_rng(7).normal(0.5, 1.5, (2, 200, 4))
    priors = {
        name: normal_prior(4) if prior == "normal" else fit_prior(prior, own)
        for name, own in zip(VARIANTS, codes, strict=True)
    }
    wanted = ATTRIBUTES if attributes is None else attributes
    parameters = _parameters(prior, wanted, **changes)
    with Shards(shards) as opened:
        both = {name: (vaes[name], priors[name]) for name in VARIANTS}
        html = explorer_html(parameters, opened, both)
    page = folder / "explorer.html"
    page.write_text(html, encoding="utf-8")
    return Explorer(page, vaes, priors)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(downloads: Path) -> Iterator[Any]:
    if lacking := missing():
        pytest.skip(lacking)
    with browser(downloads) as started:
        yield started


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Explorer:
    return _explorer(tmp_path_factory.mktemp("default"), shards)


@pytest.fixture
def opened(driver: Any, default: Explorer) -> Explorer:
    open_explorer(driver, default.page)
    return default


def _drawn_by_keras(vae: Any, codes: np.ndarray) -> np.ndarray:
    """(codes, values of a picture), in 1/255."""
    return 255 * np.asarray(vae.decoder(codes, training=False)).reshape(len(codes), -1)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_explorer_draws_what_keras_draws(
    driver: Any, shards: Path, tmp_path: Path, configuration: str
) -> None:
    made = _explorer(tmp_path, shards, **CONFIGURATIONS[configuration])
    open_explorer(driver, made.page)
    codes = np.random.default_rng(5).normal(0, 2, (6, 4)).astype(np.float32)
    for number, name in enumerate(VARIANTS):
        drawn = driver.execute_script(
            "const { decoder } = variants[arguments[0]];"
            "const codes = arguments[1].map((code) => Float32Array.from(code));"
            "return codes.map((code) => Array.from(decode(decoder, code)));",
            number, codes.tolist(),
        )  # fmt: skip
        expected = _drawn_by_keras(made.vaes[name], codes)
        assert expected.std(axis=0).max() > 5  # the codes matter
        difference = np.abs(255 * np.array(drawn) - expected)
        assert difference.max() < 3
        assert difference.mean(axis=1).max() < 0.5
    assert driver.get_log("browser") == []  # no error, and nothing refused by the page's policy


def _state(driver: Any) -> tuple[np.ndarray, np.ndarray]:
    """After the next frame: the codes (2, latent), and the values of both pictures."""
    codes, pixels = driver.execute_async_script(
        "const done = arguments[0];"
        "requestAnimationFrame(() => done(["
        "  variants.map((each) => Array.from(latentCode(each, settings()))),"
        "  variants.map(({ small }) => Array.from("
        "    small.getContext('2d').getImageData(0, 0, small.width, small.height).data)),"
        "]));"
    )
    return np.array(codes, np.float32), np.array(pixels).reshape(2, -1, 4)[:, :, :3].reshape(2, -1)


def _status(driver: Any) -> str:
    return driver.find_element("id", "status").text


def _press(driver: Any, slider: str, steps: int) -> None:
    """Move a slider with the keyboard."""
    key = "\ue014" if steps > 0 else "\ue012"  # arrows to the right and left
    driver.find_element("id", slider).send_keys(key * abs(steps))


def _click(driver: Any, script: str, *arguments: Any) -> None:
    driver.execute_script(f"{script}.click()", *arguments)


def _normal(driver: Any, seed: int) -> tuple[float, np.ndarray]:
    chance, numbers = driver.execute_script(
        "const { chance, normal } = draw(arguments[0], page.latent_size);"
        "return [chance, Array.from(normal)];",
        seed,
    )
    return chance, np.array(numbers, np.float32)


def _assert_pictures_show(explorer: Explorer, codes: np.ndarray, pictures: np.ndarray) -> None:
    for number, vae in enumerate(explorer.vaes.values()):
        (expected,) = _drawn_by_keras(vae, codes[number : number + 1])
        difference = np.abs(pictures[number] - expected)
        assert difference.max() < 3
        assert difference.mean() < 0.5


def test_explorer_random_faces_are_of_the_prior_and_return(driver: Any, opened: Explorer) -> None:
    codes, pictures = _state(driver)
    _, numbers = _normal(driver, 1)
    for code, prior in zip(codes, opened.priors.values(), strict=True):
        expected = prior.means[0] + prior.factors[0] @ numbers
        np.testing.assert_allclose(code, expected, atol=0.01)  # of float16
    _assert_pictures_show(opened, codes, pictures)
    assert _status(driver).startswith("Random face 1, drawn from the fitted prior.")
    assert re.search(r"direct \d+ ms, inter_dense \d+ ms", _status(driver))

    driver.find_element("id", "new-face").click()
    other_codes, others = _state(driver)
    assert not np.allclose(other_codes, codes)
    seed = driver.find_element("id", "seed").get_property("value")
    assert _status(driver).startswith(f"Random face {seed}, ")
    assert np.abs(others - pictures).max() > 0

    field = driver.find_element("id", "seed")
    field.clear()
    field.send_keys("1")
    again, back = _state(driver)
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(back, pictures)


def test_explorer_switch_of_the_prior(driver: Any, opened: Explorer) -> None:
    _click(driver, "control('prior-normal')")
    codes, pictures = _state(driver)
    _, numbers = _normal(driver, 1)
    np.testing.assert_array_equal(codes, [numbers, numbers])
    _assert_pictures_show(opened, codes, pictures)
    assert _status(driver).startswith("Random face 1, drawn from N(0, I).")


def test_explorer_draws_from_all_gaussians_of_a_mixture(
    driver: Any, shards: Path, tmp_path: Path
) -> None:
    made = _explorer(tmp_path, shards, prior="mixture")
    open_explorer(driver, made.page)
    hit = set()
    for seed in range(40):
        codes = driver.execute_script(
            "return variants.map(({ prior }) =>"
            "  Array.from(codeOf(prior, draw(arguments[0], page.latent_size))))",
            seed,
        )
        chance, numbers = _normal(driver, seed)
        for code, prior in zip(codes, made.priors.values(), strict=True):
            part = int(np.searchsorted(np.cumsum(prior.weights), chance, "right"))
            hit.add(part)
            expected = prior.means[part] + prior.factors[part] @ numbers
            np.testing.assert_allclose(code, expected, atol=0.01)
    assert len(hit) >= 8  # of ten


def test_explorer_random_numbers_are_normal_and_independent(driver: Any, opened: Explorer) -> None:
    drawn = driver.execute_script(
        "return Array.from({ length: 300 }, (_, seed) => {"
        "  const { chance, normal } = draw(seed, 64);"
        "  return [chance, ...normal];"
        "});"
    )
    chances, normal = np.array(drawn)[:, 0], np.array(drawn)[:, 1:]
    assert 0.45 < chances.mean() < 0.55
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert 0.02 < np.mean(np.abs(normal) > 2) < 0.07  # 0.0455
    between = np.corrcoef(normal) - np.eye(len(normal))  # of neighbouring seeds, too
    assert np.abs(between).max() < 0.7


def test_explorer_goes_from_one_held_out_face_to_another(
    driver: Any, opened: Explorer, shards: Path
) -> None:
    from facevae.latent.generation import mean_codes
    from facevae.shards.batches import Shards, load_images

    _click(driver, "document.querySelector('input[name=from][value=\"2\"]')")
    _click(driver, "document.querySelector('input[name=to][value=\"5\"]')")
    _press(driver, "between", -20)
    codes, pictures = _state(driver)
    with Shards(shards) as stored:
        images = load_images(stored, "test")
    for code, vae in zip(codes, opened.vaes.values(), strict=True):
        mu = mean_codes(vae, images)
        np.testing.assert_allclose(code, 0.7 * mu[2] + 0.3 * mu[5], atol=1e-4)
    _assert_pictures_show(opened, codes, pictures)
    assert _status(driver).startswith("Held-out faces 3 and 6, 30 % of the way.")
    assert driver.find_element("id", "between-value").text == "30 %"


def test_explorer_changes_the_distance_from_the_mean(driver: Any, opened: Explorer) -> None:
    before, _ = _state(driver)
    _press(driver, "distance", -60)
    codes, pictures = _state(driver)
    means = np.array([prior.means[0] for prior in opened.priors.values()])
    np.testing.assert_allclose(codes, means + 0.4 * (before - means), atol=1e-4)
    _assert_pictures_show(opened, codes, pictures)
    assert driver.find_element("id", "distance-value").text == "\N{MULTIPLICATION SIGN} 0.40"
    _click(driver, "control('prior-normal')")
    codes, _ = _state(driver)
    np.testing.assert_allclose(codes[0], 0.4 * _normal(driver, 1)[1], atol=1e-4)


def test_explorer_adds_directions_of_attributes_until_reset(
    driver: Any, opened: Explorer, shards: Path
) -> None:
    from facevae.latent.gallery import labelled_directions
    from facevae.shards.batches import Shards

    before, unchanged = _state(driver)
    _press(driver, "attribute-0", 20)
    _press(driver, "attribute-1", -5)
    codes, pictures = _state(driver)
    for row, vae in enumerate(opened.vaes.values()):
        with Shards(shards) as stored:
            smiling, black = labelled_directions(vae, stored, ATTRIBUTES)
        expected = before[row] + 2.0 * smiling - 0.5 * black
        np.testing.assert_allclose(codes[row], expected, atol=1e-4)
    _assert_pictures_show(opened, codes, pictures)
    labels = driver.find_elements("css selector", ".attributes .slider")
    said = [each.text.split("\n") for each in labels]
    assert said == [["Smiling", "+2.0"], ["Black Hair", "\N{MINUS SIGN}0.5"]]
    driver.find_element("id", "reset").click()
    np.testing.assert_array_equal(_state(driver)[1], unchanged)


def test_explorer_saves_both_pictures(driver: Any, opened: Explorer, downloads: Path) -> None:
    _, pictures = _state(driver)
    driver.find_element("id", "save").click()
    file = downloads / "face-1.png"
    driver.execute_async_script("setTimeout(arguments[0], 200)")
    for _ in range(300):
        if file.is_file():
            break
        driver.execute_async_script("setTimeout(arguments[0], 100)")
    with Image.open(file) as saved:
        pixels = np.asarray(saved.convert("RGB"), float)
    assert pixels.shape == (48 + 12 + 32, 2 * (48 + 12) + 12, 3)
    for number, values in enumerate(pictures):
        left = 12 + number * 60
        large = pixels[12:60, left : left + 48].reshape(16, 3, 16, 3, 3).mean(axis=(1, 3))
        assert np.abs(large - values.reshape(16, 16, 3)).mean() < 8  # enlarged smoothly
    assert pixels[60:].min() < 100  # the names


def test_explorer_asks_for_nothing(driver: Any, default: Explorer) -> None:
    driver.get_log("performance")
    open_explorer(driver, default.page)
    driver.find_element("id", "new-face").click()
    messages = [json.loads(each["message"])["message"] for each in driver.get_log("performance")]
    asked = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in asked if not url.startswith("data:")} == {default.page.as_uri()}


def test_explorer_says_why_it_has_no_attributes_and_no_fitted_prior(
    tmp_path: Path, shards: Path
) -> None:
    made = _explorer(tmp_path, shards, prior="normal", attributes=[])
    text = made.page.read_text(encoding="utf-8")
    assert "There are no sliders for attributes: generate.attributes names none." in text
    assert "Codes are drawn from N(0, I)." in text
    assert 'id="prior-fitted"' not in text
    assert 'id="attribute-0"' not in text


def test_explorer_weights_are_within_half_a_step() -> None:
    kernel = np.random.default_rng(2).normal(0, 2, (3, 3, 5, 4)).astype(np.float32)
    kernel[:, :, 2] = 0
    whole, scales = quantized(kernel)
    assert whole.dtype == np.int8
    assert np.abs(whole.astype(int)).max() == 127
    assert (np.abs(whole * scales[:, None] - kernel) <= 0.5001 * scales[:, None]).all()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages train and prior leave."""
    from facevae.latent.priors import normal_prior, save_prior
    from facevae.model.saving import save_model

    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(VARIANTS):
        save_model(small_vae(inter_dense=8 * number), folder / f"{name}.keras")
        save_prior(normal_prior(4), folder / f"{name}_prior.npz")
    return folder


def _stage(folder: Path, models: Path, shards: Path, name: str = "a.html", **data: Any) -> int:
    params = write_params(folder, data=data, generate={"attributes": ATTRIBUTES})
    inputs = ("--params", params, "--models", models, "--shards", shards)
    return run_stage("explorer", *inputs, "--html", folder / name)


def test_explorer_stage_writes_the_same_bytes_twice(
    models: Path, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    for name in ("a.html", "b.html"):
        assert _stage(tmp_path, models, shards, name) == 0
    assert capfd.readouterr() == ("", "")
    first = (tmp_path / "a.html").read_bytes()
    assert first == (tmp_path / "b.html").read_bytes()
    text = first.decode()
    assert '"terms"' not in text  # drawn faces
    found = re.search('<script type="application/json" id="models">(.*?)</script>', text)
    assert found is not None
    content = json.loads(found[1])
    assert [each["name"] for each in content["variants"]] == list(VARIANTS)
    assert content["held_out"] == 6  # the whole test split
    assert len(base64.b64decode(content["variants"][0]["held_out"])) == 6 * 4 * 4


def test_explorer_of_people_says_so_at_its_top(models: Path, shards: Path, tmp_path: Path) -> None:
    assert _stage(tmp_path, models, shards, source="/elsewhere/celeba") == 0
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    said = text.index("This page holds reconstructions of real people")
    assert text.index("<body>") < said < text.index("<h1>")


def test_explorer_that_is_large_is_written_and_told(
    models: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:  # fmt: skip
    from facevae.explorer import page

    monkeypatch.setattr(page, "MOST_BYTES", 10_000)
    assert _stage(tmp_path, models, shards) == 0
    told = capfd.readouterr().err
    assert told.startswith(f"{tmp_path}/a.html: has 0.")
    assert told.count("\n") == 1


def test_explorer_without_a_model_is_a_sentence(
    shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert _stage(tmp_path, tmp_path, shards) == 2
    assert capfd.readouterr().err == (
        f"{tmp_path}/direct.keras: no such model; train it first: dvc repro\n"
    )
