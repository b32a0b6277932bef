"""The file format of the prepared images: TFRecord shards and a manifest.

A shard is a TFRecord file of `tf.train.Example` records with two bytes features:

    image   the square RGB image: size * size * 3 uint8 row by row, or a PNG or JPEG file,
            by the record_format of the manifest
    name    the image's file name in CelebA

If the data set has attribute labels, `<split>-attributes.npy` holds those of a split, in the order
of the images in the shards: (images, attributes) bool. `manifest.json` describes the whole folder:

    settings:   crop, resize, image_size, record_format
    attributes: their names; empty if the data set has no labels
    splits:     per split: the number of images; the shards in order, each with file, images and
                bytes; the attributes' file and bytes, or null
    skipped:    per split, the number of images beyond its limit; and the name of each image that
                could not be used, with the reason

This module does not import TensorFlow, so that worker processes start quickly.
"""

import itertools
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c

from facevae.common.errors import UserError

MANIFEST = "manifest.json"
_HEADER, _CHECKSUM = 12, 4  # bytes in front of a record's content, and behind it
_WRITE_AGAIN = "write the shards again: dvc repro --force --single-item prepare"


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def encode_example(features: dict[str, bytes]) -> bytes:
    """Serialise a `tf.train.Example` whose features are all bytes.

    Encoded by hand, because importing TensorFlow takes a worker longer than its work. The protobuf
    fields: Example.features = 1, Features.feature = 1 (a map: key = 1, value = 2),
    Feature.bytes_list = 1, BytesList.value = 1.
    """
    entries = b"".join(
        _field(1, _field(1, key.encode()) + _field(2, _field(1, _field(1, value))))
        for key, value in sorted(features.items())
    )
    return _field(1, entries)


def _masked_crc(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frame_record(content: bytes) -> bytes:
    """Frame one record as TensorFlow's TFRecord format asks.

    The length (8 bytes, little-endian), its masked CRC-32C (4 bytes), the content, and the
    content's masked CRC-32C (https://www.tensorflow.org/tutorials/load_data/tfrecord).
    """
    length = struct.pack("<Q", len(content))
    return length + _masked_crc(length) + content + _masked_crc(content)


def read_manifest(shards: Path) -> dict[str, Any]:
    """Read the manifest of a folder that `prepare` wrote, and check the sizes of the files in it.

    Raises:
        UserError: there is no manifest, it is damaged, or a file that it lists is missing or has
            another size.
    """
    path = shards / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{shards}: holds no {MANIFEST}; write the shards first: dvc repro"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error}); {_WRITE_AGAIN}") from None
    for split in manifest["splits"].values():
        for entry in (*split["shards"], split["attributes"]):
            if entry is None:
                continue
            file = shards / entry["file"]
            size = file.stat().st_size if file.exists() else 0
            if size != entry["bytes"]:
                raise UserError(
                    f"{file}: has {size} bytes and should have {entry['bytes']}; {_WRITE_AGAIN}"
                )
    return manifest


def find_damage(path: Path) -> str | None:
    """Look for a record of a shard that fails its checksum.

    Returns:
        A sentence that names the first damaged record and what to do; None if all are intact.
    """
    content = memoryview(path.read_bytes())
    position, number = 0, 0
    while position < len(content):
        number += 1
        header = bytes(content[position : position + 8])
        length = int.from_bytes(header, "little")
        start = position + 12
        if (
            bytes(content[position + 8 : start]) != _masked_crc(header)
            or bytes(content[start + length : start + length + 4])
            != _masked_crc(bytes(content[start : start + length]))
        ):  # fmt: skip
            return f"{path}: record {number} is damaged; {_WRITE_AGAIN}"
        position = start + length + 4
    return None


def record_places(path: Path, most: int) -> list[tuple[int, int]]:
    """Where the first records of a shard are, at most so many: position and length of each content.

    Raises:
        UserError: the length of a record fails its checksum.
    """

    def places() -> Iterator[tuple[int, int]]:
        with open(path, "rb") as file:
            while header := file.read(_HEADER):
                if header[8:] != _masked_crc(header[:8]):
                    raise _damaged(path)
                length = int.from_bytes(header[:8], "little")
                yield file.tell(), length
                file.seek(length + _CHECKSUM, os.SEEK_CUR)

    return list(itertools.islice(places(), most))


def read_record(path: Path, position: int, length: int) -> bytes:
    """The content of a record at a place that `record_places` gave.

    Raises:
        UserError: it fails its checksum.
    """
    with open(path, "rb") as file:
        file.seek(position)
        content, checksum = file.read(length), file.read(_CHECKSUM)
    if checksum != _masked_crc(content):
        raise _damaged(path)
    return content


def _damaged(path: Path) -> UserError:
    return UserError(find_damage(path) or f"{path}: has changed while it was read; {_WRITE_AGAIN}")
