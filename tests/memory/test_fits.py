"""Which batch sizes fit on a card, asked as a user does."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from facevae.common.errors import UserError
from facevae.common.parameters import VARIANTS, Parameters, load_parameters
from facevae.memory.capacity import (
    parse_size,
    smallest_card,
    step_memory,
)
from facevae.memory.changes import CHANGES_CHEAPEST_FIRST, changes_that_fit
from facevae.memory.cli import report
from facevae.memory.ledger import largest_batch, ledger

GIB = 2**30


def _fits(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "facevae.memory.cli", *arguments]
    return subprocess.run(command, cwd=project, text=True, capture_output=True, check=False)


def _applied(project: Path, folder: Path, settings: dict) -> Parameters:
    """The project's parameters with some changed, as `dvc exp run -S` writes them, and checked."""
    content = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    for key, value in settings.items():
        section, name = key.split(".")
        assert name in content[section]
        content[section][name] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_parameters(path)


def _commands(text: str) -> list[tuple[dict, tuple[str, ...]]]:
    """The settings and the trained variants of each `dvc exp run` in a report."""
    found = []
    for line in re.findall(r"dvc exp run.*", text):
        words = shlex.split(line)[3:]
        settings = [word.split("=") for word in words if "." in word]
        trained = tuple(word.removeprefix("train@") for word in words if word.startswith("train@"))
        found.append(({k: yaml.safe_load(v) for k, v in settings}, trained or VARIANTS))
    return found


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 * GIB),
        ("4096MiB", 4 * GIB),
        ("4GB", 4 * GIB),
        ("4G", 4 * GIB),
        ("4 GiB", 4 * GIB),
        (" 4gib ", 4 * GIB),
        ("1.5GiB", 3 * GIB // 2),
        ("0.1 GiB", GIB // 10),
        ("4TiB", 4096 * GIB),
        ("4194304k", 4 * GIB),
        ("10 bytes", 10),
        ("1B", 1),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "four",
        "-1GiB",
        "0",
        "0GiB",
        "4",
        "1e3GiB",
        "GiB",
        "4PiB",
        "1.2.3GiB",
        "nan",
        "--card",
        "٤GiB",
    ],
)
def test_bad_input_size_is_told_by_the_real_command(project: Path, text: str) -> None:
    done = _fits(project, text)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{text!r} is not an amount of memory; write 4GiB, 4096MiB or 1.5GB\n"


@pytest.mark.parametrize("arguments", [(), ("",), ("  ",), ("", "--batch-size", "64")])
def test_bad_input_no_size_says_how_to_call(project: Path, arguments: tuple[str, ...]) -> None:
    done = _fits(project, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "make fits VRAM=4GiB" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["many", "0", "-5", "1.5", ""])
def test_bad_input_batch_is_told_by_the_real_command(project: Path, text: str) -> None:
    done = _fits(project, "4GiB", f"--batch-size={text}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{text!r} is not a batch size; give a whole number, 1 or more\n"


def test_bad_input_batch_that_does_not_split(project: Path, tmp_path: Path) -> None:
    settings = {"train.accumulation_steps": 4}
    _applied(project, tmp_path, settings)
    done = _fits(project, "4GiB", "--batch-size=30", f"--params={tmp_path}/params.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "train.batch_size: 30 images do not divide into 4 equal parts (train.accumulation_steps); "
        "take a multiple of 4\n"
    )


def test_bad_input_card_too_small_says_what_is_needed(
    project: Path, parameters: Parameters
) -> None:
    for text, name in (("10 bytes", "10 bytes"), ("300MiB", "300 MiB")):
        done = _fits(project, *text.split())
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"a card of {name} is too small for these parameters")
        assert done.stderr.count("\n") == 1
    (needed,) = re.findall(r"a card of ([\d,]+ MiB)$", done.stderr, re.MULTILINE)
    smallest = parse_size(needed.replace(",", ""))
    assert "largest" in report(parameters, smallest, 1)
    with pytest.raises(UserError):
        report(parameters, smallest - 2**21, 1)


def test_step_memory_is_what_cuda_and_tensorflow_leave() -> None:
    mib = 2**20
    assert step_memory(2 * GIB) == (2048 - 300 - 225) * 7 * mib // 10
    assert step_memory(4 * GIB) == (4096 - 300 - 500) * 7 * mib // 10
    assert step_memory(10) == 0
    for size in (1, 10**8, 10**9, 10**10):
        card = smallest_card(size)
        assert step_memory(card) >= size > step_memory(card - 2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("card", [GIB, 2 * GIB, 4096 * GIB])
def test_largest_batch_fits_and_the_next_does_not(
    parameters: Parameters, card: int, steps: int, variant: str
) -> None:
    capacity = step_memory(card)
    setting = parameters.with_changes(
        {"train.accumulation_steps": steps, "train.batch_size": steps}
    ).variant(variant)
    largest = largest_batch(setting, capacity)
    assert largest > 0
    assert largest % steps == 0
    peaks = [
        ledger(setting.with_changes({"train.batch_size": batch})).peak
        for batch in (largest, largest + steps)
    ]
    assert peaks[0] <= capacity < peaks[1]


def test_changes_have_values_that_params_yaml_may_have(project: Path, tmp_path: Path) -> None:
    for change in CHANGES_CHEAPEST_FIRST:
        _applied(project, tmp_path, dict(change.settings))


@pytest.mark.parametrize(
    ("card", "batch_size"),
    [("1GiB", 64), ("1GiB", 128), ("1GiB", 250), ("2GiB", 512), ("2GiB", 2048), ("4GiB", 1024)],
)
def test_what_is_suggested_fits(project: Path, tmp_path: Path, card: str, batch_size: int) -> None:
    done = _fits(project, card, "--batch-size", str(batch_size))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if "dvc exp run" not in line) <= 92
    commands = _commands(done.stdout)
    assert commands
    for settings, variants in commands:
        applied = _applied(project, tmp_path, settings)
        for variant in variants:
            assert ledger(applied.variant(variant)).peak <= step_memory(parse_size(card))
    *changes, last = commands
    assert {settings["train.batch_size"] for settings, _ in changes} <= {batch_size}
    assert last[0]["train.batch_size"] <= batch_size


def test_pairs_are_looked_for_when_no_single_change_is_enough(parameters: Parameters) -> None:
    wanted = parameters.with_changes({"train.batch_size": 512})
    least = min(
        max(
            ledger(wanted.with_changes(change.settings).variant(variant)).peak
            for variant in change.variants
        )
        for change in CHANGES_CHEAPEST_FIRST
    )
    assert changes_that_fit(wanted, least)
    pairs = changes_that_fit(wanted, least - 1)
    assert 1 <= len(pairs) <= 3
    for pair in pairs:
        after = wanted.with_changes(pair.settings)
        assert all(ledger(after.variant(name)).peak < least for name in pair.variants)
    assert changes_that_fit(wanted, 1) == []


def test_a_batch_that_fits_needs_no_change(project: Path) -> None:
    done = _fits(project, "64", "GiB", "--batch-size=32")
    assert done.returncode == 0
    assert "Batch size 32 fits: dvc exp run" in done.stdout
    assert "*" not in done.stdout.replace("* does not fit", "")


def test_the_answer_needs_no_tensorflow(project: Path) -> None:
    code = "import sys, facevae.memory.cli\nassert not {'tensorflow', 'keras'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True)
