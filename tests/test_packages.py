"""The packages of the library: imports go in one direction, and each package has one subject."""

import ast
from pathlib import Path

import pytest

# Every package imports from those of the lines above its own, and from no other.
FLOORS = (
    {"common"},
    {"shards", "model", "plotting"},
    {"data", "training", "latent", "memory"},
    {"evaluation", "measurement", "reports"},
    {"explorer", "export"},
)
MAX_FILES = 12


def _imported(file: Path) -> set[str]:
    """Packages of the library that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names |= {node.module or ""} | {f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "facevae" and len(part) > 1}


def test_packages_import_in_one_direction(project: Path) -> None:
    library = project / "src" / "facevae"
    allowed: set[str] = set()
    for floor in FLOORS:
        for package in floor:
            for file in (library / package).glob("*.py"):
                others = _imported(file) - allowed - {package}
                assert not others, f"{file.relative_to(library)} imports {others}"
        allowed |= floor


def test_packages_are_all_there_is(project: Path) -> None:
    library = project / "src" / "facevae"
    assert [path.name for path in library.glob("*.py")] == ["__init__.py"]
    folders = {path.parent.name for path in library.glob("*/*.py")}
    assert folders == set().union(*FLOORS)
    for folder in folders:
        assert len(list((library / folder).glob("*.py"))) <= MAX_FILES + 1  # and __init__.py


@pytest.mark.parametrize("package", sorted(set().union(*FLOORS)))
def test_packages_have_an_empty_init(project: Path, package: str) -> None:
    """What it held would be run by every stage and belong to none."""
    assert (project / "src" / "facevae" / package / "__init__.py").read_bytes() == b""


def test_library_knows_nothing_of_dvc_and_of_stages(project: Path) -> None:
    for file in (project / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                modules = {node.module or ""}
            elif isinstance(node, ast.Import):
                modules = {each.name for each in node.names}
            else:
                continue
            assert not {name.split(".")[0] for name in modules} & {"dvc", "_stage", "stages"}, file
