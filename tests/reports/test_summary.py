"""The four figures at the top of the page and at the end of `make repro`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from example_metrics import example_metrics
from helpers import PROJECT

from facevae.common.parameters import Parameters
from facevae.reports.comparison import comparison_csv, comparison_rows
from facevae.reports.summary import Values, findings

OPEN = "Open reports/index.html in a browser to see both variants' faces."


def _summary(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make repro` runs last."""
    (line,) = re.findall(
        r"^\t@\$\(BIN\)/python (-m \S+summary)$", (PROJECT / "Makefile").read_text(), re.MULTILINE
    )
    command = [sys.executable, *line.split()]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)


@pytest.fixture
def table(tmp_path: Path, parameters: Parameters) -> Path:
    """A comparison.csv where the project has it."""
    direct = example_metrics(5_109_440, 20.25, 1500.0, None)
    dense = example_metrics(2_881_472, 20.125, 1470.0, None)
    path = tmp_path / "reports" / "comparison.csv"
    path.parent.mkdir()
    of_32 = parameters.with_changes({"train.batch_size": 32})
    path.write_text(comparison_csv(comparison_rows(of_32, direct, dense, 3300)))
    return path


def test_five_lines_end_a_run(tmp_path: Path, table: Path) -> None:
    done = _summary(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [re.sub(" +", " ", line) for line in done.stdout.splitlines()]
    assert lines == [
        "Encoder parameters 5.11 -> 2.88 million The layer removes 44 % of them.",
        "Peak memory at batch 128 1,500 -> 1,470 MiB The layer saves 2 %. The step itself: an "
        "estimated 177 MiB without it, 152 with it.",
        "Time per epoch 20.0 -> 20.0 s As long with the layer as without it.",
        "Quality (PSNR) 20.2 -> 20.1 dB Reconstructions of unseen faces are 0.12 dB worse with "
        "the layer.",
        OPEN,
    ]
    assert done.stdout.isascii()  # also for a terminal that knows no other characters


def test_what_was_not_measured_is_named(tmp_path: Path, table: Path) -> None:
    rows = table.read_text().splitlines()
    kept = [rows[0], "test.psnr,of one variant,20.25,,,,", "cost.peak_memory_mib,of none,,,,,"]
    table.write_text("\n".join(kept))
    done = _summary(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [re.sub(" +", " ", line) for line in done.stdout.splitlines()]
    nothing = "not measured This run has not measured it."
    assert lines == [
        f"Encoder parameters {nothing}",
        f"Peak memory {nothing}",
        f"Time per epoch {nothing}",
        "Quality (PSNR) 20.2 -> not measured dB This run has not measured it.",
        OPEN,
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is not there; write it first: dvc repro"),
        ("", "is damaged (it has no rows); delete it and write it again: dvc repro"),
        ("key,direct,inter_dense\na,1,two\n", "is damaged (could not convert string to float"),
        ("name,direct\na,1\n", "is damaged ('key')"),
    ],
)
def test_a_table_that_cannot_be_read_is_a_sentence(
    tmp_path: Path, table: Path, content: str | None, told: str
) -> None:
    table.unlink()
    if content is not None:
        table.write_text(content)
    done = _summary(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"reports/comparison.csv: {told}")
    assert done.stderr.count("\n") == 1


def _shown(values: dict[str, Values], name: str) -> tuple[str, str]:
    """The figures and the sentence of a finding."""
    (finding,) = (each for each in findings(values) if each.name.startswith(name))
    return f"{finding.without} {finding.with_layer} {finding.unit}".strip(), finding.sentence


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((2_000_000, 2_100_000), ("2.00 2.10 million", "The layer adds 5 %.")),
        ((2_000_000, 2_000_001), ("2.00 2.00 million", "The layer adds less than 1 %.")),
        ((5_000, 4_000), ("5,000 4,000", "The layer removes 20 % of them.")),
        ((5_000, 5_000), ("5,000 5,000", "As many with the layer as without it.")),
    ],
)
def test_parameters(values: Values, shown: tuple[str, str]) -> None:
    assert _shown({"encoder.params": values}, "Encoder") == shown


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((1000, 1100), ("1,000 1,100 MiB", "The layer costs 10 %.")),
        ((1000, 1000), ("1,000 1,000 MiB", "As much with the layer as without it.")),
    ],
)
def test_memory(values: Values, shown: tuple[str, str]) -> None:
    assert _shown({"cost.peak_memory_mib": values}, "Peak memory") == shown


@pytest.mark.parametrize(
    ("seconds", "lowest", "highest", "shown"),
    [
        ((10, 12), (90, 80), (110, 100), "10.0 12.0 s No difference beyond that between"),
        ((10, 12), (98, 80), (110, 85), "10.0 12.0 s The layer costs 20 %."),
        ((600, 300), (1, 3), (2, 4), "10.0 5.0 min The layer saves 50 %."),
        ((0.5, 0.25), (1, 3), (2, 4), "0.500 0.250 s The layer saves 50 %."),
        # Less than a batch of images; and a fast device.
        ((0, 0), (1, 3), (2, 4), "0.000 0.000 s Too short to be measured."),
        ((0.0, 0.001), (1, 3), (2, 4), "0.000 0.001 s Too short to be measured."),
        ((10, 12), (None, None), (None, None), "10.0 12.0 s The layer costs 20 %."),
    ],
)
def test_time(seconds: Values, lowest: Values, highest: Values, shown: str) -> None:
    values = {
        "cost.seconds_per_epoch": seconds,
        "cost.images_per_second_lower_quartile": lowest,
        "cost.images_per_second_upper_quartile": highest,
    }
    assert " ".join(_shown(values, "Time")).startswith(shown)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((20, 21.5), "20.0 21.5 dB Reconstructions of unseen faces are 1.50 dB better with"),
        ((20.001, 20), "20.0 20.0 dB Reconstructions of unseen faces are as good with the layer"),
    ],
)
def test_quality(values: Values, shown: str) -> None:
    assert " ".join(_shown({"test.psnr": values}, "Quality")).startswith(shown)
