"""Execution: the adapter to Ray. It knows nothing of models or statistics; it runs shards of any work."""

from stratoscope.execution.attempts import FIRST_ATTEMPT, Attempt, BrokenProcessError
from stratoscope.execution.cluster import cluster, is_local, largest_share, resources
from stratoscope.execution.failures import root_cause
from stratoscope.execution.llm import vllm_installed, write_with_vllm
from stratoscope.execution.metrics import WorkMetrics
from stratoscope.execution.pool import ActorPool, plan_pool
from stratoscope.execution.processes import Ended, Process
from stratoscope.execution.progress import Meter, progress
from stratoscope.execution.service import Service, serve
from stratoscope.execution.shards import ShardWorker, run_shards
from stratoscope.execution.tasks import Done, Task, run_tasks
from stratoscope.execution.training import Rooms, WorkerHost, Workers, apart, fit_in_trial, trained
from stratoscope.execution.tuning import Trial, TrialPlan, mlflow_callback, run_trials

__all__ = [
    "FIRST_ATTEMPT",
    "ActorPool",
    "Attempt",
    "BrokenProcessError",
    "Done",
    "Ended",
    "Meter",
    "Process",
    "Rooms",
    "Service",
    "ShardWorker",
    "Task",
    "Trial",
    "TrialPlan",
    "WorkMetrics",
    "WorkerHost",
    "Workers",
    "apart",
    "cluster",
    "fit_in_trial",
    "is_local",
    "largest_share",
    "mlflow_callback",
    "plan_pool",
    "progress",
    "resources",
    "root_cause",
    "run_shards",
    "run_tasks",
    "run_trials",
    "serve",
    "trained",
    "vllm_installed",
    "write_with_vllm",
]
