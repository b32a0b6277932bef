"""CelebA's official files: fetched, resumed and verified; files that the user brought, verified.

    python -m facevae.data.download [FOLDER] [--mirror URL]

is the command; `make celeba` runs it.
"""

import argparse
import dataclasses
import hashlib
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import gdown
import requests
from filelock import FileLock, Timeout

from facevae.common.errors import UserError
from facevae.common.runtime import counting
from facevae.data.celeba import ARCHIVE, ATTRIBUTES, PARTITION


@dataclasses.dataclass(frozen=True)
class OfficialFile:
    """What a file must be, and where its authors put it.

    Attributes:
        name: in the folder, and at a mirror.
        size: bytes.
        sha256: checksum, hexadecimal.
        drive_id: on Google Drive.
    """

    name: str
    size: int
    sha256: str
    drive_id: str


# As TensorFlow Datasets and torchvision have them. The archive is last: it meets Google's quota
# most often, and is then the only one to be fetched by hand.
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
_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
_BY_HAND = f"or download it with a browser ({_PAGE}), put it there and run this again to verify it"


def verify(path: Path, file: OfficialFile) -> str | None:
    """What is wrong with the file at `path`, to be read after its name; None if it is right."""
    size = path.stat().st_size
    with open(path, "rb") as opened:
        if opened.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return "is a web page (of a quota or a login, perhaps) and not the file"
        if size < file.size:
            return f"is cut short: {size:,} of {file.size:,} bytes"
        if size > file.size:
            return f"is another file: {size:,} bytes and not {file.size:,}"
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
    """Verify the files that are in `folder` and fetch those that are not, with a line for each.

    A file that is there is never changed. One that is not appears when it is whole and verified;
    until then its part is in `folder`/.download, where the next call goes on.

    Args:
        folder: made if it is not there.
        files: what is to be there.
        mirror: address that holds them under their names; None for Google Drive.
        timeout: longest silence of a server, seconds.
        retries: how often to go on by itself after a lost connection, per file.

    Raises:
        UserError: a file that is there is wrong, or one that is not cannot be had.
    """
    try:
        missing, mistakes = [], []
        for file in files:
            path = folder / file.name
            if not path.exists() and not path.is_symlink():
                missing.append(file)
            elif wrong := verify(path, file):
                mistakes.append(
                    f"{path}: {wrong}; move it away and run this again, which fetches it"
                )
            else:
                print(f"{path}: already there, verified")
        if mistakes:
            raise UserError("\n".join(mistakes))
        staging = folder / ".download"
        if missing:
            staging.mkdir(parents=True, exist_ok=True)
            # Two at once would write into the same part.
            with FileLock(staging / "lock", timeout=0):
                for file in missing:
                    _fetch(file, staging, mirror, timeout, retries)
                    print(f"{folder / file.name}: fetched, verified")
        # DVC hashes a data source with all that is in it.
        shutil.rmtree(staging, ignore_errors=True)
    except Timeout:
        raise UserError(f"{folder}: another download into it is running; wait for it") from None
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}; put that right or name "
            f"another folder, and run this again: a download goes on where it stopped"
        ) from None


def _fetch(
    file: OfficialFile, staging: Path, mirror: str | None, timeout: float, retries: int
) -> None:
    """Fetch one file into `staging`, from where its part there ends, and move it up if right."""
    target = staging.parent / file.name
    home = mirror or "Google Drive"

    def transfer() -> None:
        with counting(file.name, "B") as progress:
            gdown.download(
                url=f"{mirror.rstrip('/')}/{file.name}" if mirror else None,
                id=None if mirror else file.drive_id,
                output=str(staging / file.name),
                quiet=True,
                use_cookies=False,  # they would be kept in the user's home
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
            # A lost connection is its cause; without one, the answer was not the rest of the
            # part: the server knows no ranges, or the file there has changed.
            if isinstance(error, gdown.FileURLRetrievalError) or error.__cause__:
                raise
            print(f"{target}: {home} does not send the rest of it; from the start again")
            _discard(file, staging)
            transfer()
    except gdown.FileURLRetrievalError:
        raise UserError(
            f"{target}: {home} sent a web page and not the file, most often because too many "
            f"people fetched it today; try again in a day, {_BY_HAND}"
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
        raise UserError(f"--mirror: {home} is not an address: http://... or https://...") from None
    except (requests.RequestException, gdown.DownloadError) as error:
        raise UserError(
            f"{target}: no connection to {home}, or a lost one ({_root(error)}); check the network "
            f"and run this again: it goes on where it stopped"
        ) from None
    if wrong := verify(staging / file.name, file):
        _discard(file, staging)  # or it would be resumed for ever
        raise UserError(
            f"{target}: what {home} sent {wrong}, so it was removed; try again in a day, {_BY_HAND}"
        )
    os.replace(staging / file.name, target)


def _discard(file: OfficialFile, staging: Path) -> None:
    for part in staging.glob(f"{file.name}*"):  # gdown appends random letters
        part.unlink()


def _root(error: BaseException) -> str:
    """The first of a chain of errors in words: "timed out" and not its wrappings."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error) or type(error).__name__


def main(arguments: Sequence[str] | None = None, files: Sequence[OfficialFile] = FILES) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m facevae.data.download",
        description=f"Fetch CelebA ({_PAGE}, for non-commercial research only) into a folder, go "
        "on where an earlier run stopped, and verify it. Files that are already in the folder are "
        "verified and never changed.",
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("data/celeba"),
        metavar="FOLDER",
        help="where they are to be (default: %(default)s)",
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help="fetch from this address, which holds the files under their names, such as your "
        "institution's copy (default: Google Drive, where the authors put them)",
    )
    options = parser.parse_args(arguments)
    try:
        download(options.folder, files, mirror=options.mirror)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command again goes on where it stopped", file=sys.stderr)
        return 130
    print(f"Next: dvc exp run -S data.source={shlex.quote(str(options.folder))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
