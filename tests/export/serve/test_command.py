"""The command line without options says what the settings say without arguments."""

from export.serve.__main__ import parser
from export.serve.command import settings_of
from export.serve.settings import Settings


def test_what_help_tells_is_what_a_server_does_without_options() -> None:
    """The command has its own numbers, so that `--help` waits for no import."""
    assert settings_of(parser().parse_args(["toy"])) == Settings(name="toy")
