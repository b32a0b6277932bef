"""What benchmarks and studies share: prepared images, candidates that take turns, and tables.

A candidate is a process of its own. All candidates are warm, and one works at a time. A noisy
machine's speed drifts over minutes; turns of a second or two, in alternating order, spread the
drift evenly over the candidates.

The peers' environment imports this module too: it has the standard library alone, so what needs
other packages imports them inside its function.
"""

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facevae.common.parameters import Parameters

PROJECT = Path(__file__).resolve().parent.parent
PEERS = PROJECT / ".venv-peers" / "bin" / "python"
FACES = "FACEVAE_CELEBA"  # environment variable: folder in CelebA's layout
MIB = 2**20


def run(*command: object) -> None:
    """Run a command in the project's folder; if it fails, end with its exit status."""
    status = subprocess.run([str(part) for part in command], cwd=PROJECT, check=False).returncode
    if status:
        raise SystemExit(status)


def stage(name: str, *arguments: object) -> list[str]:
    """The command of one of the pipeline's stages."""
    return [sys.executable, str(PROJECT / "stages" / f"{name}.py"), *map(str, arguments)]


def project_parameters(changes: Mapping[str, Any]) -> "Parameters":
    """The settings of params.yaml with some changed, by full name."""
    from facevae.common.parameters import load_parameters

    return load_parameters(PROJECT / "params.yaml").with_changes(changes)


def write_parameters(parameters: "Parameters", file: Path) -> str:
    """Write a params.yaml for stages.

    Returns:
        The variant that the settings describe, for a stage's `--variant`.
    """
    import yaml

    content = parameters.model_dump()
    variant = "inter_dense"
    if not content["encoder"]["inter_dense"]:
        variant = "direct"
        content["encoder"]["inter_dense"] = (
            1  # the file must not say 0; no stage of direct reads it
        )
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return variant


def image_source(folder: Path, count: int, seed: int = 1) -> Path:
    """The folder that FACEVAE_CELEBA names, or else so many drawn faces in a new folder."""
    if os.environ.get(FACES):
        return Path(os.environ[FACES]).resolve()
    from facevae.data.synthetic import synthesize

    synthesize(folder / "drawn", images=count, seed=seed)
    return folder / "drawn"


def prepare_images(folder: Path, parameters: "Parameters") -> Path:
    """Shards of the images of FACEVAE_CELEBA, or of drawn faces.

    Args:
        folder: where to write them, the drawn faces and the params.yaml of the prepare stage.
        parameters: the sections data, but for its source, and synthesize are used.
    """
    drawn = parameters.synthesize
    source = image_source(folder, drawn.images, drawn.seed)
    file, shards = folder / "prepare.yaml", folder / "shards"
    write_parameters(parameters.with_changes({"data.source": str(source)}), file)
    run(*stage("prepare", "--params", file, "--shards", shards, "--metrics", folder / "data.json"))
    return shards


def serve(turn: Callable[[int], float]) -> None:
    """In a candidate's process: for every number read, take so many steps and print the seconds.

    Args:
        turn: takes so many steps and returns their seconds.
    """
    for line in sys.stdin:
        print("seconds", turn(int(line)), flush=True)
    print("MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, flush=True)


class Candidate:
    """A candidate's process, seen from the benchmark.

    Args:
        module: what it runs, which calls `serve`, such as benchmarks.training_steps.
        arguments: of its command line.
        images: images per step.
        python: interpreter of the environment to run it in.
        variables: environment variables of the process.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        images: int,
        python: object = sys.executable,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.images = images
        self.command = [str(part) for part in (python, "-m", module, *arguments)]
        self._process = subprocess.Popen(
            self.command,
            cwd=PROJECT,
            env={**os.environ, **(variables or {})},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _answer(self, name: str) -> float:
        assert self._process.stdout
        for line in self._process.stdout:
            key, _, value = line.partition(" ")
            if key == name:
                return float(value)
        raise SystemExit(f"failed: {' '.join(self.command)}")

    def turn(self, steps: int) -> float:
        """Images per second over so many steps."""
        assert self._process.stdin
        print(steps, file=self._process.stdin, flush=True)
        return self.images * steps / self._answer("seconds")

    def end(self) -> float:
        """End the process; the most memory that it held, MiB."""
        assert self._process.stdin
        self._process.stdin.close()
        peak = self._answer("MiB")
        self._process.wait()
        return peak


def take_turns(
    candidates: Mapping[str, Candidate], rounds: int, seconds: float = 2.0
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Let candidates take turns after a warm-up, and end them.

    A turn takes about so many seconds, or one step. The order is reversed from round to round.

    Returns:
        Images per second of every candidate in every round; the most memory that its process held,
        MiB.
    """
    steps = {}
    for name, candidate in candidates.items():
        candidate.turn(2)  # compiles
        steps[name] = max(1, round(seconds * candidate.turn(1) / candidate.images))
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name in list(candidates)[:: 1 if number % 2 else -1]:
            rates[name].append(candidates[name].turn(steps[name]))
    return rates, {name: candidate.end() for name, candidate in candidates.items()}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median of the rounds' ratios with its lower and upper quartile; of at least two rounds."""
    lower, median, upper = statistics.quantiles(
        [a / b for a, b in zip(ours, theirs, strict=True)], n=4
    )
    return median, lower, upper


def spread(numbers: Sequence[float], form: str = ".2f") -> str:
    """A median with its quartiles, as `ratio` returns them, for a table."""
    middle, low, high = (f"{number:{form}}" for number in numbers)
    return f"{middle} ({low} to {high})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> Iterator[str]:
    """The lines of a Markdown table, each as soon as its row is there.

    Args:
        text: so many columns hold words and are aligned to the left, all others to the right.
    """
    yield f"| {' | '.join(head)} |"
    yield "| --- |" + " --- |" * (text - 1) + " ---: |" * (len(head) - text)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> None:
    """Print the lines of `table` as they come, and an empty one."""
    for line in table(head, rows, text):
        print(line, flush=True)
    print(flush=True)
