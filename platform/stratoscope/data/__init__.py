"""Data: prompts from known sets, local files and the hub."""

from stratoscope.data.known import KNOWN_SETS
from stratoscope.data.prompts import Prompt, PromptSet, PromptSource, load_prompts, row_id

__all__ = ["KNOWN_SETS", "Prompt", "PromptSet", "PromptSource", "load_prompts", "row_id"]
