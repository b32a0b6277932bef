"""Draw the built-in substitute for CelebA; refuse a data.source that cannot be read."""

import os
from pathlib import Path

from _stage import arguments, run
from facevae.common.errors import UserError
from facevae.common.parameters import Parameters
from facevae.common.requests import count_mistakes
from facevae.common.runtime import counting
from facevae.data.folder import check_source
from facevae.data.synthetic import split_counts, synthesize


def main() -> None:
    options, parameters = arguments(__doc__, target="folder to write, in CelebA's layout")
    source, layout = Path(parameters.data.source), parameters.data.layout
    settings = parameters.synthesize
    # Checked in the first stage, so that a missing source is reported before anything changes.
    if os.path.realpath(source) != os.path.realpath(options.target):
        _check_copy(source)
        check_source(source, layout)
    elif layout != "celeba":
        raise UserError(
            f"data.layout: the drawn faces in {source} are in CelebA's layout; name the folder of "
            f"the pictures in data.source, or set data.layout: celeba"
        )
    else:
        _check_counts(parameters)
    with counting("Drawing faces", " faces") as progress:
        synthesize(options.target, settings.images, settings.seed, progress)


def _check_counts(parameters: Parameters) -> None:
    """Refuse what the drawn faces will not suffice for."""
    content, counts = parameters.content(), split_counts(parameters.synthesize.images)
    for split, limit in content["data"]["limit"].items():
        counts[split] = counts[split] if limit is None else min(limit, counts[split])
    if mistakes := count_mistakes(content, counts):
        raise UserError("\n".join(mistakes))


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
