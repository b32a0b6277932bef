"""Whose faces the images show, and what a page that holds pictures has to say about them."""

import os
from pathlib import Path
from typing import Literal

from facevae.common.parameters import Data

DRAWN_FACES = Path("data/synthetic")  # where the pipeline draws them, relative to the project


def kind_of_images(data: Data) -> Literal["own", "drawn", "celeba"]:
    """Whose faces `data` has.

    What is in CelebA's layout and is not drawn here is taken for CelebA. The working folder is the
    project's, as in every stage.
    """
    if data.layout == "folder":
        return "own"
    drawn = os.path.realpath(data.source) == os.path.realpath(DRAWN_FACES)
    return "drawn" if drawn else "celeba"


def terms_of_images(data: Data) -> str | None:
    """What whoever passes on pictures made from `data` must know, in one sentence.

    Returns:
        Plain text; None for drawn faces.
    """
    kind = kind_of_images(data)
    if kind == "own":
        return (
            "This page holds reconstructions of your own pictures: pass it on only as you would "
            "pass on the pictures themselves."
        )
    if kind == "drawn":
        return None
    return (
        "This page holds reconstructions of real people: CelebA is for non-commercial research "
        "only and may not be passed on, and neither may this page."
    )
