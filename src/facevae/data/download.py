"""Download and verify CelebA's official files, or verify the files that a user put in place.

    python -m facevae.data.download [FOLDER] [--mirror URL]

`make celeba` runs this command.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import gdown
import requests

from facevae.common.errors import UserError
from facevae.common.locks import stale_note, try_lock
from facevae.common.runtime import counting
from facevae.data.celeba import ARCHIVE, ATTRIBUTES, PAGE, PARTITION


@dataclasses.dataclass(frozen=True)
class OfficialFile:
    """What a file must contain, and where its authors published it.

    Attributes:
        name: file name, in the folder and on a mirror.
        size: length, bytes.
        sha256: SHA-256 checksum, hexadecimal.
        drive_id: identifier on Google Drive.
    """

    name: str
    size: int
    sha256: str
    drive_id: str


# The same identifiers and checksums as in TensorFlow Datasets and torchvision. The archive is last,
# because it most often exceeds Google's download quota; then only it is left to fetch by hand.
FILES = (
    OfficialFile(
        PARTITION,
        2_836_386,
        "fc955bcb3ef8fbdf7d5640d9a8693a8431b5f2ee291a5c1449a1549e7e073fe7",
        "0B7EVK8r0v71pY0NSMzRuSXJEVkk",
    ),
    OfficialFile(
        ATTRIBUTES,
        26_721_026,
        "f0e5da289d5ccf75ffe8811132694922b60f2af59256ed362afa03fefba324d0",
        "0B7EVK8r0v71pblRyaVFSWGxPY0U",
    ),
    OfficialFile(
        ARCHIVE,
        1_443_490_838,
        "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
        "0B7EVK8r0v71pZjFTYXZWM3FlRnM",
    ),
)
_BY_HAND = f"or download it with a browser ({PAGE}), put it there and run this again to verify it"


def verify(path: Path, file: OfficialFile) -> str | None:
    """What is wrong with the file at `path`, as the end of a sentence; None if it is right."""
    size = path.stat().st_size
    with open(path, "rb") as opened:
        if opened.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return "is a web page, perhaps about a quota or a login, and not the file"
        if size < file.size:
            return f"is cut short: {size:,} of {file.size:,} bytes"
        if size > file.size:
            return f"is another file: it has {size:,} bytes and not {file.size:,}"
        opened.seek(0)
        if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
            return "is damaged or another file: its SHA-256 checksum is wrong"
    return None


def download(
    folder: Path,
    files: Sequence[OfficialFile] = FILES,
    *,
    mirror: str | None = None,
    timeout: float = 30,
    retries: int = 3,
) -> None:
    """Verify the files that are in `folder`, fetch the missing ones, and print a line for each.

    An existing file is never changed. A missing file appears when it is complete and verified.
    Until then its first part is in `folder`/.download, where the next call resumes the download.

    Args:
        folder: created if it does not exist.
        files: the files that the folder is to contain.
        mirror: address of a folder with the same file names; None for Google Drive.
        timeout: longest time without data from the server, seconds.
        retries: how often to resume after a lost connection, per file.

    Raises:
        UserError: an existing file is wrong, a missing file cannot be fetched or is wrong, another
            process downloads into the folder, or the folder cannot be written.
    """
    try:
        missing, mistakes = [], []
        for file in files:
            path = folder / file.name
            if not path.exists() and not path.is_symlink():
                missing.append(file)
            elif wrong := verify(path, file):
                mistakes.append(
                    f"{path}: {wrong}; move it away and run this again to fetch the file"
                )
            else:
                print(f"{path}: already there, verified")
        if mistakes:
            raise UserError("\n".join(mistakes))
        staging = folder / ".download"
        if missing:
            staging.mkdir(parents=True, exist_ok=True)
            # Two processes would write to the same file.
            lock = try_lock(staging / "lock")
            if lock is None:
                raise UserError(
                    f"{folder}: another download into this folder is running; wait for its end"
                    f"{stale_note(staging / 'lock')}"
                )
            with contextlib.closing(lock):
                for file in missing:
                    _fetch(file, staging, mirror, timeout, retries)
                    print(f"{folder / file.name}: fetched, verified")
        # DVC hashes every file in a data source, so leave no others behind.
        shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}; correct this or name "
            f"another folder, and run this again: in the same folder, a download resumes"
        ) from None


def _fetch(
    file: OfficialFile, staging: Path, mirror: str | None, timeout: float, retries: int
) -> None:
    """Fetch or resume one file in `staging`; verify it and move it to the folder above."""
    target = staging.parent / file.name
    home = mirror or "Google Drive"

    def transfer() -> None:
        with counting(file.name, "B") as progress:
            gdown.download(
                url=f"{mirror.rstrip('/')}/{file.name}" if mirror else None,
                id=None if mirror else file.drive_id,
                output=str(staging / file.name),
                quiet=True,
                use_cookies=False,  # gdown would store them in the user's home
                resume=True,
                # A server need not say how long the file is.
                progress=lambda done, _: progress(done, file.size),
                timeout=timeout,
                retries=retries,
            )

    try:
        try:
            transfer()
        except gdown.DownloadError as error:
            # A lost connection would be the error's cause. Without a cause, the server did not
            # send the rest of the file: it does not support ranges, or its file has changed.
            if isinstance(error, gdown.FileURLRetrievalError) or error.__cause__:
                raise
            print(f"{target}: {home} does not resume the download; it starts again")
            _discard(file, staging)
            transfer()
    except gdown.FileURLRetrievalError:
        raise UserError(
            f"{target}: {home} sent a web page and not the file, usually because today's "
            f"download quota is used up; try again in a day, {_BY_HAND}"
        ) from None
    except requests.HTTPError as error:
        raise UserError(
            f"{target}: {error}; check the address or try again later, {_BY_HAND}"
        ) from None
    except (
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidSchema,
        requests.exceptions.InvalidURL,
    ):
        raise UserError(
            f"--mirror: {home} is not an address; write http://... or https://..."
        ) from None
    except (requests.RequestException, gdown.DownloadError) as error:
        raise UserError(
            f"{target}: the connection to {home} failed ({_root(error)}); check the network and "
            f"run this again to resume the download"
        ) from None
    if wrong := verify(staging / file.name, file):
        _discard(file, staging)  # otherwise the next call would resume it
        raise UserError(
            f"{target}: the file that {home} sent {wrong}; it was removed; try again in a day, "
            f"{_BY_HAND}"
        )
    os.replace(staging / file.name, target)


def _discard(file: OfficialFile, staging: Path) -> None:
    for part in staging.glob(f"{file.name}*"):  # gdown appends random letters
        part.unlink()


def _root(error: BaseException) -> str:
    """The message of the error that caused a chain of errors, such as "timed out"."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error) or type(error).__name__


def override(folder: Path) -> str:
    """An argument for `dvc exp run -S` that sets data.source to a folder of any name.

    Quoted twice: for the grammar of Hydra, with which DVC reads it, and for a shell. Between quotes
    Hydra takes all as it stands but quotes, "${", and backslashes before them.
    """
    value = str(folder)
    if not re.fullmatch(r"[A-Za-z0-9_/.+-]+", value):
        value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
        value = re.sub(
            r"(\\*)('|\Z)", lambda found: 2 * found[1] + found[2].replace("'", r"\'"), value
        )
        value = f"'{value}'"
    return shlex.quote(f"data.source={value}")


def main(arguments: Sequence[str] | None = None, files: Sequence[OfficialFile] = FILES) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m facevae.data.download",
        description=f"Download CelebA ({PAGE}, for non-commercial research only) into a folder "
        "and verify it. An interrupted download is resumed. Files that are already in the folder "
        "are verified and never changed.",
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("data/celeba"),
        metavar="FOLDER",
        help="folder for the files (default: %(default)s)",
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help="address of a folder with the same files, such as your institution's copy "
        "(default: Google Drive, where the authors published them)",
    )
    options = parser.parse_args(arguments)
    try:
        folder = _expanded(options.folder).absolute()
        download(folder, files, mirror=options.mirror)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    print(f"Next: dvc exp run -S {override(folder)}")
    return 0


def _expanded(folder: Path) -> Path:
    try:
        return folder.expanduser()
    except RuntimeError:
        raise UserError(f"{folder}: there is no such home; write the whole path") from None


if __name__ == "__main__":
    sys.exit(main())
