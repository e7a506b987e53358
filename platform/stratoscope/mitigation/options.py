"""Choices of settings by name. Nothing here imports torch, so that a configuration is read without it."""

from typing import Literal

Anchor = Literal["question", "frozen"]
Method = Literal["whole", "lora"]
TERMS = ("contrastive", "likelihood", "margin", "forgetting", "hidden", "text")
"""Names of the terms of the loss."""
