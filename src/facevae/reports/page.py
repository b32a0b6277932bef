"""Everything that a run has to show on one HTML page, which loads nothing but pictures beside it.

All is read from the folders that other stages write. The texts are in `page.html.j2`.
"""

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from facevae.common.files import check_file
from facevae.common.parameters import VARIANTS, Parameters
from facevae.reports.charts import CHARTS
from facevae.reports.inputs import damaged, missing, read_json, read_text
from facevae.reports.markdown import markdown_sections
from facevae.reports.summary import findings, read_values
from facevae.reports.terms import terms_of_images

# PNG files of each variant, and SVG files of both.
_GRIDS = ("samples", "reconstructions", "interpolation", "attributes")
_MEMORY_CHARTS = ("memory_by_batch", "memory_by_inter_dense")

_TEMPLATES = Environment(
    loader=PackageLoader("facevae.reports", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


# A PNG file's signature and the head of its first chunk; width and height follow.
_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@dataclass(frozen=True)
class Picture:
    """A PNG or SVG file: its link from the page, quoted for a URL, and its size in pixels."""

    link: str
    width: int
    height: int


def _picture(path: Path, folder: Path) -> Picture:
    """The picture at `path` for a page in `folder`."""
    width, height = _svg_size(path) if path.suffix == ".svg" else _png_size(path)
    return Picture(quote(Path(os.path.relpath(path, folder)).as_posix()), width, height)


def _png_size(path: Path) -> tuple[int, int]:
    # Pillow refuses to open what has very many pixels, which a grid may have.
    try:
        check_file(path)
        with open(path, "rb") as file:
            head = file.read(len(_PNG) + 8)
    except FileNotFoundError:
        raise missing(path) from None
    if not head.startswith(_PNG) or len(head) < len(_PNG) + 8:
        raise damaged(path, "it does not begin as a PNG file does")
    width, height = struct.unpack_from(">II", head, len(_PNG))
    return width, height


def _svg_size(path: Path) -> tuple[int, int]:
    found = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', read_text(path))
    if not found:
        raise damaged(path, "it has no size")
    return round(float(found[1])), round(float(found[2]))


def page_html(
    parameters: Parameters, *, metrics: Path, reports: Path, charts: Path, page: Path
) -> str:
    """The page, with links relative to `page`, the file that it is to be written to.

    Args:
        metrics, reports: folders that the other stages wrote into.
        charts: folder that `facevae.reports.charts.save_charts` wrote into.

    Raises:
        UserError: an output of another stage is not there, or is damaged.
    """
    folder = page.parent
    return _TEMPLATES.get_template("page.html.j2").render(
        parameters=parameters,
        metrics={variant: read_json(metrics / f"{variant}.json") for variant in VARIANTS},
        classifier=read_json(metrics / "attributes.json"),
        terms=terms_of_images(parameters.data),
        findings=findings(read_values(reports / "comparison.csv")),
        comparison=markdown_sections(read_text(reports / "comparison.md")),
        memory=markdown_sections(read_text(reports / "memory.md")),
        grids={
            name: {
                variant: _picture(reports / variant / f"{name}.png", folder) for variant in VARIANTS
            }
            for name in _GRIDS
        },
        charts={
            **{name: _picture(charts / f"{name}.svg", folder) for name in CHARTS},
            **{name: _picture(reports / f"{name}.svg", folder) for name in _MEMORY_CHARTS},
        },
    )
