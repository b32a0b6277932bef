"""The measure of the grid: against sums written out, known patterns, and a Decoder's images."""

import cmath

import numpy as np
import pytest
from helpers import make_vae

from facevae.evaluation.grid import grid, has_periods, image_grid, power_spectra


def _smooth(count: int, side: int, seed: int) -> np.ndarray:
    """Images whose power falls with the frequency, as that of photographs."""
    noise = np.random.default_rng(seed).standard_normal((count, side, side, 3))
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    spectra = np.fft.rfft2(noise, axes=(1, 2)) / (frequencies + 1 / side)[:, :, None]
    images = np.fft.irfft2(spectra, (side, side), axes=(1, 2))
    return (0.5 + images / images.std() / 8).astype(np.float32)


def test_power_spectra_are_the_sums_of_their_definition() -> None:
    images = np.random.default_rng(0).random((2, 6, 6, 3))
    expected = np.zeros((2, 4))
    for image in images:
        for channel in range(3):
            lines = image[:, :, channel].T, image[:, :, channel]
            for axis, along in enumerate(lines):
                for line in along:
                    for k in range(4):
                        turns = [cmath.exp(-2j * cmath.pi * k * n / 6) for n in range(6)]
                        value = sum(x * turn for x, turn in zip(line, turns, strict=True))
                        expected[axis, k] += abs(value) ** 2 / (2 * 3 * 6)
    np.testing.assert_allclose(power_spectra(images), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("period", "place", "neighbours"),
    [(2, 48, [43, 44, 45, 46]), (4, 24, [20, 21, 22, 26, 27, 28]), (8, 12, [8, 9, 10, 14, 15, 16])],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_grid_is_the_largest_peak_over_its_neighbours(
    period: int, place: int, neighbours: list[int], axis: int
) -> None:
    assert 96 // period == place
    real = np.random.default_rng(1).uniform(1, 2, (2, 49))
    spectra = real.copy()
    assert grid(spectra, real) == pytest.approx(1)
    spectra[axis, place] *= 7
    assert grid(spectra, real) == pytest.approx(7)
    for neighbour in neighbours:
        spectra[axis, neighbour] *= 2
    assert grid(spectra, real) == pytest.approx(3.5)
    spectra[:, [place - 1, min(place + 1, 47)]] *= 100  # no neighbours
    assert grid(spectra, real) == pytest.approx(3.5)


def test_real_images_have_no_grid_and_a_pattern_of_each_period_is_one() -> None:
    real, others = _smooth(60, 48, 1), _smooth(60, 48, 2)
    assert image_grid(others, real) == pytest.approx(1, abs=0.1)
    for period in (2, 4, 8):
        wave = np.cos(2 * np.pi * np.arange(48) / period)
        for pattern in (wave[:, None, None], wave[:, None]):
            found = image_grid(others + 0.02 * pattern.astype(np.float32), real)
            assert (found or 0.0) > 1.3


def test_blocks_of_images_have_the_spectrum_of_the_whole_set() -> None:
    real, others = _smooth(70, 48, 1), _smooth(70, 48, 2)
    assert image_grid(others, real) == pytest.approx(
        grid(power_spectra(others), power_spectra(real)), rel=1e-5
    )


def test_transposed_convolutions_have_a_grid_and_resized_ones_have_none() -> None:
    """The grid is in the layers themselves, before any training."""
    real = _smooth(64, 48, 1)
    z = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    found = {}
    for resize_layers in (0, 3):
        vae = make_vae(
            image_size=48, filters=[8, 16, 16], kernel_sizes=[3] * 3, strides=[2] * 3,
            latent_size=8, resize_layers=resize_layers,
        )  # fmt: skip
        found[resize_layers] = image_grid(vae.decoder(z).numpy(), real)
    assert (found[0] or 0.0) > 3
    assert (found[3] or 9.0) < 1.3


@pytest.mark.parametrize(("side", "defined"), [(32, False), (40, True), (44, False), (96, True)])
def test_grid_is_measured_where_all_bins_exist(side: int, defined: bool) -> None:
    assert has_periods(side) == defined
    images = _smooth(4, side, 1)
    assert (image_grid(images, images) is not None) == defined


def test_images_of_one_colour_have_no_figure() -> None:
    real = _smooth(4, 48, 1)
    assert image_grid(np.zeros_like(real), real) is None
