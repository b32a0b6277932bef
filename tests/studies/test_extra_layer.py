"""The study of the extra layer: its test, its tables and the rates of its pilot."""

import csv
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PROJECT, small_vae
from PIL import Image

from facevae.evaluation.attribute_classifier import AttributeClassifier
from facevae.evaluation.evaluate import evaluate
from facevae.evaluation.inputs import Inputs
from facevae.latent.priors import prior_of_dataset
from facevae.shards.batches import Shards
from studies import extra_layer, extra_layer_pilot
from studies.extra_layer import EPOCHS, MARGIN, PRIMARY, QUANTITIES, SEEDS, WITH, WITHOUT
from studies.harness import REPORTS, Results, Study, Title, find_results, place
from studies.intervals import Interval, dunnett, interval, verdict
from studies.rows import Origin, Row, append_row, settings_text

ORIGIN = Origin("0123abc", "c0de", "face", "CPU")
BASE: Title = ("main", WITHOUT, str(EPOCHS))
LAYER: Title = ("main", WITH, str(EPOCHS))
# Quantiles of Student's t with 7 degrees of freedom, as tables print them: one-sided 0.95, 0.975.
T_90, T_95 = 1.89457861, 2.36462425
T_95_OF_3 = 4.30265273  # with 2 degrees of freedom


def _results(
    study: Study, found: Mapping[tuple[Title, int], Mapping[str, float]], file: Path, **devices: str
) -> Results:
    """Through a file; a seed's device by name, such as seed_2."""
    settings = study.settings({}, real=True)
    for (title, seed), metrics in found.items():
        origin = replace(ORIGIN, device=devices.get(f"seed_{seed}", ORIGIN.device))
        append_row(file, Row(study.name, settings_text(settings[title]), seed, origin, metrics))
    return find_results(study, settings, file)


def _trainings(cost: float, seeds: int = SEEDS) -> dict[tuple[Title, int], dict[str, float]]:
    """Main trainings whose level wanders with the seed, and whose cost is nearly the same."""
    found = {}
    for seed in range(1, seeds + 1):
        level = 6.0 + 0.1 * math.sin(seed)
        for title, more in ((BASE, 0.0), (LAYER, cost + 0.002 * math.cos(seed))):
            metrics = {quantity.metric: 20.0 + level for quantity in QUANTITIES}
            metrics |= {"samples.count": 1000.0, "samples_normal.face_share": 0.255}
            found[title, seed] = {**metrics, PRIMARY.metric: level + more}
    return found


def test_metric_interval_is_students() -> None:
    values = [0.3, -0.1, 0.4, 0.25, 0.0, 0.2, 0.1, 0.05]
    found = interval(values, 0.95)
    half = T_95 * statistics.stdev(values) / math.sqrt(8)
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.half == pytest.approx(half, rel=1e-6)
    assert found.low == pytest.approx(found.mean - half)
    assert found.high == pytest.approx(found.mean + half)


def test_metric_interval_of_a_single_seed_is_not_known() -> None:
    found = interval([0.5], 0.95)
    assert found.mean == 0.5
    assert math.isnan(found.half)


@pytest.mark.parametrize(
    ("mean", "half", "said"),
    [
        (0.001, 0.005, "equivalent"),
        (-0.020, 0.010, "no worse"),
        (-0.050, 0.010, "no worse"),
        (0.012, 0.005, "not decided"),
        (0.0, 0.030, "not decided"),
        (0.030, 0.010, "worse"),
    ],
)
def test_verdict_is_where_the_interval_lies(mean: float, half: float, said: str) -> None:
    assert verdict(Interval(mean, half, 8), 0.016) == said


def test_dunnett_holds_the_chance_of_any_false_alarm() -> None:
    """Against a simulation of the largest of the statistics when all groups are alike."""
    random = np.random.default_rng(1)
    groups, control = [[0.9, 1.4, 1.0], [1.8, 2.1, 1.7]], [0.5, 0.9, 1.2, 0.7]
    sizes = [len(group) for group in groups]

    def largest(means, deviation, control_mean):
        scale = [math.sqrt(1 / size + 1 / len(control)) for size in sizes]
        return [
            abs(mean - control_mean) / (deviation * each)
            for mean, each in zip(means, scale, strict=True)
        ]

    every = [*groups, control]
    freedom = sum(map(len, every)) - len(every)
    pooled = math.sqrt(sum((len(each) - 1) * statistics.variance(each) for each in every) / freedom)
    seen = largest([statistics.fmean(group) for group in groups], pooled, statistics.fmean(control))
    draws = 40_000
    deviations = np.sqrt(random.chisquare(freedom, draws) / freedom)
    controls = random.standard_normal(draws) / math.sqrt(len(control))
    means = [random.standard_normal(draws) / math.sqrt(size) for size in sizes]
    alike = np.max(largest(means, deviations, controls), axis=0)
    expected = [float(np.mean(alike >= each)) for each in seen]
    assert dunnett(groups, control) == pytest.approx(expected, abs=0.01)


def test_report_has_the_cost_that_the_pairs_have(tmp_path: Path) -> None:
    found = _trainings(0.05)
    results = _results(extra_layer.STUDY, found, tmp_path / "rows.csv")
    pairs = [
        found[LAYER, seed][PRIMARY.metric] - found[BASE, seed][PRIMARY.metric]
        for seed in range(1, SEEDS + 1)
    ]
    mean, error = statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(SEEDS)
    text = "\n".join(extra_layer.report(results))
    assert f"The layer costs {mean:+.4f} ± {T_95 * error:.4f} bits per dimension" in text
    assert f"is {mean - T_90 * error:+.4f} to {mean + T_90 * error:+.4f}: the network with" in text
    assert "worse, by more than the margin" in text


@pytest.mark.parametrize(
    ("cost", "said"), [(0.001, "are equivalent within the margin"), (-0.1, "is no worse")]
)
def test_report_says_what_the_test_says(cost: float, said: str, tmp_path: Path) -> None:
    results = _results(extra_layer.STUDY, _trainings(cost), tmp_path / "rows.csv")
    assert said in "\n".join(extra_layer.answer(results))


def test_no_test_is_made_before_all_pairs_are_there(tmp_path: Path) -> None:
    results = _results(extra_layer.STUDY, _trainings(0.05, SEEDS - 1), tmp_path / "rows.csv")
    (line,) = extra_layer.answer(results)
    assert line.startswith(f"{SEEDS - 1} of {SEEDS} pairs of main trainings have been measured")
    assert "margin" not in line


def _all_parts() -> dict[tuple[Title, int], dict[str, float]]:
    found = _trainings(0.05)
    for title in extra_layer.CANDIDATES:
        for seed in range(1, extra_layer.STUDY.seeds[title] + 1):
            if title[0] != "main":
                more = {WITHOUT: 0.001 * seed, "512 units": 0.3}.get(title[1], 0.03)
                metrics = {each.metric: 20.0 + 0.01 * seed for each in QUANTITIES}
                found[title, seed] = {**metrics, PRIMARY.metric: 6.0 + more + 0.002 * seed**2}
    return found


def _primary(found: Mapping[tuple[Title, int], Mapping[str, float]], title: Title) -> list[float]:
    """Of seeds 1 to 3."""
    return [found[title, seed][PRIMARY.metric] for seed in (1, 2, 3)]


def test_report_and_picture_of_all_parts(tmp_path: Path) -> None:
    found = _all_parts()
    results = _results(extra_layer.STUDY, found, tmp_path / "rows.csv")
    lines = extra_layer.report(results)
    tables = [list(each) for is_row, each in groupby(lines, lambda line: line[:1] == "|") if is_row]
    assert len(tables) == 3
    for rows in tables:
        assert {row.count("|") for row in rows} == {rows[0].count("|")}
    for images, count in (("40,416", 3), ("161,664", 8), ("484,992", 1)):
        (line,) = [line for line in lines if line.startswith(f"| {images} |")]
        assert line.endswith(f"| {count} |")
    # 1000 samples from N(0, I) have 255 faces, those from the fitted prior more than enough.
    few = [line.split(" | ")[0] for line in lines if "too few faces" in line]
    assert few == ["| Frechet distance on descriptors, N(0, I)"]
    # The controls beside the same seeds.
    groups = [LAYER, *(title for title in extra_layer.CANDIDATES if title[0] == "control")]
    p_values = dunnett([_primary(found, title) for title in groups], _primary(found, BASE))
    for title, p_value in zip(groups, p_values, strict=True):
        pairs = np.subtract(_primary(found, title), _primary(found, BASE))
        (line,) = [each for each in lines if f"| {title[1]} | {PRIMARY.title} |" in each]
        cells = line.split(" | ")
        assert cells[2].startswith(f"{pairs.mean():+.4f} ± ")
        shown = "< 0.001" if title[1] == "512 units" else f"{p_value:.3f}"
        assert cells[3:] == ["3", f"{shown} |"]
    short = [("steps", network, str(extra_layer.SHORT)) for network in (WITHOUT, WITH)]
    before, after = (
        np.subtract(_primary(found, layer), _primary(found, base))
        for base, layer in (short, (BASE, LAYER))
    )
    change = interval(list(after - before), 0.95)
    assert (
        f"From 40,416 to 161,664 images the cost changes by {change.mean:+.4f} ± {change.half:.4f}"
        " bits per dimension (95% interval, the 3 seeds that both have)."
    ) in lines
    extra_layer.save_pictures(results, tmp_path, tmp_path)
    with Image.open(tmp_path / "extra_layer.png") as picture:
        assert picture.width == 1200


def test_report_of_a_study_that_has_begun_has_means_of_pairs(tmp_path: Path) -> None:
    """The second training without the layer is far from the first, and has no pair yet."""
    found = _trainings(0.05, 1)
    found[BASE, 2] = {"samples.count": 1000.0, **{each.metric: 100.0 for each in QUANTITIES}}
    lines = extra_layer.report(_results(extra_layer.STUDY, found, tmp_path / "rows.csv"))
    without, layer = (found[title, 1][PRIMARY.metric] for title in (BASE, LAYER))
    assert (
        f"| {PRIMARY.title} | lower | {without:.4f} | {layer:.4f} | {layer - without:+.4f} | 1 |"
    ) in lines
    assert "Not measured yet." in lines


def test_pairs_measured_on_two_machines_are_marked(tmp_path: Path) -> None:
    results = _results(extra_layer.STUDY, _trainings(0.05), tmp_path / "rows.csv", seed_2="GPU")
    lines = extra_layer.report(results)
    (line,) = [each for each in lines if f"| {PRIMARY.title} |" in each]
    assert line.endswith(f"| {SEEDS} | 1, 2 |")
    text = "\n".join(lines)
    assert "1. commit 0123abc on CPU; code" in text
    assert "2. commit 0123abc on GPU; code" in text


def test_samples_are_of_the_longest_trainings_that_are_here_of_both(tmp_path: Path) -> None:
    results = _results(extra_layer.STUDY, _all_parts(), tmp_path / "rows.csv")

    def keep(title: Title, seed: int, colour: float) -> None:
        origin = results.rows[title][seed - 1].origin
        folder = place(tmp_path, results.settings[title], seed, origin)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "shown.npy", np.full((32, 96, 96, 3), colour, np.float32))

    def shown(variant: str) -> float:
        with Image.open(tmp_path / f"extra_layer_samples_{variant}.png") as picture:
            return np.asarray(picture)[50, 50, 0] / 255

    long = [("steps", network, str(extra_layer.LONG)) for network in (WITHOUT, WITH)]
    keep(long[0], 1, 0.2)
    keep(BASE, 1, 0.2)
    extra_layer.save_pictures(results, tmp_path, tmp_path)
    assert not [*tmp_path.glob("extra_layer_samples_*")]
    for title, colour in ((BASE, 0.4), (LAYER, 0.6)):
        keep(title, 2, colour)
    extra_layer.save_pictures(results, tmp_path, tmp_path)
    assert [shown("direct"), shown("inter_dense")] == pytest.approx([0.4, 0.6], abs=0.01)
    keep(long[1], 1, 0.8)
    extra_layer.save_pictures(results, tmp_path, tmp_path)
    assert [shown("direct"), shown("inter_dense")] == pytest.approx([0.2, 0.8], abs=0.01)


def test_what_is_measured_is_what_the_stage_evaluate_measures(shards: Path) -> None:
    vae, inputs_of = small_vae(reconstruction="gaussian"), Shards(shards)
    prior = prior_of_dataset("gaussian", vae, inputs_of)
    classifier = AttributeClassifier(16, len(inputs_of.attributes))
    common: dict[str, Any] = {"prior": prior, "attribute_classifier": classifier}
    everything = evaluate(vae, inputs_of, batch_size=4, **common)
    measured = extra_layer.evaluated(
        Inputs(vae, inputs_of, 4, inception_weights=None, faces=False, **common)
    )
    assert {"psnr", "distortion", "rate_under_prior"} <= measured["test"].keys()
    assert {"count", "frechet_distance"} <= measured["samples"].keys()
    assert measured["samples"] != measured["samples_normal"]
    for section, metrics in measured.items():
        for name, value in metrics.items():
            expected = everything[section][name]
            assert value == (expected if expected is None else pytest.approx(expected, abs=1e-6))


def _committed(study: Study) -> Results:
    """The project's own rows."""
    return find_results(study, study.settings({}, real=True), REPORTS / f"{study.name}.csv")


def test_rates_are_those_that_the_pilot_chose() -> None:
    assert extra_layer_pilot.best_rates(_committed(extra_layer_pilot.STUDY)) == extra_layer.RATES


def _trained(units: int, latent_size: int = 256, epochs: int = EPOCHS) -> dict[int, dict[str, str]]:
    """Rows, by default of as many epochs as the main trainings, by the seed.

    It does without the study's code.
    """
    found = {}
    with open(REPORTS / "extra_layer.csv", newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            settings = json.loads(row["settings"])
            keys = ("encoder.inter_dense", "encoder.latent_size", "train.epochs")
            if [settings[key] for key in keys] == [units, latent_size, epochs]:
                found[int(row["seed"])] = row
    return found


def test_answer_from_the_csv_by_a_second_computation() -> None:
    results = _committed(extra_layer.STUDY)
    without, layer = (
        {seed: float(row[PRIMARY.metric]) for seed, row in rows.items()}
        for rows in (_trained(0), _trained(256))
    )
    pairs = [layer[seed] - without[seed] for seed in range(1, SEEDS + 1)]
    mean, error = sum(pairs) / SEEDS, statistics.stdev(pairs) / math.sqrt(SEEDS)
    cost = extra_layer.cost(results, 0.95)
    assert cost is not None
    assert cost.count == SEEDS
    assert cost.mean == pytest.approx(mean, abs=1e-9)
    assert cost.half == pytest.approx(T_95 * error, rel=1e-6)
    assert mean - T_90 * error > MARGIN
    (line,) = extra_layer.answer(results)
    assert line.endswith("the network with the layer is worse, by more than the margin.")


def _written(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def test_readme_and_page_have_the_answer_of_the_csv() -> None:
    """Means and intervals by this test's own computation; the report is tested above."""
    without, layer = _trained(0), _trained(256)
    seeds = range(1, SEEDS + 1)
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    page = (PROJECT / "src/facevae/reports/page.html.j2").read_text(encoding="utf-8")
    said = " ".join(page.replace("&nbsp;", " ").split())
    for metric, digits, unit in (
        (PRIMARY.metric, 3, "bits per dimension"),
        ("test.psnr", 2, "dB"),
        ("samples.face_frechet_distance", 3, ""),
    ):
        values = [[float(rows[seed][metric]) for seed in seeds] for rows in (without, layer)]
        gaps = np.subtract(values[1], values[0])
        half = T_95 * gaps.std(ddof=1) / math.sqrt(SEEDS)
        means = " | ".join(f"{statistics.fmean(each):.{digits}f}" for each in values)
        assert f"| {means} | {_written(gaps.mean(), digits)} ± {half:.{digits}f} |" in readme
        if unit:
            sentence = f"{abs(gaps.mean()):.{digits}f} ± {half:.{digits}f} {unit}"
            assert sentence in readme
            assert sentence in said
    assert " eight pairs of trainings" in readme
    assert " eight pairs of trainings" in said


def test_readme_and_results_have_the_controls_of_the_csv() -> None:
    readme, results = (
        " ".join((PROJECT / name).read_text(encoding="utf-8").split())
        for name in ("README.md", "docs/results.md")
    )
    without = _trained(0)
    for rows, who in (
        (_trained(512), "512 units cost"),
        (_trained(0, 175), "Latent size 175 without the layer costs"),
    ):
        said = []
        for metric, digits, unit in ((PRIMARY.metric, 3, "bits"), ("test.psnr", 2, "dB")):
            gaps = [float(rows[seed][metric]) - float(without[seed][metric]) for seed in (1, 2, 3)]
            half = T_95_OF_3 * statistics.stdev(gaps) / math.sqrt(3)
            said.append(f"{abs(statistics.fmean(gaps)):.{digits}f} ± {half:.{digits}f} {unit}")
        assert f"{who} {' and '.join(said)}" in results
        if who.startswith("Latent"):
            assert f" for {said[0]}" in readme


def test_readme_and_results_have_the_longest_pair_of_the_csv() -> None:
    readme, results = (
        " ".join((PROJECT / name).read_text(encoding="utf-8").split())
        for name in ("README.md", "docs/results.md")
    )
    without, layer = (_trained(units, epochs=3 * EPOCHS)[1] for units in (0, 256))
    bits, decibels = (
        float(layer[metric]) - float(without[metric]) for metric in (PRIMARY.metric, "test.psnr")
    )
    assert f"; after 484,992 it is {bits:.3f} and {-decibels:.2f}, one pair)" in readme
    assert f"three times as many, it is {bits:.3f} bits and {-decibels:.2f} dB" in results
    shorter = [
        float(_trained(256)[seed][PRIMARY.metric]) - float(_trained(0)[seed][PRIMARY.metric])
        for seed in range(1, SEEDS + 1)
    ]
    assert f"({min(shorter):.3f} to {max(shorter):.3f} bits)" in results
    assert bits < min(shorter)
