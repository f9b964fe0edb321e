"""Digests of the project's own sources, as far as they can change a result.

What a module computes depends on its code and on the code of every module of this project that it imports, directly or
through others. The caller names the modules that a stage starts from, and the others are found by reading their
imports. A file that none of them imports does not count, and neither do comments, docstrings and the wrapping of lines.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from export.process.fingerprint import digest_of

ROOT = Path(__file__).parents[2]

C_COMMENTS = re.compile(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])')|//[^\n]*|/\*.*?\*/""", re.DOTALL)
"""Comments of C, C++ and CUDA; the group holds literals, which may look like comments inside."""


def modules_digest(modules: Iterable[str], *, without: Collection[str] = (), root: Path = ROOT) -> str:
    """SHA-256 of the code of modules, e.g. "export.stages", and of all that they import from this project.

    Args:
        modules: by their full names.
        without: modules that do not count, nor do their imports, because they do not run.
        root: the folder in which the project's packages are.

    Raises:
        FileNotFoundError: there is no such module. A module that was renamed must not drop out of a digest silently.
    """
    found = sorted(imported_modules(modules, without=without, root=root))
    return digest_of([(name, _read(_file_of(name, root)).digest) for name in found])


def files_digest(patterns: Iterable[str], *, root: Path = ROOT) -> str:
    """SHA-256 of sources in C, C++ or CUDA, e.g. "mmfs/kernels/*.cuh", without comments and blank lines.

    Raises:
        FileNotFoundError: a pattern matches nothing.
    """
    files: set[Path] = set()
    for pattern in patterns:
        matches = {file for file in root.glob(pattern) if file.is_file()}
        if not matches:
            raise FileNotFoundError(f"No source file matches {pattern!r} below {root}; the key would not depend on it.")
        files |= matches
    return digest_of([(file.relative_to(root).as_posix(), _without_comments(file)) for file in sorted(files)])


def imported_modules(modules: Iterable[str], *, without: Collection[str] = (), root: Path = ROOT) -> set[str]:
    """Modules and everything that they import from this project, with the packages around it.

    Imports are read from the sources; nothing is executed. Imports inside of functions count. Imports for types
    (`if TYPE_CHECKING`) do not run and do not count, but where a package hands out names lazily (PEP 562) they say
    which module a name comes from.

    Raises:
        FileNotFoundError: there is no such module.
    """
    found: set[str] = set()
    waiting = [*modules, *without]
    for name in waiting:
        if _find(name, root) is None:
            raise FileNotFoundError(f"There is no module {name} below {root}; the key would not depend on it.")
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name in without or (file := _find(name, root)) is None:
            continue
        found.add(name)
        waiting.append(name.rpartition(".")[0])  # a module's package is executed before it
        for origin, imported in _read(file).imports:
            if origin.startswith("."):
                origin = resolve_name(origin, name if file.name == "__init__.py" else name.rpartition(".")[0])
            waiting.append(origin)
            if imported is not None:
                waiting += [f"{origin}.{imported}", *_lazily(origin, imported, root)]
    return found


class _Source:
    """What a Python file says: the digest of its code, and its imports as (module, name or None)."""

    def __init__(self, text: str) -> None:
        tree = ast.parse(text)
        self.digest = digest_of(_canonical(tree))
        self.imports = list(_imports(tree, for_types=False))
        self.for_types = [one for one in _imports(tree, for_types=True) if one not in self.imports]


def _read(file: Path) -> _Source:
    status = file.stat()
    return _read_once(file, status.st_size, status.st_mtime_ns)


@cache
def _read_once(file: Path, _size: int, _changed_ns: int) -> _Source:
    return _Source(file.read_text(encoding="utf-8"))


def _canonical(node: Any) -> Any:
    """A syntax tree as JSON, without positions, docstrings and empty fields, which differ between Pythons."""
    if isinstance(node, ast.AST):
        fields = {name: _canonical(value) for name, value in ast.iter_fields(node) if value is not None and value != []}
        return [type(node).__name__, fields]
    if isinstance(node, list):
        return [_canonical(one) for one in node if not _is_text(one)]
    return node if isinstance(node, str) else repr(node)


def _is_text(node: Any) -> bool:
    """Whether a statement is only a string: a docstring, or the description below an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.AST, *, for_types: bool) -> Iterator[tuple[str, str | None]]:
    """Everything that is imported, at any depth; `for_types`: in `if TYPE_CHECKING` too."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")) if not for_types:
                waiting += node.orelse
                continue
            case ast.Import():
                yield from ((alias.name, None) for alias in node.names)
            case ast.ImportFrom():
                origin = "." * node.level + (node.module or "")
                yield from ((origin, alias.name) for alias in node.names)
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name, None
        waiting += ast.iter_child_nodes(node)


def _lazily(package: str, name: str, root: Path) -> Iterator[str]:
    """The module from which a package imports a name when it is first used."""
    file = _find(package, root)
    if file is not None and file.name == "__init__.py":
        yield from (origin for origin, imported in _read(file).for_types if imported == name)


def _without_comments(file: Path) -> str:
    text = C_COMMENTS.sub(lambda match: match[1] or " ", file.read_text(encoding="utf-8"))
    return "\n".join(filter(None, (line.strip() for line in text.splitlines())))


def _find(module: str, root: Path) -> Path | None:
    """Of a module or a package of this project; None: it is none."""
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if module and file.is_file()), None)


def _file_of(module: str, root: Path) -> Path:
    file = _find(module, root)
    assert file is not None, "it was found before"
    return file
