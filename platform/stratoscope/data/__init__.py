"""Data: prompts from known sets, local files and the hub."""

from stratoscope.data.known import KNOWN_SETS, read_known
from stratoscope.data.order import OrderedPrompts, Prompt, order_prompts
from stratoscope.data.prompts import PromptSet, PromptSource, load_prompts, row_id

__all__ = [
    "KNOWN_SETS",
    "OrderedPrompts",
    "Prompt",
    "PromptSet",
    "PromptSource",
    "load_prompts",
    "order_prompts",
    "read_known",
    "row_id",
]
