import threading
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import pytest

from stratoscope.phases import announcing, phase, tell

REPEAT_S = 0.2
QUICK_S = 0.04
"""Seconds between lines where a test waits for a line and not for a time."""
PATIENCE_S = 30.0


class Lines:
    """The lines that are said, with the time of each; a test can wait for one of them."""

    def __init__(self) -> None:
        self._start, self._changed = time.monotonic(), threading.Condition()
        self.said: list[tuple[float, str]] = []

    @property
    def texts(self) -> list[str]:
        """The lines without their times."""
        return [line for _, line in self.said]

    def say(self, line: str) -> None:
        """Record a line."""
        with self._changed:
            self.said.append((time.monotonic() - self._start, line))
            self._changed.notify_all()

    def wait_for(self, beginning: str, times: int = 1) -> None:
        """Wait until lines with a beginning have been said some times."""

        def is_said() -> bool:
            return sum(line.startswith(beginning) for line in self.texts) >= times

        with self._changed:
            assert self._changed.wait_for(is_said, PATIENCE_S), f"{beginning!r} is not among {self.texts}"


def lines_of(work: Callable[[Lines], None], repeat_s: float = QUICK_S) -> Lines:
    """Return the lines that are said while some work is done."""
    lines = Lines()
    with announcing("score", lines.say, repeat_s=repeat_s):
        work(lines)
    return lines


def texts_of(work: Callable[[], None]) -> list[str]:
    return lines_of(lambda _: work(), repeat_s=60.0).texts


def test_a_slow_phase_is_never_silent() -> None:
    def slow(_: Lines) -> None:
        with phase("measure"), phase("", extent=lambda: "3/4 prompts"):
            time.sleep(8 * REPEAT_S)

    said = lines_of(slow, REPEAT_S).said
    assert said[0][1] == "score: measure"
    assert said[1][1].startswith("score: measure, 3/4 prompts, for ")
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(said)]
    # One look at the phase more than the interval. A loaded machine may wake a thread late now and then.
    assert median(gaps) < 3 * REPEAT_S
    assert len(said) >= 4


def test_work_outside_any_phase_is_not_silent_either() -> None:
    lines = lines_of(lambda lines: lines.wait_for("score: working, for "))
    assert lines.texts[0].startswith("score: working, for ")


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
    quick = "reading the configuration"

    def short() -> None:
        with phase(quick, quick=True):
            pass

    assert texts_of(short) == []

    def lasting(lines: Lines) -> None:
        with phase(quick, quick=True):
            lines.wait_for(f"score: {quick}")

    assert f"score: {quick}" in lines_of(lasting).texts


def test_a_status_is_said_when_it_changes() -> None:
    waiting = threading.Event()

    def work(lines: Lines) -> None:
        with phase("measure", status=lambda: "no node has 8 GPU" if waiting.is_set() else "starting actors"):
            lines.wait_for("score: measure: starting actors")
            waiting.set()
            lines.wait_for("score: measure: no node has 8 GPU")

    changes = [line for line in lines_of(work).texts if ", for " not in line]
    assert changes == ["score: measure", "score: measure: starting actors", "score: measure: no node has 8 GPU"]


def test_a_status_that_fails_hides_no_phase() -> None:
    def work(lines: Lines) -> None:
        with phase("measure", status=lambda: str(1 / 0), extent=lambda: str(1 / 0)):
            lines.wait_for("score: measure, for ")

    assert lines_of(work).texts[0] == "score: measure"


def test_a_status_that_never_comes_hides_no_phase() -> None:
    never = threading.Event()

    def work(lines: Lines) -> None:
        with phase("measure", status=lambda: str(never.wait(60))):
            lines.wait_for("score: measure, for ", times=2)

    start = time.monotonic()
    assert lines_of(work).texts[0] == "score: measure"
    assert time.monotonic() - start < PATIENCE_S
    never.set()


def test_other_output_delays_the_next_repetition() -> None:
    def work(_lines: Lines) -> None:
        with phase("measure"):
            for _ in range(10):
                time.sleep(REPEAT_S / 4)
                tell("one more")

    assert lines_of(work, REPEAT_S).texts == ["score: measure", *["score: one more"] * 10]


def test_a_job_within_a_job_uses_its_announcer() -> None:
    def work() -> None:
        with phase("statistics"), announcing("inner", pytest.fail), phase("measure"):
            pass

    assert texts_of(work) == ["score: statistics", "score: statistics: measure"]


def test_nothing_is_said_outside_a_job(capfd: pytest.CaptureFixture[str]) -> None:
    with phase("measure"):
        pass
    assert capfd.readouterr() == ("", "")
