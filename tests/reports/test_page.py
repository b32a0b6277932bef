"""The page: from the outputs of the other stages, alone, escaped, the same bytes twice."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from axe_core_python.selenium import Axe
from example_metrics import example_metrics
from helpers import PROJECT, run_stage
from PIL import Image

from benchmarks.browser import browser, missing
from facevae.common.parameters import VARIANTS, Parameters
from facevae.common.tables import rows_csv
from facevae.latent.codes import radius_rows, unit_rows, z_rows
from facevae.memory.ledger import ledger
from facevae.memory.report import memory_markdown, save_memory_by_batch, save_memory_by_inter_dense
from facevae.plotting.charts import VARIANT_COLOURS, Curve, save_curves
from facevae.reports.charts import CHARTS

STUDIES = PROJECT / "reports" / "studies"
METRICS_LINK = "../docs/metrics.md#how-far-one-training-can-be-off"
SOURCE = "data/<script>alert('1')</script> & more"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Every tag with its attributes; fails where one is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, project: Path, parameters: Parameters) -> Path:
    """A folder with what the other stages leave."""
    folder = tmp_path_factory.mktemp("run")
    reports = folder / "reports"
    (folder / "metrics").mkdir()
    generator = np.random.default_rng(1)
    for number, variant in enumerate(VARIANTS):
        (reports / variant).mkdir(parents=True)
        mu, log_var = generator.standard_normal((2, 30, 5), dtype=np.float32)
        epochs = range(1, 4 - number)  # the second stopped early
        history = [
            {
                "epoch": epoch,
                **{
                    f"{prefix}{name}": 9.5 / epoch
                    for prefix in ("", "val_")
                    for name in ("loss", "reconstruction", "kl")
                },
            }
            for epoch in epochs
        ]
        for name, rows in (
            ("history", history),
            ("latents", unit_rows(mu, log_var)),
            ("z_histograms", z_rows((1 + number) * mu)),
            ("radii", radius_rows((1 + number) * mu)),
        ):
            (reports / variant / f"{name}.csv").write_text(rows_csv(rows), encoding="utf-8")
        for name in ("samples", "reconstructions", "interpolation", "attributes"):
            Image.new("RGB", (70, 50)).save(reports / variant / f"{name}.png")
        metrics = example_metrics(1234567 + number, 20.5, 900.0, None)
        cost = metrics.pop("cost")
        (folder / "metrics" / f"{variant}.json").write_text(json.dumps(metrics))
        (folder / "metrics" / f"{variant}_cost.json").write_text(json.dumps(cost))
    (folder / "metrics" / "data.json").write_text(json.dumps({"images": {"train": 3300}}))
    figures = {"balanced_accuracy": 0.875, "accuracy": 0.9, "majority_accuracy": 0.75}
    told = {**figures, "attributes": {"Smiling": figures, "Bald": {**figures, "accuracy": None}}}
    (folder / "metrics" / "attributes.json").write_text(json.dumps(told))
    (reports / "memory.md").write_text(memory_markdown(parameters), encoding="utf-8")
    save_memory_by_batch(parameters, reports / "memory_by_batch.svg")
    save_memory_by_inter_dense(parameters, reports / "memory_by_inter_dense.svg")
    params = parameters.model_dump()
    params["data"]["source"] = SOURCE
    params["generate"]["attributes"] = ["Smiling", "<b>Bald</b>"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert _compare(folder) == 0
    return folder


def _inputs(folder: Path) -> tuple[object, ...]:
    return "--params", folder / "params.yaml", "--metrics", folder / "metrics"


def _compare(folder: Path) -> int:
    report = folder / "reports" / "comparison"
    outputs = ("--markdown", report.with_suffix(".md"), "--csv", report.with_suffix(".csv"))
    return run_stage("compare", *_inputs(folder), *outputs)


def _page_arguments(folder: Path) -> tuple[object, ...]:
    reports = folder / "reports"
    outputs = ("--charts", reports / "charts", "--html", reports / "index.html")
    return *_inputs(folder), "--reports", reports, *outputs


def _written(folder: Path) -> dict[str, bytes]:
    written = [folder / "reports" / "charts" / f"{name}.svg" for name in CHARTS]
    return {path.name: path.read_bytes() for path in [*written, folder / "reports" / "index.html"]}


def test_page_is_self_contained_escaped_and_the_same_twice(project: Path, run: Path) -> None:
    command = [sys.executable, project / "stages" / "page.py", *_page_arguments(run)]
    done = subprocess.run(list(map(str, command)), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    first = _written(run)
    assert run_stage("page", *_page_arguments(run)) == 0
    assert _written(run) == first

    page = run / "reports" / "index.html"
    text = page.read_text(encoding="utf-8")
    reader = Reader(text)
    # Nothing that loads anything but pictures beside the page.
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "base"}
    assert not re.search(r"url\(|@import|://", text)
    pictures = [attributes for tag, attributes in reader.tags if tag == "img"]
    shown = {(page.parent / unquote(str(picture["src"]))).resolve() for picture in pictures}
    reports = run / "reports"
    assert shown == {
        path.resolve() for kind in ("png", "svg") for path in reports.rglob(f"*.{kind}")
    }
    for picture in pictures:
        assert picture["alt"]
        path = page.parent / unquote(str(picture["src"]))
        if path.suffix == ".svg":
            continue
        with Image.open(path) as image:
            assert (str(image.width), str(image.height)) == (picture["width"], picture["height"])
    anchors = {f"#{attributes['id']}" for _, attributes in reader.tags if "id" in attributes}
    links = {str(attributes["href"]) for tag, attributes in reader.tags if tag == "a"}
    assert {link for link in links if link.startswith("#")} == anchors
    # Each picture opens at its full size.
    beyond = links - anchors - {str(picture["src"]) for picture in pictures}
    studies = {f"studies/{path.name}" for path in STUDIES.glob("*.md")}
    assert beyond == {"explorer.html", METRICS_LINK, *studies}
    assert text.index("explorer.html") < text.index("<main>")

    # In the beginning, in the whole comparison and in the parameters.
    apostrophe = "('|&#39;)"
    escaped = rf"data/&lt;script&gt;alert\({apostrophe}1{apostrophe}\)&lt;/script&gt; &amp; more"
    assert len(re.findall(escaped, text)) == 3
    assert "1,234,567" in text
    assert "1,234,568" in text
    assert '<td>Encoder parameters</td>\n<td class="right">1,234,567</td>' in text
    assert '<span class="direct">1.23</span>' in text
    assert "Smiling, &lt;b&gt;Bald&lt;/b&gt;." in text
    cells = "".join(
        f'\n<td class="right">{figure}</td>' for figure in (0.875, "not measured", "0.750")
    )
    assert f"<td>Bald</td>{cells}" in text


def test_page_and_reports_agree_on_what_the_layer_saves(run: Path, parameters: Parameters) -> None:
    assert run_stage("page", *_page_arguments(run)) == 0
    peaks = [ledger(parameters.variant(variant)).peak / 2**20 for variant in VARIANTS]
    saved = f"it saves {peaks[0] - peaks[1]:.1f} MiB"
    for name in ("comparison.md", "index.html"):
        text = (run / "reports" / name).read_text(encoding="utf-8")
        assert re.findall(r"it saves [\d,.]+ MiB", text)[0] == saved
    memory = (run / "reports" / "memory.md").read_text(encoding="utf-8")
    (row,) = (line for line in memory.splitlines() if line.startswith("| **peak**"))
    assert row.split()[3:6:2] == [f"{peak:.0f}" for peak in peaks]


@pytest.mark.parametrize("name", ["data.json", "direct.json", "inter_dense_cost.json"])
def test_compare_without_metrics_is_a_sentence(
    run: Path, capfd: pytest.CaptureFixture, name: str
) -> None:
    path = run / "metrics" / name
    content = path.read_bytes()
    path.unlink()
    try:
        status = _compare(run)
    finally:
        path.write_bytes(content)
    assert status == 2
    assert capfd.readouterr().err == f"{path}: is not there; write it first: dvc repro\n"


def test_page_charts_show_a_loss_below_zero(tmp_path: Path) -> None:
    epochs = np.arange(1, 6)
    above = Curve("above", epochs, 500.0 - epochs, VARIANT_COLOURS["direct"])
    below = Curve("below", epochs, 10_000.0 - 8_000.0 * epochs, VARIANT_COLOURS["inter_dense"])
    panels = {"above": [above], "below": [below]}  # the legend, in colours, is of the first alone
    save_curves(panels, tmp_path / "loss.png", title="loss", x_label="epoch")
    with Image.open(tmp_path / "loss.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    drawn_in = VARIANT_COLOURS["inter_dense"]
    colour = [int(drawn_in[i : i + 2], 16) for i in (1, 3, 5)]
    drawn = np.flatnonzero((pixels == colour).all(axis=2).any(axis=1))
    assert drawn.size
    assert np.ptp(drawn) > 0.25 * len(pixels)  # over the height of its panel


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"source": "data/celeba"}, "reconstructions of real people"),
        ({"source": "data/mine", "layout": "folder"}, "reconstructions of your own pictures"),
        ({"source": "data/synthetic"}, None),
    ],
)
def test_page_says_at_the_top_whose_faces_it_holds(
    run: Path, tmp_path: Path, data: dict[str, str], told: str | None
) -> None:
    params = yaml.safe_load((run / "params.yaml").read_text(encoding="utf-8"))
    params["data"] |= data
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert run_stage("page", "--params", tmp_path / "params.yaml", *_page_arguments(run)[2:]) == 0
    text = (run / "reports" / "index.html").read_text(encoding="utf-8")
    beginning = text[text.index("<body>") : text.index("<nav")]
    assert ("This page holds" in text) == (told is not None)
    if told:
        assert told in beginning


def test_page_says_how_far_one_training_can_be_off() -> None:
    link, heading = METRICS_LINK.split("#")
    document = (PROJECT / "reports" / link).read_text(encoding="utf-8")
    section = document[document.lower().index("## " + heading.replace("-", " ")) :]
    measured = re.search(r"a second training can move PSNR by ([\d.]+) dB", section)
    assert measured
    template = (PROJECT / "src" / "facevae" / "reports" / "page.html.j2").read_text()
    assert f"another seed alone moved PSNR by {measured[1]} dB" in template


def test_page_of_a_run_that_measured_little(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """No labels, and null wherever a metric may be null."""
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    told = {"balanced_accuracy": None, "accuracy": None, "majority_accuracy": None}
    labels = tmp_path / "metrics" / "attributes.json"
    labels.write_text(json.dumps({**told, "attributes": {}}))
    table = tmp_path / "reports" / "comparison.csv"
    names, *rows = table.read_text(encoding="utf-8").splitlines()
    nothing = [f"{row.split(',')[0]},a name,,,,," for row in rows if "images_per" not in row]
    table.write_text("\n".join([names, *nothing]), encoding="utf-8")
    assert run_stage("page", *_page_arguments(tmp_path)) == 0
    assert capfd.readouterr().err == ""
    text = (tmp_path / "reports" / "index.html").read_text(encoding="utf-8")
    Reader(text)
    assert "The data has no labels, so there is no attribute to add." in text
    assert "attribute classifier" not in text
    assert len(re.findall("This run has not measured it", text)) == 4
    assert "None" not in text


# What the page is looked at with: width and height in pixels, and the wanted colours.
_VIEWS = [(1200, 900, "light"), (1200, 900, "dark"), (400, 860, "light"), (400, 860, "dark")]


@pytest.mark.slow
def test_page_in_a_browser(run: Path, tmp_path: Path) -> None:
    """Accessible, alone, whole on a narrow screen, and dark where that is wanted."""
    if lacking := missing():
        pytest.skip(lacking)
    assert run_stage("page", *_page_arguments(run)) == 0
    with browser(tmp_path) as driver:
        for width, height, colours in _VIEWS:
            _view(driver, width, height, colours)
            driver.get((run / "reports" / "index.html").as_uri())
            _check_view(driver, width, colours)
        assert driver.get_log("browser") == []
        asked = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    addresses = {
        message["params"]["request"]["url"]
        for message in asked
        if message["method"] == "Network.requestWillBeSent"
    }
    assert addresses
    assert {address for address in addresses if not address.startswith("file:///")} == set()


def _view(driver: Any, width: int, height: int, colours: str) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wanted = {"features": [{"name": "prefers-color-scheme", "value": colours}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)


def _check_view(driver: Any, width: int, colours: str) -> None:
    def places(selector: str) -> list[dict[str, float]]:
        found = "[...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect())"
        return driver.execute_script(f"return {found}.map(r => r.toJSON())", selector)

    # The figures, then the faces, and each pair side by side where there is room.
    names = ("samples", "reconstructions", "training", "latent", "memory", "claims", "tables")
    order = [".findings", *(f"#{name}" for name in names)]
    tops = [places(selector)[0]["top"] for selector in order]
    assert tops == sorted(tops)
    assert len(places(".findings > div")) == 4
    one, other = places("#samples img")
    assert (one["top"] == other["top"]) == (width == 1200)
    assert one["width"] > 0.4 * width
    all_of = "return [...document.querySelectorAll('{}')].every(e => {})"
    assert driver.execute_script(all_of.format("img", "e.naturalWidth > 0"))
    # The claims are open, and all other tables folded away.
    open_table = "e.checkVisibility() == (e.closest('#claims') != null)"
    assert driver.execute_script(all_of.format("table", open_table))

    picture = driver.find_element("css selector", "#training img").screenshot_as_png
    with Image.open(io.BytesIO(picture)) as image:
        brightness = np.median(np.asarray(image.convert("L")))
    assert brightness < 40 if colours == "dark" else brightness > 215

    driver.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
    page = "document.documentElement"
    assert driver.execute_script(f"return {page}.scrollWidth <= {page}.clientWidth")
    found = Axe().run(driver)
    assert len(found["passes"]) > 20
    serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious] == []


@pytest.mark.parametrize("report", ["direct/radii.csv", "direct/samples.png", "memory.md"])
def test_page_without_a_report_is_a_sentence(
    run: Path, capfd: pytest.CaptureFixture, report: str
) -> None:
    path = run / "reports" / report
    content = path.read_bytes()
    path.unlink()
    try:
        status = run_stage("page", *_page_arguments(run))
    finally:
        path.write_bytes(content)
    assert status == 2
    assert capfd.readouterr().err == f"{path}: is not there; write it first: dvc repro\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "content"),
    [
        ("metrics/direct.json", b'{"encoder": {'),
        ("metrics/direct.json", b"[]"),
        ("metrics/attributes.json", b"\xff\xfe"),
        ("reports/direct/radii.csv", b"radius,density\n1,one\n"),
        ("reports/direct/radii.csv", b""),
        ("reports/inter_dense/samples.png", b"\x89PNG"),
        ("reports/memory.md", None),
    ],
)
def test_page_of_a_damaged_output_is_a_sentence(
    run: Path, capfd: pytest.CaptureFixture, output: str, content: bytes | None
) -> None:
    """None: a named pipe is in its place."""
    path = run / output
    whole = path.read_bytes()
    path.unlink()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    try:
        status = run_stage("page", *_page_arguments(run))
    finally:
        path.unlink()
        path.write_bytes(whole)
    told = capfd.readouterr().err
    assert status == 2, told
    assert told.startswith(f"{path}: is {'a named pipe' if content is None else 'damaged ('}")
    assert told.count("\n") == 1


def test_page_needs_no_tensorflow(project: Path) -> None:
    code = "import sys, facevae.reports.page; sys.exit('keras' in sys.modules)"
    environment = {"PYTHONPATH": str(project / "src")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
