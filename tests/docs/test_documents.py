"""README and docs agree with the project: commands, links, anchors, names of targets."""

import re
import subprocess
from pathlib import Path

import pytest
from documents import (
    DOCUMENTS,
    EXCEPTIONS,
    LINKED,
    RUN,
    SHOWN,
    anchors,
    blocks,
    console_commands,
    links,
    make_targets,
    script,
)


def test_all_documents_are_checked(project: Path) -> None:
    found = {f"docs/{path.name}" for path in (project / "docs").glob("*.md")}
    assert set(DOCUMENTS) == {"README.md", *found}


def test_readme_fits_on_a_few_screens(project: Path) -> None:
    assert len((project / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


@pytest.mark.parametrize("document", LINKED)
def test_every_block_says_whether_it_is_run(document: str) -> None:
    others = [block for block in blocks(document) if block.language not in RUN | SHOWN]
    assert not others, "commands that check-docs would not see"
    looks_like_a_command = re.compile(r"^\s*(\$ |make |dvc |git |python |pip )", re.MULTILINE)
    for block in blocks(document):
        if block.language in SHOWN:
            assert not looks_like_a_command.search(block.text), f"{document}:{block.line}"


def test_every_exception_is_a_command_of_a_document_and_has_a_reason() -> None:
    written = {command for _, command in console_commands()}
    assert set(EXCEPTIONS) - written == set()
    assert all(reason for _, reason in EXCEPTIONS.values())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_other_command_is_run(document: str) -> None:
    lines = script(document).splitlines()
    for where, command in console_commands():
        if where == document:
            run = EXCEPTIONS.get(command, (command, ""))[0]
            assert not run or f"{{ {run}" in lines, command
    done = subprocess.run(["bash", "-n", "-c", script(document)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_name_nothing_that_is_only_an_example() -> None:
    """Such a command would have to be an exception."""
    for document, command in console_commands():
        run = EXCEPTIONS.get(command, (command, ""))[0]
        assert not re.search(r"/path/to|example\.org|10\.0\.0\.", run), (document, command)


@pytest.mark.parametrize("document", LINKED)
def test_links_lead_to_files_and_headings(project: Path, document: str) -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.check_output(listed, cwd=project, text=True).splitlines()
    for target in links(document):
        name, _, anchor = target.partition("#")
        path = Path(document)
        if name:
            path = ((project / document).parent / name).resolve().relative_to(project)
            assert str(path) in files, target
        if anchor:
            assert anchor in anchors(str(path)), target


def test_links_and_targets_are_found() -> None:
    """Without any, the two tests beside this one would pass."""
    assert "docs/metrics.md" in links("README.md")
    assert {"repro", "test"} <= make_targets("README.md")


@pytest.mark.parametrize("document", LINKED)
def test_targets_are_in_the_makefile(project: Path, document: str) -> None:
    makefile = (project / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    assert make_targets(document) - targets == set()
