"""Estimated cost of a hallucination run."""

from collections.abc import Sequence
from dataclasses import asdict

from stratoscope.data import QuestionSet
from stratoscope.models import ModelFacts, ModelSource
from stratoscope.pipelines.hallucination.config import HallucinationConfig
from stratoscope.pipelines.hallucination.inputs import answers_and_tokens
from stratoscope.pipelines.reporting.data_notes import question_counts
from stratoscope.pipelines.runtime.costs import STATISTICS_ROW_BYTES, MemoryEstimate, ModelCost, RunCost
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES
from stratoscope.pipelines.sharded.layout import ShardLayout

ANALYSIS_S = 20
"""Seconds that tests and separation take for each data set."""


def estimate(
    config: HallucinationConfig, source: ModelSource, facts: ModelFacts, questions: QuestionSet, layout: ShardLayout
) -> Sequence[tuple[str, str]]:
    """Return the lines of a dry run: model, questions, shards and cost."""
    model = ModelCost(config.model.source, facts, config.model.dtype)
    answers, tokens = answers_and_tokens(config, source, questions)
    num_parts = sum(part != "question" for part in config.readings.parts)
    spans = answers * num_parts + len(questions) * ("question" in config.readings.parts)
    cost = RunCost(
        seconds=model.seconds(tokens),
        further_time=f"some {ANALYSIS_S * len(questions.datasets)} s of analysis, and 20 s to start",
        memory=MemoryEstimate(model.weight_bytes + PROCESS_BYTES, "actor"),
        rows={"pair_stats": spans * facts.num_layers * len(config.readings.taps)},
        row_bytes=STATISTICS_ROW_BYTES,
        bound="about ",
    )
    return [
        ("model", str(model)),
        *(
            (
                f"data set {d.name}",
                f"{question_counts(asdict(d))}; format {d.format}; wrong answers: {d.wrong_origin}",
            )
            for d in questions.datasets
        ),
        ("work", f"{layout.num_shards} shards of {layout.shard_size} questions, about {answers:,} answers"),
        *cost.lines(),
    ]
