"""The table of the default's choice: what it says of figures that were put in."""

from pathlib import Path

import pytest
import yaml

from defaults import CANDIDATES, COLUMNS, DEFAULT, FLOOR, PUBLISHED, PYTHAE, Rows, in_words, report
from study import commands, is_trained, parameters_with

PRIOR = "mixture"
BEST = {"bits": 6.0, "psnr": 21.0, "swd": 200.0, "frechet": 3.0}
WORSE = {"bits": 7.0, "psnr": 20.0, "swd": 300.0, "frechet": 9.0}
OTHERS = {"precision": 0.5, "recall": 0.5, "sharpness": 0.5}


@pytest.fixture
def rows() -> Rows:
    """The default ahead of all, its figures those of two seeds."""
    found: Rows = {
        (name, prior): [{**WORSE, **OTHERS}]
        for name in (*CANDIDATES, PYTHAE)
        for prior in ("normal", PRIOR)
    }
    found[DEFAULT, PRIOR] = [
        {**BEST, **OTHERS, "psnr": 20.5},
        {**BEST, **OTHERS, "psnr": 21.5, "recall": 0.9},
    ]
    found[FLOOR, "the train split"] = [
        {"swd": 30.0, "frechet": 1.0, "precision": 0.6, "recall": 1.0, "sharpness": 1.1}
    ]
    return found


def _means(rows: Rows) -> dict[tuple[str, str], dict[str, float]]:
    return {
        row: {key: sum(each[key] for each in found) / len(found) for key in found[0]}
        for row, found in rows.items()
    }


def test_metric_words_count_where_the_default_is_ahead(rows: Rows) -> None:
    lines = in_words(_means(rows), PRIOR)
    assert len(lines) == len(PUBLISHED)
    assert lines[-1] == (
        f"- Ahead of {PYTHAE} in 4 of 4: bits per dimension 6.000 to 7.000, PSNR, dB 21.00 to "
        "20.00, SWD 200 to 300, Frechet distance 3.00 to 9.00."
    )
    # A rival is taken as published, with samples of N(0, I).
    rows[PYTHAE, "normal"][0] |= {"psnr": 21.5, "swd": 199.0}
    rows[PUBLISHED[0], PRIOR][0]["frechet"] = 1.0
    lines = in_words(_means(rows), PRIOR)
    assert lines[0].startswith(f"- Ahead of {PUBLISHED[0]} in 4 of 4: ")
    assert lines[-1].startswith(f"- Ahead of {PYTHAE} in 2 of 4: ")


def test_metric_report_has_means_and_the_best_in_bold(rows: Rows) -> None:
    text = report(rows, PRIOR, steps=594, seeds=[1, 2], epochs=6)
    assert (
        f"| **{DEFAULT}** | **{PRIOR}** | **6.000** | **21.00** | **200** | **3.00** | **0.50** "
        "| **0.70** | **0.500** |"
    ) in text
    # The floor is no candidate: nothing of it is the best.
    assert f"| {FLOOR} | the train split |  |  | 30 | 1.00 | 0.60 | 1.00 | 1.100 |" in text
    assert f"`{DEFAULT}` are means over the seeds 1, 2, the others of 1." in text
    assert text.count("| --- |") == 1
    assert f"| loss | samples from | {' | '.join(column.title for column in COLUMNS)} |" in text


def test_commands_of_a_study_set_what_differs() -> None:
    [line] = commands({"tiny": {"loss.kl_weight": 0.001, "train.optimizer": "sgd"}}, epochs=6)
    assert line.startswith("dvc exp run -S data.source=")
    assert "-S train.epochs=6 -S loss.kl_weight=0.001 -S train.optimizer=sgd" in line


def test_model_of_a_study_is_kept_until_what_it_was_trained_with_changes(tmp_path: Path) -> None:
    parameters = parameters_with({"loss.kl_weight": 0.001})
    assert not is_trained(tmp_path, parameters)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    assert not is_trained(tmp_path, parameters)
    (tmp_path / "model.keras").touch()
    (tmp_path / "params.yaml").unlink()
    assert not is_trained(tmp_path, parameters)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    assert is_trained(tmp_path, parameters_with({"loss.kl_weight": 0.001}))
    assert is_trained(tmp_path, parameters_with({"loss.kl_weight": 0.001, "generate.rows": 1}))
    assert not is_trained(
        tmp_path, parameters_with({"loss.kl_weight": 0.001, "train.learning_rate": 0.5})
    )
