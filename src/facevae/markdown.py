"""The Markdown of this project's reports as HTML: headings, paragraphs, tables, code and bold."""

import html
import re
from collections.abc import Sequence
from itertools import groupby, zip_longest

_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_RULE = re.compile(r"\|( -{3,}:? \|)+")


def markdown_sections(text: str) -> list[tuple[str, str]]:
    """A report, cut at its headings of whatever level: of each, the title and what is below it.

    Only what the reports use is understood: the report begins with a heading; lines of a table
    begin and end with `|`. All else is text, and is escaped.

    Returns:
        Titles and bodies as HTML.
    """
    _, *parts = _HEADING.split(text)
    return [
        (_inline(title), _blocks(body.splitlines()))
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    ]


def _blocks(lines: Sequence[str]) -> str:
    blocks = []
    for filled, group in groupby(lines, bool):
        if filled:
            block = list(group)
            is_table = len(block) > 1 and _RULE.fullmatch(block[1])
            blocks.append(_table(block) if is_table else f"<p>{_inline(' '.join(block))}</p>")
    return "\n".join(blocks)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]


def _table(lines: Sequence[str]) -> str:
    sides = [' class="right"' if rule.endswith(":") else "" for rule in _cells(lines[1])]

    def row(line: str, tag: str) -> str:
        # A cell too many, for a `|` within one, is shown as well.
        cells = zip_longest(_cells(line), sides, fillvalue="")
        return "".join(f"<{tag}{side}>{_inline(cell)}</{tag}>" for cell, side in cells)

    body = "\n".join(f"<tr>{row(line, 'td')}</tr>" for line in lines[2:])
    # On a narrow screen it scrolls by itself, by keyboard, too.
    return (
        f'<div class="table" tabindex="0"><table>\n<thead><tr>{row(lines[0], "th")}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _inline(text: str) -> str:
    escaped = html.escape(text)
    with_code = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", with_code)
