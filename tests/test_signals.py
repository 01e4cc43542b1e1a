"""Requests to end that wait until a step is finished."""

import signal
import threading
import time

import pytest

from reidlab import signals


def test_signals_within_a_second_are_one_and_a_later_one_interrupts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with pytest.raises(KeyboardInterrupt), signals.finish_first() as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert stop.requested
        now[0] += 1.5
        signal.raise_signal(signal.SIGINT)


def test_afterwards_signals_mean_what_they_meant():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with signals.finish_first():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread_nothing_is_asked():
    found = []

    def work():
        with signals.finish_first() as stop:
            time.sleep(0.01)
            found.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
