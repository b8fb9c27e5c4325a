"""Container recipes and deployment guide name only what exists."""

import fnmatch
import re
import shlex
from pathlib import Path

import click
import pytest

from ssast_edge.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))
GUIDE = ROOT / "docs/deploy.md"


def _instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.M)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines if line.strip()]


def test_there_is_one_for_cpus_and_one_for_jetsons() -> None:
    assert [path.name for path in DOCKERFILES] == ["cpu.Dockerfile", "jetson.Dockerfile"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_files_that_are_copied_exist_and_reach_the_build(dockerfile: Path) -> None:
    ignored = Path(f"{dockerfile}.dockerignore").read_text().splitlines()
    assert "*" in ignored
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert [name for name in kept if not (ROOT / name).exists()] == []
    for name, arguments in _instructions(dockerfile):
        if name != "COPY" or arguments.startswith("--from="):
            continue
        for source in arguments.split()[:-1]:
            assert (ROOT / source).exists()
            assert any(fnmatch.fnmatch(source, pattern) for pattern in kept)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_tagged_lean_and_not_run_as_root(dockerfile: Path) -> None:
    found = _instructions(dockerfile)
    known = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "USER", "VOLUME", "WORKDIR"}
    assert {name for name, _ in found} <= known
    defaults = dict(text.split("=", 1) for name, text in found if name == "ARG")
    for name, arguments in found:
        if name == "FROM":
            image = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], arguments.split()[0])
            assert ":" in image
            assert not image.endswith(":latest")
        if name == "RUN" and "apt-get install" in arguments:
            assert "--no-install-recommends" in arguments
            assert "rm -rf /var/lib/apt/lists/*" in arguments
        if name == "RUN" and "pip install" in arguments:
            assert "--no-cache-dir" in arguments
    assert [text for name, text in found if name == "USER"][-1] != "root"
    assert ("ENTRYPOINT", '["ssast-edge"]') in found


def test_commands_of_the_guide_exist_with_their_options() -> None:
    text = GUIDE.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```\n(.*?)```", text, flags=re.S)
    lines = [line for block in blocks for line in block.splitlines() if "ssast-edge" in line]
    checked = 0
    for line in lines:
        words = shlex.split(line.partition(" && ")[0], comments=True)
        at = next((i for i, w in enumerate(words) if w.rpartition("/")[2] in PROGRAMS), None)
        if at is None or len(words) == at + 1 or words[at + 1] not in COMMANDS:
            continue
        _check(words[at + 1 :], line)
        checked += 1
    assert checked >= 15


PROGRAMS = ("ssast-edge", "ssast-edge:jetson")


def _check(words: list[str], line: str) -> None:
    context = click.Context(main)
    command = main.get_command(context, words[0])
    assert command is not None, line
    if isinstance(command, click.Group):
        command = command.get_command(context, words[1])
        assert command is not None, line
    options = {name for parameter in command.params for name in parameter.opts}
    if words[:2] == ["service", "install"]:
        listen = main.get_command(context, "listen")
        assert listen is not None
        options |= {name for parameter in listen.params for name in parameter.opts}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= options, line


def test_links_within_the_guide_lead_somewhere() -> None:
    text = GUIDE.read_text()
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors
    files = re.findall(r"`(deploy/[^`\s]+|docs/[^`\s]+)`", text)
    assert [name for name in files if not (ROOT / name).exists()] == []
