"""Connections that nobody answers, and parts of Ray that do not start in time."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from ray._private.parameter import RayParams

from stratoscope.errors import InputError, RunError
from stratoscope.execution import address, check_address
from stratoscope.execution.connection import agent_on_free_port
from stratoscope.execution.failures import start_again
from stratoscope.phases import announcing

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup."
UNREGISTERED = "Some workers of the worker process(7) have not registered within the timeout."


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and answers nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("form", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "no-such-host.invalid:{port}"])
def test_an_address_that_nobody_answers_is_named_and_given_up(
    silent_port: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "ANSWER_S", 0.2)
    monkeypatch.setattr(address, "GIVE_UP_S", 1.0)
    monkeypatch.setattr(address, "RETRY_S", 0.1)
    monkeypatch.setenv("RAY_ADDRESS", form.format(port=silent_port))
    lines: list[str] = []
    start = time.monotonic()
    with (
        announcing("score", lines.append, poll_s=0.05),
        pytest.raises(InputError, match=r"RAY_ADDRESS '.*': nobody answered within 1 s; start the cluster"),
    ):
        check_address()
    assert time.monotonic() - start < 5
    assert any("RAY_ADDRESS" in line and "nobody answers" in line for line in lines)


@pytest.mark.parametrize("value", ["nonsense", "10.0.0.1", "10.0.0.1:port", ":6379"])
def test_a_malformed_address_is_refused_at_once(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    with pytest.raises(InputError, match=r"RAY_ADDRESS .* is not host:port"):
        check_address()


@pytest.mark.parametrize("value", ["", "local", "auto"])
def test_what_is_no_address_is_not_looked_for(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    check_address()


class Starter:
    """Fails with these errors, one after the other, and then starts."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.cleaned = list(errors), 0

    def start(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "started"

    def clean_up(self) -> None:
        self.cleaned += 1


@pytest.mark.parametrize("message", [LATE, UNREGISTERED])
def test_a_late_start_is_tried_once_more(message: str) -> None:
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = Exception(message)
    starter = Starter(wrapped)
    assert start_again(starter.start, starter.clean_up) == "started"
    assert starter.cleaned == 1


def test_a_second_late_start_says_what_to_look_at() -> None:
    starter = Starter(Exception(LATE), Exception(LATE))
    with pytest.raises(
        RunError, match=r"did not start in two attempts .*uptime, free -h.*session_latest/logs"
    ) as error:
        start_again(starter.start)
    assert len(str(error.value)) <= 500


def test_other_errors_are_not_tried_again() -> None:
    starter = Starter(ValueError("wrong"), ValueError("never reached"))
    with pytest.raises(ValueError, match="wrong"):
        start_again(starter.start)
    assert len(starter.errors) == 1


def test_ray_is_asked_for_any_port_of_its_agent_and_only_within_the_block() -> None:
    def fail() -> None:
        with agent_on_free_port():
            assert RayParams().dashboard_agent_listen_port == 0
            raise KeyError

    default = RayParams().dashboard_agent_listen_port
    with pytest.raises(KeyError):
        fail()
    assert RayParams().dashboard_agent_listen_port == default > 0


@pytest.mark.ray
def test_a_start_does_not_wait_for_a_port_that_another_program_has() -> None:
    """Ray's agent tries its default port six times, for 3.4 s, and writes down each time."""
    with socket.socket() as occupied:
        with suppress(OSError):  # another Ray may have it already
            occupied.bind(("", RayParams().dashboard_agent_listen_port))
            occupied.listen()
        code = (
            "from pathlib import Path; import ray; from stratoscope.execution import cluster\n"
            "with cluster():\n"
            "    folder = Path(ray._private.worker._global_node.get_logs_dir_path())\n"
            "    print((folder / 'dashboard_agent.log').read_text())"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "Dashboard agent" in found.stdout
    assert "Failed to bind" not in found.stdout
