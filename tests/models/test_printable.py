"""Foreign text in messages."""

from __future__ import annotations

import os

from models.printable import printable


def test_what_a_terminal_would_obey_is_spelled_out():
    assert printable("Käse 1.png") == "Käse 1.png"
    assert printable("a\x1b[31m\n\u202e") == "a\\x1b[31m\\n\\u202e"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\udce9"
