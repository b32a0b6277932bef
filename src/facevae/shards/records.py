"""The file format of the prepared images: TFRecord shards and a manifest.

A shard is a TFRecord file of `tf.train.Example` records with two bytes features:

    image   the square RGB image: size * size * 3 uint8 row by row, or a PNG or JPEG file,
            by the record_format of the manifest
    name    the image's file name in CelebA, or its path in a folder of pictures

If the data set has attribute labels, `<split>-attributes.npy` holds those of a split, in the order
of the images in the shards: (images, attributes) bool; or, if some labels are unknown, int8: 1, -1,
and 0 for unknown. `manifest.json` describes the whole folder:

    settings:   resize, image_size, record_format; and crop or, for a folder of
                pictures, layout and split_seed
    attributes: their names; empty if the data set has no labels
    splits:     per split: the number of images; the shards in order, each with file, images,
                bytes, and the checksums of its first and last record; the attributes' file, bytes
                and crc32c, or null
    skipped:    per split, the number of images beyond its limit; and the name of each image that
                could not be used, with the reason
    crc32c:     of all the above, as `_digest` writes it

Every byte that is read has a checksum: a record has its own, and its shard's ends tell it from the
shards of other runs, which have the same names and often the same sizes.

This module does not import TensorFlow, so that worker processes start quickly.
"""

import io
import itertools
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import google_crc32c
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facevae.common.errors import UserError
from facevae.common.files import check_file, has_only, write_json

MANIFEST = "manifest.json"
is_folder_of_shards = has_only(MANIFEST, "*.tfrecord", "*-attributes.npy")  # for `atomic_write`
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


_Hexadecimal = Annotated[str, Field(pattern="^[0-9a-f]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _File(_Part):
    file: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,99}$")]
    bytes: Annotated[int, Field(ge=0)]


class _Shard(_File):
    images: Annotated[int, Field(ge=0)]
    ends: _Hexadecimal


class _Labels(_File):
    crc32c: _Hexadecimal


class _Split(_Part):
    images: Annotated[int, Field(ge=1)]
    shards: Annotated[list[_Shard], Field(min_length=1)]
    attributes: _Labels | None


class _Settings(_Part):
    image_size: Annotated[int, Field(ge=1)]
    record_format: Literal["raw", "png", "jpeg"]


class _Manifest(_Part):
    """What is read of a manifest; there is more in it, for people."""

    settings: _Settings
    attributes: list[str]
    splits: dict[Literal["train", "validation", "test"], _Split] = Field(min_length=3)
    crc32c: _Hexadecimal


def _digest(content: Mapping[str, Any]) -> str:
    return crc32c(json.dumps(content, sort_keys=True).encode())


def write_manifest(shards: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a folder of shards, with its checksum."""
    write_json(shards / MANIFEST, {**content, "crc32c": _digest(content)})


def read_manifest(shards: Path) -> dict[str, Any]:
    """Read the manifest of a folder that `prepare` wrote, and look for each file in it.

    Of a shard, the size and the checksums of its ends are compared, which takes a few reads. Its
    records have checksums of their own, which TensorFlow looks at when it reads them.

    Raises:
        UserError: there is no manifest, it is damaged or of another version; or a file that it
            lists is missing, has another size, or is one of another run.
    """
    path = shards / MANIFEST
    try:
        check_file(path)
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError("it holds no object")
        content = {key: value for key, value in manifest.items() if key != "crc32c"}
        if manifest.get("crc32c", _digest(content)) != _digest(content):
            raise ValueError("its checksum is wrong")
        _Manifest.model_validate(manifest)
    except FileNotFoundError:
        raise UserError(
            f"{shards}: holds no {MANIFEST}; write the shards first: dvc repro"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(
            f"{path}: was written by another version of facevae ({reason}); {_WRITE_AGAIN}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); {_WRITE_AGAIN}") from None
    for split in manifest["splits"].values():
        for entry in (*split["shards"], split["attributes"]):
            if entry is None:
                continue
            file = shards / entry["file"]
            size = file.stat().st_size if file.is_file() else 0
            if size != entry["bytes"]:
                raise UserError(
                    f"{file}: has {size} bytes and should have {entry['bytes']}; {_WRITE_AGAIN}"
                )
        for entry in split["shards"]:
            file = shards / entry["file"]
            if shard_ends(file) != entry["ends"]:
                raise UserError(
                    find_damage(file)
                    or f"{file}: is not the shard that {MANIFEST} names; {_WRITE_AGAIN}"
                )
    return manifest


def shard_ends(path: Path) -> str:
    """The checksums that a shard's first and last record have in the file, in hexadecimal."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # A damaged length may be beyond all files.
        file.seek(min(12 + length, path.stat().st_size))
        first = file.read(4)
        file.seek(-min(4, path.stat().st_size), os.SEEK_END)
        return (first + file.read(4)).hex()


def crc32c(content: bytes) -> str:
    """The CRC-32C of some bytes, in hexadecimal."""
    return f"{google_crc32c.value(content):08x}"


def read_labels(path: Path, checksum: str) -> np.ndarray:
    """Read a file of labels that the manifest names, with this checksum.

    Returns:
        (images, attributes) int8: 1 if the image has the attribute, -1 if not, 0 if it is not
        known.

    Raises:
        UserError: there is no such file, or it has another checksum.
    """
    try:
        check_file(path)
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: is not there; {_WRITE_AGAIN}") from None
    if crc32c(content) != checksum:
        raise UserError(f"{path}: is damaged, its checksum is wrong; {_WRITE_AGAIN}")
    stored = np.load(io.BytesIO(content))
    return np.where(stored, 1, -1).astype(np.int8) if stored.dtype == bool else stored


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
