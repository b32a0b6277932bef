"""Everything that a run has to show as charts and one HTML page, which needs nothing from outside.

All is read from the folders that the other stages write, in the form in which they write it.
"""

import csv
import html
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image
from scipy import stats

from facevae.common.errors import UserError
from facevae.common.parameters import VARIANTS, Parameters
from facevae.common.tables import markdown_table
from facevae.plotting.charts import FIRST, REFERENCE, SECOND, Curve, save_curves, save_histograms
from facevae.reports.markdown import markdown_sections

CHARTS = ("loss", "latent_units", "z_histograms", "radii")


_COLOURS = dict(zip(VARIANTS, (FIRST, SECOND), strict=True))
_Table = dict[str, np.ndarray]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _missing(path) from None


def _missing(path: Path) -> UserError:
    return UserError(f"{path}: is not there; write it first: dvc repro")


def _table(path: Path) -> _Table:
    """Columns of numbers by name."""
    names, *rows = csv.reader(_text(path).splitlines())
    return dict(zip(names, np.array(rows, float).T, strict=True))


def _tables(reports: Path, name: str) -> dict[str, _Table]:
    return {variant: _table(reports / variant / f"{name}.csv") for variant in VARIANTS}


def save_charts(reports: Path, charts: Path) -> None:
    """Draw the `CHARTS` of both variants over each other, as PNG files in the folder `charts`.

    Raises:
        UserError: a table of another stage is not there.
    """
    _save_loss(_tables(reports, "history"), charts / "loss.png")
    latents = _tables(reports, "latents")
    _save_latent_units(latents, charts / "latent_units.png")
    _save_z_histograms(_tables(reports, "z_histograms"), latents, charts / "z_histograms.png")
    _save_radii(_tables(reports, "radii"), latents[VARIANTS[0]]["unit"].size, charts / "radii.png")


def _save_loss(histories: Mapping[str, _Table], path: Path) -> None:
    def curves(quantity: str) -> list[Curve]:
        return [
            Curve(
                f"{variant}, {split}",
                history["epoch"],
                history[f"{prefix}{quantity}"],
                _COLOURS[variant],
                dashed=split == "training",
            )
            for variant, history in histories.items()
            for split, prefix in (("training", ""), ("validation", "val_"))
        ]

    save_curves(
        {
            "loss per image": curves("loss"),
            "reconstruction term": curves("reconstruction"),
            "KL, nats": curves("kl"),
        },
        path,
        title="The loss and its two terms, per image",
        x_label="epoch",
    )


def _save_latent_units(latents: Mapping[str, _Table], path: Path) -> None:
    def curves(column: str) -> list[Curve]:
        return [
            Curve(variant, np.arange(1, 1 + table[column].size), ordered[column], _COLOURS[variant])
            for variant, table in latents.items()
            if (ordered := _by_kl(table))
        ]

    save_curves(
        {
            "KL, nats": curves("kl"),
            "deviation of mu": curves("mu_std"),
            "mean sigma": curves("sigma_mean"),
        },
        path,
        title="Latent units on the test split, from the largest KL to the smallest",
        x_label="latent unit, each variant's in its own order",
    )


def _by_kl(table: _Table) -> _Table:
    order = np.argsort(table["kl_rank"])
    return {name: column[order] for name, column in table.items()}


def _save_z_histograms(
    tables: Mapping[str, _Table], latents: Mapping[str, _Table], path: Path
) -> None:
    x = _fine_grid(tables, "z")
    normal = Curve("N(0, 1)", x, stats.norm.pdf(x), REFERENCE, dashed=True)
    maps = {}
    for variant, table in tables.items():
        units = _by_kl(latents[variant])["unit"].astype(int)
        maps[variant] = (table["z"], np.array([table[f"unit_{unit}"] for unit in units]))
    save_histograms(
        [*_histograms(tables, "z"), normal],
        maps,
        path,
        title="z of the test split's faces: all units together, and unit by unit",
        x_label="z",
        y_label="density",
        row_label="latent unit, from the largest KL",
    )


def _save_radii(tables: Mapping[str, _Table], latent: int, path: Path) -> None:
    x = _fine_grid(tables, "radius")
    chi = Curve("N(0, I): chi distribution", x, stats.chi.pdf(x, latent), REFERENCE, dashed=True)
    save_curves(
        {"density": [*_histograms(tables, "radius"), chi]},
        path,
        title="How far from the origin the test split's z-points lie",
        x_label="|z|",
    )


def _fine_grid(tables: Mapping[str, _Table], x: str) -> np.ndarray:
    lowest, *_, highest = np.sort(np.concatenate([table[x] for table in tables.values()]))
    return np.linspace(lowest, highest, 400)


def _histograms(tables: Mapping[str, _Table], x: str) -> Iterator[Curve]:
    for variant, table in tables.items():
        yield Curve(variant, table[x], table["density"], _COLOURS[variant], steps=True)


_STYLE = """\
:root { color-scheme: light dark; --text: #1c1c1c; --faint: #5a5a5a; --ground: #fff;
  --line: #d6d6d6; --head: #f3f3f3; --link: #00558a; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --faint: #b0b0b0; --ground: #181a1b; --line: #444; --head: #26292b;
    --link: #7cc4f4; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1320px; padding: 1rem clamp(0.8rem, 3vw, 2.5rem) 3rem;
  color: var(--text); background: var(--ground); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; }
h2 { margin-top: 2.5rem; font-size: 1.3rem; border-bottom: 1px solid var(--line); }
h3 { margin-top: 2rem; font-size: 1.15rem; }
h4 { font-size: 1rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; padding: 0; list-style: none; }
.pair { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0.8rem 0; max-width: 60rem; }
figcaption { color: var(--faint); max-width: 46rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.93rem; }
th, td { padding: 0.3rem 0.7rem; border: 1px solid var(--line); text-align: left;
  vertical-align: top; min-width: 5rem; }
th { background: var(--head); }
.right { text-align: right; font-variant-numeric: tabular-nums; }
td.right { white-space: nowrap; }
td code { overflow-wrap: anywhere; }
pre { padding: 0.7rem; border: 1px solid var(--line); background: var(--head);
  white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; margin: 1rem 0; }"""


class _Page:
    """Figures with links relative to the page's own place."""

    def __init__(self, page: Path, reports: Path, charts: Path) -> None:
        self._folder, self._reports, self._charts = page.parent, reports, charts

    def _figure(self, path: Path, description: str, caption: str) -> str:
        try:
            with Image.open(path) as picture:
                width, height = picture.size
        except FileNotFoundError:
            raise _missing(path) from None
        link = quote(Path(os.path.relpath(path, self._folder)).as_posix())
        size = f'width="{width}" height="{height}"'
        return (
            f'<figure>\n<img src="{link}" {size} alt="{html.escape(description)}">\n'
            f"<figcaption>{html.escape(caption)}</figcaption>\n</figure>"
        )

    def chart(self, name: str, description: str, caption: str) -> str:
        return self._figure(self._charts / f"{name}.png", description, caption)

    def report(self, name: str, description: str, caption: str) -> str:
        return self._figure(self._reports / f"{name}.png", description, caption)

    def pair(self, name: str, description: str) -> str:
        """A picture of each variant, side by side where there is room."""
        figures = [
            self.report(f"{variant}/{name}", f"{description}, {variant}", variant)
            for variant in VARIANTS
        ]
        return '<div class="pair">\n' + "\n".join(figures) + "\n</div>"


def _shown(figure: float | None) -> str:
    return "not measured" if figure is None else f"{figure:.3f}"


def _attribute_table(measured: Mapping[str, Any]) -> str:
    """How well the network tells attributes, as HTML."""
    columns = ("balanced_accuracy", "accuracy", "majority_accuracy")

    def row(name: str, figures: Mapping[str, float | None]) -> list[str]:
        return [name, *(_shown(figures[column]) for column in columns)]

    table = markdown_table(
        [*(row(name, figures) for name, figures in measured["attributes"].items()),
         row("**mean**", measured)],
        ["attribute", "balanced accuracy", "accuracy", "accuracy of the more frequent answer"],
    )  # fmt: skip
    ((_, body),) = markdown_sections(f"# Attributes\n\n{table}")
    return body


def _attributes(page: _Page, asked: Sequence[str], measured: Mapping[str, Any]) -> str:
    pictures = page.pair("attributes", "Rows of held-out faces, and of what becomes of them")
    intro = "<p>Each row is a face of the test split: as it is, and as the VAE makes it again."
    if not measured["attributes"]:
        return f"{intro} The data has no labels, so there is no attribute to add.</p>\n{pictures}"
    columns = ", ".join(name.replace("_", " ") for name in asked)
    return f"""\
{intro} Each further column goes from there two steps in z: {html.escape(columns)}. A step is the
mean of the Encoder's mu over training images that have the attribute, less that over those that
have not. What goes together in the faces goes together here, too; and where a column changes
nothing, the VAE did not learn to tell who has that attribute.</p>
{pictures}
<p>The data's labels have a second use: a small network learned to tell them from the images, and
its features are what the Frechet distance, precision and recall above are measured on. How well it
tells them on the validation split; balanced accuracy is 0.5 for guessing:</p>
<details><summary>{_shown(measured["balanced_accuracy"])}: balanced accuracy, mean over
{len(measured["attributes"])} attributes</summary>
{_attribute_table(measured)}
</details>"""


def _pictures(page: _Page) -> dict[str, str]:
    return {
        "Samples": f"""\
<p>Faces that do not exist: points drawn at random, through the Decoder. Both variants got the same
points of N(0, I), so the same place in both grids is the same z; or, with a fitted
<code>generate.prior</code>, where that carries the same point.</p>
{page.pair("samples", "Grid of generated faces")}""",
        "Reconstructions": f"""\
<p>Faces of the test split, which no training saw. Each row of originals has the row of what the
VAE makes of them right below it.</p>
{page.pair("reconstructions", "Rows of held-out faces, each above its reconstructions")}""",
        "Interpolations": f"""\
<p>Each row goes in equal steps, on a straight line in z, from one face of the test split to
another. At both ends are the reconstructions.</p>
{page.pair("interpolation", "Rows of faces, each changing from one face to another")}""",
    }


def _curves(page: _Page) -> str:
    return page.chart(
        "loss",
        "Curves of loss, reconstruction term and KL over the epochs, both variants",
        "In training, the mean over an epoch's steps; in validation, at its end.",
    )


def _z_points(page: _Page, latent: int, images: int) -> str:
    units = page.chart(
        "latent_units",
        "Curves of KL, deviation of mu and mean sigma over the latent units, both variants",
        "A unit with a KL near 0 says nothing of the face: its mu does not move, its sigma is 1.",
    )
    histograms = page.chart(
        "z_histograms",
        "Histogram of z over all units beside N(0, 1), and maps of the histograms of each unit",
        "Above, the dashed line is the density of N(0, 1). Below, each row is the histogram of one "
        "unit: the brighter, the more faces.",
    )
    radii = page.chart(
        "radii",
        "Histogram of the lengths of z beside the chi distribution, both variants",
        f"Points drawn from N(0, I) in {latent} dimensions lie as the dashed line says.",
    )
    return f"""\
<p>The Encoder gives each face not one point but a normal distribution in z, of mean mu and
deviation sigma in each of its {latent} units. Samples drawn from N(0, I), as with
<code>generate.prior</code> normal, look like faces to the extent that the faces' own z-points are
distributed like that, too. Measured on the {images:,} images of the test split.</p>
{units}
{histograms}
{radii}"""


def _memory(page: _Page, report: str) -> str:
    (_, intro), *tables = markdown_sections(report)
    by_batch = page.report(
        "memory_by_batch",
        "Bars of where the memory of a training step goes, over the batch size, both variants",
        "Where the bytes go, over the batch size.",
    )
    by_inter_dense = page.report(
        "memory_by_inter_dense",
        "Curves of Encoder parameters and peak memory over the extra layer's units",
        "What the extra layer saves, over its units.",
    )
    details = "\n".join(
        f"<details><summary>{title}</summary>\n{body}\n</details>" for title, body in tables
    )
    return f"{intro}\n{by_batch}\n{by_inter_dense}\n{details}"


_STUDIES = """\
<p>Longer measurements are kept with the project. They are not part of this run.</p>
<ul>
<li><a href="studies/inter_dense.md">The size of the extra Dense layer</a>: how much quality 64 to
512 units cost, and whether that is more than seeds differ by.</li>
<li><a href="studies/defaults.md">Losses and priors</a>: which give the best samples, beside two
published settings and another library.</li>
<li><a href="studies/kl_weights.md">The KL weight</a>: what becomes of latent codes and of samples
as the weight falls to 0, which is a plain autoencoder.</li>
</ul>"""


def page_html(
    parameters: Parameters, *, metrics: Path, reports: Path, charts: Path, page: Path
) -> str:
    """The page, with links relative to `page`, the file that it is to be written to.

    Args:
        metrics, reports: folders that the other stages wrote into.
        charts: where `save_charts` wrote to.

    Raises:
        UserError: an output of another stage is not there.
    """
    measured = [json.loads(_text(metrics / f"{variant}.json")) for variant in VARIANTS]
    attributes = json.loads(_text(metrics / "attributes.json"))
    direct, inter_dense = (each["encoder"]["params"] for each in measured)
    latent = parameters.encoder.latent_size
    source = html.escape(parameters.data.source)
    figures = _Page(page, reports, charts)
    (compared, numbers), *further = markdown_sections(_text(reports / "comparison.md"))
    sections = {
        compared: numbers,
        **_pictures(figures),
        "Attributes": _attributes(figures, parameters.generate.attributes, attributes),
        "Training": _curves(figures),
        "Where the z-points lie": _z_points(figures, latent, measured[0]["test"]["images"]),
        "Memory of a training step": _memory(figures, _text(reports / "memory.md")),
        **dict(further),
        "Studies": _STUDIES,
    }
    links = "\n".join(
        f'<li><a href="#section-{number}">{title}</a></li>'
        for number, title in enumerate(sections, start=1)
    )
    body = "\n".join(
        f'<section id="section-{number}">\n<h2>{title}</h2>\n{content}\n</section>'
        for number, (title, content) in enumerate(sections.items(), start=1)
    )
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>facevae: with and without an extra Dense layer</title>
<style>
{_STYLE}
</style>
</head>
<body>
<header>
<h1>What does an extra Dense layer in a VAE's Encoder save, and cost?</h1>
<p>A variational autoencoder (VAE) learns to turn images of faces into points z of a space of
{latent} dimensions (the Encoder) and such points back into images (the Decoder). Here it was
trained twice on the faces of <code>{source}</code>, with the same settings but for one layer.</p>
<ul>
<li><strong>direct</strong>: the Encoder's last maps, flattened, go straight into the two layers
that give mu and log_var. The Encoder has {direct:,} parameters.</li>
<li><strong>inter_dense</strong>: one more Dense layer of {parameters.encoder.inter_dense:,} units
lies in between. The Encoder has {inter_dense:,} parameters.</li>
</ul>
<nav aria-label="Sections"><ul>
{links}
</ul></nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""
