"""Candidates that take turns: each a process of its own, all warm, one at work at a time.

A noisy machine's speed drifts over minutes. Turns of a second or two, taken in alternating order,
put the drift into every candidate alike. Standard library only: the peers' environments import
this file, too.
"""

import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence


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
        command: what runs it; it calls `serve`.
        images: images per step.
    """

    def __init__(self, command: Sequence[object], images: int) -> None:
        self.images = images
        self.command = list(map(str, command))
        self._process = subprocess.Popen(
            self.command,
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
) -> dict[str, list[float]]:
    """Images per second of every candidate in every round, after a warm-up.

    A turn takes about so many seconds, or one step. The order is turned around from round to round.
    """
    steps = {}
    for name, candidate in candidates.items():
        candidate.turn(2)  # compiles
        steps[name] = max(1, round(seconds * candidate.turn(1) / candidate.images))
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name in list(candidates)[:: 1 if number % 2 else -1]:
            rates[name].append(candidates[name].turn(steps[name]))
    return rates


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median of the rounds' ratios with its lower and upper quartile."""
    lower, median, upper = statistics.quantiles(
        [a / b for a, b in zip(ours, theirs, strict=True)], n=4
    )
    return median, lower, upper
