"""Checks what the project needs of this machine, before anything is installed or run.

    python3 tools/preflight.py repository      a git repository that DVC may use
    python3 tools/preflight.py environment     also what building the environment .venv needs

Each fault is a sentence on standard error, and the exit status is then 2. A warning is a sentence.
The file is valid for Python 2.7 and later and imports the standard library alone: an old Python
says that it is too old, in place of a syntax error.
"""

import os
import re
import subprocess
import sys

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What the environment and the packages that pip downloads for it occupy, measured with Python 3.11
# on Linux.
ENVIRONMENT_GIB, DOWNLOADS_GIB = 2.6, 0.7


def git(*arguments):
    """Exit status and messages, in English, of a git command in the project's folder."""
    process = subprocess.Popen(
        ("git",) + arguments,
        cwd=PROJECT,
        env=dict(os.environ, LC_ALL="C"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    _, messages = process.communicate()
    return process.returncode, messages.strip()


def repository_fault():
    """Why DVC cannot use the project's git repository, or None."""
    try:
        status, messages = git("rev-parse", "--git-dir")
    except OSError:
        return "git is not installed, and DVC needs it (Debian, Ubuntu: apt install git)"
    if status == 0:
        return None
    command = re.search("git config .*safe.directory.*", messages)
    if command:
        return "{0} belongs to another user, and git refuses to read it: run `{1}`".format(
            PROJECT, command.group()
        )
    if "not a git repository" in messages:
        return (
            "{0} is not a git repository, which DVC needs: clone the project in place of "
            "downloading its ZIP, or run `git init` here".format(PROJECT)
        )
    return "git cannot read {0}: {1}".format(PROJECT, messages.splitlines()[-1])


def identity_warning():
    """What does not work without a name and an address for commits; None if git has both."""
    variables = ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"]
    configured = all(git("config", key)[0] == 0 for key in ("user.name", "user.email"))
    if configured or all(os.environ.get(name) for name in variables):
        return None
    return (
        "git has no name and address for commits: `dvc repro` works, but `dvc exp run` fails in a "
        "workspace with changes, with --queue and with --temp; these mend it: "
        "git config --global user.name 'Your Name' && "
        "git config --global user.email you@example.org"
    )


def version_fault():
    """Why this Python is not one that the project runs on, or None."""
    with open(os.path.join(PROJECT, "pyproject.toml")) as file:
        low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', file.read()).groups()
    if (3, int(low)) <= sys.version_info[:2] < (3, int(high)):
        return None
    return "{0} is Python {1}.{2}, and facevae needs 3.{3} to 3.{4}: {5}".format(
        sys.executable, sys.version_info[0], sys.version_info[1], low, int(high) - 1,
        "name one with `make PYTHON=python3.{0} repro`".format(low),
    )  # fmt: skip


def venv_fault():
    """Why this Python makes no environments, or None."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        return (
            "{0} lacks Python's module {1}, which makes environments: install it (Debian, Ubuntu: "
            "apt install python3.{2}-venv)".format(sys.executable, error.name, sys.version_info[1])
        )
    return None


def space_fault():
    """Why the disk has no room for the environment, or None."""
    disk = os.statvfs(PROJECT)
    free = disk.f_bavail * disk.f_frsize / 2.0**30
    if free >= ENVIRONMENT_GIB + DOWNLOADS_GIB:
        return None
    return (
        "the disk of {0} has {1:.1f} GiB free, and the environment needs {2:.1f}: {3} for itself, "
        "{4} for what pip downloads".format(
            PROJECT, free, ENVIRONMENT_GIB + DOWNLOADS_GIB, ENVIRONMENT_GIB, DOWNLOADS_GIB
        )
    )


def main(subject):
    faults = [repository_fault()]
    if subject == "environment":
        faults += [version_fault() or venv_fault(), space_fault()]
    faults = [fault for fault in faults if fault]
    # `make repro` asks about both: the warning once.
    warning = identity_warning() if subject == "repository" and not faults else None
    for line in faults + (["warning: " + warning] if warning else []):
        sys.stderr.write(line + "\n")
    return 2 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
