"""Execution: the adapter to Ray. It knows nothing of models or statistics; it runs shards of any work."""

from stratoscope.execution.attempts import FIRST_ATTEMPT, Attempt, BrokenProcessError
from stratoscope.execution.cluster import cluster, is_local, resources
from stratoscope.execution.failures import root_cause
from stratoscope.execution.metrics import WorkMetrics
from stratoscope.execution.pool import ActorPool, plan_pool
from stratoscope.execution.progress import Meter, progress
from stratoscope.execution.shards import ShardWorker, run_shards

__all__ = [
    "FIRST_ATTEMPT",
    "ActorPool",
    "Attempt",
    "BrokenProcessError",
    "Meter",
    "ShardWorker",
    "WorkMetrics",
    "cluster",
    "is_local",
    "plan_pool",
    "progress",
    "resources",
    "root_cause",
    "run_shards",
]
