"""The messages that the FAQ of errors quotes are those that the code says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("experience", "gen_cluster", "orchestrator", "score_cluster", "train_cluster", "weightstore")
QUOTED = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "faq.md").read_text(), re.MULTILINE)


def words_of(node: ast.AST) -> str:
    """A text of the code, … standing for what is put in; empty where the node is none."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.fixture(scope="module")
def said() -> str:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    trees = [ast.parse(path.read_text()) for path in files]
    return "\n".join(filter(None, (words_of(node) for tree in trees for node in ast.walk(tree))))


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_said(said: str, message: str) -> None:
    assert message in said


def test_the_faq_is_read() -> None:
    assert len(QUOTED) > 20


def test_each_has_a_cause_and_a_remedy() -> None:
    page = (ROOT / "docs" / "faq.md").read_text()
    for part in page.split("\n### ")[1:]:
        assert "**Why**" in part, part
        assert "**Do**" in part, part
