"""The Markdown of this project's reports as HTML."""

from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

# As on GitHub, but that HTML within it is text, and nothing is loaded.
_READER = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
# On a narrow screen a table scrolls by itself, by keyboard, too.
_READER.add_render_rule("table_open", lambda *_: '<div class="table" tabindex="0"><table>\n')
_READER.add_render_rule("table_close", lambda *_: "</table></div>\n")


def markdown_sections(text: str) -> list[tuple[Markup, Markup]]:
    """The sections of a Markdown text that begins with a heading. HTML in the text is escaped.

    Returns:
        For each heading of whatever level, its title and what stands below it, as HTML.
    """
    sections: list[tuple[Markup, list[Token]]] = []
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


def _html(tokens: Sequence[Token]) -> Markup:
    return Markup(_READER.renderer.render(tokens, _READER.options, {}))
