"""Which images are prepared, for which split and with which labels: known before any is read."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from facevae.common.errors import UserError, printable
from facevae.common.parameters import Data, Limit
from facevae.data.celeba import SPLITS, find_labels, read_attributes, read_partition
from facevae.data.folder import (
    check_folder,
    find_celeba,
    list_pictures,
    read_labels,
    rows_of_splits,
)
from facevae.data.images import list_images
from facevae.data.lists import among, match


@dataclasses.dataclass(frozen=True)
class Plan:
    """The images to prepare, chosen before any image is read.

    Attributes:
        store: the archive or folder that has them.
        splits: what assigns them to splits: the partition file, or the folder of pictures.
        remedy: how the sentence goes on that says that a split is empty.
        images: rows of `facevae.data.images.list_images` per split.
        bad: names of what is there but cannot be used, with the reason.
        listing: the file that lists images: the partition file, or the labels of the pictures.
        absent: names that it lists but that are not there; those in the partition file only of the
            splits that lack images to reach their limit.
        beyond_limit: number of images that the limit of a split leaves out.
        attributes: the attributes' names; empty if the source has no attribute file.
        labels: rows of `facevae.data.celeba.Attributes.packed` for `images`, per split; empty if
            the source has no attribute file.
    """

    store: Path
    splits: Path
    remedy: str
    images: dict[str, np.ndarray]
    bad: dict[str, str]
    listing: Path
    absent: list[str]
    beyond_limit: dict[str, int]
    attributes: tuple[str, ...]
    labels: dict[str, np.ndarray]


def make_plan(source: Path, settings: Data) -> Plan:
    """Choose the images of a source by `settings.layout` and `settings.limit`.

    Raises:
        UserError: the source or one of its lists cannot be used.
    """
    if settings.layout == "folder":
        return _plan_folder(source, settings)
    return _plan_celeba(source, settings.limit)


def _plan_celeba(source: Path, limit: Limit) -> Plan:
    copy = find_celeba(source)
    images = list_images(copy.images)
    names = images["name"]
    members = read_partition(copy.partition)
    listed = np.concatenate(list(members.values()))
    order = np.argsort(listed, kind="stable")
    listed = listed[order]
    rows = match(names, listed)
    is_absent = np.ones(len(listed), bool)
    is_absent[rows[rows >= 0]] = False
    twice = names[1:][names[1:] == names[:-1]]
    bad = {
        os.fsdecode(name): reason
        for which, reason in (
            (names[rows < 0], f"is not in {copy.partition.name}, so it is in no split"),
            (twice, "appears in the archive more than once"),
        )
        for name in which.tolist()
    }
    # The split of each line, and none for an image without a line, whose row is -1.
    split_of = np.append(
        np.repeat(np.arange(len(SPLITS)), [*map(len, members.values())])[order], -1
    )
    chosen, beyond, absent = {}, {}, []
    for number, split in enumerate(SPLITS):
        there = images[(split_of[rows] == number) & ~among(names, twice)]
        most = getattr(limit, split)
        chosen[split] = there[:most]
        beyond[split] = len(there) - len(chosen[split])
        if most is None or len(there) < most:
            absent += listed[is_absent & (split_of[:-1] == number)].tolist()
    names_of, labels = _labels(copy.attributes, chosen)
    alone = f", or set data.layout: folder and data.source: {copy.images}, without lists"
    return Plan(
        store=copy.images,
        splits=copy.partition,
        remedy=f" that are there; give it some in this file{alone if copy.images.is_dir() else ''}",
        images=chosen,
        bad=bad,
        listing=copy.partition,
        absent=[*map(os.fsdecode, absent)],
        beyond_limit=beyond,
        attributes=names_of,
        labels=labels,
    )


def _plan_folder(source: Path, settings: Data) -> Plan:
    check_folder(source)
    pictures, bad = list_pictures(source)
    names, path = pictures["name"], find_labels(source)
    attributes, packed, absent = read_labels(path, names) if path else ((), None, [])
    chosen, labels, beyond = {}, {}, {}
    for split, rows in rows_of_splits(names, settings.split_seed).items():
        within = rows[: getattr(settings.limit, split)]
        beyond[split] = len(rows) - len(within)
        chosen[split] = pictures[within]
        if packed is not None:
            labels[split] = packed[within]
    return Plan(
        store=source,
        splits=source,
        remedy=f" of its {len(pictures)}; add pictures, or try another data.split_seed",
        images=chosen,
        bad=bad,
        listing=path or source,
        absent=absent,
        beyond_limit=beyond,
        attributes=attributes,
        labels=labels,
    )


def _labels(
    path: Path | None, images: Mapping[str, np.ndarray]
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The attributes' names and the packed labels per split; both empty without the file."""
    if path is None:
        return (), {}
    attributes = read_attributes(path)
    try:
        labels = {split: attributes.of(rows["name"]) for split, rows in images.items()}
    except KeyError as error:
        raise UserError(
            f"{path}: has no line for {printable(os.fsdecode(error.args[0]))}; fetch the file "
            f"again, or remove it from the folder to train without labels"
        ) from None
    return attributes.names, labels
