"""Outputs that are either whole or not there."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename what was written there to `path`.

    Works for a file or for a folder (the body creates whichever it wants). If the body raises,
    the temporary is removed and `path` stays as it was. A folder that stands at `path` is
    replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
    try:
        temporary = workshop / path.name
        yield temporary
        if temporary.is_dir() and path.exists():
            # A folder cannot be renamed onto another one; should the second step fail, go back.
            replaced = workshop / "replaced"
            os.replace(path, replaced)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(replaced, path)
                raise
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
