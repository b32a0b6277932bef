"""Whether the prepared images suffice for what params.yaml asks for, told before anything trains.

This module does not import TensorFlow, so that a stage that cannot run is refused at once.
"""

from pathlib import Path

import numpy as np

from facevae.common.errors import UserError
from facevae.common.parameters import Parameters
from facevae.common.requests import attribute_mistakes, count_mistakes
from facevae.shards.records import read_labels, read_manifest
from facevae.shards.subsets import random_subset

# A mean over so many training images is as good as over all of them.
LABELLED_IMAGES = 20_000


def check_request(parameters: Parameters, shards: Path) -> None:
    """Check that a folder of shards suffices for training, the prior and the pictures.

    Raises:
        UserError: as `read_manifest`; or the data does not suffice, one line per mistake.
    """
    manifest = read_manifest(shards)
    content, splits = parameters.content(), manifest["splits"]
    names, there = content["generate"]["attributes"], manifest["attributes"]
    mistakes = count_mistakes(content, {name: split["images"] for name, split in splits.items()})
    unknown = attribute_mistakes(names, there)
    mistakes += unknown
    if names and there and not unknown:
        entry = splits["train"]["attributes"]
        labels = read_labels(shards / entry["file"], entry["crc32c"])
        labels = labels[random_subset(len(labels), LABELLED_IMAGES)]
        labels = labels[:, [there.index(name) for name in names]]
        mistakes += _without_direction(names, labels)
    if mistakes:
        raise UserError("\n".join(mistakes))


def _without_direction(names: list[str], labels: np.ndarray) -> list[str]:
    """Of which attributes no image is known to have them, or none to lack them."""
    looked = f"of the {len(labels):,} training images looked at"
    found = []
    for name, column in zip(names, labels.T, strict=True):
        kinds = set(column.tolist())
        if {1, -1} <= kinds:
            continue
        if 0 in kinds:
            wrong = f"none {looked} is known to {'lack' if 1 in kinds else 'have'} {name}"
        else:
            wrong = f"{'all' if 1 in kinds else 'none'} {looked} have {name}"
        found.append(f"generate.attributes: {wrong}, so it has no direction; leave it out")
    return found
