"""Child processes with a time limit."""

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
        limit="time limit",
        environment=environment,
    )


def wait(process: Process) -> ProcessResult:
    deadline = time.monotonic() + 60
    while (result := process.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return result


def gone(pid: int) -> bool:
    """Return whether a process has ended, or is a zombie."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_output_goes_to_files_and_the_exit_code_is_returned(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['GREETING']); print('oh', file=sys.stderr); sys.exit(3)"
    result = wait(start(code, tmp_path, GREETING="hello"))
    assert (result.code, result.exceeded) == (3, None)
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("hello\n", "oh\n")


def test_a_process_over_its_time_limit_is_terminated(tmp_path: Path) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); time.sleep(60)"
    process = start(code, tmp_path, seconds=1.5)
    result = wait(process)
    assert (result.code, result.exceeded) == (5, "time limit")
    assert result.seconds < 30


def test_a_process_that_ignores_sigterm_is_killed_with_its_descendants(
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
    result = wait(process)
    assert (result.code, result.exceeded) == (-9, None)
    time.sleep(0.2)
    assert gone(int((tmp_path / "out").read_text()))


def test_the_descendants_of_a_process_that_died_are_killed(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(child.pid, flush=True); os.abort()"
    )
    result = wait(start(code, tmp_path))
    assert result.code == -6
    time.sleep(0.2)
    assert gone(int((tmp_path / "out").read_text()))
