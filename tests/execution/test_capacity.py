"""The resources of this machine, and whether a cluster has an autoscaler."""

import json

import pytest

from stratoscope.errors import InputError
from stratoscope.execution.capacity import has_autoscaler, local_cpus, machine_resources


@pytest.mark.parametrize(
    ("active", "node_types", "autoscaled"),
    [
        ({"ray.head.default": 1}, [], True),
        ({"node_0f3c": 1}, ["node_0f3c"], False),
        (None, ["gpu-group"], True),
        (None, [""], False),
    ],
)
def test_types_of_nodes_tell_whether_there_is_an_autoscaler(
    active: dict[str, int] | None, node_types: list[str], autoscaled: bool
) -> None:
    report = json.dumps({"autoscaler_report": {"active_nodes": active, "pending_launches": {}}})
    assert has_autoscaler(report.encode(), node_types) == autoscaled


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "9" * 400, "\u0663"])
def test_a_number_of_cpus_in_the_environment_is_checked(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATOSCOPE_CPUS", text)
    with pytest.raises(InputError, match="STRATOSCOPE_CPUS"):
        local_cpus()


def test_cpus_in_the_environment_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATOSCOPE_CPUS", "7")
    assert machine_resources()["CPU"] == 7
    monkeypatch.setenv("STRATOSCOPE_CPUS", "")
    assert local_cpus() is None
