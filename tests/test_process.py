import os
import subprocess
import sys
from pathlib import Path

import pytest

PLATFORM = Path(__file__).parents[1] / "platform"


def run(code: str, **options: int) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, which ends as commands do."""
    code = f"from stratoscope.process import end_process, output_may_close\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=PLATFORM, stderr=subprocess.PIPE, text=True, check=False, **options
    )


PRINTING = """
with output_may_close("score"):
    for _ in range(100_000):
        print("a line")
end_process(3)
"""


def test_a_full_stdout_is_one_line_and_changes_no_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        ended = run(PRINTING, stdout=full.fileno())
    assert (ended.returncode, ended.stderr.count("\n")) == (3, 1)
    assert "score: stdout cannot be written (No space left on device)" in ended.stderr


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = run(PRINTING, stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (3, "")


def test_a_closed_stdout_is_no_error() -> None:
    code = f"import os; os.close(1)\n{PRINTING}"
    assert (run(code).returncode, "Traceback" in run(code).stderr) == (3, False)


@pytest.mark.parametrize("command", [["score", "--help"], ["runs"], ["--help"], ["audit", "--dry_run"]])
def test_commands_survive_a_closed_pipe(command: list[str], tmp_path: Path) -> None:
    options = [] if "--help" in command else ["--output", str(tmp_path)]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "stratoscope.cli", *command, *options],
        cwd=PLATFORM,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_end_runs_exit_handlers_and_leaves_no_threads_to_the_interpreter(tmp_path: Path) -> None:
    """A daemon thread that prints for ever would be torn down in the middle of it."""
    code = f"""
import atexit, threading, pathlib
atexit.register(pathlib.Path({str(tmp_path / "handled")!r}).touch)
def work():
    while True:
        str(object())
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
print("done")
end_process(0)
"""
    ended = run(code, stdout=subprocess.PIPE)
    assert (ended.returncode, ended.stdout) == (0, "done\n")
    assert (tmp_path / "handled").exists()
