"""What a refusal of `bild eval`, `sweep` or `tune` says can be done there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from bild_dist.evaluation.run import options as evaluation
from bild_dist.evaluation.sweep import options as sweep
from bild_dist.evaluation.tune import main as tune
from bild_dist.orchestrator.cli import Parser

ROOT: Final = Path(__file__).parents[2]
EVAL, SWEEP, TUNE = evaluation.parser(), sweep.parser(), tune.parser()
ALL = (EVAL, SWEEP, TUNE)
WHERE: Final[dict[str, tuple[Parser, ...]]] = {
    "bild_dist/model": ALL,
    "bild_dist/config.py": ALL,
    "bild_dist/types.py": ALL,
    "workers": ALL,
    "orchestrator/prompt.py": ALL,
    "orchestrator/pairing.py": ALL,
    "orchestrator/opening.py": ALL,
    "orchestrator/text.py": ALL,
    "orchestrator/decoder.py": ALL,
    "orchestrator/client.py": ALL,
    "bild_dist/evaluation/metrics": ALL,
    "bild_dist/evaluation/tasks": ALL,
    "bild_dist/evaluation/corpora": ALL,
    "bild_dist/evaluation/run/files.py": ALL,
    "bild_dist/evaluation/run/held.py": ALL,
    "bild_dist/evaluation/run": (EVAL,),
    "bild_dist/evaluation/sweep": (SWEEP,),
    "bild_dist/evaluation/tune": (TUNE,),
}
"""Whose refusals which command passes on."""
ELSEWHERE: Final = re.compile(r"\bfor -c\b|\bbild \w+ --|--set\b")
"""A message that says where an option is to be given that a command lacks: in a file, or to another command."""


def refusals(where: str) -> Iterator[tuple[str, str]]:
    """The texts of what is raised there, and the lines that they begin in."""
    path = ROOT / where
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None:
                parts = [n.value for n in ast.walk(node.exc) if isinstance(n, ast.Constant)]
                said = " ".join(part for part in parts if isinstance(part, str))
                calls = {n.func.id for n in ast.walk(node.exc)
                         if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
                yield (
                    f"{file.name}:{node.lineno}",
                    said + (" for -c" if "where_given" in calls else ""),
                )


@pytest.mark.parametrize("where", WHERE)
def test_a_remedy_names_options_that_the_command_has(where: str) -> None:
    """Whoever is told to take an option and finds that it is unknown has been told nothing; what only a file or
    another command can say is said to be so.
    """
    wrong = [
        f"{line}: {flag} of {parser.prog}: {said}"
        for line, said in refusals(where)
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", said)
        for parser in WHERE[where]
        if flag not in parser._option_string_actions and not ELSEWHERE.search(said)
    ]
    assert wrong == []


def test_refusals_are_found() -> None:
    """Those that name an option, at least the one known to lie in each of three places."""
    for where, flag in (
        ("bild_dist/model", "--dtype"), ("orchestrator/pairing.py", "--tokenizer"),
        ("bild_dist/evaluation/tune", "--test-count"),
    ):  # fmt: skip
        assert any(flag in said for _, said in refusals(where)), where
