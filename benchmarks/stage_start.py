"""How long a stage takes to start, beside a bare `import tensorflow`, in alternating runs.

A stage has started when its library is imported and its parameters are read. It is given a folder
or a model that is not there, so that it ends right then.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import print_table, stage

ROUNDS = 9
BARE = "import tensorflow"


def commands(missing: Path) -> dict[str, list[str]]:
    """What to run, by name: the stages that load TensorFlow, and the bare import."""
    model = ("--model", missing, "--prior", missing, "--shards", missing)
    return {
        BARE: [sys.executable, "-c", "import tensorflow"],
        "attributes": stage(
            "attributes", "--shards", missing, "--network", missing, "--metrics", missing
        ),
        "train": stage(
            "train", "--variant", "direct", "--shards", missing, "--model", missing,
            "--history", missing,
        ),
        "prior": stage("prior", *model),
        "generate": stage("generate", *model, "--reports", missing),
        "evaluate": stage("evaluate", *model, "--attributes", missing, "--metrics", missing),
    }  # fmt: skip


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        named = commands(Path(folder) / "missing")
        found: dict[str, list[float]] = {name: [] for name in named}
        for number in range(rounds):
            for name in list(named)[:: 1 if number % 2 else -1]:
                found[name].append(seconds_of(named[name]))

    def row(name: str) -> tuple[str, ...]:
        low, median, high = statistics.quantiles(found[name], n=4)
        more = statistics.median(a - b for a, b in zip(found[name], found[BARE], strict=True))
        return name, f"{median:.2f} ({low:.2f} to {high:.2f})", f"{more:+.2f}"

    head = ("stage", "seconds (quartiles)", f"more than `{BARE}`")
    print_table(head, (row(name) for name in named))


if __name__ == "__main__":
    main()
