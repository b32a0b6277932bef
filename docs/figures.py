"""Write the charts of docs from a finished run: `make docs-figures`.

    python docs/figures.py [FOLDER]

FOLDER is the project in which `dvc repro` has run (default: the current folder). The run must be of
the built-in drawn faces: everyone can make that one.
"""

import hashlib
import shutil
import sys
from pathlib import Path

import yaml

DOCS = Path(__file__).resolve().parent
BUILT_IN = "data/synthetic"
CHARTS = ("memory_by_batch.svg", "memory_by_inter_dense.svg")


def check_run(project: Path, pictures: list[str]) -> None:
    """Raise SystemExit unless the pictures are those of a finished run on the built-in faces."""
    stages = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    source = stages["prepare"]["params"]["params.yaml"]["data"]["source"]
    if source != BUILT_IN:
        raise SystemExit(f"dvc.lock: the run has data.source {source}; only {BUILT_IN} is shown")
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ())}
    for name in pictures:
        path = project / name
        if not path.is_file() or hashlib.md5(path.read_bytes()).hexdigest() != outs[name]:
            raise SystemExit(f"{path}: is not of the last run in dvc.lock; run dvc repro first")


def main(project: Path, target: Path = DOCS) -> None:
    charts = [f"reports/{name}" for name in CHARTS]
    check_run(project, charts)
    for name in charts:
        shutil.copyfile(project / name, target / Path(name).name)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
