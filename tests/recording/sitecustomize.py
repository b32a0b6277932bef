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

    section, whole = module._Section, module.Parameters
    original, copy, change = section.__getattribute__, section.model_copy, whole.with_changes
    load = module.load_parameters
    # The sections that come from params.yaml, by their ids, with the keys that code has put another
    # value into; and the sections themselves, for an id must not be used twice.
    known: dict[int, tuple[set[str], Any]] = {}

    def replaced_in(self) -> set[str]:
        return known[id(self)][0] if id(self) in known else set()

    def register(self, replaced: set[str]) -> None:
        known[id(self)] = (replaced, self)

    def register_all(parameters, replaced: dict[str, set[str]]) -> None:
        register(parameters, set())
        for name, value in parameters:
            register(value, replaced.get(name, set()))
            for _, inner in value:
                if isinstance(inner, section):
                    register(inner, set())

    def note(self, names):
        if id(self) not in known:
            return
        for name in names:
            if (annotation := type(self).model_fields[name].annotation) not in prefixes:
                if name not in replaced_in(self):
                    _read.add(f"{prefixes[type(self)]}{name}")
            elif len(names) > 1:
                note(original(self, name), annotation.model_fields)

    def noted(self, name):
        fields = type(self).model_fields
        if name in fields:
            note(self, [name])
        elif name == "model_dump":
            note(self, list(fields))
        return original(self, name)

    def noting_copy(self, *, update=None, **settings):
        made = copy(self, update=update, **settings)
        if id(self) in known:
            register(made, replaced_in(self) | set(update or ()))
        return made

    def noting_change(self, changes):
        made = change(self, changes)
        replaced = {name: set(replaced_in(value)) for name, value in self}
        for key in changes:
            replaced[key.split(".")[0]].add(key.split(".")[1])
        register_all(made, replaced)
        return made

    def load_then_register(*args):
        parameters = load(*args)
        register_all(parameters, {})
        return parameters

    section.__getattribute__ = noted
    section.model_copy = noting_copy
    whole.with_changes = noting_change
    module.load_parameters = load_then_register


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


def _write(root: Path, script: str, records: Path, stage: str) -> None:
    files = {root / script} | {
        Path(file).resolve()
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None))
    }
    mine = sorted(
        str(file.relative_to(root))
        for file in files
        if file.is_relative_to(root / "src") or file.is_relative_to(root / "stages")
    )
    record = {
        "modules": mine,
        "parameters": sorted(_read),
        "tensorflow": "tensorflow" in sys.modules,
    }
    (records / f"{stage}.json").write_text(json.dumps(record))


_records, _stage = os.environ.get("FACEVAE_RECORDS"), os.environ.get("DVC_STAGE")
# Not in the worker processes of a stage.
_script = next((each for each in sys.orig_argv if each.startswith("stages/")), None)
if _records and _stage and _script:
    sys.meta_path.insert(0, _Watch())
    atexit.register(_write, Path.cwd().resolve(), _script, Path(_records), _stage)
