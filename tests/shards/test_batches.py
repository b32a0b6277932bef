"""Training batches: every image once an epoch, mirrored or not, with noise of its own."""

from pathlib import Path

import numpy as np
from helpers import FIRST_BATCHES

from facevae.shards.batches import Shards, load_images, training_batches


def test_every_image_once_an_epoch_in_another_order(shards: Path) -> None:
    def epoch(number: int, seed: int = 1) -> np.ndarray:
        batches = training_batches(
            Shards(shards),
            batch_size=8,
            latent_size=4,
            horizontal_flips=False,
            seed=seed,
            epoch=number,
        )
        return np.concatenate([batch["images"] for batch in batches])

    in_order = load_images(Shards(shards), "train")

    def order(shuffled: np.ndarray) -> list[int]:
        return [int(np.argmax((in_order == image).all((1, 2, 3)))) for image in shuffled]

    first, second, again, other = epoch(0), epoch(1), epoch(0), epoch(0, seed=2)
    assert sorted(order(first)) == sorted(order(second)) == list(range(48))
    assert order(first) == order(again)
    assert len({tuple(order(x)) for x in (first, second, other, in_order)}) == 4


def test_noise_is_standard_normal_and_never_repeats(shards: Path) -> None:
    drawn = [
        batch["epsilon"].numpy()
        for epoch in range(20)
        for batch in training_batches(
            Shards(shards),
            batch_size=8,
            latent_size=32,
            horizontal_flips=False,
            seed=1,
            epoch=epoch,
        )
    ]
    noise = np.concatenate(drawn)
    assert len(np.unique(noise[:, 0])) == len(noise) == 960
    standard_error = noise.size**-0.5
    assert abs(noise.mean()) < 5 * standard_error
    assert abs(noise.var() - 1) < 5 * 2**0.5 * standard_error


def test_flips_mirror_half_of_the_images(shards: Path) -> None:
    plain, flipped, again, other = (
        np.concatenate(
            [
                batch["images"]
                for batch in training_batches(
                    Shards(shards), **{**FIRST_BATCHES, "horizontal_flips": flips, "epoch": epoch}
                )
            ]
        )
        for flips, epoch in ((False, 0), (True, 0), (True, 0), (True, 1))
    )
    mirrored = plain[:, :, ::-1]
    is_mirrored = (flipped == mirrored).all((1, 2, 3))
    np.testing.assert_array_equal(
        np.where(is_mirrored[:, None, None, None], mirrored, plain), flipped
    )
    assert 12 <= is_mirrored.sum() <= 36  # of 48: beyond three standard deviations otherwise
    np.testing.assert_array_equal(flipped, again)
    # The same images in another order, others of them mirrored.
    assert {image.tobytes() for image in flipped} != {image.tobytes() for image in other}
