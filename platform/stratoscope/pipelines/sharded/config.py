"""Fields of every job that reads activations shard by shard."""

from typing import TYPE_CHECKING, Literal, Self

import yaml
from pydantic import Field, StrictBool, StrictFloat, StrictInt, field_validator, model_validator

from stratoscope.pipelines.runtime.config import NOT_IN_IDENTITY, ConfigSection, JobConfig
from stratoscope.pipelines.runtime.demand import Demand
from stratoscope.pipelines.runtime.validators import MAX_COUNT, Count, CountOrAuto, Cpus, Gpus, Place, Workers

if TYPE_CHECKING:
    from stratoscope.models import LoadSpec, ModelSource

FailOnError = StrictBool | StrictInt | StrictFloat
"""Whether errors fail a run, or above which share or count of them."""


class ModelSection(ConfigSection):
    """The model to read."""

    source: Place = "smollm2"
    """A hub name (owner/model), a folder, a .gguf file, or 'smollm2', which needs no hub."""
    revision: str | None = None
    """Branch, tag or commit of a hub name."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format; auto is bfloat16 on a GPU and float32 on a CPU."""
    attention: str | None = None
    """Attention implementation (sdpa, eager, ...); null leaves the choice to transformers."""
    trust_remote_code: bool = False
    """Run code from the model's repository."""

    def to_loading(self, source: "ModelSource", num_gpus: float) -> "LoadSpec":
        """Return how an actor loads the model; over several GPUs its layers are spread."""
        from stratoscope.models import LoadSpec

        return LoadSpec(
            source,
            "cuda" if num_gpus else "cpu",
            self.dtype,
            self.attention,
            self.trust_remote_code,
            spread=num_gpus > 1,
            memory_share=min(1.0, num_gpus or 1.0),
        )


class BatchingSection(ConfigSection):
    """How the work is divided into shards and batches. A resumed run keeps every shard that is complete."""

    shard_size: Count | None = None
    """Prompts or questions per shard; null is 32 (hallucination 16) on a CPU and some 20 batches on a GPU, at most 1024
    shards in all."""
    max_tokens: CountOrAuto = "auto"
    """Maximum tokens of a batch, padding included; auto is 2048 on a CPU and is measured on a GPU, once in a run."""


class ActorsSection(ConfigSection):
    """The actors that run the model; their number changes no result."""

    min: Workers = 1
    """Minimum number of actors."""
    max: Workers | None = None
    """Maximum number of actors; null uses as many as the cluster holds."""
    cpus: Cpus = 1
    """CPUs, and CPU threads, per actor."""
    gpus: Gpus | None = None
    """GPUs per actor; null uses one if the cluster has any. Several GPUs share the layers of a model; with a fraction,
    such as 0.5, several actors share a GPU and its memory."""

    def demand(self, name: str) -> Demand:
        """Return the fewest actors and their resources."""
        return worker_demand(name, self.cpus, self.gpus, self.min, f"{name}.min")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max ({self.max}) is less than min ({self.min})")
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus ({self.gpus}) must be a whole number above 1")
        return self


def worker_demand(name: str, cpus: float | None, gpus: float | None, number: int = 1, field: str = "") -> Demand:
    """Return the demand of workers whose section has the fields cpus and gpus, where null asks for what there is.

    Args:
        name: name of the section.
        cpus: CPUs of each worker.
        gpus: GPUs of each worker.
        number: number of workers.
        field: field that asks for the number.
    """
    return Demand({"CPU": cpus or 0, "GPU": gpus or 0}, {"CPU": f"{name}.cpus", "GPU": f"{name}.gpus"}, number, field)


class ShardedConfig(JobConfig):
    """Fields of a job that reads activations: its model, batches and actors."""

    model: ModelSection = ModelSection()
    """The model to read."""
    batching: BatchingSection = BatchingSection()
    """How the work is divided into shards and batches."""
    fail_on_error: FailOnError = Field(False, json_schema_extra=NOT_IN_IDENTITY)
    """Fail if prompts or questions have errors: true at the first, or above a share or a count."""
    actors: ActorsSection = Field(ActorsSection(), json_schema_extra=NOT_IN_IDENTITY)
    """The actors that run the model."""

    @field_validator("fail_on_error", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return yaml.safe_load(value) if isinstance(value, str) else value

    @field_validator("fail_on_error")
    @classmethod
    def _allowance(cls, value: bool | float) -> bool | float:
        if not 0 <= value <= (1 if isinstance(value, float) else MAX_COUNT):
            raise ValueError(f"must be true or false, a fraction between 0 and 1, or a count up to {MAX_COUNT:,}")
        return value


def errors_allowed(limit: FailOnError, num_units: int) -> int:
    """Return how many units of work may have errors before the run fails."""
    if isinstance(limit, bool):
        return 0 if limit else num_units
    return int(limit * num_units) if isinstance(limit, float) else limit
