"""The flow of the hallucination job: questions -> answers -> statistics on actors -> contrasts -> flagged layers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import ClassVar

import pyarrow as pa
from rich.console import Console

from stratoscope.data import QuestionSet, load_pairs
from stratoscope.errors import InputError
from stratoscope.execution import (
    ActorPool,
    ShardWorker,
    cluster,
    resources,
    vllm_installed,
    write_with_vllm,
)
from stratoscope.models import (
    dtype_name,
    local_folder,
)
from stratoscope.pipelines.hallucination import tables
from stratoscope.pipelines.hallucination.analysis import Contrast, agreements, contrasts, separated
from stratoscope.pipelines.hallucination.config import HallucinationConfig
from stratoscope.pipelines.hallucination.estimate import estimate
from stratoscope.pipelines.hallucination.load_statistics import Observed, load_observed
from stratoscope.pipelines.hallucination.outcome import rate_rows, score_rows, separation_rows, verdicts
from stratoscope.pipelines.hallucination.report import build_page, summary_table
from stratoscope.pipelines.hallucination.worker import END_OF_ANSWER, HallucinationWorkerSettings, make_worker
from stratoscope.pipelines.sharded.job import MeasuringJob
from stratoscope.pipelines.sharded.layout import ShardLayout, usual_size
from stratoscope.results import Run, ShardStore, from_rows, read_table, write_table
from stratoscope.scoring import FEWEST_QUESTIONS, Auroc, Labels, TooFewQuestionsError, check_enough

LONGEST = 2048
WRITTEN = "written"
"""Table of what vLLM wrote."""
QUESTIONS_IN_A_SHARD = 16
"""Each has several answers."""


class HallucinationJob(MeasuringJob[HallucinationConfig]):
    """Finds the layers of a model whose activations differ between wrong and right answers."""

    name: ClassVar[str] = "hallucination"
    config_class = HallucinationConfig
    unit = "questions"
    shard_tables = {
        "errors": tables.ERRORS,
        "pair_stats": tables.PAIR_STATS,
        "answers": tables.ANSWERS,
        "generated": tables.GENERATED,
    }
    always = ("errors", "pair_stats", "answers")
    counted = ("questions", "scored", "answers", "errors", "tokens", "padded_tokens", "nonfinite", "halved")

    questions: QuestionSet
    untested: dict[str, str]
    """Data sets that were read and cannot be tested, and why."""

    def prepare(self) -> None:
        """Resolve the model, read the questions, and see that all that is asked for can be done."""
        config = self.config
        self.questions = load_pairs(
            config.pairs.to_sources(), config.pairs.to_choice(config.seed, config.generation.shots)
        )
        self._check_questions()
        self.open_model(config.readings.taps, "readings.taps", head=True)
        if config.generation.engine == "vllm" and not vllm_installed():
            raise InputError("generation.engine vllm needs the package vllm, which is not installed; take transformers")
        size = config.batching.shard_size or usual_size(len(self.questions), QUESTIONS_IN_A_SHARD)
        self.layout = ShardLayout(len(self.questions), size)

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do, and estimates of what it takes."""
        return estimate(self.config, self.source, self.facts, self.questions, self.layout)

    def execute(self) -> None:
        """Measure what is missing, then contrast, separate and report."""
        config = self.config
        store = ShardStore(self.context.storage)
        if config.pairs.answers != "given" and config.generation.engine == "vllm":
            with self.context.stage("answer"), cluster():
                self._let_vllm_answer()
        with self.context.stage("measure"):
            self.measure(store)
            self.merge_tables(store)
        observed = self._observe()
        with self.context.stage("contrast"):
            first = self._contrast(observed)
        with self.context.stage("separate"):
            self._separate(observed, first)
        with self.context.stage("report"):
            self.context.write_report(build_page(self.context.storage, self.context.manifest))
        store.clear()

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the flagged layers, and how well they tell answers apart."""
        console.print(summary_table(run.storage, run.manifest))
        for line in run.manifest.facts["verdicts"]:
            console.print(line, soft_wrap=True)
        counts = run.manifest.counts
        console.print(
            f"{counts['scored']} questions, {counts['answers']} answers, {counts['tokens']:,} tokens, "
            f"{run.manifest.tokens_per_second or 0:,.0f} tokens/s, {counts['errors']} errors"
        )
        console.print(f"report: {run.report_url}", soft_wrap=True)

    def units(self) -> pa.Table:
        """Return the questions in order."""
        return self.questions.table

    def worker(self, pool: ActorPool) -> Callable[[], ShardWorker]:
        """Return what makes a worker, and note what its results depend on."""
        config = self.config
        settings = HallucinationWorkerSettings(
            loading=config.model.to_loading(self.source, pool.num_gpus),
            answers=config.pairs.answers,
            answer_tokens=config.generation.max_tokens,
            taps=tuple(config.readings.taps),
            parts=tuple(config.readings.parts),
            epsilons=tuple(sorted(config.readings.epsilons)),
            max_tokens=min(LONGEST, self.facts.max_positions or LONGEST),
            batch_tokens=config.batching.max_tokens,
            num_threads=int(pool.num_cpus),
        )
        self._identify(settings, pool)
        return partial(make_worker, settings)

    def _let_vllm_answer(self) -> None:
        """Let vLLM answer all questions, once in a run; what it fails at, the actors answer."""
        storage = self.context.storage
        if not storage.exists(f"{WRITTEN}.parquet"):
            questions = list(self.questions)
            written = write_with_vllm(
                local_folder(self.source),
                [question.prompt for question in questions],
                max_tokens=self.config.generation.max_tokens,
                stop=END_OF_ANSWER,
                concurrency=max(1, int(resources().get("GPU", 1))),
                dtype=dtype_name(self.config.model.dtype, "cuda"),
            )
            rows = [(questions[i].question_id, text) for i, text in sorted(written.items())]
            write_table(storage, WRITTEN, from_rows(rows, tables.WRITTEN))
        table = read_table(storage, WRITTEN)
        texts = zip(table["question_id"].to_pylist(), table["text"].to_pylist(), strict=True)
        self.questions = self.questions.with_written(dict(texts))

    def _identify(self, settings: HallucinationWorkerSettings, pool: ActorPool) -> None:
        self.record_fingerprints(
            settings.loading,
            pool,
            ("questions", self.questions.fingerprint),
            {
                "answers": settings.answers,
                "answer_tokens": settings.answer_tokens,
                "engine": self.config.generation.engine,
            },
        )
        self.context.manifest.facts |= {
            "epsilons": list(settings.epsilons),
            "datasets": [asdict(dataset) for dataset in self.questions.datasets],
        }

    def _check_questions(self) -> None:
        """See that each data set has the questions that its test needs, where that is known before the model answers.

        Raises:
            InputError: one has not.
        """
        folds = self.config.separation.folds
        fewest = -(-FEWEST_QUESTIONS * folds // (folds - 1))
        for dataset in self.questions.datasets:
            if dataset.kept < fewest:
                raise InputError(
                    f"pairs.source: {dataset.name!r} has {dataset.kept} questions that can be used, and a test inside "
                    f"{folds} folds needs {fewest}; raise pairs.limit or add questions"
                )

    def _observe(self) -> Observed:
        storage, config = self.context.storage, self.config
        if not self.context.manifest.counts["scored"]:
            first = read_table(storage, "errors")["error"][0].as_py()
            raise InputError(f"no question could be read; the first error is: {first}")
        rates = list(rate_rows(storage, config.separation.confidence))
        if rates:
            write_table(storage, "rates", from_rows(rates, tables.RATES))
        counted = tuple(self.context.manifest.facts["epsilons"])
        taps = tuple(str(tap) for tap in config.readings.taps)
        observed = load_observed(storage, taps, counted, config.contrasts.thresholds)
        reasons = {name: _why_untestable(name, answers.labels) for name, answers in observed.answers.items()}
        self.untested = {name: reason for name, reason in reasons.items() if reason}
        if len(self.untested) == len(observed.answers):
            raise InputError(next(iter(self.untested.values())))
        return observed.without(self.untested)

    def _contrast(self, observed: Observed) -> list[Contrast]:
        """Write the scores of all definitions and views; return the first of each data set."""
        found = list(contrasts(observed, self.config.contrasts, self.config.seed))
        rows = [row for contrast in found for row in score_rows(contrast, observed)]
        write_table(self.context.storage, "hallucination_scores", from_rows(rows, tables.SCORES))
        first = list({c.dataset: c for c in reversed(found)}.values())[::-1]
        agreed = [tuple(asdict(a).values()) for a in agreements(first)]
        write_table(self.context.storage, "agreement", from_rows(agreed, tables.AGREEMENT))
        return first

    def _separate(self, observed: Observed, first: Sequence[Contrast]) -> None:
        section, inference = self.config.separation, self.config.contrasts.to_inference(self.config.seed)
        rows: list[tuple[object, ...]] = []
        random: list[tuple[object, ...]] = []
        for contrast in first:
            found, sets = separated(observed, contrast, section, inference)
            rows += separation_rows(contrast.dataset, found, section.confidence)
            random += _random_rows(contrast.dataset, sets)
        write_table(self.context.storage, "separation", from_rows(rows, tables.SEPARATION))
        write_table(self.context.storage, "random_sets", from_rows(random, tables.RANDOM_SETS))
        untested = [f"{reason}." for reason in self.untested.values()]
        self.context.manifest.facts["verdicts"] = [*verdicts(self.context.storage, first), *untested]


def _why_untestable(dataset: str, labels: Labels) -> str | None:
    """Say why what could be read cannot be tested, or return None where it can."""
    if labels.wrong.all() or not labels.wrong.any():
        kind = "wrong" if labels.wrong.all() else "right"
        return (
            f"all {len(labels.wrong)} answers to {dataset!r} are {kind}, so there is nothing to compare them with; "
            "take other questions, or --pairs.answers gold_and_own"
        )
    try:
        check_enough(labels)
    except TooFewQuestionsError as error:
        return f"{dataset!r} cannot be tested: {error} are needed; raise pairs.limit"
    return None


def _random_rows(dataset: str, sets: dict[str, list[Auroc]]) -> Iterator[tuple[object, ...]]:
    for tap, aurocs in sets.items():
        for draw, found in enumerate(aurocs):
            yield dataset, tap, draw, found.value
