"""Models small enough to build in a test, one of each architecture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3MoeConfig,
    RobertaConfig,
)

from stratoscope.models import LoadedModel, find_anatomy

VOCABULARY = 128
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}

SPECIAL_WORDS = ("<pad>", "<bos>", "<eos>", "<unk>")


def word_tokenizer(*, template: str | None = None, special: Sequence[str] = (), pad: bool = True) -> Any:
    """Return a tokenizer whose words are w0, w1, ..., after the special tokens.

    Args:
        template: how special tokens surround a text, such as `<bos> $A <eos>`; None adds none.
        special: further special tokens, after the usual four.
        pad: whether it has a token for padding.
    """
    words = [*SPECIAL_WORDS, *special]
    ids = {word: i for i, word in enumerate([*words, *(f"w{i}" for i in range(VOCABULARY - len(words)))])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is not None:
        pairs = [(word, ids[word]) for word in SPECIAL_WORDS if word in template]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=pairs)
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    if pad:
        named["pad_token"] = "<pad>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=list(special), **named)


CONFIGURATIONS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**GROUPED),
    "mistral": MistralConfig(**GROUPED, sliding_window=8),
    "qwen2": Qwen2Config(**{k: v for k, v in GROUPED.items() if k != "head_dim"}),
    "gemma3": Gemma3TextConfig(
        **GROUPED,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=64,
    ),
    "gpt_neox": GPTNeoXConfig(**SMALL),
    "phi": PhiConfig(**SMALL),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "qwen3_moe": Qwen3MoeConfig(
        **GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, mlp_only_layers=[1]
    ),
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL | {"max_position_embeddings": 66, "pad_token_id": 1}),
    "distilbert": DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=4, n_heads=4, hidden_dim=48, max_position_embeddings=64
    ),
}

ENCODERS = ("bert", "roberta", "distilbert")


def tiny_network(name: str, seed: int = 0) -> PreTrainedModel:
    """A random model of an architecture, its weights large enough that every part of it matters."""
    torch.manual_seed(seed)
    kind = AutoModel if name in ENCODERS else AutoModelForCausalLM
    network = kind.from_config(CONFIGURATIONS[name], dtype=torch.float32)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return network.eval()


def load_tiny(name: str, folder: Path) -> LoadedModel:
    """A random model of an architecture with four layers, and the tokenizer in a folder."""
    network = tiny_network(name)
    return LoadedModel(network, AutoTokenizer.from_pretrained(folder), find_anatomy(network, 4), network.device)
