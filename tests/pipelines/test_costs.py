"""Estimated cost of a run, as a dry run prints it."""

import pytest

from stratoscope.errors import InputError
from stratoscope.models import ModelFacts
from stratoscope.pipelines.runtime import costs
from stratoscope.pipelines.runtime.costs import MemoryEstimate, ModelCost, RunCost, check_machine_memory

FACTS = ModelFacts("LlamaModel", 30, 576, 1_000_000, 2048)


def test_a_model_costs_its_weights_and_two_operations_per_parameter_and_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(costs, "usual_device", lambda: "cpu")
    monkeypatch.setattr(costs, "operations_per_second", lambda _device: 1e9)
    model = ModelCost("smollm2", FACTS, "bfloat16")
    assert model.weight_bytes == 2_000_000
    assert model.seconds(500) == 1.0
    assert model.seconds(500, flops=8) == 4.0
    assert str(model) == "smollm2: LlamaModel, 30 layers, 1 million parameters, bfloat16 on cpu"


def test_a_dry_run_prints_rows_memory_and_time() -> None:
    cost = RunCost(1234.4, "and 20 s to start", MemoryEstimate(1.2e9, "actor"), {"a": 1000, "b": 500}, 200)
    assert dict(cost.lines()) == {
        "rows": "1,000 in a.parquet, 500 in b.parquet, about 0.3 MB",
        "memory": "about 1.2 GB for each actor",
        "time": "roughly 1,234 s on all of this machine, and 20 s to start",
    }
    bound = RunCost(1, "at least", MemoryEstimate(1e9, "workers", 2, minimum=True), {"a": 3}, bound="at most ")
    lines = dict(bound.lines())
    assert (lines["rows"], lines["memory"]) == ("at most 3 in a.parquet", "at least 1.0 GB for each of 2 workers")
    assert "rows" not in dict(RunCost(1, "", MemoryEstimate(1e9, "actor")).lines())


def test_memory_that_is_not_free_is_refused_in_one_line() -> None:
    estimate = MemoryEstimate(4e15, "workers", 2, shared=1e15)
    assert estimate.machine == 9e15
    with pytest.raises(InputError, match=r"^training needs at least 9,000,000.0 GB \(2 workers of .* free; take less$"):
        check_machine_memory(estimate, "training", "take less")
    check_machine_memory(MemoryEstimate(1, "workers", 2), "training", "take less")
