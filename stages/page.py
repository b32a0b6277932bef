"""Draw charts of both variants, and write all results of a run to one HTML page."""

from _stage import arguments, run
from facevae.common.files import write_text
from facevae.reports.charts import save_charts
from facevae.reports.page import page_html


def main() -> None:
    options, parameters = arguments(
        __doc__,
        "metrics",
        "reports",
        charts="folder to write the charts into, as SVG files",
        html="HTML page to write",
    )
    save_charts(options.reports, options.charts)
    page = page_html(
        parameters,
        metrics=options.metrics,
        reports=options.reports,
        charts=options.charts,
        page=options.html,
    )
    write_text(options.html, page)


if __name__ == "__main__":
    run(main)
