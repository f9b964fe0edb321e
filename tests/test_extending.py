"""docs/extending.md is true: the files that it names are there, and where something of the kind exists already, the
sources that know about it are the files listed, and no others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SOURCES = ("mmfs", "models", "trainer", "plugins_trt", "export", "bench", "examples")

SIBLINGS = {
    "A vision encoder": r"dinov2\b",
    "A language model": r"gemma3\b",
    "An exported component": r"\bvae_decoder\b[.]SPEC",
    "An argument of an op": r"\bnull_logit\b",
    "An op backend": r"(?m)^from mmfs import .*\bcompiled\b",
    "A data form": r"\bmdetr\b",
    "A task": r"\bground_steps\b",
    "A benchmark": r"read_gqa|_gqa_questions",
    "A recipe": r"\btoy_story\b",
}
"""By section: how one that exists is mentioned by whatever knows it."""


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def listed(section: str) -> list[str]:
    """The files to touch."""
    return re.findall(r"^\* `([^`]+)` — \S", section, re.MULTILINE)


def knowing(sibling: str, root: Path = ROOT) -> set[str]:
    """The sources that mention the sibling, and the file that holds it: the one that is named like it."""
    files = [path for folder in SOURCES for path in sorted((root / folder).rglob("*.py"))]
    return {
        str(path.relative_to(root))
        for path in files
        if re.search(sibling, path.read_text(encoding="utf-8")) or path.stem in sibling.replace(r"\b", " ").split()
    }


def differences(page: str, siblings: Mapping[str, str], root: Path = ROOT) -> list[str]:
    """What is wrong with the lists, in sentences."""
    found = []
    for title, text in sections(page).items():
        files = listed(text)
        if not files:
            found.append(f"{title}: lists no file")
        found += [f"{title}: {file} is not there" for file in files if not (root / file).is_file()]
        if title in siblings:
            sources = {file for file in files if file.partition("/")[0] in SOURCES}
            known = knowing(siblings[title], root)
            found += [f"{title}: {file} is not listed" for file in sorted(known - sources)]
            found += [
                f"{title}: {file} is listed, and nothing of the kind is there" for file in sorted(sources - known)
            ]
    return found


def test_every_list_of_files_is_true() -> None:
    assert SIBLINGS.keys() <= sections(PAGE).keys()
    assert not differences(PAGE, SIBLINGS), "\n".join(differences(PAGE, SIBLINGS))


def test_tests_and_pages_that_are_listed_mention_the_sibling() -> None:
    for title in ("A data form", "A task", "A recipe"):
        for file in listed(sections(PAGE)[title]):
            assert re.search(SIBLINGS[title].strip('"'), (ROOT / file).read_text(encoding="utf-8")), (title, file)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"models/b.py": "", "models/names.py": "kinds = ['b']"}, []),
        ({"models/names.py": "kinds = ['b']"}, ["A kind: models/b.py is not there"]),
        ({"models/b.py": "", "models/names.py": "", "bench/c.py": "b = 1"}, None),
    ],
    ids=["true", "a file that is gone", "a file that is not listed"],
)
def test_a_false_list_is_found(tmp_path: Path, files: dict[str, str], expected: list[str] | None) -> None:
    page = "# Extending\n\n## A kind\n\n* `models/b.py` — write it.\n* `models/names.py` — name it.\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = differences(page, {"A kind": r"\bb\b"}, tmp_path)
    if expected is None:
        assert found == [
            "A kind: bench/c.py is not listed",
            "A kind: models/names.py is listed, and nothing of the kind is there",
        ]
    else:
        assert [one for one in found if "is not there" in one] == expected
        assert bool(found) == bool(expected)
