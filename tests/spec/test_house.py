"""The house: what holds for every file, checked so that no reviewer has to."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import bild_dist

ROOT = Path(__file__).parents[2]
FOLDERS = ("bild_dist", "workers", "orchestrator", "proto", "benchmarks", "tests")
LINKS = ("workers", "orchestrator")
MOST_LINES = 400
HEAVY = ("torch", "transformers", "safetensors", "numpy")
"""What an orchestrator host does not have."""


def sources() -> list[Path]:
    """Every file that people write, once: the symlinks lead to files that are listed already."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    links = [ROOT / "bild_dist" / name for name in LINKS]
    generated = ROOT / "bild_dist" / "wire" / "pb"
    return [p for p in found if not any(p.is_relative_to(x) for x in (*links, generated))]


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sources():
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def test_the_prescribed_folders_are_there() -> None:
    """People find the small worker, the large worker and what stands between them at the top."""
    for name in (*FOLDERS, "configs", "docs"):
        assert (ROOT / name).is_dir(), name
    assert len(sources()) > 40


@pytest.mark.parametrize("name", LINKS)
def test_a_symlink_gives_each_module_its_one_name(name: str) -> None:
    """Relative, so that a clone works anywhere."""
    link = ROOT / "bild_dist" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    """A file that outgrows the limit has two subjects."""
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in sources()}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_nothing_is_unpickled() -> None:
    """A pickle runs code of whoever wrote it: not from a peer, not from a file."""
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    found = [
        f"{name}:{node.lineno}"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and banned & {part.split(".")[0] for part in imported(node)}
    ]
    assert found == []


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names]


def test_no_module_keeps_state() -> None:
    """Every mutable thing has an owner; a module is none, so nothing is rebound in one."""
    found = [
        f"{name}:{node.lineno}"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
    ]
    assert found == []


def test_tests_are_sentences() -> None:
    """The tests, read in order, are the specification: each says what must hold."""
    found = [
        f"{name}:{node.lineno} {node.name}"
        for name, tree in trees()
        if name.startswith("tests/")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not (ast.get_docstring(node) or "").endswith((".", "!"))
    ]
    assert found == []


def modules(*folders: str) -> list[str]:
    paths = [
        path for folder in folders for path in sorted((ROOT / "bild_dist" / folder).glob("*.py"))
    ]
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def test_an_orchestrator_loads_no_torch() -> None:
    """All of it, imported module by module in a process of its own, with and without a command."""
    names = [*modules(".", "orchestrator", "policy", "transport", "wire"), "bild_dist.model.toy"]
    assert {"bild_dist.app", "bild_dist.orchestrator.cli"} <= set(names)
    program = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
try:
    sys.modules["bild_dist.app"].main(["--help"])
except SystemExit:
    pass
print("heavy:", [name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_no_module_needs_itself_to_be_imported() -> None:
    """In a circle of imports it depends on who comes first whether a module can be loaded at all."""
    named = {}
    for path in sources():
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in ("bild_dist", *LINKS):
            whole = parts if parts[0] == "bild_dist" else ("bild_dist", *parts)
            named[".".join(whole).removesuffix(".__init__")] = path
    needs = {name: needed(path) & named.keys() for name, path in named.items()}
    assert needs["bild_dist.config"] > {"bild_dist.errors"}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def needed(path: Path) -> set[str]:
    """Names that a module imports when it is imported, modules among them."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found = [node for node in body if isinstance(node, ast.ImportFrom) and node.module]
    # A package that modules are taken out of is no more than a folder.
    taken = {f"{node.module}.{name.name}" for node in found for name in node.names}
    return taken | {str(node.module) for node in found}


def test_there_is_one_version() -> None:
    """The package, its metadata and the change log speak of the same release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == bild_dist.__version__
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_green_here_means_green_there() -> None:
    """The automatic check runs the target that people run; before it only the brokers of the queue's
    tests are installed, where they can be.
    """
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert [".ci/brokers", "make check"] == [line.partition(" ||")[0] for line in commands]
