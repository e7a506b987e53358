import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from stratoscope.errors import InputError
from stratoscope.results import Storage
from stratoscope.results import lease as lease_module
from stratoscope.results.lease import NAME, STALE_S, Lease, LeaseHolder, LeaseLostError, check_not_held, read_holder


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def write(run: Storage, holder: LeaseHolder) -> None:
    run.write(NAME, json.dumps(asdict(holder)).encode())


def test_a_held_folder_is_refused_and_a_released_one_is_free(run: Storage) -> None:
    with Lease(run):
        with pytest.raises(InputError, match="is in use by process"):
            check_not_held(run)
        with pytest.raises(InputError, match="choose another run_id"), Lease(run):
            pass
    assert read_holder(run) is None
    check_not_held(run)


def test_the_lease_of_a_dead_process_here_is_taken_over_at_once(run: Storage) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    dead = replace(LeaseHolder.this_process(), pid=process.pid, beat=time.time())
    process.wait()
    write(run, dead)
    with Lease(run):
        assert read_holder(run) != dead


@pytest.mark.parametrize("with_proc", [True, False])
def test_a_dead_process_that_nobody_has_waited_for_is_no_holder(run: Storage, with_proc: bool) -> None:
    code = "import json, dataclasses; from stratoscope.results.lease import LeaseHolder as L; "
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}print(json.dumps(dataclasses.asdict(L.this_process())), flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    holder = LeaseHolder(**json.loads(process.stdout.readline()))
    write(run, holder if with_proc else replace(holder, start_ticks=None))
    with pytest.raises(InputError, match="is in use by process"):
        check_not_held(run)
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    check_not_held(run)
    process.wait()


def test_a_process_id_that_was_used_again_is_not_taken_for_its_holder(run: Storage) -> None:
    mine = LeaseHolder.this_process()
    write(run, replace(mine, start_ticks=mine.start_ticks - 1000, beat=time.time()))
    check_not_held(run)
    # A host without /proc, and earlier versions, record the time of the clock alone.
    write(run, replace(mine, start_ticks=None, created=mine.created - 1000, beat=time.time()))
    check_not_held(run)


def test_a_live_lease_is_held_although_the_clock_was_set(run: Storage) -> None:
    mine = LeaseHolder.this_process()
    # A start time that was read before the clock was set by an hour.
    write(run, replace(mine, created=mine.created - 3600))
    with pytest.raises(InputError, match="is in use by process"):
        check_not_held(run)


def test_the_lease_of_another_host_is_taken_over_when_it_is_stale(run: Storage) -> None:
    elsewhere = replace(LeaseHolder.this_process(), namespace="another host", pid=1)
    write(run, replace(elsewhere, beat=time.time() - STALE_S / 2))
    with pytest.raises(InputError, match="last heartbeat 30 s ago"):
        check_not_held(run)
    write(run, replace(elsewhere, beat=time.time() - STALE_S - 1))
    check_not_held(run)


def test_beats_carry_progress_and_notice_a_takeover(run: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT_S", 0.02)
    with Lease(run) as lease:
        lease.publish_progress(done=3, total=8)
        deadline = time.monotonic() + 10
        while (holder := read_holder(run)) is None or not holder.progress:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert holder.progress == {"done": 3, "total": 8}
        other = replace(holder, owner="other")
        with pytest.raises(LeaseLostError, match="taken over"):  # noqa: PT012 - until a beat has seen it
            while time.monotonic() < deadline:
                write(run, other)
                lease.publish_progress(done=4, total=8)
                time.sleep(0.02)
    assert read_holder(run) == other, "what another process holds is left alone"


def test_two_that_come_together_do_not_both_get_it(tmp_path: Path) -> None:
    """Both wait until the other has loaded its libraries; the one that gets it holds it until the other has ended."""
    code = (
        "import sys\n"
        "from stratoscope.errors import InputError\n"
        "from stratoscope.results import Storage\n"
        "from stratoscope.results.lease import Lease\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n"
        "    with Lease(Storage(sys.argv[1])):\n"
        "        print('got it', flush=True); sys.stdin.readline()\n"
        "except InputError:\n"
        "    print('refused', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as one, subprocess.Popen(command, text=True, **pipes) as two:
        both = (one, two)
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        assert sorted(process.stdout.readline() for process in both) == ["got it\n", "refused\n"]


def test_a_broken_lease_file_holds_nobody_up(run: Storage) -> None:
    run.write(NAME, b"{half")
    check_not_held(run)
