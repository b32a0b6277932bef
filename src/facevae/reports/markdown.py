"""The Markdown of this project's reports as HTML."""

from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

# As on GitHub, but that HTML within it is text, and nothing is loaded.
_READER = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
# On a narrow screen a table scrolls by itself, by keyboard, too.
_READER.add_render_rule("table_open", lambda *_: '<div class="table" tabindex="0"><table>\n')
_READER.add_render_rule("table_close", lambda *_: "</table></div>\n")


def markdown_sections(text: str) -> list[tuple[str, str]]:
    """A report, cut at its headings of whatever level: of each, the title and what is below it.

    The report begins with a heading. HTML within it is escaped.

    Returns:
        Titles and bodies as HTML.
    """
    sections: list[tuple[str, list[Token]]] = []
    tokens = iter(_READER.parse(text))
    for token in tokens:
        if token.type == "heading_open":
            sections.append((_html([next(tokens)]), []))
            next(tokens)  # which closes the heading
        else:
            style = token.attrs.pop("style", None)
            if style == "text-align:right":
                token.attrSet("class", "right")
            sections[-1][1].append(token)
    return [(title, _html(body).strip()) for title, body in sections]


def _html(tokens: Sequence[Token]) -> str:
    return _READER.renderer.render(tokens, _READER.options, {})
