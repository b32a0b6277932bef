"""What all studies share: their command line, their images and trainings, and their rows.

A study trains candidates, each with some settings changed, and measures each into a row of
reports/studies/<study>.csv (see `studies.rows`). A row that exists is not measured again, so a
study can be stopped and continued, on other days and machines. The report is always written from
the rows. One training runs at a time, by the commands of the pipeline's stages.
"""

import argparse
import hashlib
import importlib
import itertools
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.harness import (
    FACES,
    PROJECT,
    prepare_images,
    project_parameters,
    run,
    stage,
    write_parameters,
)
from facevae.common.errors import UserError
from facevae.common.files import exclusive_writer, write_text
from facevae.common.parameters import Parameters
from facevae.common.runtime import load_tensorflow
from studies.rows import Origin, Origins, Row, append_row, flat, read_rows, settings_text

Settings = Mapping[str, Any]  # values by full name, such as loss.kl_weight
Title = tuple[str, ...]  # the first cells of a candidate's line in the report

REPORTS = PROJECT / "reports" / "studies"
FOLDER = PROJECT / ".facevae" / "studies"
EPOCHS = 6
FIRST_SEED = 1

# What is measured depends on the code of these stages and files, and on these sections of
# params.yaml.
_STAGES = ("attributes", "train", "prior", "evaluate")
_OWN_CODE = ("benchmarks/peers/torch_networks.py", "studies/measurements.py", "studies/peers")
_SECTIONS = ("synthesize", "data", "encoder", "loss", "train", "generate")


@dataclass(frozen=True)
class Results:
    """The rows of a study that belong to its candidates.

    Attributes:
        settings: of each candidate, all that differ from params.yaml.
        rows: of each candidate that has some, in the order of the seeds.
        origins: how they were measured.
    """

    settings: Mapping[Title, Settings]
    rows: Mapping[Title, Sequence[Row]]
    origins: Origins

    def mean(self, title: Title, metric: str) -> float | None:
        """Over the seeds; None if no row of the candidate has the metric."""
        values = [row.metrics[metric] for row in self.rows[title] if metric in row.metrics]
        return statistics.mean(values) if values else None


@dataclass(frozen=True)
class Study:
    """What is trained, how it is measured, and what is written about it.

    Attributes:
        name: of the rows and their file.
        report_file: name of the Markdown file.
        common: settings of all candidates.
        candidates: the settings that each changes.
        seeds: how many seeds a candidate is measured with, if more than one: 1, 2, ...
        measure: metrics of a candidate with a seed, possibly nested; None is not defined.
        report: Markdown lines.
        pictures: writes pictures into the folder of the report, if what they show is there.
    """

    name: str
    report_file: str
    common: Settings
    candidates: Mapping[Title, Settings]
    seeds: Mapping[Title, int]
    measure: Callable[["Work", Title, int], Mapping[str, Any]]
    report: Callable[[Results], list[str]]
    pictures: Callable[[Results, Path, Path], None] = lambda results, work, reports: None

    def settings(self, overrides: Settings, *, real: bool) -> dict[Title, Settings]:
        """All settings of each candidate that differ from params.yaml.

        Args:
            real: whether the images are real ones, of the folder that FACEVAE_CELEBA names.
        """
        common = {**self.common, **overrides}
        if not real:
            # A row of drawn faces is no row of real ones.
            drawn = project_parameters({}).synthesize
            common = {"synthesize.images": drawn.images, "synthesize.seed": drawn.seed, **common}
        return {title: {**common, **changes} for title, changes in self.candidates.items()}


def commit() -> str:
    """The project's commit, with "+changes" if a file beside the studies' reports differs from it.

    Returns:
        "unknown" where the project is not in git.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PROJECT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":!reports/studies")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _digest(content: Sequence[Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def outcome_digest() -> str:
    """16 hexadecimal digits for the code and the values in params.yaml that decide the metrics.

    The code is that of the stages, as dvc.yaml lists it, that which studies have of their own, and
    the versions of the libraries.
    """
    from facevae.training.checkpoints import content_digest

    # A stage keeps Ctrl-C waiting until it runs.
    heeded = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    code_of = importlib.import_module("stages._stage").code_of
    signal.pthread_sigmask(signal.SIG_SETMASK, heeded)
    code = {part for name in _STAGES for part in code_of(name)} | {*_OWN_CODE}
    values = project_parameters({}).model_dump(include=set(_SECTIONS))
    del values["data"]["source"]
    versions = [version(name) for name in ("keras", "numpy", "scikit-learn", "tensorflow")]
    content = content_digest((), PROJECT, sorted(code))
    return _digest([values, versions, content])


class Work:
    """The images of a study and the trainings on them; both are made when they are needed.

    Args:
        folder: for the shards, the attribute network and, in `place`, the models.
        settings: of each candidate; those of the images are the same for all.
    """

    def __init__(self, folder: Path, settings: Mapping[Title, Settings]) -> None:
        self.folder = folder
        self.settings = settings
        self._trained: Path | None = None

    def parameters(self, title: Title, seed: int) -> Parameters:
        """Those of a candidate's variant."""
        return project_parameters({**self.settings[title], "train.seed": seed})

    @cached_property
    def shards(self) -> Path:
        """Folder of the prepared images."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = {
            key: value
            for key, value in next(iter(self.settings.values())).items()
            if key.startswith(("data.", "synthesize."))
        }
        return prepare_images(self.folder, project_parameters(data))

    @cached_property
    def attributes(self) -> Path:
        """Folder of the network that is trained on their attributes."""
        network, metrics = self.folder / "attributes", self.folder / "attributes.json"
        run(*stage("attributes", "--shards", self.shards, "--network", network,
                   "--metrics", metrics))  # fmt: skip
        return network

    @cached_property
    def origin(self) -> Origin:
        """How candidates are measured by this process."""
        load_tensorflow()
        from facevae.common.machine import device_name
        from facevae.shards.batches import Shards
        from facevae.training.checkpoints import content_digest

        shards = Shards(self.shards)
        files = [file for split in shards.counts for file in shards.files(split)]
        images = content_digest(files, PROJECT, ())[:16]
        return Origin(commit(), outcome_digest(), images, device_name())

    def train(self, title: Title, seed: int) -> Path:
        """Train a candidate; the folder of params.yaml, model.keras and history.csv.

        Candidates that differ in how samples are drawn alone share a training if they follow each
        other.
        """
        settings = self.settings[title]
        folder = place(self.folder, settings, seed, self.origin)
        if folder != self._trained:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / "params.yaml"
            variant = write_parameters(self.parameters(title, seed), file)
            run(*stage("train", "--params", file, "--variant", variant, "--shards", self.shards,
                       "--model", folder / "model.keras", "--history", folder / "history.csv")
                )  # fmt: skip
            self._trained = folder
        return folder

    def evaluate(self, title: Title, seed: int) -> dict[str, Any]:
        """Train a candidate; what the stages prior and evaluate measure on the test split."""
        folder = self.train(title, seed)
        prior, metrics = folder / "prior.npz", folder / "metrics.json"
        common = ("--params", folder / "params.yaml", "--model", folder / "model.keras",
                  "--shards", self.shards, "--prior", prior)  # fmt: skip
        run(*stage("prior", *common))
        run(*stage("evaluate", *common, "--attributes", self.attributes, "--metrics", metrics))
        return json.loads(metrics.read_text(encoding="utf-8"))


def place(folder: Path, settings: Settings, seed: int, origin: Origin) -> Path:
    """The folder of a model: another for other settings, code, images or processors."""
    training = {key: value for key, value in settings.items() if not key.startswith("generate.")}
    named = [settings_text(training), seed, origin.digest, origin.images, origin.device]
    return folder / "models" / _digest(named)


def find_results(study: Study, settings: Mapping[Title, Settings], file: Path) -> Results:
    """The rows of a file that are of a study's candidates, of all seeds."""
    stored = sorted(read_rows(file), key=lambda row: row.seed)
    found = {}
    for title in study.candidates:
        key = study.name, settings_text(settings[title])
        if rows := [row for row in stored if row.key[:2] == key]:
            found[title] = rows
    return Results(settings, found, Origins(row for rows in found.values() for row in rows))


def measure_missing(
    study: Study, work: Work, seeds: Sequence[int] | None, part: str | None, file: Path
) -> None:
    """Measure the candidates that have no row yet, and append their rows.

    Args:
        seeds: those to measure; None: all of each candidate.
        part: measure only the candidates whose title begins with this word; None: all.

    Raises:
        UserError: the code has changed since the study began.
    """
    # One seed after the other: what a stopped study has can be compared.
    wanted = [title for title in study.candidates if part in (None, title[0])]
    if not wanted:
        raise UserError(f"--only {part}: no title of a candidate begins so")
    last = max(study.seeds.get(title, 1) for title in wanted)
    for seed, title in itertools.product(seeds or range(FIRST_SEED, last + 1), wanted):
        if seed > study.seeds.get(title, 1):
            continue
        text = settings_text(work.settings[title])
        name = f"{study.name}: {', '.join(title)}, seed {seed}"
        # Read again each time: another machine's process may append to the same file.
        if (study.name, text, seed) in {row.key for row in read_rows(file)}:
            print(f"{name}: has a row", flush=True)
            continue
        print(f"{name}: is measured", flush=True)
        origin, metrics = work.origin, flat(study.measure(work, title, seed))
        if outcome_digest() != origin.digest:
            raise UserError(
                f"{name}: the code or params.yaml was changed while it was measured, so there is "
                "no row of it; run the same command again"
            )
        append_row(file, Row(study.name, text, seed, origin, metrics))


def dvc_command(settings: Settings) -> str:
    """How a user trains both variants with some settings in the pipeline."""
    changes = {"data.source": "/path/to/the/images", **settings}
    flags = [
        f"-S {shlex.quote(f'{key}={value if isinstance(value, str) else json.dumps(value)}')}"
        for key, value in changes.items()
        if not key.startswith("synthesize.")
    ]
    return f"dvc exp run {' '.join(flags)}"


def _overrides(changes: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UserError(f"{change}: must be a parameter and its value: train.epochs=8")
        settings[key] = YAML(typ="safe").load(value)
    if "train.seed" in settings:
        raise UserError("train.seed: give the seeds with --seeds")
    if "data.source" in settings:
        os.environ[FACES] = settings.pop("data.source")
    project_parameters(settings)  # mistakes are reported before anything runs
    return settings


def main(study: Study, description: str | None) -> None:
    """The command line of a study."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="for all candidates, such as train.epochs=8")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these; by default all")
    parser.add_argument("--only", metavar="PART", help="only candidates whose title begins so")
    parser.add_argument("--report", action="store_true", help="write the report, measure nothing")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="folder of rows and reports")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="models are kept here")
    options = parser.parse_args()
    # This process must leave room on a GPU for the stages that it runs.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    try:
        _run(study, options)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


def _run(study: Study, options: argparse.Namespace) -> None:
    overrides, real = _overrides(options.settings), bool(os.environ.get(FACES))
    settings = study.settings(overrides, real=real)
    folder, file = options.folder.resolve() / study.name, options.reports / f"{study.name}.csv"
    if not options.report:
        with exclusive_writer(folder):
            measure_missing(study, Work(folder, settings), options.seeds, options.only, file)
    results = find_results(study, settings, file)
    if options.report and not (real or results.rows):
        # Rows need no images.
        results = find_results(study, study.settings(overrides, real=True), file)
    if not results.rows:
        raise UserError(f"{file}: has no rows of these settings; measure some: without --report")
    text = "\n".join([*study.report(results), ""])
    write_text(options.reports / study.report_file, text)
    study.pictures(results, folder, options.reports)
    print(text)
