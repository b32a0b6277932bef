"""The file format of the prepared images: TFRecord shards and a manifest.

A shard is a TFRecord file of `tf.train.Example` records with two bytes features:

    image   size * size * 3 uint8, row by row, RGB
    name    the image's file name in CelebA

and `manifest.json` beside the shards says what they hold:

    settings: image_size, crop, resize
    splits:   per split the number of images, and its shards in order, each with its own number
    skipped:  how many images were left out, and why

TensorFlow is not needed here, and is kept out so that worker processes start in an instant.
"""

import json
import struct
from pathlib import Path
from typing import Any

import google_crc32c

from facevae.errors import UserError

MANIFEST = "manifest.json"


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
    """The manifest of a folder that `prepare` wrote.

    Raises:
        UserError: there is none.
    """
    try:
        return json.loads((shards / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{shards}: holds no {MANIFEST}; write the shards first: dvc repro"
        ) from None
