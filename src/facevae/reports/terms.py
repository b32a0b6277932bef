"""What a page that holds pictures has to say at its top about the people in them."""

from pathlib import Path

from facevae.common.parameters import Data

DRAWN_FACES = Path("data/synthetic")  # where the pipeline draws them, relative to the project


def terms_of_images(data: Data) -> str | None:
    """What whoever passes on pictures made from `data` must know, in one sentence.

    What is in CelebA's layout and is not drawn here is taken for CelebA. The working folder is the
    project's, as in every stage.

    Returns:
        Plain text; None for drawn faces.
    """
    if data.layout == "folder":
        return (
            "This page holds reconstructions of your own pictures: pass it on only as you would "
            "pass on the pictures themselves."
        )
    if Path(data.source).resolve() == DRAWN_FACES.resolve():
        return None
    return (
        "This page holds reconstructions of real people: CelebA is for non-commercial research "
        "only and may not be passed on, and neither may this page."
    )
