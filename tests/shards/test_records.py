"""The folder of prepared images: what is read is what was written, or there is a sentence."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import write_shards
from hypothesis import given
from hypothesis import strategies as st

from facevae.common.errors import UserError
from facevae.shards.records import (
    MANIFEST,
    crc32c,
    encode_example,
    find_damage,
    frame_record,
    read_labels,
    read_manifest,
    write_manifest,
)

SHARD = "train-00000-of-00003.tfrecord"
LABELS = "train-attributes.npy"


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    """A folder of shards for the test to spoil."""
    shutil.copytree(shards, tmp_path / "shards")
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def spoilt(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples of the tests of whatever comes in, which replace the manifest."""
    return Path(shutil.copytree(shards, tmp_path_factory.mktemp("spoilt") / "shards"))


def _outcome(read: Callable[[], object]) -> object:
    """What was read, or the sentence."""
    try:
        return read()
    except UserError as error:
        return str(error)


def test_manifest_names_the_checksums(shards: Path) -> None:
    manifest = read_manifest(shards)
    for name, split in manifest["splits"].items():
        assert split["images"] == sum(shard["images"] for shard in split["shards"])
        labels = read_labels(shards / f"{name}-attributes.npy", split["attributes"]["crc32c"])
        assert labels.shape == (split["images"], len(manifest["attributes"]))
    first = (shards / SHARD).read_bytes()
    length = int.from_bytes(first[:8], "little")
    ends = first[12 + length : 16 + length] + first[-4:]
    assert manifest["splits"]["train"]["shards"][0]["ends"] == ends.hex()


def test_manifest_with_a_flipped_byte_is_a_sentence_or_the_same(copy: Path, shards: Path) -> None:
    whole, expected = (copy / MANIFEST).read_bytes(), read_manifest(shards)
    refused = 0
    for position in range(0, len(whole), 2):
        content = bytearray(whole)
        content[position] ^= (0x01, 0x04, 0x80)[position % 3]
        (copy / MANIFEST).write_bytes(content)
        found = _outcome(lambda: read_manifest(copy))
        if isinstance(found, str):
            refused += 1
            assert found.startswith(f"{copy / MANIFEST}: ")
            assert found.endswith("write the shards again: dvc repro --force --single-item prepare")
        else:
            assert found == expected
    assert refused > len(whole) / 4  # the others are in the spaces between


def test_labels_with_a_flipped_byte_are_a_sentence(copy: Path, shards: Path) -> None:
    entry = read_manifest(shards)["splits"]["train"]["attributes"]
    whole = (copy / LABELS).read_bytes()
    for position in range(0, len(whole), 7):
        content = bytearray(whole)
        content[position] ^= 1
        (copy / LABELS).write_bytes(content)
        with pytest.raises(UserError, match=rf"{LABELS}: is damaged, its checksum is wrong; write"):
            read_labels(copy / LABELS, entry["crc32c"])


def test_shard_of_another_run_is_a_sentence(source: Path, copy: Path, tmp_path: Path) -> None:
    """It has the same name, the same length and intact records."""
    write_shards(source, tmp_path / "others", crop=178)
    shutil.copy(tmp_path / "others" / SHARD, copy)
    with pytest.raises(UserError, match=rf"{SHARD}: is not the shard that {MANIFEST} names; write"):
        read_manifest(copy)


def test_shards_that_are_exchanged_are_a_sentence(copy: Path) -> None:
    second = copy / SHARD.replace("00000-", "00001-")
    os.replace(second, copy / "second")
    os.replace(copy / SHARD, second)
    os.replace(copy / "second", copy / SHARD)
    with pytest.raises(UserError, match="is not the shard that"):
        read_manifest(copy)


def test_shards_of_an_earlier_version_are_a_sentence(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest["crc32c"]
    del manifest["splits"]["test"]["shards"][0]["ends"]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    sentence = r"was written by another version of facevae \(splits.test.shards.0.ends: Field req"
    with pytest.raises(UserError, match=sentence):
        read_manifest(copy)


@pytest.mark.parametrize("name", [MANIFEST, LABELS, SHARD])
@pytest.mark.parametrize("kind", ["a named pipe", "a folder", "a device"])
def test_what_is_not_a_file_does_not_hang(copy: Path, name: str, kind: str) -> None:
    path = copy / name
    path.unlink()
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    start = time.monotonic()
    with pytest.raises(UserError, match=name):
        read_manifest(copy)
    if name == LABELS:
        with pytest.raises(UserError, match=rf"{LABELS}: is {kind}"):
            read_labels(path, "00000000")
        path.rmdir() if kind == "a folder" else path.unlink()
        with pytest.raises(UserError, match=rf"{LABELS}: is not there"):
            read_labels(path, "00000000")
    assert time.monotonic() - start < 5


def test_reading_the_manifest_reads_little_of_the_shards(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stage does so when it begins, and CelebA's shards have gigabytes."""
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read whole"))
    read_manifest(copy)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(content=st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_manifest_is_a_sentence(spoilt: Path, content: bytes) -> None:
    (spoilt / MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match=rf"^{spoilt / MANIFEST}: "):
        read_manifest(spoilt)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "\ufeff{}"])
def test_any_manifest_that_json_itself_refuses_is_a_sentence(spoilt: Path, content: str) -> None:
    (spoilt / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=rf"^{spoilt / MANIFEST}: is damaged"):
        read_manifest(spoilt)


def _places(value: Any, place: tuple = ()) -> list[tuple]:
    """Where the values of a manifest are."""
    found: list[tuple] = []
    if not isinstance(value, dict | list):
        return found
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        found += [(*place, key), *_places(each, (*place, key))]
    return found


@given(data=st.data())
def test_any_value_in_a_manifest_is_a_result_or_a_sentence(
    shards: Path, spoilt: Path, data: st.DataObject
) -> None:
    """Values that nobody has written, with a checksum that is right."""
    manifest = json.loads((shards / MANIFEST).read_text())
    del manifest["crc32c"]
    places = _places(manifest)
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=2)):
        home = manifest
        try:
            for key in place[:-1]:
                home = home[key]
        except (KeyError, IndexError, TypeError):
            continue  # the first has replaced what holds the second
        if isinstance(home, list if isinstance(place[-1], int) else dict):
            home[place[-1]] = data.draw(_JSON)
    write_manifest(spoilt, manifest)
    found = _outcome(lambda: read_manifest(spoilt))
    if isinstance(found, str):
        assert found.startswith(str(spoilt))
    else:
        assert isinstance(found, dict)
        assert found["settings"]["image_size"] >= 1


@given(content=st.binary(max_size=300), kept=st.booleans())
def test_any_bytes_in_place_of_a_shard_are_a_sentence(
    shards: Path, spoilt: Path, content: bytes, kept: bool
) -> None:
    """Also with the length that the manifest names."""
    whole = (shards / SHARD).read_bytes()
    place = sum(content) % len(whole)
    if kept:
        content = (whole[:place] + content + whole[place + len(content) :])[: len(whole)]
    shutil.copy(shards / MANIFEST, spoilt)
    (spoilt / SHARD).write_bytes(content)
    try:
        found = _outcome(lambda: read_manifest(spoilt))
        damage = find_damage(spoilt / SHARD)
    finally:
        shutil.copy(shards / SHARD, spoilt)
    if content == whole:
        assert (damage, type(found)) == (None, dict)
    elif kept:
        assert damage is not None  # which is looked for when TensorFlow meets it
    else:
        assert isinstance(found, str)


@given(
    records=st.lists(st.binary(max_size=40), max_size=4),
    position=st.integers(0, 10**6),
    mask=st.integers(1, 255),
)
def test_any_records_are_intact_until_a_byte_of_them_changes(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], position: int, mask: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tfrecord"
    content = b"".join(map(frame_record, records))
    path.write_bytes(content)
    assert find_damage(path) is None
    if content:
        damaged = bytearray(content)
        damaged[position % len(content)] ^= mask
        path.write_bytes(damaged)
        assert "is damaged; write the shards again" in str(find_damage(path))


def _fields(message: bytes) -> list[tuple[int, bytes]]:
    """The fields of a protobuf message whose fields all have lengths: (number, content)."""
    found, position = [], 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        tag = varint()
        assert tag & 7 == 2
        length = varint()
        found.append((tag >> 3, message[position : position + length]))
        position += length
    return found


@given(features=st.dictionaries(st.text(max_size=20), st.binary(max_size=300), max_size=4))
def test_any_features_are_those_of_the_example(features: dict[str, bytes]) -> None:
    """Example.features = 1, Features.feature = 1, its key = 1 and value = 2, bytes_list, value."""
    ((number, entries),) = _fields(encode_example(features))
    assert number == 1
    found = {}
    for number, entry in _fields(entries):
        (_, key), (two, feature) = _fields(entry)
        ((_, bytes_list),) = _fields(feature)
        ((_, value),) = _fields(bytes_list)
        assert (number, two) == (1, 2)
        found[key.decode()] = value
    assert found == features


def test_labels_of_other_bytes_have_another_checksum() -> None:
    assert crc32c(b"123456789") == "e3069283"  # the check value of CRC-32C
    assert np.unique([crc32c(bytes([each])) for each in range(256)]).size == 256
