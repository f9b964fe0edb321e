import os
import signal

import pytest

from trainer.interrupt import Interrupt


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_a_request_and_the_second_one_acts(number, exit_code):
    acted = []
    before = signal.signal(number, lambda *_: acted.append(number))
    try:
        with Interrupt() as interrupt:
            assert interrupt.received is None
            os.kill(os.getpid(), number)
            assert (interrupt.received, interrupt.exit_code, acted) == (number, exit_code, [])
            os.kill(os.getpid(), number)
            assert acted == [number]
        os.kill(os.getpid(), number)
        assert acted == [number, number]
    finally:
        signal.signal(number, before)


def test_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(OSError, match="disk"), Interrupt():
        raise OSError("disk")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_no_signal_has_no_exit_code():
    with Interrupt() as interrupt, pytest.raises(ValueError, match="No signal was received"):
        _ = interrupt.exit_code
