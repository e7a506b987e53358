"""Adapter to Ray: actor pools, shards, services, trials, training and tasks, for work of any kind."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.execution.address import check_address, is_local
    from stratoscope.execution.attempts import FIRST_ATTEMPT, Attempt, BrokenProcessError
    from stratoscope.execution.capacity import NodeType, machine_resources, node_types
    from stratoscope.execution.connection import cluster, cpus_per_worker, node_resources, resources
    from stratoscope.execution.failures import root_cause
    from stratoscope.execution.llm import vllm_installed, write_with_vllm
    from stratoscope.execution.meter import Meter, Reporter, progress
    from stratoscope.execution.metrics import WorkMetrics
    from stratoscope.execution.pool import ActorPool, gpus_of_actor, plan_pool
    from stratoscope.execution.processes import Process, ProcessResult
    from stratoscope.execution.service import Service, serve
    from stratoscope.execution.shards import Prepare, ShardWorker, run_shards
    from stratoscope.execution.socket_folder import ray_folder
    from stratoscope.execution.tasks import Task, TaskResult, run_remote, run_tasks
    from stratoscope.execution.training import (
        PlacementGroupTracker,
        WorkerHost,
        WorkerResources,
        fit,
        fit_in_trial,
    )
    from stratoscope.execution.tuning import RUNG, Trial, TrialPlan, mlflow_callback, run_trials

__all__ = [
    "FIRST_ATTEMPT",
    "RUNG",
    "ActorPool",
    "Attempt",
    "BrokenProcessError",
    "Meter",
    "NodeType",
    "PlacementGroupTracker",
    "Prepare",
    "Process",
    "ProcessResult",
    "Reporter",
    "Service",
    "ShardWorker",
    "Task",
    "TaskResult",
    "Trial",
    "TrialPlan",
    "WorkMetrics",
    "WorkerHost",
    "WorkerResources",
    "check_address",
    "cluster",
    "cpus_per_worker",
    "fit",
    "fit_in_trial",
    "gpus_of_actor",
    "is_local",
    "machine_resources",
    "mlflow_callback",
    "node_resources",
    "node_types",
    "plan_pool",
    "progress",
    "ray_folder",
    "resources",
    "root_cause",
    "run_remote",
    "run_shards",
    "run_tasks",
    "run_trials",
    "serve",
    "vllm_installed",
    "write_with_vllm",
]

__getattr__ = exports(__name__)
