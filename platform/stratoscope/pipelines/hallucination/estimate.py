"""What a hallucination run would do, and roughly what it takes, said before it starts."""

from collections.abc import Sequence

import torch

from stratoscope.data import QuestionSet
from stratoscope.models import ModelFacts, ModelSource, dtype_name, load_tokenizer
from stratoscope.pipelines.hallucination.config import HallucinationConfig
from stratoscope.pipelines.hallucination.rows import encode_answers
from stratoscope.pipelines.reporting.formatting import model_line
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES, operations_per_second, usual_device
from stratoscope.pipelines.sharded.layout import ShardLayout

SAMPLE = 64
BYTES_PER_ROW = 187
"""Of statistics on disk, as measured on SmolLM2 (docs/benchmarks.md)."""
ANALYSIS_S = 20
"""Of tests and of separation, for each data set."""


def estimate(
    config: HallucinationConfig, source: ModelSource, facts: ModelFacts, questions: QuestionSet, layout: ShardLayout
) -> Sequence[tuple[str, str]]:
    """Return pairs of a name and a text: the model, the questions, and the size, memory and time of the run."""
    device = usual_device()
    dtype = dtype_name(config.model.dtype, device)
    tokenizer = load_tokenizer(source, trust_remote_code=config.model.trust_remote_code)
    sample = [question for question, _ in zip(questions, range(SAMPLE), strict=False)]
    scale = len(questions) / len(sample)
    encoded = [row for question in sample for row in encode_answers(tokenizer, question)]
    own = 0 if config.pairs.answers == "given" else len(questions)
    answers = round(len(encoded) * scale) + own
    tokens = round(sum(len(row.ids) for row in encoded) * scale) + own * 2 * config.generation.max_tokens
    parts = sum(part != "question" for part in config.readings.parts)
    units = answers * parts + len(questions) * ("question" in config.readings.parts)
    rows = units * facts.num_layers * len(config.readings.taps)
    weights = facts.num_parameters * torch.finfo(getattr(torch, dtype)).bits / 8
    seconds = 2 * facts.num_parameters * tokens / operations_per_second(device)
    return [
        ("model", model_line(config.model.source, facts, dtype, device)),
        *(
            (
                f"data set {d.name}",
                f"{d.kept} of {d.read} questions of format {d.format} ({d.unusable} without usable answers, "
                f"{d.duplicates} duplicate); wrong answers: {d.wrong_origin}",
            )
            for d in questions.datasets
        ),
        ("work", f"{layout.num_shards} shards of {layout.shard_size} questions, about {answers:,} answers"),
        ("rows", f"about {rows:,} in pair_stats.parquet, {rows * BYTES_PER_ROW / 1e6:,.1f} MB"),
        ("memory", f"about {(weights + PROCESS_BYTES) / 1e9:,.1f} GB for each actor"),
        (
            "time",
            f"roughly {seconds:,.0f} s on all of this machine, some {ANALYSIS_S * len(questions.datasets)} s of "
            "analysis, and 20 s to start",
        ),
    ]
