"""Whether the pictures of a finished run on the built-in faces show what they should.

    python tests/built_in_pictures.py

prints what it measures for both variants, and ends with 1 if a bar is missed:
`make check-pictures`.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tabulate import tabulate

from facevae.common.errors import UserError
from facevae.common.parameters import VARIANTS, load_parameters
from facevae.common.runtime import load_tensorflow
from facevae.reports.inputs import read_json

BUILT_IN = "data/synthetic"
CORNER = 8  # side of the square in each corner, pixels
# What an attribute network must find in reconstructions, as a share of what it finds in originals.
WORN = ("Eyeglasses", "Wearing_Hat")
LEAST_RATIO = 0.9
MOST_DIFFERENCE = 10.0  # of the corners' colours, in 1/255
MOST_GRID = 1.1

# What was measured, as text; None if it is not defined; and whether it keeps to its bar.
Row = tuple[str, str | None, str, bool]


def recalls(
    found: np.ndarray, labels: np.ndarray, thresholds: np.ndarray, names: tuple[str, ...]
) -> dict[str, float]:
    """The share of the images with each attribute of `WORN` in which a network finds it.

    Args:
        found: its probabilities, (images, attributes).
        labels: true labels, (images, attributes): 1, -1 or 0 (unknown).
        thresholds: of the probabilities, (attributes,).
        names: of the attributes.
    """
    places = {name: names.index(name) for name in WORN}
    return {
        name: float(np.mean(found[labels[:, place] == 1, place] > thresholds[place]))
        for name, place in places.items()
    }


def corner_difference(originals: np.ndarray, reconstructions: np.ndarray) -> float:
    """How far the mean colours of the four corners are apart, in 1/255.

    The mean colour of each corner of 8 x 8 pixels is compared with that of the original; the
    absolute differences are averaged over channels, corners and images.

    Args:
        originals, reconstructions: (count, size, size, 3) in [0, 1].
    """
    ends = slice(0, CORNER), slice(-CORNER, None)

    def colours(images: np.ndarray) -> np.ndarray:
        corners = [images[:, rows, columns] for rows in ends for columns in ends]
        return np.stack([corner.mean(axis=(1, 2)) for corner in corners])

    return float(255 * np.abs(colours(originals) - colours(reconstructions)).mean())


def compared(
    recalled: Mapping[str, float],
    recalled_of_originals: Mapping[str, float],
    difference: float,
    grids: Mapping[str, float | None],
) -> list[Row]:
    """The measurements beside their bars.

    Args:
        recalled, recalled_of_originals: `recalls` of reconstructions and of originals.
        difference: `corner_difference`.
        grids: metric `grid` of each kind of picture.
    """
    rows: list[Row] = []
    for name, share in recalled.items():
        of_originals = recalled_of_originals[name]
        text = f"{share:.3f} of {of_originals:.3f}"
        if of_originals:
            text += f" = {share / of_originals:.3f}"
        kept = of_originals > 0 and share / of_originals >= LEAST_RATIO
        rows.append((f"recall of {name}", text, f">= {LEAST_RATIO}", kept))
    difference_kept = difference <= MOST_DIFFERENCE
    rows.append(("corners, 1/255", f"{difference:.1f}", f"<= {MOST_DIFFERENCE}", difference_kept))
    for kind, grid in grids.items():
        value = None if grid is None else f"{grid:.3f}"
        rows.append((f"grid of {kind}", value, f"<= {MOST_GRID}", not grid or grid <= MOST_GRID))
    return rows


def main() -> int:
    source = load_parameters("params.yaml").data.source
    if source != BUILT_IN:
        raise UserError(
            f"params.yaml: data.source is {source}, but the bars are those of {BUILT_IN}"
        )
    metrics = {name: read_json(Path(f"metrics/{name}.json")) for name in VARIANTS}

    load_tensorflow()
    from facevae.evaluation.attribute_classifier import (
        learned_attributes,
        load_classifier,
        thresholds,
    )
    from facevae.latent.generation import reconstructions
    from facevae.model.saving import load_model
    from facevae.shards.batches import Shards, load_images

    shards = Shards(Path("data/tfrecords"))
    network = load_classifier(Path("models/attributes"))
    if network is None:
        raise UserError("models/attributes: is of data without labels; run dvc repro")
    names = learned_attributes(shards)
    originals, labels = load_images(shards, "test"), shards.labels("test", names)
    limits = thresholds(shards.labels("train", names))

    def recalled(images: np.ndarray) -> dict[str, float]:
        return recalls(network.predict(images, verbose=0), labels, limits, names)

    of_originals = recalled(originals)
    lines, missed = [], False
    for variant in VARIANTS:
        made = reconstructions(load_model(Path(f"models/{variant}.keras")), originals)
        grids = {
            "reconstructions": metrics[variant]["test"]["grid"],
            "samples": metrics[variant]["samples"]["grid"],
        }
        difference = corner_difference(originals, made)
        for what, value, bar, kept in compared(recalled(made), of_originals, difference, grids):
            lines.append((variant, what, value or "-", bar, "" if kept else "missed"))
            missed |= not kept
    print(tabulate(lines, ("variant", "on the test split", "measured", "bar", ""), "simple"))
    return int(missed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
