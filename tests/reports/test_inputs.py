"""What other stages wrote: read, or a sentence that names the file."""

import json
from pathlib import Path

import pytest

from facevae.common.errors import UserError
from facevae.reports.charts import save_charts
from facevae.reports.inputs import read_json

_ANOTHER_VERSION = "so another version wrote it; write it again: dvc repro"


def test_a_key_of_another_version_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "direct.json"
    file.write_text(json.dumps({"test": {"psnr": 20.5, "units": [{"kl": 1.0}]}}))
    content = read_json(file)
    assert content["test"]["psnr"] == 20.5
    assert content.get("samples") is None
    for lacking in (lambda: content["samples"], lambda: content["test"]["units"][0]["mean"]):
        with pytest.raises(UserError, match=rf"direct.json: has no '\w+', {_ANOTHER_VERSION}"):
            lacking()


def test_a_table_of_another_version_is_a_sentence(tmp_path: Path) -> None:
    for variant in ("direct", "inter_dense"):
        (tmp_path / variant).mkdir()
        (tmp_path / variant / "history.csv").write_text("epoch,error\n1,0.5\n")
    with pytest.raises(UserError, match=rf"history.csv: has no '\w+', {_ANOTHER_VERSION}"):
        save_charts(tmp_path, tmp_path / "charts")
    assert not (tmp_path / "charts").exists()
