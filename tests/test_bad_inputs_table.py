"""The table of bad inputs in README.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROWS = [
    line.strip("|").split("|")
    for line in (TESTS / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ")
]
BODY = [[cell.strip() for cell in row] for row in ROWS if row[0].strip().isdigit()]


def test_every_row_has_its_number_an_input_an_answer_and_a_test() -> None:
    assert [int(row[0]) for row in BODY] == list(range(1, len(BODY) + 1))
    assert all(len(row) == 4 and all(row) for row in BODY)


@pytest.mark.parametrize("row", BODY, ids=lambda row: row[0])
def test_every_test_of_the_table_exists(row: list[str]) -> None:
    named = re.findall(r"`([^`]+)::([^`]+)`", row[3])
    assert "<br>".join(f"`{file}::{function}`" for file, function in named) == row[3]
    for file, function in named:
        assert function in functions_of(TESTS / file)


def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}
