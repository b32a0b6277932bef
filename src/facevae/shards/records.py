"""The file format of the prepared images: TFRecord shards and a manifest.

A shard is a TFRecord file of `tf.train.Example` records with two bytes features:

    image   the square RGB image: size * size * 3 uint8 row by row, or a PNG or JPEG file,
            by the record_format of the manifest
    name    the image's file name in CelebA

Where the source has attributes, `<split>-attributes.npy` says which hold for each image, in the
shards' order: (images, attributes) bool. And `manifest.json` beside them says what they hold:

    settings:   crop, resize, image_size, record_format
    attributes: their names; none where the source has no attributes
    splits:     per split the number of images; its shards in order: file, images, bytes; and its
                attributes: file, bytes; or null
    skipped:    per split how many images were beyond its limit; and of those that could not be
                used, name and reason

TensorFlow is not needed here, and is kept out so that worker processes start in an instant.
"""

import json
import struct
from pathlib import Path
from typing import Any

import google_crc32c

from facevae.common.errors import UserError

MANIFEST = "manifest.json"
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
    """A serialised `tf.train.Example` of bytes features.

    Written out by hand because importing TensorFlow in each worker would take longer than its
    work: Example.features = 1, Features.feature = 1 (a map: key = 1, value = 2),
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
    """One TFRecord: length, its checksum, content, its checksum (TensorFlow's TFRecord format)."""
    length = struct.pack("<Q", len(content))
    return length + _masked_crc(length) + content + _masked_crc(content)


def read_manifest(shards: Path) -> dict[str, Any]:
    """The manifest of a folder that `prepare` wrote, whose shards are there and of their length.

    Raises:
        UserError: there is none, or a shard is missing or cut short.
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
    """A sentence about the first record of a shard that fails its checksum; None if all hold."""
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
