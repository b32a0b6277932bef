"""A zip's members at random, in memory that does not grow with their number.

`zipfile` keeps half a kilobyte per member in every process that opens the archive, which is 100 MB
at CelebA's 202,599. Here one process reads the directory into a table of a few bytes per member,
and a worker that is handed rows of it reads those members and nothing else.

Format: PKWARE's APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16
(its end, and the 64-bit form of it).
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from facevae.common.errors import UserError

_END = struct.Struct("<4s4H2LH")
_END_64_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_DIRECTORY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT = 0xFFFF

_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 0x1, 0x800  # bits of a member's flags
_ZIP64_EXTRA = 1


class Member(NamedTuple):
    """Where a member lies and what its bytes must be.

    Attributes:
        name: full name inside the archive.
        offset: of its local header, bytes from the start of the file.
        packed, size: bytes in the archive, and unpacked.
        crc: CRC-32 of the unpacked bytes.
        method: 0 stored, 8 deflated.
        encrypted: whether it needs a password.
    """

    name: str
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    encrypted: bool


def _find_directory(file: BinaryIO) -> tuple[int, int]:
    """Go to the directory's start: its length in bytes, and how many stand before the archive."""
    length = file.seek(0, 2)
    file.seek(max(0, length - _END.size - _MAX_COMMENT - _END_64_LOCATOR.size))
    tail_start = file.tell()
    tail = file.read()
    found = tail.rfind(b"PK\5\6")
    if found < 0 or found + _END.size > len(tail):
        file.seek(0)
        if file.read(512).lstrip()[:1] == b"<":
            raise UserError("is a web page, not a zip: the server sent a notice instead of it")
        raise UserError("is not a whole zip file: a download cut short, or something else")
    end = tail_start + found
    _, _, _, _, _, size, offset, _ = _END.unpack_from(tail, found)
    locator = found - _END_64_LOCATOR.size
    if locator >= 0 and tail[locator : locator + 4] == b"PK\6\7":
        file.seek(_END_64_LOCATOR.unpack_from(tail, locator)[2])
        record = file.read(_END_64.size)
        if record[:4] != b"PK\6\6" or len(record) < _END_64.size:
            raise UserError("is not a whole zip file: the end of its directory is damaged")
        end = file.tell() - _END_64.size
        *_, size, offset = _END_64.unpack(record)
    before = end - size - offset
    if before < 0:
        raise UserError("is not a whole zip file: its directory lies where the file has no bytes")
    file.seek(before + offset)
    return size, before


def members(file: BinaryIO) -> Iterator[Member]:
    """The members of an open zip, in the directory's order; folders are left out.

    Raises:
        UserError: not a zip, or not a whole one.
    """
    left, before = _find_directory(file)
    while left > 0:
        entry = file.read(_DIRECTORY.size)
        if len(entry) < _DIRECTORY.size or entry[:4] != b"PK\1\2":
            raise UserError("is not a whole zip file: its directory is damaged")
        (_, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length,
         comment_length, _, _, _, offset) = _DIRECTORY.unpack(entry)  # fmt: skip
        name = file.read(name_length)
        extra = file.read(extra_length)
        file.read(comment_length)
        left -= _DIRECTORY.size + name_length + extra_length + comment_length
        if 0xFFFFFFFF in (size, packed, offset):
            size, packed, offset = _zip64(extra, size, packed, offset)
        if not name.endswith(b"/"):
            yield Member(
                name.decode("utf-8" if flags & _UTF8 else "cp437", errors="replace"),
                before + offset,
                packed,
                size,
                crc,
                method,
                bool(flags & _ENCRYPTED),
            )


def _zip64(extra: bytes, *fields: int) -> list[int]:
    """The fields, with those that did not fit into 32 bits replaced from the extra field."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        position += 4
        if kind == _ZIP64_EXTRA:
            wide = iter(
                struct.unpack_from(f"<{min(length, len(extra) - position) // 8}Q", extra, position)
            )
            return [next(wide, field) if field == 0xFFFFFFFF else field for field in fields]
        position += length
    return list(fields)


def read_member(
    file: BinaryIO, offset: int, packed: int, size: int, crc: int, method: int
) -> bytes:
    """The unpacked bytes of one member; the arguments are those of its `Member`.

    Raises:
        UserError: they are not there, or not what the directory says.
    """
    file.seek(offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
        raise UserError("does not lie where the archive's directory says")
    *_, name_length, extra_length = _LOCAL.unpack(header)
    file.seek(name_length + extra_length, 1)
    content = file.read(packed)
    if method == _DEFLATED:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # No more than was announced: what inflates to more is a bomb or damaged.
            content = inflate.decompress(content, size + 1)
        except zlib.error as error:
            raise UserError(f"cannot be unpacked ({error})") from None
    elif method != _STORED:
        raise UserError(f"is packed with method {method}; repack the archive with deflate")
    if len(content) != size or zlib.crc32(content) != crc:
        raise UserError("is damaged in the archive: its checksum is wrong")
    return content
