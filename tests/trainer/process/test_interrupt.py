import os
import signal
import time

import pytest

from trainer.process.interrupt import SIGNALS, Interrupt, Stop


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 3), (signal.SIGUSR1, 3), (signal.SIGHUP, 3)]
)
def test_the_first_signal_is_a_request_and_the_second_one_acts(number, exit_code):
    acted = []
    before = signal.signal(number, lambda *_: acted.append(number))
    try:
        with Interrupt() as interrupt:
            assert interrupt.reason is None
            os.kill(os.getpid(), number)
            assert (interrupt.reason.name, interrupt.reason.exit_code, acted) == (number.name, exit_code, [])
            os.kill(os.getpid(), number)
            assert acted == [number]
        os.kill(os.getpid(), number)
        assert acted == [number, number]
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(("max_restarts", "exit_code"), [("0", 3), ("20", 0)])
def test_torchrun_does_not_begin_again_what_somebody_has_ended(monkeypatch, max_restarts, exit_code):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", max_restarts)
    asked = (Stop.STOP_FILE, Stop.CLOSED_OUTPUT, Stop.SIGUSR1)
    assert [stop.exit_code for stop in asked] == [exit_code] * len(asked)
    ends_a_node = (Stop.SIGTERM, Stop.SIGHUP, Stop.SIGINT)  # others wait for it
    assert [stop.exit_code for stop in ends_a_node] == [3, 3, 130]
    assert Stop.DEADLINE.exit_code == 0


def test_what_torchrun_repeats_is_not_a_second_wish():
    acted = []
    before = signal.signal(signal.SIGTERM, lambda *_: acted.append("now"))
    try:
        with Interrupt(echoes=True) as interrupt:
            for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
                os.kill(os.getpid(), number)
            assert (interrupt.reason, acted) == (Stop.SIGUSR1, [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert acted == ["now"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_handlers_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(OSError, match="disk"), Interrupt():
        raise OSError("disk")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_stop_file_and_the_clock_are_reasons_too(tmp_path):
    late = Interrupt(tmp_path, deadline=time.monotonic())
    assert (late.reason, late.reason.exit_code) == (Stop.DEADLINE, 0)
    (tmp_path / "STOP").touch()
    assert (late.reason, late.reason.exit_code) == (Stop.STOP_FILE, 3)
    late.obeyed()
    assert not (tmp_path / "STOP").exists()
    assert Interrupt(tmp_path, deadline=time.monotonic() + 60).reason is None
    with Interrupt(tmp_path, deadline=time.monotonic()) as interrupt:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interrupt.reason is Stop.SIGUSR1  # somebody's wish counts more than the clock


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.reason is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_output_that_nobody_reads_is_a_reason_unless_there_is_another():
    interrupt = Interrupt()
    interrupt.output_closed()
    assert (interrupt.reason, interrupt.reason.exit_code) == (Stop.CLOSED_OUTPUT, 3)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        interrupt.output_closed()
        assert interrupt.reason is Stop.SIGINT


def test_a_directory_called_stop_is_no_wish(tmp_path):
    (tmp_path / "STOP").mkdir()
    interrupt = Interrupt(tmp_path)
    assert interrupt.reason is None
    interrupt.obeyed()
    assert (tmp_path / "STOP").is_dir()
