"""What users do to the pipeline under real DVC: mistakes, interrupts, their own data, sweeps."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
import yaml
from helpers import run_stage
from study import Study, finished_study, ran

from facevae.data.download import override

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path, project: Path) -> Study:
    """A study that has run once."""
    return finished_study(tmp_path_factory.mktemp("use"), shared_folder, project)


@pytest.fixture
def fresh(study: Study):
    """The study in the state after its first run, which is restored after the test."""
    yield study
    study.back()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("data.source=/no/such/folder", "data.source: there is no folder /no/such/folder"),
        ("+train.epoch=3", "params.yaml: train.epoch: unknown parameter"),
        ("loss.sigma=1e-30", "term is"),
        # Its metrics are listed with `cache: false`, which `dvc checkout` leaves out.
        ("data.resize=nearest", "data.resize: must be 'bilinear', 'bicubic', 'lanczos' or 'box'"),
        ("train.seed=2 generate.attributes=[Beard]", "generate.attributes: the data has no Beard"),
    ],
)
def test_use_a_mistake_is_a_sentence_and_costs_nothing(
    study: Study, change: str, sentence: str
) -> None:
    changes = [part for each in change.split() for part in ("--set-param", each)]
    try:
        output = study.dvc("exp", "run", *changes, status=255)
        assert sentence in output
        assert "Traceback" not in output
        assert ("Training direct" in output) == change.startswith("loss.")
        study.git("checkout", "--quiet", "first-run", "--", "params.yaml")
        assert study.git("status", "--porcelain") == ""
        assert "up to date" in study.dvc("status")
    except BaseException:
        study.back()
        raise


def _interrupt(study: Study, stage: str, *lost: str) -> None:
    """What DVC and a user's Ctrl-C do to a stage."""
    code = "import _stage, os, signal\n_stage.run(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
    for name in lost:
        (study.folder / name).unlink()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=study.folder, capture_output=True, text=True, check=False,
        env={**study.environment(), "DVC_STAGE": stage, "PYTHONPATH": str(study.folder / "stages")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_use_an_interrupt_costs_nothing(fresh: Study, tmp_path: Path) -> None:
    _interrupt(fresh, "train@direct", "models/direct.keras", "reports/direct/history.csv")
    # Not from git, where they are not yet after a user's first run.
    fresh.git("rm", "--quiet", "--cached", "metrics/direct.json")
    _interrupt(fresh, "evaluate@direct", "metrics/direct.json")
    fresh.git("reset", "--quiet")
    assert fresh.git("status", "--porcelain") == ""
    assert "up to date" in fresh.dvc("status", "train", "evaluate")
    # In a fresh clone, git alone has the metrics.
    fresh.git("clone", "--quiet", str(fresh.folder), str(tmp_path / "clone"))
    clone = Study(tmp_path / "clone")
    _interrupt(clone, "prepare", "metrics/data.json")
    assert clone.git("status", "--porcelain") == ""


def test_use_a_training_is_resumed_after_a_kill_and_a_stop(
    fresh: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is killed with all its processes, resumed, stopped by SIGTERM, and completed."""
    params = yaml.safe_load((fresh.folder / "params.yaml").read_text(encoding="utf-8"))
    params["train"]["epochs"] = 10
    (fresh.folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    history = fresh.folder / "reports" / "direct" / "history.csv"
    states = fresh.folder / ".facevae" / "checkpoints"

    def epochs() -> int:
        try:
            return len(history.read_text().splitlines()) - 1
        except FileNotFoundError:  # DVC has removed that of the finished study
            return -1

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", "train@direct"], cwd=fresh.folder,
            env=fresh.environment(), start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def wait_for(count: int, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + 120
        while epochs() < count:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    killed = start()
    wait_for(3, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    reached = epochs()
    assert 3 <= reached < 10
    assert fresh.git("status", "--porcelain", "--", ".facevae") == ""
    history.unlink()

    ended = start()
    wait_for(reached, ended)
    (owner,) = states.glob("direct-*/owner.txt")
    os.kill(int(owner.read_text().split()[1]), signal.SIGTERM)
    output = ended.communicate(timeout=60)[0]
    assert ended.returncode != 0
    assert re.search(r"stopped in epoch \d+, after step \d+ of 10; the same command again", output)

    fresh.dvc("exp", "run", "train@direct")
    assert not list(states.iterdir())
    again = tmp_path / "direct.keras"
    monkeypatch.chdir(fresh.folder)
    keras.utils.clear_session(free_memory=False)  # names of layers count up
    options = ["--variant", "direct", "--model", again, "--history", tmp_path / "history.csv"]
    assert run_stage("train", "--shards", "data/tfrecords", *options) == 0
    assert again.read_bytes() == (fresh.folder / "models" / "direct.keras").read_bytes()
    assert (tmp_path / "history.csv").read_bytes() == history.read_bytes()


def test_use_data_of_the_user_can_be_added_to_dvc(fresh: Study) -> None:
    celeba = fresh.folder / "data" / "celeba"
    celeba.mkdir()
    (celeba / "list_eval_partition.txt").touch()
    added = celeba.with_suffix(".dvc")
    try:
        fresh.dvc("add", "data/celeba")
        fresh.git("add", "--all")
        assert fresh.git("status", "--porcelain") == "A  data/celeba.dvc\n"
    finally:
        fresh.git("reset", "--quiet")
        added.unlink(missing_ok=True)
        shutil.rmtree(celeba)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("data.source", "`touch harm`", "data.source: there is no folder `touch harm`"),
        ("encoder.inter_dense", "$(touch harm)1", "encoder.inter_dense: must be a valid integer"),
    ],
)
def test_use_hands_nothing_to_a_shell(study: Study, key: str, value: str, sentence: str) -> None:
    params = study.folder / "params.yaml"
    before = params.read_text(encoding="utf-8")
    content = yaml.safe_load(before)
    section, name = key.split(".")
    content[section][name] = value
    params.write_text(yaml.safe_dump(content), encoding="utf-8")
    try:
        assert sentence in study.dvc("repro", status=255)
        assert not (study.folder / "harm").exists()
    finally:
        params.write_text(before, encoding="utf-8")
        study.back()


@pytest.mark.skipif(
    not (Path(os.environ.get("FACEVAE_CELEBA", "")) / "img_align_celeba.zip").is_file(),
    reason="FACEVAE_CELEBA does not name a folder with img_align_celeba.zip",
)
def test_use_takes_real_images_from_anywhere(fresh: Study) -> None:
    source = Path(os.environ["FACEVAE_CELEBA"]).resolve()
    output = fresh.dvc(
        "exp", "run", "-S", f"data.source={source}", "-S", "data.limit.train=128",
        "-S", "data.limit.validation=16", "-S", "data.limit.test=8", "prepare",
    )  # fmt: skip
    assert ran(output) == {"prepare"}
    counts = json.loads((fresh.folder / "metrics" / "data.json").read_text())["images"]
    assert counts == {"train": 128, "validation": 16, "test": 8}


def test_use_sweep_through_the_queue(fresh: Study, tmp_path: Path) -> None:
    """The queue runs experiments in copies of the project in other folders.

    The data is in a folder whose name means something to a shell, to Hydra and to patterns.
    """
    source = tmp_path / "my (faces), [a] ${b} it's"
    shutil.copytree(fresh.folder / "data" / "synthetic", source)
    (argument,) = shlex.split(override(source))
    fresh.dvc("exp", "run", "--queue", "-S", argument, "-S", "data.limit.test=5,6", "prepare")
    before = fresh.git("for-each-ref", "refs/exps/??/*/*").count("\n")
    fresh.dvc("queue", "start", "--jobs", "1")
    deadline = time.monotonic() + 300
    # An experiment that has run is a reference of git. The status of the queue takes DVC a second.
    while fresh.git("for-each-ref", "refs/exps/??/*/*").count("\n") < before + 2:
        assert time.monotonic() < deadline, fresh.dvc("queue", "status")
        time.sleep(0.1)
    while re.search(r"\b(Queued|Running)\b", fresh.dvc("queue", "status")):
        assert time.monotonic() < deadline, "the queue stands still"
        time.sleep(0.1)
    shown = json.loads(fresh.dvc("exp", "show", "--json"))
    found = {}
    for experiment in shown[1]["experiments"]:
        data = experiment["revs"][-1]["data"]
        limit = data["params"]["params.yaml"]["data"]["data"]["limit"]["test"]
        found[limit] = data["metrics"]["metrics/data.json"]["data"]["images"]["test"]
    assert (found[5], found[6]) == (5, 6)  # the list also has other tests' experiments
    fresh.dvc("exp", "remove", "--all-commits")
