"""The reports' Markdown as HTML."""

from facevae.reports.markdown import markdown_sections

REPORT = """\
# A & B

First line,
second with `x < 1`.

| | direct |
| :--- | ---: |
| **peak** | <script>alert("1")</script> |
| a \\| b | ![tracker](https://example.org/1.png) |

- One thing, [there](https://example.org/?a=1&b=2).
- [Another](javascript:alert(1)).

```console
# no heading
dvc exp run -S a=1 && echo <b>
```

## Rest

The end.
"""


def test_markdown_becomes_html_and_is_escaped() -> None:
    (title, body), rest = markdown_sections(REPORT)
    assert title == "A &amp; B"
    assert body.startswith("<p>First line,\nsecond with <code>x &lt; 1</code>.</p>\n<div")
    assert '<th></th>\n<th class="right">direct</th>' in body
    assert (
        "<td><strong>peak</strong></td>\n"
        '<td class="right">&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;</td>'
    ) in body
    assert "<td>a | b</td>" in body
    assert "style=" not in body
    assert rest == ("Rest", "<p>The end.</p>")


def test_markdown_has_lists_code_and_links_and_loads_nothing() -> None:
    (_, body), _ = markdown_sections(REPORT)
    link = '<a href="https://example.org/?a=1&amp;b=2">there</a>'
    assert f"<ul>\n<li>One thing, {link}.</li>" in body
    code = "# no heading\ndvc exp run -S a=1 &amp;&amp; echo &lt;b&gt;\n"
    assert f'<pre><code class="language-console">{code}</code></pre>' in body
    assert "<img" not in body
    assert 'href="javascript' not in body
