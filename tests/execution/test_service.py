"""Services on a real local Ray."""

import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from stratoscope.errors import RunError
from stratoscope.execution import ActorPool, BrokenProcessError, serve

pytestmark = pytest.mark.usefixtures("local_ray")


class Worker:
    """Answers, fails, breaks or sleeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: list[int] = []

    def square(self, number: int) -> int:
        return number * number

    def fail(self) -> None:
        raise ValueError("mine")

    def break_once(self) -> str:
        mark = self.folder / "broken"
        if not mark.exists():
            mark.touch()
            raise BrokenProcessError
        return f"recovered in {os.getpid()}"

    def add(self, number: int) -> None:
        self.numbers.append(number)

    def all_numbers(self) -> list[int]:
        return self.numbers

    def sleep(self) -> None:
        time.sleep(60)


def test_calls_are_answered_errors_raised_and_broken_processes_replaced(tmp_path: Path) -> None:
    pool = ActorPool(1, 1, 2, 0.5, 0)
    with serve("Squares", partial(Worker, tmp_path), pool) as service:
        assert service.map("square", [(i,) for i in range(20)]) == [i * i for i in range(20)]
        with pytest.raises(RayTaskError, match="mine"):
            service.call("fail")
        assert service.call("break_once").startswith("recovered")
        service.broadcast("add", 7)
        assert service.call("all_numbers") == [7]


def test_a_service_starts_with_the_workers_that_fit(tmp_path: Path) -> None:
    with serve("Crowd", partial(Worker, tmp_path), ActorPool(1, 1, 9, 1, 0)) as service:
        assert service.call("square", 3) == 9
        assert service.size < 9


def test_a_stopped_run_abandons_its_calls(tmp_path: Path) -> None:
    stopping = threading.Event()
    with serve("Sleepers", partial(Worker, tmp_path), ActorPool(1, 1, 1, 0.5, 0), stopping) as service:
        threading.Timer(1, stopping.set).start()
        with pytest.raises(RunError, match="SIGTERM"):
            service.call("sleep")


def refuse() -> Worker:
    raise ValueError("cannot be constructed")


def test_workers_that_cannot_be_constructed_raise_at_once() -> None:
    with pytest.raises(Exception, match="cannot be constructed"), serve("None", refuse, ActorPool(1, 1, 1, 0.5, 0)):
        pass
