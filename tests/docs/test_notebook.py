"""The notebook: it holds no results, runs on a finished run, and takes a user's own photo."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image
from study import Study, finished_study

from facevae.data.synthetic import describe_face, draw_face


def _notebook(project: Path) -> Any:
    return nbformat.read(project / "docs" / "explore.ipynb", as_version=4)


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _pictures(notebook: Any) -> list[np.ndarray]:
    """The outputs that are pictures, (height, width, 3) each."""
    found = [
        output.data["image/png"]
        for cell in _code(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    files = [io.BytesIO(base64.b64decode(each)) for each in found]
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def test_notebook_holds_no_results(project: Path) -> None:
    notebook = _notebook(project)
    nbformat.validate(notebook)
    assert len(notebook.cells) == 20
    for cell in _code(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_notebook_says_that_nobody_has_tried_it_in_colab(project: Path) -> None:
    first, setup = _notebook(project).cells[:2]
    assert re.search(r"Colab.*\*\*There it is untested\.\*\*", first.source, re.DOTALL)
    assert '"google.colab" in sys.modules' in setup.source


@pytest.mark.slow
def test_notebook_runs_on_a_finished_run_with_a_photo(
    tmp_path: Path, shared_folder: Path, project: Path
) -> None:
    """Its pictures go into the copy in reports; the one in docs stays as it was."""
    study: Study = finished_study(tmp_path, shared_folder, project)
    draw_face(describe_face(seed=5, index=5)).rotate(90, expand=True).save(
        tmp_path / "my photo.png"
    )
    path = study.folder / "docs" / "explore.ipynb"
    asked = 'PHOTO = ""'
    text = path.read_text(encoding="utf-8").replace(
        asked.replace('"', r"\""), f'PHOTO = \\"{tmp_path}/my photo.png\\"'
    )
    assert "my photo.png" in text
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, "docs/run_notebook.py"]
    done = subprocess.run(
        command, cwd=study.folder, env=study.environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "reports/explore.ipynb\n"), done.stderr
    assert path.read_text(encoding="utf-8") == text
    executed = nbformat.read(study.folder / "reports" / "explore.ipynb", as_version=4)
    pictures = _pictures(executed)
    assert len(pictures) == 8
    assert all(picture.std() > 5 for picture in pictures)
    streams = [output for cell in _code(executed) for output in cell.outputs if "name" in output]
    assert [output.text for output in streams if output.name == "stderr"] == []


@pytest.mark.slow
def test_notebook_without_a_finished_run_ends_with_one_sentence(
    tmp_path: Path, project: Path
) -> None:
    (tmp_path / "params.yaml").write_bytes((project / "params.yaml").read_bytes())
    (tmp_path / "src").symlink_to(project / "src")
    command = [sys.executable, str(project / "docs" / "run_notebook.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith("explore.ipynb: UserError: ")
    assert "dvc repro" in done.stderr
    assert done.stderr.count("\n") == 1
