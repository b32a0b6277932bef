"""Does the extra Dense layer hurt, and with how many units? Over seeds, by DVC's queue.

For each seed one training without the layer, and one for each number of units. Written are a table
of the differences to no layer with their intervals, and a picture over the Encoder's parameters and
over the reckoned peak of a training step at batch 128. What has been trained before is not trained
again.
"""

import argparse
import math
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dvc.api  # type: ignore[import-untyped]
from dvc.exceptions import NotDvcRepoError  # type: ignore[import-untyped]
from scipy import stats

from facevae.common.files import atomic_write
from facevae.common.parameters import load_parameters
from facevae.memory.ledger import ledger
from facevae.plotting.charts import save_labelled_points

UNITS = (64, 128, 256, 512)
BATCH = 128
CONFIDENCE = 0.95
DIRECT = "direct"


class Quantity(NamedTuple):
    key: str
    title: str
    digits: int


QUANTITIES = (
    Quantity("test.psnr", "PSNR, dB", 2),
    Quantity("test.ssim", "SSIM", 3),
    Quantity("test.elbo_bits_per_dimension", "bits per dimension", 3),
    Quantity("test.kl", "KL, nats", 1),
    Quantity("samples.swd_real_normalization.mean", "SWD of samples", 0),
    Quantity("samples.frechet_distance", "Frechet distance of samples", 2),
)
IN_PICTURE = (QUANTITIES[0], QUANTITIES[-1])
PARAMETERS = "encoder.params"

# By quantity, of every seed.
Found = dict[str, list[float]]


def run(*arguments: str) -> None:
    # Its output is not captured: the queue's worker would keep the pipe open until it is through.
    subprocess.run(["dvc", *arguments], check=True)


def name_of(units: int, seed: int) -> str:
    return f"units-{units}-seed-{seed}"


def shown() -> list[dict[str, Any]]:
    """All experiments with their figures."""
    while True:
        try:
            return dvc.api.exp_show()
        except NotDvcRepoError:
            time.sleep(5)  # it looked into a queued one's folder as that was cleared away


def experiments() -> dict[str, dict[str, Any]]:
    """The sweep's experiments that are through, by name."""
    rows = {row["Experiment"]: row for row in shown()}
    return {
        name: row
        for name, row in rows.items()
        if name and name.startswith("units-") and row["State"] in (None, "Success")
    }


def overrides(units: int, seed: int, settings: Sequence[str]) -> list[str]:
    return [f"encoder.inter_dense={units}", f"train.seed={seed}", *settings]


def train(seeds: Sequence[int], settings: Sequence[str]) -> None:
    """Queue what is missing, and wait until all is through."""
    done = experiments()
    names = {name_of(units, seed): (units, seed) for seed in seeds for units in UNITS}
    for name, (units, seed) in names.items():
        if name not in done:
            changes = overrides(units, seed, settings)
            flags = [flag for change in changes for flag in ("--set-param", change)]
            run("exp", "run", "--queue", "--name", name, *flags, "evaluate")
    run("queue", "start", "--jobs", "1")
    while missing := names.keys() - experiments().keys():
        rows = shown()
        if failed := missing & {row["Experiment"] for row in rows if row["State"] == "Failed"}:
            raise SystemExit(f"failed: {', '.join(sorted(failed))}; see dvc queue logs")
        print(f"to do: {', '.join(sorted(missing))}", flush=True)
        time.sleep(60)


def results(seeds: Sequence[int]) -> dict[str, Found]:
    """What was measured, by the number of units."""
    done = experiments()
    found: dict[str, Found] = {}
    for units in (0, *UNITS):
        variant = "inter_dense" if units else DIRECT
        # Every experiment of a seed has the same direct.
        rows = [done[name_of(units or UNITS[0], seed)] for seed in seeds]
        # The columns bear the file's name where two files have the same key.
        found[str(units or DIRECT)] = {
            key: [float(row[f"metrics/{variant}.json:{key}"]) for row in rows]
            for key in (PARAMETERS, *(quantity.key for quantity in QUANTITIES))
        }
    return found


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its interval by Student's t, nan of a single one."""
    mean = statistics.mean(differences)
    count = len(differences)
    if count < 2:
        return mean, math.nan
    error = statistics.stdev(differences) / math.sqrt(count)
    return mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error


def differences(found: dict[str, Found], units: str, key: str) -> tuple[float, float]:
    """To direct, with the same seed each."""
    pairs = zip(found[units][key], found[DIRECT][key], strict=True)
    return interval([one - other for one, other in pairs])


def in_words(found: dict[str, Found]) -> list[str]:
    """What the table says, a sentence for each number of units."""
    lines = []
    for units in map(str, UNITS):
        seen: list[tuple[str, str]] = []
        unseen: list[tuple[str, str]] = []
        for quantity in QUANTITIES:
            mean, half = differences(found, units, quantity.key)
            text = f"{mean:+.{quantity.digits}f} ± {half:.{quantity.digits}f}"
            (seen if abs(mean) > half else unseen).append((quantity.title, text))
        told = "; ".join(f"{title} by {text}" for title, text in seen) or "nothing"
        rest = f" Not told from 0: {', '.join(title for title, _ in unseen)}." if unseen else ""
        lines.append(f"- {units} units change {told}.{rest}")
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def report(found: dict[str, Found], seeds: Sequence[int], settings: Sequence[str]) -> str:
    """Markdown."""
    titles = [quantity.title for quantity in QUANTITIES]
    head = ["units", "Encoder parameters", *titles]
    ruler = _row(["---:"] * len(head))
    levels, gaps = [_row(head), ruler], [_row(head), ruler]
    for units, row in found.items():
        size = f"{row[PARAMETERS][0]:,.0f}"
        means = [f"{statistics.mean(row[each.key]):.{each.digits}f}" for each in QUANTITIES]
        levels.append(_row([units, size, *means]))
        if units != DIRECT:
            fewer = f"{row[PARAMETERS][0] - found[DIRECT][PARAMETERS][0]:+,.0f}"
            cells = []
            for each in QUANTITIES:
                mean, half = differences(found, units, each.key)
                cells.append(f"{mean:+.{each.digits}f} ± {half:.{each.digits}f}")
            gaps.append(_row([units, fewer, *cells]))
    public = [
        # Where the images lie here is nobody else's business.
        "data.source=/path/to/the/images" if change.startswith("data.source=") else change
        for change in settings
    ]
    changes = overrides(UNITS[0], seeds[0], public)
    flags = " ".join(f"-S {change}" for change in changes)
    units_of, seeds_of = (", ".join(map(str, values)) for values in (UNITS, seeds))
    return "\n".join(
        [
            "# Does the extra Dense layer hurt?",
            "",
            f"Trained with {units_of} units in the extra Dense layer, and without it (direct), "
            f"with the seeds {seeds_of}, for the same number of steps, and measured on the test "
            f"split.",
            "",
            f"## What the layer changes: differences to direct, with {CONFIDENCE:.0%} intervals",
            "",
            *gaps,
            "",
            "Each is the mean over the seeds of the difference to direct with the same seed, ± "
            "half its interval by Student's t.",
            "",
            *in_words(found),
            "",
            "## The figures themselves, means over the seeds",
            "",
            *levels,
            "",
            "## The commands",
            "",
            "Each experiment trains both variants; DVC does not train direct again:",
            "",
            "```console",
            f"dvc exp run {flags}",
            "```",
            "",
        ]
    )  # fmt: skip


def save_picture(found: dict[str, Found], path: Path) -> None:
    parameters = load_parameters()
    train_section = parameters.train.model_copy(update={"batch_size": BATCH})
    peaks = {
        units: ledger(
            parameters.encoder,
            train_section,
            image_size=parameters.data.image_size,
            inter_dense=0 if units == DIRECT else int(units),
            reconstruction=parameters.loss.reconstruction,
        ).peak
        / 2**20
        for units in found
    }
    millions = {units: row[PARAMETERS][0] / 1e6 for units, row in found.items()}
    save_labelled_points(
        {
            (label, quantity.title): {
                units: (places[units], row[quantity.key]) for units, row in found.items()
            }
            for quantity in IN_PICTURE
            for label, places in (
                ("Encoder parameters, million", millions),
                (f"peak of a step at batch {BATCH}, MiB", peaks),
            )
        },
        DIRECT,
        path,
        title="The extra Dense layer's units, and none (direct): mean and range over seeds",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", help="such as train.epochs=8, for all experiments")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=Path("reports/studies"))
    options = parser.parse_args()
    train(options.seeds, options.settings)
    found = results(options.seeds)
    text = report(found, options.seeds, options.settings)
    with atomic_write(options.folder / "inter_dense.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    save_picture(found, options.folder / "inter_dense.png")
    print(text)


if __name__ == "__main__":
    main()
