"""What a page says about the people in it; of drawn faces nothing, however named."""

from pathlib import Path

import pytest
from helpers import PROJECT, data_settings

from facevae.reports.terms import terms_of_images


@pytest.mark.parametrize(
    "source", ["data/synthetic", "./data/../data/synthetic/", f"{PROJECT}/data/synthetic"]
)
def test_drawn_faces_need_no_terms(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(PROJECT)
    assert terms_of_images(data_settings(source)) is None


@pytest.mark.parametrize("source", ["data/celeba", "/elsewhere/data/synthetic", "synthetic"])
def test_what_is_in_celebas_layout_may_not_be_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = terms_of_images(data_settings(source, layout="celeba"))
    assert told is not None
    assert "reconstructions of real people" in told
    assert "CelebA is for non-commercial research only and may not be passed on" in told


def test_own_pictures_are_named_as_such() -> None:
    told = terms_of_images(data_settings("data/synthetic", layout="folder"))
    assert told is not None
    assert "your own pictures" in told
    assert "CelebA" not in told
