"""Whatever stands in params.yaml: parameters that DVC reads alike, or sentences.

Values of the real file are replaced by random ones, sections by random structures, and the whole
file by random bytes.
"""

import json
import re
from pathlib import Path

import pytest
from dvc.utils.serialize import load_yaml  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facevae.common.errors import UserError
from facevae.common.parameters import load_parameters

PROJECT = Path(__file__).resolve().parent.parent.parent
TEXT = (PROJECT / "params.yaml").read_text(encoding="utf-8")
VALUES = [match.span(1) for match in re.finditer(r"^ *(?:- |[a-z_]+: )(\S+)", TEXT, re.MULTILINE)]
EXAMPLES = settings(max_examples=100)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "params.yaml"


def _is_read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        parameters = load_parameters(path)
    except UserError as error:
        lines = str(error).split("\n")
        assert len(lines) <= 21
        for line in lines:
            told = line.removeprefix(f"{path}: ")
            assert told != line
            assert told.isprintable(), told
            assert len(told) < 400, told
    else:
        assert parameters.content() == load_yaml(path)


_ODD = st.sampled_from(
    [
        "", "~", "null", "yes", "off", "True", "010", "0o7", "0x1f", "0b1", "1_0", "1:30", "+1",
        "-0", "1.", ".5", "1e3", "1e-3", "1e999", ".inf", "-.inf", ".nan", "9" * 400, "9" * 5000,
        "=", "<<", "2026-11-25", "2026-13-45", "2026-11-25T25:61:00Z", "!!int x", "!!float x",
        "!!bool x", "!!null x", "!!str 1", "!!set {a}", "!!omap [a: 1]", "!!binary $",
        "!!python/none", "!x y", "&a 1", "&a [*a]", "*a", "{a: 1, a: 2}", "{[1]: 2}",
        "[1, [2, [3]]]", "- 1", "'", '"\\0"', '"\\ud800"', '"\\x1b"', "|", ">", "%", "@", "`",
        "? a", "learned", "\t1", "#", "a: b: c",
        "[" * 3000, "{a: " * 3000, "---", "...", "--- 1", "%YAML 1.1\n---\na: 010",
    ]
)  # fmt: skip
_VALUE = st.one_of(
    _ODD,
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=20),
    st.text("0123456789._-+exob:", min_size=1, max_size=8),
)


@pytest.mark.parametrize("part", range(4))
def test_any_value_of_params_is_read_or_refused(path: Path, part: int) -> None:
    """The keys in four parts, so that each has some 20 of the values."""

    @EXAMPLES
    @given(st.sampled_from(VALUES[part::4]), _VALUE)
    def check(span: tuple[int, int], value: str) -> None:
        text = f"{TEXT[: span[0]]}{value}{TEXT[span[1] :]}"
        _is_read_or_refused(path, text.encode("utf-8", "surrogatepass"))

    check()


_SECTIONS = re.findall(r"^([a-z]+):", TEXT, re.MULTILINE)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


def test_any_section_of_params_is_read_or_refused(path: Path) -> None:
    @EXAMPLES
    @given(st.sampled_from(_SECTIONS), _JSON)
    def check(section: str, content: object) -> None:
        others = re.sub(rf"^{section}:.*\n(?:[ #].*\n|\n)*", "", TEXT, flags=re.MULTILINE)
        text = f"{others}\n{section}: {json.dumps(content)}\n"
        _is_read_or_refused(path, text.encode("utf-8", "surrogatepass"))

    check()


def test_any_file_of_params_is_read_or_refused(path: Path) -> None:
    @EXAMPLES
    @given(
        st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace"))
    )
    @example(b"\xef\xbb\xbf" + TEXT.encode())
    @example(TEXT.encode("utf-16"))
    @example(TEXT.replace("\n", "\r\n").encode())
    @example(TEXT.replace("\n", "\r").encode())
    def check(content: bytes) -> None:
        _is_read_or_refused(path, content)

    check()
