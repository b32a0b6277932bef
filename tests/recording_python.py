"""Stands in for `python` in a test's PATH: runs a stage and notes what it imports and reads.

Usage: recording_python.py RECORDS_FOLDER SCRIPT ARGUMENT...

Writes RECORDS_FOLDER/<stage>.json: the project's modules that were imported, as paths, and the
parameters that were read, as dotted keys.
"""

import atexit
import importlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any


def _record_parameters(read: set[str]) -> None:
    module: Any = importlib.import_module("facevae.common.parameters")

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
                    read.add(f"{prefixes[type(self)]}{name}")
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


def _main() -> None:
    records, script, *arguments = sys.argv[1:]
    root = Path.cwd()
    read: set[str] = set()

    def write() -> None:
        files = {
            Path(file).resolve()
            for module in list(sys.modules.values())
            if (file := getattr(module, "__file__", None))
        }
        files.add((root / script).resolve())
        mine = sorted(
            str(file.relative_to(root))
            for file in files
            if file.is_relative_to(root / "src") or file.is_relative_to(root / "stages")
        )
        record = Path(records) / f"{os.environ['DVC_STAGE']}.json"
        record.write_text(json.dumps({"modules": mine, "parameters": sorted(read)}))

    sys.argv = [script, *arguments]
    sys.path[0] = str((root / script).parent)
    sys.path.insert(1, str(root / "src"))
    _record_parameters(read)
    atexit.register(write)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    _main()
