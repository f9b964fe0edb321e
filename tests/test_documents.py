"""What the documents name exists, and the letters of shapes are those of ARCHITECTURE.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("mmfs", "models", "trainer", "plugins_trt", "export", "bench")
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/*.md")

PATH = re.compile(r"`((?:mmfs|models|trainer|plugins_trt|export|bench|examples|tests|docs)/[\w./-]*)`")
LEGEND = re.compile(r"\| ([A-Z]) \|")
SHAPE = re.compile(r"(?<![\w\])])\[([^\[\]\n]{1,60})\](?!\()")
SIZE = re.compile(r"\.\.\.|(?:\d*(?:[A-Z]'?|[a-z_]+'?)|\d+)(?:(?: ?[*+/-] ?| )(?:\d*(?:[A-Z]'?|[a-z_]+'?)|\d+))*")


def missing_paths(root: Path) -> list[str]:
    """Paths in backticks that are not there."""
    return [
        f"{document.relative_to(root)} names {path}"
        for pattern in DOCUMENTS
        for document in sorted(root.glob(pattern))
        for path in PATH.findall(document.read_text(encoding="utf-8"))
        if not (root / path).exists()
    ]


def comments_and_docstrings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    yield from re.findall(r"#(.*)$", source, re.MULTILINE)


def letters_of_shapes(text: str) -> set[str]:
    """The capital letters in what looks like a shape: [B, Q, H*D], [N, 3, h, w]."""
    return {
        letter
        for content in SHAPE.findall(text)
        if all(SIZE.fullmatch(size.strip()) for size in content.split(","))
        for letter in re.findall(r"(?<![A-Za-z_])[A-Z](?![A-Za-z_])", content)
    }


def unexplained_letters(root: Path) -> list[str]:
    known = set(LEGEND.findall((root / "ARCHITECTURE.md").read_text(encoding="utf-8")))
    return [
        f"{path.relative_to(root)}: {' '.join(sorted(unknown))}"
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
        if (unknown := set().union(*map(letters_of_shapes, comments_and_docstrings(path.read_text()))) - known)
    ]


def test_the_files_that_documents_name_exist():
    wrong = missing_paths(ROOT)
    assert not wrong, "\n".join(wrong)


def test_letters_of_shapes_are_those_of_the_legend():
    wrong = unexplained_letters(ROOT)
    assert not wrong, "\n".join(wrong)


def test_a_missing_file_is_found(tmp_path):
    (tmp_path / "mmfs").mkdir()
    (tmp_path / "README.md").write_text("`mmfs/` and `mmfs/gone.py`; mmfs/not_named.py")
    assert missing_paths(tmp_path) == ["README.md names mmfs/gone.py"]


def test_a_letter_without_a_meaning_is_found(tmp_path):
    (tmp_path / "ARCHITECTURE.md").write_text("| B | batch | N | images |")
    (tmp_path / "mmfs").mkdir()
    (tmp_path / "mmfs/a.py").write_text(
        '"""[B, 3, h, w] to [N, X + 1], Sequence[T], list[Q]."""\nx = y[Z]  # [2B, W]\n'
    )
    assert unexplained_letters(tmp_path) == ["mmfs/a.py: W X"]
