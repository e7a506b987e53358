"""Greedy generation with vLLM through Ray Data; needs GPUs and the package vllm."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import ray

NUMBER, TEXT = "number", "text"


def vllm_installed() -> bool:
    """Return whether vLLM is installed."""
    return importlib.util.find_spec("vllm") is not None


def write_with_vllm(
    model: str, prompts: Sequence[str], *, max_tokens: int, stop: Sequence[str], concurrency: int, dtype: str
) -> dict[int, str]:
    """Return the greedy answer to each prompt by its index; failed prompts are left out.

    Args:
        model: hub name or folder.
        prompts: texts, used without a chat template.
        max_tokens: length of the longest answer.
        stop: texts that end an answer.
        concurrency: number of engines, with one GPU each.
        dtype: number format.
    """
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    def before(row: dict[str, Any]) -> dict[str, Any]:
        sampling = {"temperature": 0.0, "max_tokens": max_tokens, "stop": list(stop)}
        return {"prompt": row["prompt"], "sampling_params": sampling, NUMBER: row[NUMBER]}

    def after(row: dict[str, Any]) -> dict[str, Any]:
        return {NUMBER: row[NUMBER], TEXT: row["generated_text"]}

    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=model,
            engine_kwargs={"dtype": dtype},
            concurrency=concurrency,
            chat_template_stage=False,
            should_continue_on_error=True,
        ),
        preprocess=before,
        postprocess=after,
    )
    rows = ray.data.from_items([{NUMBER: i, "prompt": prompt} for i, prompt in enumerate(prompts)])
    return {row[NUMBER]: row[TEXT] for row in processor(rows).iter_rows() if TEXT in row}
