"""Draw the built-in substitute for CelebA; refuse a data.source that does not exist."""

import os
from pathlib import Path

from _stage import arguments, run
from facevae.common.errors import UserError
from facevae.common.runtime import counting
from facevae.data.celeba import check_source
from facevae.data.synthetic import synthesize


def main() -> None:
    options, parameters = arguments(__doc__, target="folder to write, in CelebA's layout")
    source, settings = Path(parameters.data.source), parameters.synthesize
    # Checked in the first stage, so that a missing source is reported before anything changes.
    if source.resolve() != options.target.resolve():
        _check_copy(source)
        check_source(source)
    with counting("Drawing faces", " faces") as progress:
        synthesize(options.target, settings.images, settings.seed, progress)


def _check_copy(source: Path) -> None:
    """Refuse a relative path that is there in the project, but not in DVC's copy of the project."""
    there = Path(os.environ.get("DVC_ROOT", "."), source)
    if not source.exists() and there.exists():
        raise UserError(
            f"data.source: {source} is not in the copy of the project in which DVC runs this "
            f"experiment; write the absolute path: {there.resolve()}"
        )


if __name__ == "__main__":
    run(main)
