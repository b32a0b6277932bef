"""The pipeline under real DVC, in a clone of the project with small settings."""

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from helpers import run_stage
from PIL import Image
from study import STAGES, Study, finished_study, ran

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path, project: Path) -> Study:
    """A study that has run once, each stage with its reads recorded."""
    study = finished_study(tmp_path_factory.mktemp("pipeline"), shared_folder, project)
    assert {path.stem for path in study.records.iterdir()} == STAGES
    return study


@pytest.fixture
def fresh(study: Study):
    """The study in the state after its first run, which is restored after the test."""
    yield study
    study.back()


def test_pipeline_outputs_have_their_names(study: Study) -> None:
    for variant in ("direct", "inter_dense"):
        assert (study.folder / "models" / f"{variant}.keras").is_file()
        assert (study.folder / "models" / f"{variant}_prior.npz").is_file()
        for name, size in (
            ("samples", (38, 38)),
            ("reconstructions", (38, 38)),
            ("interpolation", (38, 38)),
        ):
            with Image.open(study.folder / "reports" / variant / f"{name}.png") as picture:
                assert picture.size == size
        with Image.open(study.folder / "reports" / variant / "attributes.png") as picture:
            assert picture.width == 2 + 18 * 8  # original, reconstruction, six attributes
        metrics = json.loads((study.folder / "metrics" / f"{variant}.json").read_text())
        assert {"params", "trainable_params"} <= metrics["encoder"].keys()
        assert "params" in metrics["decoder"]
        wanted = {"loss", "reconstruction", "kl", "psnr", "active_units"}
        assert wanted <= metrics["test"].keys()
        assert metrics["samples"]["count"] == 20  # the test split
        assert metrics["samples"]["frechet_distance"] > 0
        assert metrics["samples"]["fid"] is None
        cost = json.loads((study.folder / "metrics" / f"{variant}_cost.json").read_text())
        assert cost["machine"]["device"]
        assert cost["machine"]["onednn"] in ("on", "off")
        assert cost["images_per_second_lower_quartile"] <= cost["images_per_second"]
        assert cost["images_per_second"] <= cost["images_per_second_upper_quartile"]
        assert 100 < cost["peak_memory_mib"] < 10_000
        history = (study.folder / "reports" / variant / "history.csv").read_text().splitlines()
        assert len(history) == 1 + 2
        for name, count in (("latents", 8), ("z_histograms", 40), ("radii", 24)):
            table = (study.folder / "reports" / variant / f"{name}.csv").read_text()
            assert len(table.splitlines()) >= 1 + count
    told = json.loads((study.folder / "metrics" / "attributes.json").read_text())
    assert len(told["attributes"]) == 20
    assert (study.folder / "models" / "attributes" / "network.keras").is_file()
    report = (study.folder / "reports" / "comparison.md").read_text()
    encoder = json.loads((study.folder / "metrics" / "inter_dense.json").read_text())["encoder"]
    assert f"{encoder['params']:,}" in report
    rows = (study.folder / "reports" / "comparison.csv").read_text().splitlines()
    columns = "key,quantity,direct,inter_dense,difference,direct_spread,inter_dense_spread"
    assert rows[0] == columns
    assert f"{encoder['params']:,}" in (study.folder / "reports" / "index.html").read_text()


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_pipeline_deps_and_params_are_complete(study: Study, stage: str) -> None:
    """Every module of the project that a stage imports, and every key that it reads, is listed.

    A listed folder covers all modules in it. At least one of them must be imported.
    """
    record = json.loads((study.records / f"{stage}.json").read_text())
    declared = study.lock()[stage]
    code = [dep["path"] for dep in declared["deps"] if dep["path"].startswith(("src/", "stages/"))]

    def listed(module: str, dep: str) -> bool:
        return module == dep or module.startswith(f"{dep}/")

    # An __init__.py needs no dep, because it is empty, see tests/test_packages.py.
    modules = [path for path in record["modules"] if not path.endswith("/__init__.py")]
    assert [path for path in modules if not any(listed(path, dep) for dep in code)] == []
    unused = [dep for dep in code if not any(listed(path, dep) for path in modules)]
    assert not unused, "listed, but nothing of it is imported"
    params = declared.get("params", {}).get("params.yaml", {})
    read = record["parameters"]
    if stage == "compare":  # lists the whole of params.yaml
        assert set(read) == {key for key, _ in _keys(params)}
        return
    assert [
        key for key in read if not any(key == each or key.startswith(f"{each}.") for each in params)
    ] == []
    unread = [
        each
        for each in params
        if not any(key == each or key.startswith(f"{each}.") for key in read)
    ]
    assert not unread, "listed, but not read"


def test_pipeline_loads_tensorflow_where_there_is_a_network(study: Study) -> None:
    loads = {
        stage
        for stage in STAGES
        if json.loads((study.records / f"{stage}.json").read_text())["tensorflow"]
    }
    assert loads == STAGES - {"synthesize", "prepare", "compare", "memory", "page"}


def test_pipeline_fresh_clone_measures_its_own_costs(study: Study, tmp_path: Path) -> None:
    """Metrics in git are kept; the costs, which another machine measured, are not."""
    study.git("clone", "--quiet", str(study.folder), str(tmp_path / "clone"))
    clone = Study(tmp_path / "clone")
    tracked = clone.git("ls-files", "metrics").splitlines()
    assert {Path(name).name for name in tracked} == {
        "attributes.json", "data.json", "direct.json", "inter_dense.json",
    }  # fmt: skip
    # They do run: tests/docs/test_sharing.py.
    assert ran(clone.dvc("repro", "--dry", "cost")) == {"cost@direct", "cost@inter_dense"}


def test_pipeline_second_run_does_nothing(study: Study) -> None:
    output = study.dvc("repro")
    assert ran(output) == set()
    assert "Data and pipelines are up to date" in output
    assert study.git("status", "--porcelain") == ""


def _keys(section: dict, prefix: str = ""):
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _matching(patterns: str) -> set[str]:
    """The stages that patterns in backticks name."""
    names = re.findall(r"`(.+?)`", patterns)
    return {stage for stage in STAGES for name in names if fnmatch.fnmatch(stage, name)}


def _readme_table(project: Path) -> list[tuple[str, str]]:
    """The two cells of each row of README's table."""
    readme = (project / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\| ((?:other )?`[a-z]+\.[^|]*`) \| ([^|]*) \|$", readme, re.MULTILINE)


def _promised(table: list[tuple[str, str]], key: str, of_cost: list[str]) -> set[str]:
    """The stages of the first row that matches a key.

    A cell may continue: "; for `keys` also `stages`". The keys may be those under cost in dvc.yaml.
    """

    def matches(keys: str) -> bool:
        if "listed under cost in dvc.yaml" in keys:
            return key in of_cost
        return any(fnmatch.fnmatch(key, each) for each in re.findall(r"`(.+?)`", keys))

    stages, *parts = next(stages for keys, stages in table if matches(keys)).split("; for ")
    for keys, _, also in (part.partition(" also ") for part in parts):
        if matches(keys):
            stages += also
    return _matching(stages)


# What DVC finds changed, without the files, which are as they were.
_STATUS = """
import json, sys
import networkx
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
original, pipeline = open("params.yaml").read(), open("dvc.yaml").read()
first, told = Repo(), {}
graph = first.index.graph.reverse()
after = {
    stage.addressing: [each.addressing for each in networkx.descendants(graph, stage)]
    for stage in first.index.stages
}
for key, value in json.load(sys.stdin).items():
    content = yaml.safe_load(original)
    section = content
    *path, last = key.split(".")
    for part in path:
        section = section[part]
    section[last] = value
    with open("params.yaml", "w") as file:
        file.write(yaml.safe_dump(content))
    repo = Repo() if f"${{{key}}}" in pipeline else first
    told[key] = [
        stage.addressing for stage in repo.index.stages
        if stage.changed_stage()
        or any(dep.status() for dep in stage.deps if isinstance(dep, ParamsDependency))
    ]
with open("params.yaml", "w") as file:
    file.write(original)
print(json.dumps([told, after]))
"""


def test_pipeline_each_parameter_reruns_what_readme_says(fresh: Study, project: Path) -> None:
    params = yaml.safe_load((fresh.folder / "params.yaml").read_text(encoding="utf-8"))

    def other(value):
        if isinstance(value, bool):
            return not value
        if isinstance(value, list):
            return value[:-1]
        if isinstance(value, str):
            return f"other {value}"
        return 5 if value is None else value * 2 + 1

    changed = {key: other(value) for key, value in _keys(params)}
    done = subprocess.run(
        [sys.executable, "-c", _STATUS],
        cwd=fresh.folder, input=json.dumps(changed), text=True, capture_output=True, check=True,
    )  # fmt: skip
    told, after = json.loads(done.stdout)

    def with_what_follows(stages: Iterable[str]) -> set[str]:
        return {each for stage in stages for each in (stage, *after[stage])}

    table = _readme_table(project)
    assert len(table) == 9
    stages_in_dvc_yaml = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))
    of_cost = stages_in_dvc_yaml["stages"]["cost"]["do"]["params"]
    for key, stages in told.items():
        expected = with_what_follows(_promised(table, key, of_cost)) | {"compare", "page"}
        assert with_what_follows(stages) == expected, key


def test_pipeline_again_gives_the_same_bytes(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those stages that no other test runs twice, in a copy and in this process."""
    copy = tmp_path / "study"
    left_out = shutil.ignore_patterns("cache", ".git", ".venv")
    shutil.copytree(study.folder, copy, ignore=left_out)
    monkeypatch.chdir(copy)
    stages = yaml.safe_load((copy / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for stage in ("prior", "generate", "evaluate"):
        outs = [copy / out["path"] for out in study.lock()[f"{stage}@inter_dense"]["outs"]]
        before = {path: path.read_bytes() for path in outs}
        for path in outs:
            path.unlink()
        command = stages[stage]["do"]["cmd"].replace("${key}", "inter_dense")
        _, _, _, *arguments = shlex.split(command)
        assert run_stage(stage, *arguments) == 0
        assert {path: path.read_bytes() for path in outs} == before
