"""Notes what each stage of the pipeline imports and reads.

Python runs this file at its start where this folder is in PYTHONPATH. With FACEVAE_RECORDS naming a
folder, a stage writes <stage>.json there when it ends: the project's modules that it imported, as
paths, and the parameters that it read, as dotted keys.
"""

import atexit
import importlib.abc
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

_read: set[str] = set()


def _record_parameters(module: Any) -> None:
    """Note every read of a key in the parameters that a stage has loaded."""
    prefixes: dict[Any, str] = {module.Parameters: ""}
    for name, field in module.Parameters.model_fields.items():
        prefixes[field.annotation] = f"{name}."
        for inner, inner_field in field.annotation.model_fields.items():
            if hasattr(inner_field.annotation, "model_fields"):
                prefixes[inner_field.annotation] = f"{name}.{inner}."

    section = module._Section
    original, load, copy = section.__getattribute__, module.load_parameters, section.model_copy
    recording = False
    # Fields that code has put another value into, by the section's id; and the sections themselves,
    # for an id must not be used twice.
    replaced: dict[int, tuple[set[str], Any]] = {}

    def note(self, names):
        own = replaced.get(id(self), (set(), None))[0]
        for name in names:
            if (annotation := type(self).model_fields[name].annotation) not in prefixes:
                if name not in own:
                    _read.add(f"{prefixes[type(self)]}{name}")
            elif len(names) > 1:
                note(original(self, name), annotation.model_fields)

    def noted(self, name):
        fields = type(self).model_fields
        if recording and name in fields:
            note(self, [name])
        elif recording and name == "model_dump":
            note(self, list(fields))
        return original(self, name)

    def noting_copy(self, *, update=None, **settings):
        made = copy(self, update=update, **settings)
        replaced[id(made)] = (replaced.get(id(self), (set(), None))[0] | set(update or ()), made)
        return made

    def load_then_record(*args):
        nonlocal recording
        parameters = load(*args)
        recording = True
        return parameters

    section.__getattribute__ = noted
    section.model_copy = noting_copy
    module.load_parameters = load_then_record


class _Watch(importlib.abc.MetaPathFinder):
    """Lets `_record_parameters` at the module of the parameters as soon as it is loaded."""

    def find_spec(self, fullname, path, target=None):
        if fullname != "facevae.common.parameters":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_then_record(module):
            execute(module)
            _record_parameters(module)

        spec.loader.exec_module = execute_then_record  # type: ignore[method-assign]
        return spec


def _write(root: Path, records: Path, stage: str) -> None:
    files = {
        Path(file).resolve()
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None))
    }
    mine = sorted(
        str(file.relative_to(root))
        for file in files
        if file.is_relative_to(root / "src") or file.is_relative_to(root / "stages")
    )
    record = {"modules": mine, "parameters": sorted(_read)}
    (records / f"{stage}.json").write_text(json.dumps(record))


_records, _stage = os.environ.get("FACEVAE_RECORDS"), os.environ.get("DVC_STAGE")
# Not in the worker processes of a stage.
if _records and _stage and any(each.startswith("stages/") for each in sys.orig_argv):
    sys.meta_path.insert(0, _Watch())
    atexit.register(_write, Path.cwd().resolve(), Path(_records), _stage)
