import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from stratoscope.phases import announcing, phase, tell

REPEAT_S = 0.2


def lines_of(work: Callable[[], None], repeat_s: float = REPEAT_S) -> list[tuple[float, str]]:
    """Return the lines that are said while some work is done, with the time of each."""
    start = time.monotonic()
    lines: list[tuple[float, str]] = []
    with announcing("score", lambda line: lines.append((time.monotonic() - start, line)), repeat_s=repeat_s):
        work()
    return lines


def texts_of(work: Callable[[], None]) -> list[str]:
    return [line for _, line in lines_of(work, repeat_s=60.0)]


def test_a_slow_phase_is_never_silent() -> None:
    def slow() -> None:
        with phase("measure"), phase("", extent=lambda: "3/4 prompts"):
            time.sleep(8 * REPEAT_S)

    said = lines_of(slow)
    assert said[0][1] == "score: measure"
    assert said[1][1].startswith("score: measure, 3/4 prompts, for ")
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(said)]
    # One look at the phase more than the interval, and the time that a loaded machine takes to wake a thread.
    assert max(gaps) < 3 * REPEAT_S
    assert len(said) >= 4


def test_work_outside_any_phase_is_not_silent_either() -> None:
    assert "score: working, for " in lines_of(lambda: time.sleep(3 * REPEAT_S))[0][1]


def test_each_change_is_a_line_and_the_end_of_a_phase_is_none() -> None:
    def work() -> None:
        with phase("load"):
            with phase("starting Ray"):
                pass
            with phase("starting 2 actors"):
                pass
        with phase("report"):
            pass

    assert texts_of(work) == [
        "score: load",
        "score: load: starting Ray",
        "score: load: starting 2 actors",
        "score: report",
    ]


def test_a_quick_phase_is_said_only_if_it_lasts() -> None:
    def work(seconds: float) -> None:
        with phase("reading the configuration", quick=True):
            time.sleep(seconds)

    assert texts_of(lambda: work(0.0)) == []
    assert "score: reading the configuration" in [line for _, line in lines_of(lambda: work(3 * REPEAT_S))]


def test_a_status_is_said_when_it_changes() -> None:
    waiting = threading.Event()

    def work() -> None:
        with phase("measure", status=lambda: "no node has 8 GPU" if waiting.is_set() else "starting actors"):
            time.sleep(3 * REPEAT_S)
            waiting.set()
            time.sleep(3 * REPEAT_S)

    changes = [line for _, line in lines_of(work) if ", for " not in line]
    assert changes == ["score: measure", "score: measure: starting actors", "score: measure: no node has 8 GPU"]


def test_a_status_that_fails_hides_no_phase() -> None:
    def work() -> None:
        with phase("measure", status=lambda: str(1 / 0), extent=lambda: str(1 / 0)):
            time.sleep(3 * REPEAT_S)

    assert any(line.startswith("score: measure, for ") for _, line in lines_of(work))


def test_a_status_that_never_comes_hides_no_phase() -> None:
    never = threading.Event()

    def work() -> None:
        with phase("measure", status=lambda: str(never.wait(60))):
            time.sleep(6 * REPEAT_S)

    start = time.monotonic()
    assert any(line.startswith("score: measure, for ") for _, line in lines_of(work))
    assert time.monotonic() - start < 30
    never.set()


def test_other_output_delays_the_next_repetition() -> None:
    def work() -> None:
        with phase("measure"):
            for _ in range(10):
                time.sleep(REPEAT_S / 4)
                tell("one more")

    said = [line for _, line in lines_of(work)]
    assert said == ["score: measure", *["score: one more"] * 10]


def test_a_job_within_a_job_uses_its_announcer() -> None:
    def work() -> None:
        with phase("statistics"), announcing("inner", pytest.fail), phase("measure"):
            pass

    assert texts_of(work) == ["score: statistics", "score: statistics: measure"]


def test_nothing_is_said_outside_a_job(capfd: pytest.CaptureFixture[str]) -> None:
    with phase("measure"):
        pass
    assert capfd.readouterr() == ("", "")
