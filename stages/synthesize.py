"""Draw the built-in substitute for CelebA; refuse a data.source that does not exist."""

from pathlib import Path

from _stage import arguments, run
from facevae.common.runtime import counting
from facevae.data.celeba import find_copy
from facevae.data.synthetic import synthesize


def main() -> None:
    options, parameters = arguments(__doc__, target="folder to write, in CelebA's layout")
    source, settings = Path(parameters.data.source), parameters.synthesize
    # Checked in the first stage, so that a missing source is reported before anything changes.
    if source.resolve() != options.target.resolve():
        find_copy(source)
    with counting("Drawing faces", " faces") as progress:
        synthesize(options.target, settings.images, settings.seed, progress)


if __name__ == "__main__":
    run(main)
