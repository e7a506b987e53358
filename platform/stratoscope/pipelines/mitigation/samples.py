"""General texts that the unchanged model generates, once in a run."""

from dataclasses import dataclass, replace

import torch

from stratoscope.errors import DamagedFileError, RunError
from stratoscope.evaluation import TextSampling, sample_texts
from stratoscope.execution import run_remote
from stratoscope.models import LoadSpec
from stratoscope.phases import tell
from stratoscope.pipelines.mitigation.dataset import TrainingInputs
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.results import Storage, read_table, write_table
from stratoscope.tables.mitigation import TextSampleRow

SAMPLES = "samples"
"""Table of the generated texts."""


@dataclass(frozen=True)
class SamplerSettings:
    """Settings of the process that generates texts."""

    loading: LoadSpec
    sampling: TextSampling
    num_threads: int


def with_samples(context: RunContext, inputs: TrainingInputs) -> TrainingInputs:
    """Return the inputs of trainings with generated texts, which a resumed run reads from its folder.

    Raises:
        RunError: the run is stopping, or the texts cannot be generated.
    """
    config, workers, storage = inputs.config, inputs.workers, context.storage
    if not config.num_samples:
        return inputs
    rows = read_samples(storage)
    if rows is None:
        seed = config.seed if config.samples.seed is None else config.samples.seed
        settings = SamplerSettings(
            config.model.to_loading(inputs.source, min(1.0, workers.gpus)),
            TextSampling(
                config.num_samples,
                min(config.tokens_per_sample, inputs.max_length),
                config.samples.temperature,
                seed,
            ),
            workers.cpus,
        )
        with context.stage(SAMPLES, f"generating {config.num_samples:,} texts"):
            # A separate process generates the texts, so that the device is free again before the training.
            rows = run_remote(sample_rows, settings, cpus=workers.cpus, gpus=workers.gpus)
        write_table(storage, SAMPLES, TextSampleRow.table(rows))
    samples = [tuple(row.tokens) for row in rows]
    data = inputs.data.with_samples(samples, config.num_validation_texts)
    if not data.num_samples:
        raise RunError(
            "the model generated no text of more than one token; use samples.number 0 and name a texts.source"
        )
    return replace(inputs, data=data)


def read_samples(storage: Storage) -> list[TextSampleRow] | None:
    """Return the texts that an earlier start generated; None if there are none, or if they cannot be read."""
    try:
        return TextSampleRow.read(read_table(storage, SAMPLES))
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        tell(f"{error}; the texts are generated again")
        storage.remove(f"{SAMPLES}.parquet")
        return None


def sample_rows(settings: SamplerSettings) -> list[TextSampleRow]:
    """Generate texts in a separate process."""
    if settings.loading.device == "cpu":
        torch.set_num_threads(settings.num_threads)
    model = settings.loading.load(head=True)
    return [
        TextSampleRow(sample=number, tokens=tokens, text=model.tokenizer.decode(tokens, skip_special_tokens=True))
        for number, tokens in enumerate(sample_texts(model, settings.sampling))
    ]
