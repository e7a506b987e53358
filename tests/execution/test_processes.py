"""Processes with a time of their own."""

import sys
import time
from pathlib import Path

import pytest

from stratoscope.execution import Process, ProcessResult, processes


def start(code: str, folder: Path, seconds: float = float("inf"), **environment: str) -> Process:
    return Process(
        [sys.executable, "-c", code],
        output=folder / "out",
        errors=folder / "err",
        seconds=seconds,
        limit="its time",
        environment=environment,
    )


def wait(process: Process) -> ProcessResult:
    deadline = time.monotonic() + 60
    while (ended := process.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return ended


def gone(pid: int) -> bool:
    """The process is no more, or waits for its parent to notice."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_it_writes_to_files_and_its_code_is_told(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['SAID']); print('oh', file=sys.stderr); sys.exit(3)"
    ended = wait(start(code, tmp_path, SAID="hello"))
    assert (ended.code, ended.late) == (3, None)
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("hello\n", "oh\n")


def test_one_that_takes_longer_than_its_time_is_asked_to_end(tmp_path: Path) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); time.sleep(60)"
    process = start(code, tmp_path, seconds=1.5)
    ended = wait(process)
    assert (ended.code, ended.late) == (5, "its time")
    assert ended.seconds < 30


def test_one_that_does_not_listen_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.3)
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(child.pid, flush=True); time.sleep(60)"
    )
    process = start(code, tmp_path)
    while not (tmp_path / "out").read_text():
        time.sleep(0.02)
    process.stop()
    ended = wait(process)
    assert (ended.code, ended.late) == (-9, None)
    time.sleep(0.2)
    assert gone(int((tmp_path / "out").read_text()))


def test_what_a_process_that_died_has_started_does_not_stay(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(child.pid, flush=True); os.abort()"
    )
    ended = wait(start(code, tmp_path))
    assert ended.code == -6
    time.sleep(0.2)
    assert gone(int((tmp_path / "out").read_text()))
