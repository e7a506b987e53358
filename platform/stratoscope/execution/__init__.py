"""Adapter to Ray: actor pools, shards, services, trials, training and tasks, for work of any kind."""

from stratoscope.execution.attempts import FIRST_ATTEMPT, Attempt, BrokenProcessError
from stratoscope.execution.cluster import cluster, cpus_per_worker, is_local, resources
from stratoscope.execution.failures import root_cause
from stratoscope.execution.llm import vllm_installed, write_with_vllm
from stratoscope.execution.metrics import WorkMetrics
from stratoscope.execution.pool import ActorPool, gpus_of_actor, plan_pool
from stratoscope.execution.processes import Process, ProcessResult
from stratoscope.execution.progress import Meter, Reporter, progress
from stratoscope.execution.service import Service, serve
from stratoscope.execution.shards import Prepare, ShardWorker, run_shards
from stratoscope.execution.tasks import Task, TaskResult, run_tasks
from stratoscope.execution.training import (
    PlacementGroupTracker,
    WorkerHost,
    WorkerResources,
    fit,
    fit_in_trial,
    run_remote,
)
from stratoscope.execution.tuning import Trial, TrialPlan, mlflow_callback, run_trials

__all__ = [
    "FIRST_ATTEMPT",
    "ActorPool",
    "Attempt",
    "BrokenProcessError",
    "Meter",
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
    "cluster",
    "cpus_per_worker",
    "fit",
    "fit_in_trial",
    "gpus_of_actor",
    "is_local",
    "mlflow_callback",
    "plan_pool",
    "progress",
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
