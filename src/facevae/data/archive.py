"""Zip archives: the list of members in one process, the bytes of a member in any process.

The standard library's `zipfile` keeps half a kilobyte per member in every process that opens the
archive, which is 100 MB for CelebA's 202,599 images. Only the parent process opens it so, to list
the members. A worker process is given the position of a member and reads that member alone.

Format: PKWARE's APPNOTE.TXT, section 4.3.7 (local header).
"""

import errno
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from facevae.common.errors import UserError
from facevae.common.files import open_regular

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")

# What zipfile raises for a damaged directory. In the 64-bit records at its end, a position or a
# length may be any number: to seek there is an invalid argument, to read as much takes more memory
# than there is, and neither may fit the system's integers.
_DAMAGED = (zipfile.BadZipFile, struct.error, OSError, MemoryError, OverflowError, ValueError)


def list_members(path: Path) -> list[zipfile.ZipInfo]:
    """The members of a zip, in the order of its directory, without the folders.

    Raises:
        UserError: the file is not a zip, is not a whole one, or uses an unknown version of the
            format.
        OSError: the file cannot be opened or read.
    """
    with open_regular(path) as file:
        length = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                # `is_dir` of Python 3.11 fails for an empty name.
                members = [each for each in archive.infolist() if not each.filename.endswith("/")]
        except NotImplementedError as error:
            raise UserError(
                f"uses a version of the zip format that is not supported ({error}); fetch it "
                f"again, or unpack it and zip it again with deflate"
            ) from None
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            file.seek(0)
            if file.read(512).lstrip()[:1] == b"<":
                raise UserError(
                    "is a web page, not a zip: the server sent a notice instead of the archive"
                ) from None
            raise UserError(
                f"is not a whole zip file: its download was cut short, or it is damaged; fetch it "
                f"again ({str(error) or type(error).__name__})"
            ) from None
    for member in members:
        # zipfile counts positions from the directory at the end, so a lost start makes some < 0.
        if not 0 <= member.header_offset < length:
            raise UserError(
                f"is not a whole zip file: by its directory, {member.filename!r} begins outside "
                f"the file"
            )
    return members


def read_member(
    file: BinaryIO, offset: int, packed: int, size: int, crc: int, method: int
) -> bytes:
    """The unpacked bytes of one member of an open zip.

    Args:
        offset: position of the member's local header, in bytes from the start of the file.
        packed: length in the archive, bytes.
        size: length when unpacked, bytes.
        crc: CRC-32 of the unpacked bytes.
        method: `zipfile.ZIP_STORED` or `zipfile.ZIP_DEFLATED`.

    Raises:
        UserError: there is no member at this position, its method is another one, or its bytes
            do not have this length and this CRC-32.
    """
    file.seek(offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
        raise UserError("is not where the archive's directory says")
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    file.seek(name_length + extra_length, 1)
    content = file.read(packed)
    if method == zipfile.ZIP_DEFLATED:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One byte more than announced is enough to detect a zip bomb or damage.
            content = inflate.decompress(content, size + 1)
        except zlib.error as error:
            raise UserError(f"cannot be unpacked ({error})") from None
    elif method != zipfile.ZIP_STORED:
        raise UserError(
            f"is compressed with method {method}; unpack the archive and zip it with deflate"
        )
    if len(content) != size or zlib.crc32(content) != crc:
        raise UserError("is damaged in the archive: its checksum is wrong")
    return content
