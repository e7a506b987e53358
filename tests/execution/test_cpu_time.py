"""CPU time of real processes that compute for a known time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratoscope.execution import Process
from stratoscope.execution.cpu_time import ProcessTree

TOLERANCE = 0.06
"""Seconds: the system counts in hundredths for each of a few processes, which also compute a little as they end."""
FUNCTIONS = """
import os, pathlib, signal, subprocess, sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
def note(name):
    folder.joinpath(f"{name}.part").write_text(str(time.process_time()))
    folder.joinpath(f"{name}.part").rename(folder / str(name))
def await_file(name):
    while not folder.joinpath(name).exists():
        time.sleep(.01)
def start(code, **options):
    return subprocess.Popen([sys.executable, "-c", f"{beginning}; {code}"], **options)
folder = pathlib.Path(file).parent
beginning = f"file = {file!r}; exec(open(file).read())"
"""
Start = Callable[[str], subprocess.Popen[bytes]]


def program(code: str, folder: Path) -> list[str]:
    """The arguments of a process that runs code with the functions above."""
    file = folder / "functions.py"
    file.write_text(FUNCTIONS)
    return [sys.executable, "-c", f"file = {str(file)!r}; exec(open(file).read()); {code}"]


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def noted(folder: Path, name: str) -> float:
    """CPU seconds of a process when it wrote its note, as it has measured them itself."""
    wait((folder / name).exists)
    return float((folder / name).read_text())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start code as a process of a session of its own, which is killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def run(code: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(program(code, tmp_path), start_new_session=True))
        return started[-1]

    yield run
    (tmp_path / "end").touch()  # for descendants in sessions of their own
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_processes_that_run_are_added_up(start: Start, tmp_path: Path) -> None:
    tree = ProcessTree(start("start('burn(.4); note(1); time.sleep(60)'); burn(.3); note(0); time.sleep(60)").pid)
    expected = noted(tmp_path, "0") + noted(tmp_path, "1")
    tree.sample()
    assert tree.seconds == pytest.approx(expected, abs=TOLERANCE)


def test_a_child_that_no_sample_saw_counts_once_its_parent_has_waited_for_it(start: Start, tmp_path: Path) -> None:
    process = start("start('burn(.4); note(1)').wait(); note(0)")
    tree = ProcessTree(process.pid)
    wait(lambda: tree.ended)
    tree.sample()
    assert tree.seconds == pytest.approx(noted(tmp_path, "0") + noted(tmp_path, "1"), abs=TOLERANCE)


def test_a_child_that_was_sampled_and_waited_for_counts_once(start: Start, tmp_path: Path) -> None:
    code = "child = start('burn(.4); note(1); await_file(\"end\")'); note(0); child.wait(); time.sleep(60)"
    process = start(code)
    tree = ProcessTree(process.pid)
    expected = noted(tmp_path, "0") + noted(tmp_path, "1")
    tree.sample()
    (tmp_path / "end").touch()
    wait(lambda: _samples_as_ended(tree, 2))
    assert tree.seconds == pytest.approx(expected, abs=TOLERANCE)


def test_a_child_that_nothing_waits_for_keeps_the_time_of_its_last_sample(start: Start, tmp_path: Path) -> None:
    code = "signal.signal(signal.SIGCHLD, signal.SIG_IGN); start('burn(.4); note(1); await_file(\"end\")'); note(0); "
    tree = ProcessTree(start(f"{code} time.sleep(60)").pid)
    expected = noted(tmp_path, "0") + noted(tmp_path, "1")
    tree.sample()
    (tmp_path / "end").touch()
    wait(lambda: _samples_as_ended(tree, 2))
    assert tree.seconds == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("own_session", [True, False])
def test_a_grandchild_counts_after_its_parent_has_ended(start: Start, tmp_path: Path, *, own_session: bool) -> None:
    grandchild = "note(2); await_file('burn'); burn(.5); note(3); await_file('end')"
    child = f"start({grandchild!r}, start_new_session={own_session}); await_file('leave'); note(1)"
    process = start(f"start({child!r}).wait(); note(0); time.sleep(60)")
    tree = ProcessTree(process.pid)
    noted(tmp_path, "2")
    if own_session:
        tree.sample()  # later nothing shows that it is a descendant
    (tmp_path / "leave").touch()
    expected = noted(tmp_path, "0") + noted(tmp_path, "1")
    (tmp_path / "burn").touch()
    expected += noted(tmp_path, "3")
    tree.sample()
    assert tree.seconds == pytest.approx(expected, abs=TOLERANCE)


def test_other_processes_do_not_count(start: Start, tmp_path: Path) -> None:
    start("burn(.4); note(9); time.sleep(60)")
    tree = ProcessTree(start("note(0); time.sleep(60)").pid)
    expected = noted(tmp_path, "0")
    noted(tmp_path, "9")
    tree.sample()
    assert tree.seconds == pytest.approx(expected, abs=TOLERANCE)


def test_a_process_with_a_time_limit_returns_its_cpu_time(tmp_path: Path) -> None:
    child = "burn(.4); note(1); time.sleep(1.2)"  # longer than between two samples
    code = f"signal.signal(signal.SIGCHLD, signal.SIG_IGN); child = start({child!r}); child.wait(); burn(.3); note(0)"
    process = Process(
        program(code, tmp_path),
        output=tmp_path / "out",
        errors=tmp_path / "err",
        seconds=float("inf"),
        limit="time limit",
        environment={},
    )
    results = []
    wait(lambda: results.append(process.poll()) or results[-1] is not None)  # type: ignore[func-returns-value]
    assert results[-1].code == 0, (tmp_path / "err").read_text()
    expected = noted(tmp_path, "0") + noted(tmp_path, "1")
    assert results[-1].cpu_seconds == pytest.approx(expected, abs=TOLERANCE)


def _samples_as_ended(tree: ProcessTree, number: int) -> bool:
    """Take a sample, and return whether one of a number of processes has ended."""
    tree.sample()
    return [usage.exists for usage in tree._usages.values()].count(False) == 1 and len(tree._usages) == number
