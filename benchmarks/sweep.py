"""A sweep over `encoder.inter_dense` through DVC's queue, and a picture of what it says.

One training for each number of units, and one without the extra Dense layer. Held-out loss and the
distance of generated from real images, over the Encoder's parameters and over the reckoned peak of
a training step at batch 128. What has been trained before is not trained again.
"""

import argparse
import subprocess
import time
from pathlib import Path
from typing import Any

import dvc.api  # type: ignore[import-untyped]

from facevae.memory import ledger
from facevae.parameters import load_parameters
from facevae.plots import save_labelled_points

UNITS = (32, 64, 128, 256, 384, 512)
BATCH = 128
PREFIX = "units"
DIRECT = "direct"
COLUMNS = {
    "Encoder parameters": "encoder.params",
    "test loss": "test.loss",
    "PSNR, dB": "test.psnr",
    "SWD of samples": "samples.swd_real_normalization.mean",
}


def run(*arguments: str) -> None:
    # Its output is not captured: the queue's worker would keep the pipe open until it is through.
    subprocess.run(["dvc", *arguments], check=True)


def experiments() -> dict[str, dict[str, Any]]:
    """The sweep's experiments that are through, by name."""
    rows = {row["Experiment"]: row for row in dvc.api.exp_show()}
    return {
        name: row
        for name, row in rows.items()
        if name and name.startswith(f"{PREFIX}-") and row["State"] in (None, "Success")
    }


def train(settings: list[str]) -> None:
    """Queue what is missing, and wait until all is through."""
    done = experiments()
    names = {units: f"{PREFIX}-{units}" for units in UNITS}
    for units, name in names.items():
        if name not in done:
            overrides = [f"encoder.inter_dense={units}", *settings]
            flags = [flag for override in overrides for flag in ("-S", override)]
            run("exp", "run", "--queue", "--name", name, *flags)
    run("queue", "start", "--jobs", "1")
    while missing := set(names.values()) - experiments().keys():
        rows = dvc.api.exp_show()
        if failed := missing & {row["Experiment"] for row in rows if row["State"] == "Failed"}:
            raise SystemExit(f"failed: {', '.join(sorted(failed))}; see dvc queue logs")
        print(f"to do: {', '.join(sorted(missing))}", flush=True)
        time.sleep(60)


def _value(row: dict[str, Any], variant: str, key: str) -> float:
    # The columns bear the file's name where two files have the same key.
    return float(row[f"metrics/{variant}.json:{key}"])


def results() -> dict[str, dict[str, float]]:
    """What was measured, by the number of units."""
    parameters = load_parameters()
    train_section = parameters.train.model_copy(update={"batch_size": BATCH})
    done = experiments()
    rows = {DIRECT: (done[f"{PREFIX}-{UNITS[-1]}"], "direct", 0)}
    for units in UNITS:
        rows[str(units)] = (done[f"{PREFIX}-{units}"], "inter_dense", units)
    found = {}
    for name, (row, variant, units) in rows.items():
        step = ledger(
            parameters.encoder,
            train_section,
            image_size=parameters.data.image_size,
            inter_dense=units,
        )
        found[name] = {column: _value(row, variant, key) for column, key in COLUMNS.items()}
        found[name] |= {"peak, MiB": step.peak / 2**20}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", help="such as train.epochs=8, for all experiments")
    parser.add_argument("--picture", type=Path, default=Path("reports/sweep.png"))
    options = parser.parse_args()
    train(options.settings)
    found = results()
    print("| units | Encoder parameters | peak, MiB | test loss | PSNR, dB | SWD of samples |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, row in found.items():
        print(
            f"| {name} | {row['Encoder parameters']:,.0f} | {row['peak, MiB']:.0f} "
            f"| {row['test loss']:.1f} | {row['PSNR, dB']:.2f} | {row['SWD of samples']:.1f} |"
        )
    save_labelled_points(
        {
            label: {name: (row[x] / scale, row[y]) for name, row in found.items()}
            for label, (x, scale, y) in {
                ("Encoder parameters, million", "test loss per image"): (
                    "Encoder parameters", 1e6, "test loss",
                ),
                (f"peak of a step at batch {BATCH}, MiB", "test loss per image"): (
                    "peak, MiB", 1, "test loss",
                ),
                ("Encoder parameters, million", "SWD of samples to real faces"): (
                    "Encoder parameters", 1e6, "SWD of samples",
                ),
                (f"peak of a step at batch {BATCH}, MiB", "SWD of samples to real faces"): (
                    "peak, MiB", 1, "SWD of samples",
                ),
            }.items()
        },
        DIRECT,
        options.picture,
        title="The extra Dense layer's units, and none (direct)",
    )  # fmt: skip


if __name__ == "__main__":
    main()
