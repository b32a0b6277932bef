"""Reading a YAML file that a person has written: one meaning, or a sentence with the line."""

import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from facevae.common.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 6, 3
_LONGEST = 120  # characters of what is put together from such parts


def shown(value: Any) -> str:
    """A value for a message: its `repr`, on one line and cut."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def shown_key(key: Any) -> str:
    """A key for a message: as it stands if it is short and printable, else as `shown`."""
    text = str(key)
    return text if text.isprintable() and len(text) <= 60 else shown(text)


def read_mapping(path: Path) -> dict[Any, Any]:
    """Read a YAML file that holds a mapping, as DVC reads it.

    Refused is also what YAML allows and readers take differently: a key that appears twice, a date,
    a number that is not in plain decimal digits (010 is 8 to some and 10 to others).

    Raises:
        UserError: the file is missing, cannot be read or is refused: a line per mistake.
    """
    try:
        if path.exists() and not path.is_file():  # to read a named pipe may never end
            raise UserError(f"{path}: cannot be read: it is not a file")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; run from the project's folder, or name one with --params"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot be read: it is not a text file in UTF-8") from None
    try:
        mistakes = list(_mistakes(YAML(typ="safe").compose(text)))
        if mistakes:
            raise UserError("\n".join(f"{path}: {mistake}" for mistake in mistakes[:20]))
        content = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise UserError(f"{path}: is not valid YAML: {_in_one_line(error)}") from None
    except RecursionError:
        raise UserError(f"{path}: is not valid YAML: it is nested too deeply") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: holds what cannot be read: {shown_key(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold sections (data, encoder, ...), not {shown(content)}")
    return content


_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", re.I)
_MAX_DIGITS = 40
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


def _mistakes(root: Node | None) -> Iterator[str]:
    # A node that several aliases name is looked at once: they may be nested exponentially.
    seen: set[int] = set()
    left = [root] if root else []
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        line = f"line {node.start_mark.line + 1}"
        if isinstance(node, ScalarNode):
            if mistake := _scalar_mistake(node):
                yield f"{line}: {mistake}"
        elif isinstance(node, MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                if isinstance(key, ScalarNode):
                    name, here = (str(key.tag), key.value), key.start_mark.line + 1
                    if name in lines:
                        yield (
                            f"line {here}: the key {shown_key(key.value)} is in line {lines[name]} "
                            f"already; keep one"
                        )
                    lines[name] = here
                left += [value, key]
        else:
            left += reversed(node.value)


def _scalar_mistake(node: ScalarNode) -> str | None:
    kind = str(node.tag).rpartition(":")[2]
    if str(node.tag) not in _PLAIN:
        return (
            f"{shown_key(node.value)} is neither text nor a number, true, false or null; put text "
            f"between quotes"
        )
    if kind not in ("int", "float"):
        return None
    if len(node.value) > _MAX_DIGITS:
        return f"a number of {len(node.value)} characters cannot be meant"
    if not _DECIMAL.fullmatch(node.value):
        return (
            f"{shown_key(node.value)} is a number that programs read differently; write it in "
            f"plain decimal digits"
        )
    return None


def _in_one_line(error: YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return shown_key(" ".join(str(error).split()))
    return f"line {mark.line + 1}: {getattr(error, 'problem', None) or 'cannot be read'}"
