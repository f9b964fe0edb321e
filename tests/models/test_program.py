"""How a command ends: real processes, for it is about signals and what they inherit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.program import GuardedStream, explained

ROOT = Path(__file__).parents[2]


def started(tmp_path: Path, body: str, *arguments: str, **options) -> subprocess.Popen:
    """A program whose main function is `body`."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    file = tmp_path / "program_of_a_test.py"
    file.write_text(
        "import errno, os, signal, subprocess, sys, threading, time\nfrom models.program import run_program\n"
        f'def main():\n{lines}\nif __name__ == "__main__":\n    sys.exit(run_program(main))\n'
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])} | options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-m", file.stem, *arguments],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        env=environment,
        **options,
    )


def result_of(tmp_path: Path, body: str, *arguments: str, **options) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    with started(tmp_path, body, *arguments, **options) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, (out or b"").decode(), err.decode()


def test_what_a_terminal_would_obey_is_shown(tmp_path):
    body = r"""print("red \x1b[31m, title \x1b]0;x\x07, \x9b, \udcff, \tthe same")
print("\r3/5 \x1b[1m\x1b[K", end="")
print("\x1b[A", end="")
print("a\rb", file=sys.stderr)
raise OSError(2, "No such file", "\x1b[31m")"""
    status, out, err = result_of(tmp_path, body)
    assert status == 1
    assert out == (
        "red \\x1b[31m, title \\x1b]0;x\\x07, \\x9b, \\udcff, \tthe same\n"  # ours is only what renews a line
        "\r3/5 \\x1b[1m\x1b[K\x1b[A"
    )
    assert err == "a\\x0db\npython -m program_of_a_test: \\x1b[31m: No such file.\n"


@pytest.mark.parametrize("closed", [1, 2, 0])
def test_a_stream_that_is_closed_takes_everything(tmp_path, closed):
    """A file that is opened must not get the number of a closed stream, nor a child inherit none."""
    body = f"""file = open({str(tmp_path / "file")!r}, "w")
print("x")
print("y", file=sys.stderr)
print(sys.stdout.isatty(), file=file, flush=True)
os.write({closed or 1}, b"z")
assert file.fileno() > 2
code = "import os; os.fstat(0), os.fstat(1), os.fstat(2)"
return subprocess.run([sys.executable, "-c", code]).returncode"""
    status, _, err = result_of(tmp_path, body, preexec_fn=lambda: os.close(closed))
    assert status == 0, err
    assert (tmp_path / "file").read_text() == "False\n"


@pytest.mark.parametrize("flush", [False, True])
def test_a_reader_that_goes_ends_it_quietly(tmp_path, flush):
    body = f"""try:
    for number in range(100_000):
        print("a line", flush={flush})
finally:
    print("cleaned up")
    print("cleaned up", file=sys.stderr)"""
    with started(tmp_path, body) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"cleaned up\n"
    assert process.returncode == 141


def test_a_reader_that_is_gone_at_the_last_moment_too(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    assert result_of(tmp_path, 'print("a line")', stdout=writing)[::2] == (141, "")
    assert result_of(tmp_path, 'print("a line")\nsys.exit(0)', stdout=writing)[::2] == (141, "")
    os.close(writing)


def test_a_full_disk_below_the_output_is_an_end_too(tmp_path):
    with open("/dev/full", "w") as full:
        assert result_of(tmp_path, 'print("a line", flush=True)', stdout=full)[0] == 141


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_as_an_exception_would(tmp_path, number):
    body = """child = subprocess.Popen(["sleep", "600"])
try:
    print(child.pid, flush=True)
    time.sleep(600)
finally:
    child.kill()
    child.wait()"""
    with started(tmp_path, body) as process:
        child = int(process.stdout.readline())
        process.send_signal(number)
        assert process.stderr.read() == b""
    assert process.returncode == 128 + number
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_nohup_stays(tmp_path):
    body = "os.kill(os.getpid(), signal.SIGHUP)\nprint('on')"
    ignoring = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    assert result_of(tmp_path, body, preexec_fn=ignoring) == (0, "on\n", "")


def test_a_forked_process_dies_by_the_signal(tmp_path):
    body = """child = os.fork()
if child == 0:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        os._exit(5)
return 0 if os.waitpid(child, 0)[1] == signal.SIGTERM else 1"""
    assert result_of(tmp_path, body)[0] == 0


def test_ctrl_c_is_no_traceback(tmp_path):
    assert result_of(tmp_path, "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)")[::2] == (
        130,
        "python -m program_of_a_test: stopped\n",
    )


def test_names_that_are_no_text_are_refused_before_the_work(tmp_path):
    status, out, err = result_of(tmp_path, "print('worked')", os.fsdecode(b"caf\xe9"))
    assert (status, out) == (2, "")
    assert "Argument 1 is caf\\udce9, which is no text in utf-8, the encoding of names here. Rename" in err
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, _, err = result_of(tmp_path, "print('worked')", "café", env=ascii_only)
    assert (status, "no text in ascii" in err and "LC_ALL=C.UTF-8" in err) == (2, True)
    assert result_of(tmp_path, "print(chr(0xb1))", env=ascii_only) == (0, "\\xb1\n", "")


def test_what_the_system_refuses_is_a_sentence_and_our_faults_are_not(tmp_path):
    name = "n" * 300
    expected = f"python -m program_of_a_test: {name}: File name too long.\n"
    assert result_of(tmp_path, f"open({name!r})")[::2] == (1, expected)
    for fault in ("1 / 0", "raise OSError(errno.ECONNRESET, 'Connection reset')"):
        status, _, err = result_of(tmp_path, fault)
        assert (status, "Traceback" in err) == (1, True)


def test_a_full_disk_in_a_thread_is_a_sentence(tmp_path):
    body = """def fill():
    raise OSError(errno.ENOSPC, "No space left on device", "a/file")
thread = threading.Thread(target=fill)
thread.start()
thread.join()"""
    assert result_of(tmp_path, body) == (0, "", "python -m program_of_a_test: a/file: No space left on device.\n")


def test_sentences():
    assert explained(OSError(28, "No space left on device")) == "No space left on device."
    assert explained(FileNotFoundError("There is no model.")) == "There is no model."
    assert explained(ValueError("x")) == "x"
    assert issubclass(GuardedStream, type(sys.__stdout__))
