"""The numbered tables of the READMEs, of bad inputs and of complaints, name tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent


def rows_below(heading: str, file: Path) -> list[list[str]]:
    """Those that begin with a number: it, what comes in, what becomes of it, the tests."""
    _, found, text = file.read_text(encoding="utf-8").partition(f"{heading}\n")
    assert found
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [row for row in rows if row[0].isdigit()]


TABLES = {
    "bad inputs": rows_below("# tests", TESTS / "README.md"),
    "complaints": rows_below("## What users of other trainers suffer from", ROOT / "trainer" / "README.md"),
}
ROWS = [pytest.param(row[3], id=f"{name} {row[0]}") for name, rows in TABLES.items() for row in rows]


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_its_number_an_input_an_answer_and_a_test(name: str) -> None:
    rows = TABLES[name]
    assert rows
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    assert all(len(row) == 4 and all(row) for row in rows)


@pytest.mark.parametrize("tests", ROWS)
def test_every_test_of_the_tables_exists(tests: str) -> None:
    named = re.findall(r"`([^`]+)::([^`]+)`", tests)
    assert "<br>".join(f"`{file}::{function}`" for file, function in named) == tests
    for file, function in named:
        assert function in functions_of(TESTS / file)


def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}
