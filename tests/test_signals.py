import os
import signal
import time

import pytest

from utils.signals import Signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # Python's handlers run between two of its instructions


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_end_is_noted_and_what_is_done_meanwhile_goes_on(number, capfd):
    with Signals() as signals:
        assert signals.stop is None and signals.asked() is None
        send(number)
        assert signals.stop == signals.asked() == number
    assert capfd.readouterr().err.startswith(f"\n{number.name}: finishing the step, then saving.")


def test_a_second_ctrl_c_ends_at_once():
    with pytest.raises(KeyboardInterrupt), Signals():
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("it went on")


def test_to_save_is_not_to_end():
    with Signals() as signals:
        send(signal.SIGUSR1)
        assert signals.stop is None
        assert [signals.asked(), signals.asked()] == [signal.SIGUSR1, None]


def test_a_signal_to_end_cuts_short_what_may_be_and_nothing_after_it():
    def send_and_go_on() -> str:
        try:
            send(signal.SIGTERM)
        except Exception:
            pass
        return "went on"

    with Signals() as signals:
        assert signals.until_stopped(lambda: 1) == 1
        assert signals.until_stopped(send_and_go_on) is None
        assert signals.until_stopped(lambda: pytest.fail("it was begun")) is None
        assert send_and_go_on() == "went on" and signals.stop == signal.SIGTERM


def test_afterwards_signals_do_what_they_did_before():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    with Signals():
        send(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
