"""The charts of a run: both variants over each other, from the tables that other stages wrote."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

import facevae.plotting.backend  # noqa: F401

# isort: split
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from scipy import stats

from facevae.common.parameters import VARIANTS
from facevae.plotting.charts import (
    REFERENCE,
    VARIANT_COLOURS,
    Curve,
    draw_curves,
    new_figure,
    save_curves,
    save_figure,
)
from facevae.reports.inputs import Content, damaged, read_text

CHARTS = ("loss", "latent_units", "z_histograms", "radii")

_Table = dict[str, np.ndarray]


def _table(path: Path) -> _Table:
    """Columns of numbers by name."""
    try:
        names, *rows = csv.reader(read_text(path).splitlines())
        return Content(path, zip(names, np.array(rows, float).T, strict=True))
    except ValueError as error:
        raise damaged(path, error) from None


def _tables(reports: Path, name: str) -> dict[str, _Table]:
    return {variant: _table(reports / variant / f"{name}.csv") for variant in VARIANTS}


def save_charts(reports: Path, charts: Path) -> None:
    """Draw the `CHARTS` of both variants over each other, as SVG files in the folder `charts`.

    Raises:
        UserError: a table of another stage is not there, or is damaged.
    """
    _save_loss(_tables(reports, "history"), charts / "loss.svg")
    latents = _tables(reports, "latents")
    _save_latent_units(latents, charts / "latent_units.svg")
    _save_z_histograms(_tables(reports, "z_histograms"), latents, charts / "z_histograms.svg")
    _save_radii(_tables(reports, "radii"), latents[VARIANTS[0]]["unit"].size, charts / "radii.svg")


def _save_loss(histories: Mapping[str, _Table], path: Path) -> None:
    def curves(quantity: str) -> list[Curve]:
        return [
            Curve(
                f"{variant}, {split}",
                history["epoch"],
                history[f"{prefix}{quantity}"],
                VARIANT_COLOURS[variant],
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
            Curve(
                variant,
                np.arange(1, 1 + table[column].size),
                ordered[column],
                VARIANT_COLOURS[variant],
            )
            for variant, table in latents.items()
            if (ordered := _by_kl(table))
        ]

    save_curves(
        {
            "KL, nats": curves("kl"),
            "standard deviation of mu": curves("mu_std"),
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
    figure = new_figure(7)
    figure.suptitle(
        "Latent codes of the test split: all units together, and each unit", fontsize=12
    )
    together, *maps = figure.subplot_mosaic([["together"] * len(tables), list(tables)]).values()

    x = _fine_grid(tables, "z")
    normal = Curve("N(0, 1)", x, stats.norm.pdf(x), REFERENCE, dashed=True)
    draw_curves(together, [*_histograms(tables, "z"), normal])
    together.set_ylabel("density")
    together.set_ylim(bottom=0)
    together.set_xlabel("z")
    together.legend(loc="best", frameon=False, fontsize=9)

    densities = {}
    for variant, table in tables.items():
        units = _by_kl(latents[variant])["unit"].astype(int)
        densities[variant] = np.array([table[f"unit_{unit}"] for unit in units])
    # One scale for both, which a few units that do nothing must not stretch.
    brightest = max(float(np.quantile(each, 0.995)) for each in densities.values())
    extent = max(abs(table["z"][0]) for table in tables.values())
    for axes, (variant, table) in zip(maps, tables.items(), strict=True):
        image = _draw_map(axes, table["z"], densities[variant], brightest)
        axes.set_xlim(-extent, extent)
        axes.set_title(variant, fontsize=10)
        axes.set_xlabel("z")
    maps[0].set_ylabel("latent unit, from the largest KL")
    figure.colorbar(image, ax=maps, label="density", extend="max")
    save_figure(figure, path)


def _draw_map(axes: Axes, x: np.ndarray, densities: np.ndarray, brightest: float) -> AxesImage:
    """Draw histograms as rows of brightness, from the top down.

    Args:
        x: the middles of the bins.
        densities: (histograms, bins).
        brightest: the density that is drawn brightest.
    """
    # Columns of one width about the bins' middles, rows about 1, 2 and so on.
    half = (x[1] - x[0]) / 2
    image = axes.imshow(
        densities,
        cmap="cividis",
        aspect="auto",
        interpolation="nearest",
        vmin=0,
        vmax=brightest,
        extent=(x[0] - half, x[-1] + half, len(densities) + 0.5, 0.5),
    )
    axes.set_facecolor(image.cmap(0.0))  # nothing lies beyond the bins
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    return image


def _save_radii(tables: Mapping[str, _Table], latent: int, path: Path) -> None:
    x = _fine_grid(tables, "radius")
    chi = Curve("N(0, I): chi distribution", x, stats.chi.pdf(x, latent), REFERENCE, dashed=True)
    save_curves(
        {"density": [*_histograms(tables, "radius"), chi]},
        path,
        title="Length of the test split's latent codes",
        x_label="|z|",
    )


def _fine_grid(tables: Mapping[str, _Table], x: str) -> np.ndarray:
    lowest, *_, highest = np.sort(np.concatenate([table[x] for table in tables.values()]))
    return np.linspace(lowest, highest, 400)


def _histograms(tables: Mapping[str, _Table], x: str) -> Iterator[Curve]:
    for variant, table in tables.items():
        yield Curve(variant, table[x], table["density"], VARIANT_COLOURS[variant], steps=True)
