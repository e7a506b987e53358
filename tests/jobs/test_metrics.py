"""Prometheus metrics of a real run."""

import re
import time
import urllib.request

import pytest
import ray

import stratoscope
from tests.jobs.small import Fields

pytestmark = pytest.mark.usefixtures("local_ray")


def scrape() -> dict[str, float]:
    """Return the sums of the project's metrics over all nodes, by name."""
    sums: dict[str, float] = {}
    for node in ray.nodes():
        if not node["Alive"] or not node["MetricsExportPort"]:
            continue
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                sample = re.match(r'(ray_stratoscope_\w+)\{.*job="score".*\} ([\d.e+]+)', line)
                if sample:
                    sums[sample[1]] = sums.get(sample[1], 0) + float(sample[2])
    return sums


def test_actors_count_prompts_tokens_errors_and_seconds(small_run: Fields, many_prompts: object) -> None:
    before = scrape()
    prompts = {"source": str(many_prompts), "limit": 200, "too_long": "refuse", "max_tokens": 16}
    run = stratoscope.score(**small_run(run_id="metrics", prompts=prompts))
    expected = {
        "ray_stratoscope_prompts_total": run.manifest.counts["scored"],
        "ray_stratoscope_tokens_total": run.manifest.counts["tokens"],
        "ray_stratoscope_errors_total": run.manifest.counts["errors"],
    }
    deadline = time.monotonic() + 60
    while True:
        now = scrape()
        added = {name: now.get(name, 0) - before.get(name, 0) for name in expected}
        if added == expected:
            break
        assert time.monotonic() < deadline, f"{added} is not {expected}"
        time.sleep(2)
    assert now["ray_stratoscope_batch_seconds_count"] >= 25
    assert now["ray_stratoscope_batch_seconds_sum"] > 0
