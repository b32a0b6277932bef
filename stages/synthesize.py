"""Draw the built-in stand-in for CelebA, if it is what the study is to learn from."""

from pathlib import Path

from _stage import arguments, run
from facevae.common.runtime import counting
from facevae.data.celeba import check_source
from facevae.data.synthetic import synthesize


def main() -> None:
    options, parameters = arguments(__doc__, target={"help": "folder to write, in CelebA's layout"})
    source = Path(parameters.data.source)
    # First in line, so that a source that is not there is told before anything is touched.
    if source.resolve() != options.target.resolve():
        check_source(source)
    with counting("Drawing faces", " faces") as progress:
        synthesize(
            options.target, parameters.synthesize.images, parameters.synthesize.seed, progress
        )


if __name__ == "__main__":
    run(main)
