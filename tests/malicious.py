"""An object whose pickle is a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))
