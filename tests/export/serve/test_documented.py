"""What docs/serving.md shows runs, and what it lists is there."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from export.serve.__main__ import parser
from export.serve.http.app import ROUTES
from live_server import PATIENCE_S, LiveServer

TEXT = (Path(__file__).parents[3] / "docs/serving.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"```sh\n(curl .*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_run(server: LiveServer, number: int, capsys: pytest.CaptureFixture[str]):
    names: dict[str, Any] = {}
    exec(EXAMPLES[number].replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"), names)
    assert capsys.readouterr().out
    names["client"].close()


@pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl is not installed. On Debian and Ubuntu: apt install curl"
)
@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_the_curl_commands_run(server: LiveServer, number: int):
    command = COMMANDS[number].replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    answer = subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=PATIENCE_S).stdout
    assert json.loads(answer)["choices"][0]["message"]["images"]


def test_there_are_examples():
    assert (len(EXAMPLES), len(COMMANDS)) == (2, 1)


def test_every_route_and_option_is_documented():
    paths = {re.sub(r"/\{.*", "", path) for _, path, _ in ROUTES} - {"/page"}
    assert [path for path in sorted(paths) if path not in TEXT] == []
    ours = "\n".join(line for line in TEXT.splitlines() if "python -m export.trt" not in line)
    known, named = (set(re.findall(r"--[a-z][a-z-]+", text)) for text in (parser().format_help(), ours))
    assert named <= known
