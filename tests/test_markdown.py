"""The reports' Markdown as HTML."""

from facevae.markdown import markdown_sections

REPORT = """\
# A & B

First line,
second with `x < 1`.

| | direct |
| --- | ---: |
| **peak** | <script>alert("1")</script> |

## Rest

The end.
"""


def test_markdown_becomes_html_and_is_escaped() -> None:
    (title, body), rest = markdown_sections(REPORT)
    assert title == "A &amp; B"
    assert body.startswith("<p>First line, second with <code>x &lt; 1</code>.</p>\n<div")
    assert '<tr><th></th><th class="right">direct</th></tr>' in body
    assert (
        "<tr><td><strong>peak</strong></td>"
        '<td class="right">&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;</td></tr>'
    ) in body
    assert rest == ("Rest", "<p>The end.</p>")
