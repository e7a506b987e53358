"""Input of a hallucination run: the questions, the model and the shards, checked before any computation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

from stratoscope.data import QuestionSet, load_pairs
from stratoscope.digest import digest
from stratoscope.errors import InputError
from stratoscope.execution import gpus_of_actor, machine_resources, resources, vllm_installed, write_with_vllm
from stratoscope.models import ModelSource, dtype_name, load_tokenizer, local_folder, weights_fingerprint
from stratoscope.pipelines.hallucination.config import HallucinationConfig, SeparationSection
from stratoscope.pipelines.hallucination.rows import encode_question
from stratoscope.pipelines.hallucination.worker import END_OF_ANSWER
from stratoscope.pipelines.sharded.layout import ShardLayout, default_shard_size
from stratoscope.pipelines.sharded.models import OpenedModel, check_taps, open_model
from stratoscope.pipelines.sharded.sizes import gpu_work
from stratoscope.results import Storage, read_table, write_table
from stratoscope.tables.hallucination import WrittenRow

SAMPLE = 64
"""Number of questions that are encoded to estimate the total number of tokens."""
MIN_SHARD_SIZE = 16
"""Minimum of the default shard size. It is small because each question has several answers."""
WRITTEN = "written"
"""Name of the table of texts that vLLM generated."""


@dataclass(frozen=True)
class HallucinationInputs:
    """Input of a hallucination run."""

    model: OpenedModel
    questions: QuestionSet
    layout: ShardLayout


def open_inputs(config: HallucinationConfig) -> HallucinationInputs:
    """Read the questions, open the model and lay out the shards.

    Raises:
        InputError: the model or the questions cannot be read, or lack what the configuration asks for.
    """
    choice = config.pairs.to_choice(config.seed, config.generation.shots)
    questions = load_pairs(config.pairs.to_sources(), choice)
    check_questions(questions, config.separation)
    model = open_model(config.model, head=True)
    check_taps(config.readings.taps, model.facts, "readings.taps")
    if config.generation.engine == "vllm" and not vllm_installed():
        raise InputError("generation.engine vllm needs the package vllm, which is not installed; use transformers")
    inputs = HallucinationInputs(model, questions, ShardLayout(len(questions), 1))
    return lay_out_inputs(config, inputs, machine_resources())


def lay_out_inputs(
    config: HallucinationConfig, inputs: HallucinationInputs, available: Mapping[str, float]
) -> HallucinationInputs:
    """Return the input with its questions divided into shards that suit the resources of a cluster or a machine."""
    questions, model = inputs.questions, inputs.model
    size = config.batching.shard_size
    if size is None and gpus_of_actor(config.actors.gpus, available):
        answers, tokens = answers_and_tokens(config, model.source, questions)
        mean_tokens = max(1.0, tokens / len(questions))
        sets = len(config.readings.parts) * answers / len(questions)
        work = gpu_work(config, model.facts, config.readings.taps, available, mean_tokens, sets_per_unit=sets)
        size = work.shard_size(len(questions)) if work else None
    size = size or default_shard_size(len(questions), MIN_SHARD_SIZE)
    return replace(inputs, layout=ShardLayout(len(questions), size))


def answers_and_tokens(config: HallucinationConfig, source: ModelSource, questions: QuestionSet) -> tuple[int, int]:
    """Estimate the total number of answers and tokens from the first questions. The order of questions is random."""
    tokenizer = load_tokenizer(source, trust_remote_code=config.model.trust_remote_code)
    sample = list(islice(questions, SAMPLE))
    scale = len(questions) / len(sample)
    rows = [row for question in sample for row in encode_question(tokenizer, question).rows]
    own = 0 if config.pairs.answers == "given" else len(questions)
    tokens = round(sum(len(row.ids) for row in rows) * scale) + own * 2 * config.generation.max_tokens
    return round(len(rows) * scale) + own, tokens


def check_questions(questions: QuestionSet, section: SeparationSection) -> None:
    """Check that each data set has enough questions for the folds, and for a test inside each.

    Raises:
        InputError: a data set has too few.
    """
    for dataset in questions.datasets:
        if dataset.kept < section.fewest_questions:
            raise InputError(
                f"pairs.source: {dataset.name!r} has {dataset.kept} usable questions, and a test inside "
                f"{section.folds} folds needs {section.fewest_questions}; raise pairs.limit, add questions or "
                "change separation.folds"
            )


def write_answers_with_vllm(
    storage: Storage, config: HallucinationConfig, inputs: HallucinationInputs
) -> HallucinationInputs:
    """Generate answers to all questions with vLLM, once for equal prompts, weights and settings.

    Args:
        storage: the files of the run, where the generated texts are stored, also for a later start of the run.
        config: the configuration.
        inputs: the input of the run.

    Returns:
        The input with the texts. The actors answer the questions that vLLM failed to answer.
    """
    max_tokens, dtype = config.generation.max_tokens, dtype_name(config.model.dtype, "cuda")
    source = inputs.model.source
    settings = {"weights": weights_fingerprint(source), "dtype": dtype, "max_tokens": max_tokens, "stop": END_OF_ANSWER}
    prompts = [question.prompt for question in inputs.questions]
    requests = [digest({"prompt": prompt, **settings}) for prompt in prompts]
    written = _read_written(storage)
    missing = {request: prompt for request, prompt in zip(requests, prompts, strict=True) if request not in written}
    if missing:
        texts = write_with_vllm(
            local_folder(source),
            list(missing.values()),
            max_tokens=max_tokens,
            stop=END_OF_ANSWER,
            concurrency=max(1, int(resources().get("GPU", 1))),
            dtype=dtype,
        )
        written |= {request: texts.get(number) for number, request in enumerate(missing)}
        rows = [WrittenRow(request=request, text=written[request]) for request in dict.fromkeys(requests)]
        write_table(storage, WRITTEN, WrittenRow.table(rows))
    return replace(inputs, questions=inputs.questions.with_written([written[request] for request in requests]))


def _read_written(storage: Storage) -> dict[str, str | None]:
    """Return the texts of an earlier start by their requests; those of older versions do not name any."""
    table = read_table(storage, WRITTEN) if storage.exists(f"{WRITTEN}.parquet") else None
    if table is None or "request" not in table.column_names:
        return {}
    return {row.request: row.text for row in WrittenRow.read(table)}
