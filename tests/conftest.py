"""One local Ray for all tests of a process that need it, a tiny model, and what a test process is set to.

Nothing here imports torch: the process that hands out the tests to others reads this file too, and runs none of them.
"""

import atexit
import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import psutil
import pytest

from tests.jobs.small import many_prompts, small_run, undisturbed  # noqa: F401 - fixtures
from tests.pages import browser  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

# Several test processes share the machine, and matrices in tests are small: further threads only wait, which takes CPU
# time. The libraries read this when they are imported.
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

# Compiling a function of a model to C++ takes half a minute, and changes nothing that a test asks for.
os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")

# Ray Data would start a process that counts what is used of it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

OBJECT_STORE = 150 * 2**20
PROCESS_BYTES = 5 * 2**30
"""Memory of a test process with its Ray and the models in it."""

# A loaded machine is slow at times; tests assert results, not durations.
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one process per core, and another one if tests wait for Ray and there is memory for it."""
    cores = len(os.sched_getaffinity(0))
    waits = "not ray" not in config.option.markexpr
    return cores + (waits and psutil.virtual_memory().available > (cores + 1) * PROCESS_BYTES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses Ray or a browser, and begin with the files that take longest."""
    costs: dict[str, int] = {}
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if {"raylets", "local_ray"} & fixtures:
            item.add_marker("ray")
        if "browser" in fixtures:
            item.add_marker("long")
        cost = 2 if item.get_closest_marker("ray") else 1 if item.get_closest_marker("long") else 0
        costs[_file(item)] = max(cost, costs.get(_file(item), 0))
    items.sort(key=lambda item: -costs[_file(item)])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for garbage neither while modules are imported nor later among what they have made, which stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        # The interpreter frees everything at its end, or some libraries report leaks. pytest collects garbage before.
        atexit.register(gc.unfreeze)


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """A process that shares the machine is slower with more threads, and a tiny model is so in any case."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and a word-level tokenizer, as save_pretrained writes it."""
    from tests.tiny import tiny_network, word_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "llama"
    word_tokenizer().save_pretrained(folder)
    tiny_network("llama").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty distinct prompts of 1 to 20 words, one a line."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    lines = [" ".join(f"w{(i * 7 + j * 3) % 100}" for j in range(1 + i % 20)) + f" w{i}" for i in range(40)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def raylets() -> Iterator["Cluster"]:
    """A real Ray of two raylets on this machine, one CPU each; a test may add a third and take it away."""
    from ray.cluster_utils import Cluster

    from stratoscope.execution.connection import agent_on_free_port

    # Workers import the tests' own modules, and a node that is gone is noticed within seconds.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    cluster = Cluster()
    with agent_on_free_port():
        cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE, include_dashboard=False, _system_config=quick)
    cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="session")
def local_ray(raylets: "Cluster") -> Iterator[None]:
    """This process connected to that Ray; jobs that run inside it use the connection and leave it alone."""
    from stratoscope.execution import cluster

    os.environ["RAY_ADDRESS"] = raylets.address
    with cluster():
        del os.environ["RAY_ADDRESS"]
        yield
