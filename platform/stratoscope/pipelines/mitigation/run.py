"""The flow of the mitigation job: layers -> (search) -> training -> evaluation -> comparison -> checkpoint."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from rich.console import Console

from stratoscope.digest import digest
from stratoscope.errors import InputError
from stratoscope.evaluation import choose_items, items_digest, load_tasks
from stratoscope.execution import WorkerResources, cluster, is_local, resources
from stratoscope.models import (
    ModelFacts,
    ModelSource,
    check_causal,
    check_describable,
    check_prunable,
    describe_model,
    dtype_name,
    load_config,
    load_tokenizer,
    pin_source,
    resolve_source,
    weights_fingerprint,
)
from stratoscope.pipelines.mitigation import tables
from stratoscope.pipelines.mitigation.choice import LayerChoice
from stratoscope.pipelines.mitigation.config import MitigationConfig
from stratoscope.pipelines.mitigation.dataset import Material, load_material
from stratoscope.pipelines.mitigation.estimate import MemoryEstimate, check_memory, estimate, need
from stratoscope.pipelines.mitigation.evaluate import judge_all, judges, keep
from stratoscope.pipelines.mitigation.outcome import (
    MitigationOutcome,
    outcome,
    separation_rows,
    training_rows,
    tuning_rows,
    variant_rows,
)
from stratoscope.pipelines.mitigation.report import build_page, summary_table
from stratoscope.pipelines.mitigation.store import VariantStore
from stratoscope.pipelines.mitigation.trainer import TRAINING, Trainer, tuned_file
from stratoscope.pipelines.mitigation.variants import Variant
from stratoscope.pipelines.runtime.hardware import usual_device
from stratoscope.pipelines.runtime.job import Job
from stratoscope.results import Run, from_rows, write_table

LONGEST = 1024
"""Most tokens of a sequence, where the model has positions for more."""
MOST_CPU_WORKERS = 2
"""Where their number is not given: more of them would share what a machine's memory can deliver."""


class MitigationJob(Job[MitigationConfig]):
    """Trains some layers of a model, and compares what it is worth before and after."""

    name: ClassVar[str] = "mitigation"
    config_class = MitigationConfig

    source: ModelSource
    facts: ModelFacts
    choice: LayerChoice
    material: Material
    longest: int
    need: MemoryEstimate

    def prepare(self) -> None:
        """Resolve the model and the runs that layers are taken from, and read questions and texts."""
        config, model = self.config, self.config.model
        self.source = pin_source(resolve_source(model.source, model.revision))
        self.facts = describe_model(self.source, trust_remote_code=model.trust_remote_code, here=is_local(), head=True)
        if self.facts.quantisation:
            raise InputError(
                f"model.source {model.source!r} is quantised by {self.facts.quantisation}, and its layers cannot be "
                "trained; take the checkpoint that it was made from"
            )
        if dtype_name(model.dtype, usual_device()) == "float16":
            raise InputError("model.dtype float16 cannot be trained in; take bfloat16 or float32")
        check_causal(load_config(self.source, trust_remote_code=model.trust_remote_code), model.source)
        if config.healing:
            check_prunable(load_config(self.source, trust_remote_code=model.trust_remote_code), model.source)
            check_describable(self.source, trust_remote_code=model.trust_remote_code)
        self.tasks = load_tasks(config.evaluation.tasks)
        self.tokenizer = load_tokenizer(self.source, trust_remote_code=model.trust_remote_code)
        self.longest = min(LONGEST, self.facts.max_positions or LONGEST)
        self.choice = LayerChoice.open(config, self.source, self.facts)
        self.material = load_material(config, self.tokenizer, self.choice.seen(), self.longest)
        self.need = need(config, self.facts, self.material, self.choice.most_trained(), len(self.tokenizer))
        if is_local():
            check_memory(self.need)

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do, and estimates of what it takes."""
        return estimate(self.config, self.facts, self.material, self.need)

    def execute(self) -> None:
        """Train every variant, judge all of them, compare, and write what is to be kept."""
        with cluster():
            if self.choice.lacks_flags:
                with self.context.stage("flags"):
                    self.choice = self.choice.with_flags(self)
                self.material = load_material(self.config, self.tokenizer, self.choice.seen(), self.longest)
            workers = self._workers()
            self._identify(workers)
            self.register()
            store = VariantStore(self.context.storage)
            variants, failed = Trainer(self, workers, store).train_all(self.choice.variants())
            with self.context.stage("evaluate"), judges(self, workers, 2 * len(variants)) as service:
                failed |= judge_all(self, variants, service, store)
                variants = [v for v in variants if v not in failed]
                found = outcome(variants, store, self.config.evaluation.to_resampling(self.config.seed))
                self._write(variants, failed, store, found)
                kept = keep(self, variants, found, service, store)
        self.context.manifest.facts |= {
            "verdicts": [*found.verdicts, *self._troubles(variants, failed, store)],
            "models": list(kept.urls),
            "frozen_tensors": kept.frozen_tensors,
        }
        with self.context.stage("report"):
            self.context.write_report(build_page(self.context.storage, self.context.manifest))
        store.clear()
        self.context.storage.remove(TRAINING)

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print what changed, and the verdict."""
        console.print(summary_table(run.storage))
        for line in run.manifest.facts["verdicts"]:
            console.print(line, soft_wrap=True)
        for url in run.manifest.facts["models"]:
            console.print(f"model: {url}", soft_wrap=True)
        console.print(f"report: {run.report_url}", soft_wrap=True)

    def _workers(self) -> WorkerResources:
        train, there = self.config.train, resources()
        gpus = train.gpus if train.gpus is not None else float(there.get("GPU", 0) > 0)
        usual = (
            int(there.get("GPU", 0) // gpus) if gpus else min(MOST_CPU_WORKERS, int(there.get("CPU", 1)) // train.cpus)
        )
        workers = WorkerResources(train.num_workers or max(1, min(usual, self.config.most_workers)), train.cpus, gpus)
        for name, each in (("CPU", workers.cpus), ("GPU", workers.gpus)):
            if is_local() and workers.number * each > there.get(name, 0):
                raise InputError(
                    f"train: {workers.number} workers of {each:g} {name}s are more than the {there.get(name, 0):g} of "
                    "this machine; take fewer train.num_workers"
                )
        return workers

    @staticmethod
    def _troubles(variants: Sequence[Variant], failed: Mapping[Variant, str], store: VariantStore) -> Iterator[str]:
        for v in variants:
            facts = store.trained(v) or {}
            if facts["diverged"]:
                yield (
                    f"{v.key} diverged: its loss was no number after its last checkpoint, that of step "
                    f"{len(facts['steps'])}, which is what was judged; take a lower train.learning_rate."
                )
        for v, error in failed.items():
            yield f"{v.key} failed, and is in no comparison: {error}."

    def _write(
        self, variants: Sequence[Variant], failed: Mapping[Variant, str], store: VariantStore, found: MitigationOutcome
    ) -> None:
        steps = list(training_rows(variants, store))
        written: list[tuple[str, Any, Iterator[Any]]] = [
            ("training", tables.TRAINING, iter(steps)),
            ("variants", tables.VARIANTS, variant_rows(variants, store)),
            ("evaluation", tables.EVALUATION, iter(found.evaluation)),
            ("comparison", tables.COMPARISON, iter(found.comparison)),
            ("items", tables.ITEMS, iter(found.items)),
            ("separation", tables.SEPARATION, separation_rows(variants, store)),
            ("errors", tables.ERRORS, ((v.name, v.seed, error) for v, error in failed.items())),
        ]
        storage = self.context.storage
        if self.config.tune.num_samples:
            names = dict.fromkeys(v.name for v in variants)
            searches = {name: json.loads(storage.read(tuned_file(name))) for name in names}
            written.append(("tuning", tables.TUNING, tuning_rows(searches)))
        for name, schema, rows in written:
            write_table(storage, name, from_rows(list(rows), schema))
        self.context.manifest.counts = {"variants": len(variants), "failed": len(failed), "steps": len(steps)}

    def _tasks_digest(self) -> str:
        choice = self.config.evaluation.to_choice(self.config.seed)
        return items_digest([choose_items(task, choice, self.material.used, self.tokenizer) for task in self.tasks])

    def _identify(self, workers: WorkerResources) -> None:
        config, material = self.config, self.material
        device = "cuda" if workers.gpus else "cpu"
        dtype = dtype_name(config.model.dtype, device)
        self.context.manifest.fingerprints = {
            "weights": weights_fingerprint(self.source),
            "material": material.fingerprint,
            "tasks": self._tasks_digest(),
            "computation": digest({"dtype": dtype, "device": device, "workers": workers.number}),
        }
        self.context.manifest.facts = {
            "architecture": self.facts.architecture,
            "num_layers": self.facts.num_layers,
            "num_parameters": self.facts.num_parameters,
            "device": device,
            "dtype": dtype,
            "workers": workers.number,
            "threads_per_worker": workers.cpus,
            "questions": material.counts,
            "texts": len(material.corpus.texts),
            "terms": config.terms.weights.used(),
            "flags": self.choice.flags[0].url() if self.choice.flags else None,
            "healing": config.healing,
        }
