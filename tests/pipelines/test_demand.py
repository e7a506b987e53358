"""Resources that a machine or a cluster does not have."""

import pytest

from stratoscope.errors import InputError
from stratoscope.execution import NodeType, machine_resources
from stratoscope.pipelines.runtime.demand import Demand
from stratoscope.pipelines.runtime.surroundings import check_machine, missing_in_cluster

FIELDS = {"CPU": "actors.cpus", "GPU": "actors.gpus"}
SMALL, LARGE = {"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0, "memory": 64e9, "scratch": 1.0}
GPU_TYPE = NodeType("gpu", {"CPU": 16.0, "GPU": 8.0}, 4)


@pytest.mark.parametrize(
    ("demand", "lack"),
    [
        (Demand({"CPU": 4, "GPU": 0}, FIELDS), None),
        (Demand({"CPU": 1, "GPU": 0.5}, FIELDS, 4, "actors.min"), None),
        (Demand({"CPU": 9}, FIELDS), "actors.cpus 9 CPU: no node of the cluster has that: the largest has 8 CPU"),
        (Demand({"CPU": 1, "GPU": 8}, FIELDS), "actors.gpus 8 GPU: no node of the cluster has that: the largest has 2"),
        (Demand({"memory": 1e12}), "resource memory 1,000.0 GB of memory: no node"),
        (Demand({"tpu": 1}), "resource tpu 1 tpu: no node of the cluster has that: the largest has none"),
        (Demand({"CPU": 3}, FIELDS, 4, "train.num_workers"), "train.num_workers 4: the cluster has room for 3"),
    ],
)  # fmt: skip
def test_what_processes_lack_is_named_with_its_field(demand: Demand, lack: str | None) -> None:
    found = demand.lack([SMALL, LARGE], "the cluster")
    assert found is None if lack is None else found is not None and found.startswith(lack)


def test_processes_that_this_machine_cannot_hold_are_refused() -> None:
    machine = machine_resources()
    assert machine["CPU"] >= 1
    assert machine["memory"] > 1e8
    check_machine([Demand({"CPU": 1}, FIELDS, int(machine["CPU"]), "actors.min")])
    for demand in (
        Demand({"GPU": 10_000}, FIELDS),
        Demand({"CPU": 1}, FIELDS, 10_000, "actors.min"),
        Demand({"memory": 1e18}, {"memory": "search.cache_gb"}),
    ):
        with pytest.raises(InputError, match=r"this machine has .*; ask for less, or set RAY_ADDRESS"):
            check_machine([demand])


def test_a_cluster_is_waited_for_where_an_autoscaler_may_add_what_it_lacks() -> None:
    many = [Demand({"CPU": 1, "GPU": 8}, FIELDS), Demand({"CPU": 1}, FIELDS)]
    assert missing_in_cluster(many[1:], [SMALL], None) == []
    (line,) = missing_in_cluster(many, [SMALL], [NodeType("cpu", SMALL, 9), GPU_TYPE])
    assert line.endswith("waiting until the autoscaler has started a node of type gpu")
    (line,) = missing_in_cluster(many, [SMALL], [])
    assert line.startswith("actors.gpus 8 GPU")
    assert line.endswith("waiting until the autoscaler has started another node")
    with pytest.raises(InputError, match="it has no autoscaler"):
        missing_in_cluster(many, [SMALL], None)
    with pytest.raises(InputError, match=r"no node of a type that its autoscaler can start has that \(cpu\)"):
        missing_in_cluster(many, [SMALL], [NodeType("cpu", SMALL, 9)])
