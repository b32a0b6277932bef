"""The grid that a Decoder's strides leave in its images, measured in their spectrum.

A transposed convolution whose kernel is no multiple of its stride gives neighbouring pixels
different numbers of summands, so that its images have a pattern that repeats with the stride
(Odena, Dumoulin & Olah 2016, https://doi.org/10.23915/distill.00003). Layers further inside make it
repeat every 4 and 8 pixels.
"""

from typing import Any

import numpy as np

from facevae.evaluation.image_metrics import image_blocks
from facevae.evaluation.inputs import (
    Inputs,
    RealSets,
    ReconstructedBatch,
    SampleMetrics,
    SplitMetrics,
)
from facevae.shards.blocks import Images

PERIODS = (2, 4, 8)  # pixels

# Bins of the spectrum around the bin of a period that its power is compared with.
_NEIGHBOURS = (-4, -3, -2, 2, 3, 4)
# That of period 2 is the last one.
_NEIGHBOURS_OF_THE_LAST = (-5, -4, -3, -2)


def has_periods(side: int) -> bool:
    """Whether images of this side, pixels, have all periods and their neighbours as bins."""
    largest = max(PERIODS)
    return side % largest == 0 and side // largest + min(_NEIGHBOURS) > 0


def power_spectra(images: np.ndarray) -> np.ndarray:
    """The mean power of the frequencies along each axis.

    Args:
        images: (count, side, side, channels).

    Returns:
        Of columns (along the height) and of rows (along the width), (2, side // 2 + 1) float64: the
        squared absolute value of the discrete Fourier transform, mean over images, channels and
        the other axis.
    """
    spectra = []
    for axis, others in ((1, (0, 2, 3)), (2, (0, 1, 3))):
        power = np.square(np.abs(np.fft.rfft(images, axis=axis)))
        spectra.append(power.mean(axis=others, dtype=np.float64))
    return np.stack(spectra)


def _peaks(spectra: np.ndarray) -> np.ndarray:
    """The power at each period over the geometric mean of its neighbours, (2, periods)."""
    side = 2 * (spectra.shape[1] - 1)
    ratios = []
    for period in PERIODS:
        place = side // period
        offsets = _NEIGHBOURS_OF_THE_LAST if period == 2 else _NEIGHBOURS
        around = spectra[:, [place + offset for offset in offsets]]
        ratios.append(spectra[:, place] / np.exp(np.log(around).mean(axis=1)))
    return np.stack(ratios, axis=1)


def grid(spectra: np.ndarray, spectra_of_real: np.ndarray) -> float | None:
    """How far the periods of 2, 4 and 8 pixels stand out, compared with real images.

    The power at a period over the geometric mean of the power 2 to 4 bins away on both sides (for
    period 2, the last bin, 2 to 5 bins below), divided by the same of real images; the largest
    over the periods and both axes. 1 is no grid; two sets of real images stay below 1.04.

    Args:
        spectra, spectra_of_real: of two sets of images of the same size, see `power_spectra`.

    Returns:
        None if a power is 0, so that there is nothing to compare with: images of one colour.
    """
    if not (spectra.all() and spectra_of_real.all()):
        return None
    return float(np.max(_peaks(spectra) / _peaks(spectra_of_real)))


def _spectra_of_set(images: Images) -> np.ndarray:
    blocks = (images[block] for block in image_blocks(images))
    sums = [len(block) * power_spectra(block) for block in blocks]
    return np.sum(sums, axis=0) / len(images)


def image_grid(images: Images, real: Images) -> float | None:
    """`grid` of images against real ones; None where it or `has_periods` says so.

    Args:
        images, real: (count, side, side, 3), of the same size.
    """
    if not has_periods(real.shape[1]):
        return None
    return grid(_spectra_of_set(images), _spectra_of_set(real))


class ReconstructionGrid(SplitMetrics):
    """grid of reconstructions from mu, against their originals; None as in `image_grid`."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self._defined = has_periods(inputs.shards.image_size)
        self._sums: list[Any] = [0.0, 0.0]  # of reconstructions and of originals

    def update(self, batch: ReconstructedBatch) -> None:
        if self._defined:
            for number, pictures in enumerate((batch.reconstructions, batch.images)):
                self._sums[number] += len(pictures) * power_spectra(pictures)

    def result(self) -> dict[str, Any]:
        return {"grid": grid(*self._sums) if self._defined else None}


class GridOfSamples(SampleMetrics):
    """grid against the real images; None as in `image_grid`."""

    def __init__(self, sets: RealSets) -> None:
        self._real = _spectra_of_set(sets.real) if has_periods(sets.real.shape[1]) else None

    def of(self, images: Images) -> dict[str, Any]:
        """The grid of a set."""
        return {"grid": None if self._real is None else grid(_spectra_of_set(images), self._real)}
