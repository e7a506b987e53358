"""The flow of the mitigation job: choose layers, train variants, evaluate them, compare, and export checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from rich.console import Console

from stratoscope.digest import digest
from stratoscope.errors import InputError
from stratoscope.evaluation import TruncatedPrompts, check_answers_fit, choose_items, items_digest, load_tasks
from stratoscope.execution import WorkerResources, cluster, is_local, resources
from stratoscope.mitigation import Variant
from stratoscope.models import (
    ModelFacts,
    ModelSource,
    check_causal,
    check_prunable,
    dtype_name,
    find_protected_layers,
    load_config,
    load_tokenizer,
    weights_fingerprint,
)
from stratoscope.pipelines.mitigation.config import MitigationConfig
from stratoscope.pipelines.mitigation.dataset import MitigationData, TrainingInputs, load_data
from stratoscope.pipelines.mitigation.estimate import MemoryEstimate, check_memory, estimate, need
from stratoscope.pipelines.mitigation.evaluate import evaluate_models, evaluators, export_checkpoints, model_cards
from stratoscope.pipelines.mitigation.layers import LayerChoice, flag_layers, open_choice
from stratoscope.pipelines.mitigation.outcome import compare_models, layer_notes, outcome_tables, training_problems
from stratoscope.pipelines.mitigation.report import build_page, summary_table
from stratoscope.pipelines.mitigation.samples import with_samples
from stratoscope.pipelines.mitigation.store import VariantStore
from stratoscope.pipelines.mitigation.train import train_variants
from stratoscope.pipelines.mitigation.tune import TRAINING, tuning_rows
from stratoscope.pipelines.reporting.data_notes import left_out_note, prompt_counts, question_counts, truncation_notes
from stratoscope.pipelines.runtime.hardware import usual_device
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.surroundings import check_connected
from stratoscope.pipelines.sharded.models import open_model
from stratoscope.pipelines.sharded.sizes import BATCH_TOKENS, evaluation_tokens
from stratoscope.results import Run, TableRow, write_table
from stratoscope.tables.mitigation import TABLES

MAX_LENGTH = 1024
"""Maximum number of tokens in a sequence, for models with more positions."""
MOST_CPU_WORKERS = 2
"""Maximum default number of workers on CPUs. More workers would compete for memory bandwidth."""


class MitigationJob(Job[MitigationConfig]):
    """Trains some layers of a model and compares the results with the original."""

    name: ClassVar[str] = "mitigation"
    config_class = MitigationConfig

    source: ModelSource
    facts: ModelFacts
    choice: LayerChoice
    data: MitigationData
    max_length: int
    need: MemoryEstimate

    def prepare(self) -> None:
        """Resolve the model and the runs that layers are taken from, and read questions and texts."""
        config, model = self.config, self.config.model
        opened = open_model(model, head=True, trainable=True)
        self.source, self.facts = opened.source, opened.facts
        protected = _check_trainable(config, self.source)
        self.tasks = load_tasks(config.evaluation.tasks)
        self.tokenizer = load_tokenizer(self.source, trust_remote_code=model.trust_remote_code)
        # Batches of a training hold sequences of all lengths, so the model has to scale the positions of all alike.
        self.max_length = min(MAX_LENGTH, self.facts.longest_sequence, self.facts.rescaled_after or MAX_LENGTH)
        check_answers_fit(self.tasks, self.facts.longest_sequence)
        self.choice = open_choice(config, self.source, self.facts, protected)
        self.data = load_data(config, self.tokenizer, self.choice.seen, self.max_length)
        self.need = need(config, self.facts, self.data, self.choice.most_layers, len(self.tokenizer))
        if is_local():
            check_memory(self.need)

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return the work of the run and its estimated cost."""
        return estimate(self.config, self.facts, self.data, self.need)

    def execute(self) -> None:
        """Train and evaluate every variant, compare them, and write tables, checkpoints and the report."""
        context = self.context
        with cluster():
            check_connected(self.config, context.console)
            if self.choice.lacks_flags:
                with context.stage("flags"):
                    self.choice = flag_layers(context, self.choice)
                self.data = load_data(self.config, self.tokenizer, self.choice.seen, self.max_length)
            inputs = self._inputs()
            self._record_fingerprints(inputs)
            self.register()
            inputs = with_samples(context, inputs)
            context.manifest.facts["samples"] = inputs.data.num_samples
            store = VariantStore(context.storage)
            trained, failed = train_variants(context, inputs, store, self.choice.variants())
            with context.stage("evaluate"), evaluators(context, inputs, 2 * len(trained)) as service:
                truncated: list[TruncatedPrompts] = service.call("truncated")
                scores, errors = evaluate_models(context, service, store, [model.variant for model in trained])
                failed |= errors
                trained = [model for model in trained if model.variant not in failed]
                resampling = self.config.evaluation.to_resampling(self.config.seed)
                outcome = compare_models([model.variant for model in trained], scores, resampling)
                tables = outcome_tables(outcome, trained, scores, failed)
                self._write_tables(tables, [model.variant for model in trained])
                cards = model_cards(inputs, trained, outcome.card_rows(), self.choice.chosen_by)
                checkpoints = export_checkpoints(context, service, cards)
        context.manifest.counts = {
            "variants": len(trained),
            "failed": len(failed),
            "steps": len(tables["training"]),
        }
        context.manifest.facts |= {
            "truncated": [asdict(task) for task in truncated],
            "verdicts": [
                *outcome.verdicts,
                *training_problems(trained, failed),
                *truncation_notes(truncated),
                *layer_notes(trained, self.facts.num_layers),
            ],
            "models": list(checkpoints.urls),
            "frozen_tensors": checkpoints.frozen_tensors,
        }
        with context.stage("report"):
            context.write_report(build_page(context.run))

    def clear_intermediates(self) -> None:
        """Remove trainings and evaluations, whose content the tables have."""
        VariantStore(self.context.storage).clear()
        self.context.storage.remove(TRAINING)

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the changes, the verdicts and the checkpoints."""
        console.print(summary_table(run))
        for line in [*run.manifest.facts.get("verdicts", []), *read_counts(run.manifest.facts)]:
            console.print(line, soft_wrap=True)
        for url in run.manifest.facts.get("models", []):
            console.print(f"model: {url}", soft_wrap=True)
        console.print(f"report: {run.report_path}", soft_wrap=True)

    def _inputs(self) -> TrainingInputs:
        workers = choose_workers(self.config, resources(), local=is_local())
        batch_tokens = evaluation_tokens(
            self.config.evaluation.batch_tokens,
            self.facts,
            self.config.model.to_loading(self.source, workers.gpus),
            self.previous_start,
            cpus=workers.cpus,
            gpus=workers.gpus,
        )
        return TrainingInputs(
            config=self.config,
            source=self.source,
            num_layers=self.facts.num_layers,
            dtype=dtype_name(self.config.model.dtype, "cuda" if workers.gpus else "cpu"),
            data=self.data,
            max_length=self.max_length,
            batch_tokens=batch_tokens,
            workers=workers,
            flagged=self.choice.flagged,
            max_positions=self.facts.longest_sequence,
        )

    def _write_tables(self, tables: Mapping[str, Sequence[TableRow]], variants: Sequence[Variant]) -> None:
        storage = self.context.storage
        if self.config.tune.num_samples:
            names = list(dict.fromkeys(variant.name for variant in variants))
            tables = {**tables, "tuning": list(tuning_rows(storage, names))}
        for name, rows in tables.items():
            write_table(storage, name, TABLES[name].table(rows))

    def _record_fingerprints(self, inputs: TrainingInputs) -> None:
        config, data, workers = self.config, self.data, inputs.workers
        device = "cuda" if workers.gpus else "cpu"
        sampling = config.evaluation.to_sampling(config.seed)
        items = [choose_items(task, sampling, data.used, self.tokenizer) for task in self.tasks]
        self.context.manifest.fingerprints = {
            "weights": weights_fingerprint(self.source),
            "layers": self.choice.fingerprint,
            "material": data.fingerprint,
            "tasks": items_digest(items),
            "computation": digest({"dtype": inputs.dtype, "device": device, "workers": workers.number}),
        }
        self.context.manifest.facts = {
            "architecture": self.facts.architecture,
            "num_layers": self.facts.num_layers,
            "num_parameters": self.facts.num_parameters,
            "device": device,
            "dtype": inputs.dtype,
            "workers": workers.number,
            "threads_per_worker": workers.cpus,
            BATCH_TOKENS: inputs.batch_tokens,
            "questions": data.counts,
            "datasets": [asdict(dataset) for dataset in data.datasets],
            "sources": [asdict(source) for source in data.sources],
            "texts": len(data.corpus.texts),
            "terms": config.terms.weights.used(),
            "flags": self.choice.flags.url if self.choice.flags else None,
            "recovery": config.recovery,
        }


def read_counts(facts: Mapping[str, Any]) -> list[str]:
    """Return how many questions and texts were read and kept, a line for each data set and source.

    Args:
        facts: facts of the run; those of older versions have none of these.
    """
    parts = facts.get("questions", {})
    questions = [
        f"{dataset['name']}: {question_counts(dataset)}{left_out_note(parts.get(dataset['name'], {}))}"
        for dataset in facts.get("datasets", [])
    ]
    texts = [f"{source['name']}: {prompt_counts(source, 'texts.limit')}" for source in facts.get("sources", [])]
    return questions + texts


def choose_workers(config: MitigationConfig, available: Mapping[str, float], *, local: bool) -> WorkerResources:
    """Return the number and resources of training workers.

    Args:
        config: configuration of the job.
        available: resources of the cluster, such as CPU and GPU.
        local: whether the cluster is this machine, which cannot grow.

    Raises:
        InputError: the configured workers exceed the resources of this machine.
    """
    train = config.train
    gpus = train.gpus if train.gpus is not None else float(available.get("GPU", 0) > 0)
    on_gpus = int(available.get("GPU", 0) // gpus) if gpus else 0
    default = on_gpus if gpus else min(MOST_CPU_WORKERS, int(available.get("CPU", 1)) // train.cpus)
    number = train.num_workers or max(1, min(default, config.most_workers))
    workers = WorkerResources(number, train.cpus, gpus)
    for name, each in (("CPU", workers.cpus), ("GPU", workers.gpus)):
        if local and workers.number * each > available.get(name, 0):
            raise InputError(
                f"train: {workers.number} workers of {each:g} {name}s are more than the {available.get(name, 0):g} of "
                "this machine; use fewer train.num_workers"
            )
    return workers


def _check_trainable(config: MitigationConfig, source: ModelSource) -> tuple[int, ...]:
    """Refuse models that cannot be trained, and return the layers that cannot be dropped.

    Raises:
        InputError: the model is not causal, is in float16, or cannot be pruned although layers are to be dropped.
    """
    model = config.model
    if dtype_name(model.dtype, usual_device()) == "float16":
        raise InputError("model.dtype float16 does not support training; use bfloat16 or float32")
    network = load_config(source, trust_remote_code=model.trust_remote_code)
    check_causal(network, model.source)
    if config.recovery:
        check_prunable(network, model.source)
        return find_protected_layers(source, trust_remote_code=model.trust_remote_code)
    return ()
