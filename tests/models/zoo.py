"""Tiny random models of every type that transformers registers, built from its default configuration.

Every size is made small by name, in the configuration and in all configurations inside it. What a type needs beyond
that is in `OVERRIDES`.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto import modeling_auto

NUM_LAYERS = 4
VOCABULARY = 128
SIZES = (
    (NUM_LAYERS, "num_hidden_layers n_layer n_layers num_layers num_blocks decoder_layers encoder_layers layers"),
    (NUM_LAYERS, "num_decoder_layers num_encoder_layers depth"),
    (VOCABULARY, "vocab_size n_tokens unpadded_vocab_size src_vocab_size tgt_vocab_size vocab_size_per_layer_input"),
    (128, "max_position_embeddings n_positions n_ctx max_seq_len seq_length"),
    (64, "intermediate_size n_inner d_inner ffn_dim d_ff ffn_hidden_size decoder_ffn_dim encoder_ffn_dim dim_ff"),
    (64, "shared_intermediate_size shared_expert_intermediate_size"),
    (64, "sliding_window sliding_window_size attention_window_size local_attention"),
    (32, "hidden_size d_model n_embd dim emb_dim embedding_size embed_dim hidden_dim embedding_dim projection_dim"),
    (32, "out_hidden_size lru_width word_embed_proj_dim vision_hidden_size backbone_hidden_size dim_model"),
    (32, "attention_hidden_size moe_intermediate_size expert_ffn_hidden_size moe_shared_expert_intermediate_size"),
    (28, "image_size"),
    (16, "kv_lora_rank q_lora_rank o_lora_rank"),
    (14, "patch_size"),
    (8, "head_dim d_head d_kv v_head_dim qk_nope_head_dim swa_head_dim dim_head linear_key_head_dim"),
    (8, "linear_value_head_dim mamba_d_head mamba_head_dim index_head_dim hidden_size_per_layer_input"),
    (4, "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads"),
    (4, "swa_num_attention_heads qk_rope_head_dim rotary_dim linear_num_key_heads linear_num_value_heads"),
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts num_moe_experts"),
    (4, "mamba_d_state state_size mamba_expand ssm_state_size mamba_n_heads mamba_num_heads n_mamba_heads"),
    (2, "num_key_value_heads n_head_kv num_kv_heads swa_num_key_value_heads multi_query_group_num index_n_heads"),
    (2, "num_experts_per_tok moe_topk num_experts_per_token moe_k experts_per_token"),
    (1, "n_group topk_group n_shared_experts num_shared_experts"),
    (0, "num_nextn_predict_layers num_mtp_layers"),
)
SMALL = {name: size for size, names in SIZES for name in names.split()}
"""Sizes by the name that a configuration gives them."""
SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
DOTS3 = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 12,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 12,
    "shared_experts_intermediate_size": 32,
}
PP_FORMULANET = {
    "vision_config.post_conv_in_channels": 16,
    "vision_config.post_conv_mid_channels": 16,
    "vision_config.post_conv_out_channels": 16,
    "vision_config.output_channels": 16,
}
QWEN4 = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "hc_lowrank": 8,
    "ngram_vocab_size_base": 64,
    "split_ngram_parts": 1,
}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_expand": 1, "mamba_n_heads": 4, "mamba_d_head": 8},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "patcher_config.num_hidden_layers": 2,
        "encoder_config.num_hidden_layers": 2,
        "decoder_config.num_hidden_layers": 2,
    },
    "chameleon": {"vocabulary_map": {"<image>": 3, "<bos>": 1, "<eos>": 2}, "vq_config.base_channels": 32},
    "cohere2_vision": {"alignment_intermediate_size": 64},
    "cohere_compass": {"text_config.rope_parameters": {"full_attention": ROPE}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "cosmos3_edge": {"text_config.head_dim": 8, "text_config.rope_parameters": ROPE | {"mrope_section": [2, 1, 1]}},
    "dbrx": {"attn_config.rope_theta": 10_000.0, "attn_config.clip_qkv": 8.0},
    "deepseek_ocr2": {
        "vision_config.sam_config.downsample_channels": [16, 32],
        "vision_config.sam_config.output_channels": 16,
        "text_config.num_experts_per_tok": 2,
        "text_config.mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_vl_hybrid": {"high_res_vision_config.output_channels": 16},
    "diffusion_gemma": {
        "text_config.num_experts": 4,
        "text_config.top_k_experts": 2,
        "text_config.moe_intermediate_size": 32,
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots3_note": {
        **{f"text_config.{name}": value for name, value in DOTS3.items()},
        "vision_config.per_layer_config": {},
        "vision_config.adapter_in_dim": 32,
        "vision_config.adapter_out_dim": 32,
        "audio_config.adapter_input_size": 32,
        "audio_config.adapter_out_dim": 32,
    },
    "dots3_note_text": DOTS3,
    "emu3": {"vocabulary_map": {"<image>": 3}, "vq_config.base_channels": 32, "vq_config.codebook_size": 64},
    "ernie4_5_vl_moe": {
        "text_config.rope_parameters": ROPE | {"mrope_section": [1, 1, 2]},
        "text_config.moe_intermediate_size": [32, 32],
    },
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 3},
    "esmc": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_expand": 1, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_ssm": 32},
    "florence2": {
        "vision_config.embed_dim": [8, 8, 16, 16],
        "vision_config.depths": [1, 1, 1, 1],
        "vision_config.num_heads": [2, 2, 2, 2],
        "vision_config.num_groups": [2, 2, 2, 2],
        "vision_config.projection_dim": 32,
    },
    "gemma3n_text": {"num_kv_shared_layers": 0, "intermediate_size": [64] * 4, "laurel_rank": 8},
    "glm5_next": {
        "text_config.num_key_value_heads": 4,
        "text_config.linear_num_heads": 4,
        "text_config.linear_head_dim": 8,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granite4_vision": {
        "deepstack_layer_map": [[-1, 0], [-2, 1]],
        "spatial_target_layers": [0, 1, 2, 3],
        "downsample_rate": "1/2",
        "vision_config.hidden_size": 64,
    },
    "granitemoehybrid": {"mamba_expand": 1, "mamba_n_heads": 4, "mamba_d_head": 8},
    "granitemoeshared": {"shared_intermediate_size": 64},
    "hunyuan_vl": {"text_config.rope_parameters": ROPE | {"mrope_section": [1, 1, 1, 1]}},
    "inkling2": {"vision_config.text_hidden_size": 32},
    "janus": {"vq_config.base_channels": 32, "vision_config.projection_dim": 32, "vq_config.projection_dim": 32},
    "kimi_linear": {"linear_num_heads": 4, "linear_head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "llama4": {"vision_config.projector_input_dim": 64, "vision_config.projector_output_dim": 64},
    "longcat_flash": {"head_dim": 4},
    "luke": {"entity_vocab_size": 64},
    "mamba2": {"expand": 1, "num_heads": 4, "head_dim": 8, "n_groups": 1},
    "molmo2": {"adapter_config.vision_feature_layer": [1, 0]},
    "muse_glimmer": {"projector_hidden_size": 64, "out_hidden_size": 64},
    "muse_spark": {
        "text_config.moe_hidden_size": 32,
        "projector_hidden_size": 64,
        "out_hidden_size": 64,
        "audio_config.hidden_sizes": [8, 8, 16, 16],
        "audio_config.num_hidden_layers": 4,
    },
    "nemotron_h": {"n_groups": 1},
    "nemotron_h_omni": {"vision_config.video_temporal_patch_size": 2, "text_config.n_groups": 1},
    "neomme": {"head_dim": 16},
    "perceiver": {"d_latents": 32, "num_self_attends_per_block": 4, "num_latents": 16},
    "pp_formulanet": PP_FORMULANET,
    "qwen3_omni_moe_thinker": {"audio_config.downsample_hidden_size": 16},
    "qwen4_exp": {f"text_config.{name}": value for name, value in QWEN4.items()},
    "qwen4_exp_text": QWEN4,
    "reformer": {
        "attn_layers": ["local", "lsh", "local", "lsh"],
        "hash_seed": 0,
        "is_decoder": True,
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 16],
    },
    "roc_bert": {"shape_vocab_size": 64, "pronunciation_vocab_size": 64},
    "step3p7": {"text_config.sliding_window": 64},
    "unlimited_ocr": {
        "vision_config.sam_config.downsample_channels": [16, 32],
        "vision_config.sam_config.output_channels": 16,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"]},
}
DECODERS_ON_REQUEST = (
    *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
"""Encoders by default, and causal language models where their configuration says so."""
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"{name}/decoder": {"is_decoder": True} for name in DECODERS_ON_REQUEST},
    "bloom/post": {"apply_residual_connection_post_layernorm": True},
    "falcon/new": {"new_decoder_architecture": True},
    "falcon/sequential": {"parallel_attn": False},
    "gemma4_text/moe": {
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
        "hidden_size_per_layer_input": 0,
    },
    "gemma4_text/plain": {"hidden_size_per_layer_input": 0},
    "gpt_neox/sequential": {"use_parallel_residual": False},
    "opt/post": {"do_layer_norm_before": False},
    "stablelm/parallel": {"use_parallel_residual": True},
}
"""Other settings under which a type's layers are wired in another way; they are swept as types of their own."""
SECTIONED = ("glm46v", "glm4v", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl")
"""Types whose code knows sections of the rotary embedding that their configuration does not show."""
OVERRIDES |= {name: {"text_config.rope_parameters": ROPE | {"mrope_section": [2, 1, 1]}} for name in SECTIONED}
OVERRIDES["glm4v_moe"] = {
    "text_config.rope_parameters": ROPE | {"mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}
}
"""What a type needs besides, as arguments of its configuration or of one inside it, by dotted name."""
FAMILIES = {
    "causal": (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM),
    "image-text": (modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, AutoModelForImageTextToText),
    "masked": (modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, AutoModelForMaskedLM),
}


def model_types() -> Iterator[tuple[str, str]]:
    """Yield (family, model type), each type in the first family that knows it."""
    seen: set[str] = set()
    for family in ("image-text", "causal", "masked"):
        for name in FAMILIES[family][0]:
            if name not in seen:
                seen.add(name)
                yield family, name
                yield from ((family, variant) for variant in VARIANTS if variant.partition("/")[0] == name)


def tiny_config(model_type: str) -> PreTrainedConfig:
    """Return a small configuration of a type."""
    name = model_type.partition("/")[0]
    return _small(CONFIG_MAPPING[name], OVERRIDES.get(name, {}) | VARIANTS.get(model_type, {}))


def _small(config_class: type[PreTrainedConfig], overrides: dict[str, Any], *, tower: bool = False) -> PreTrainedConfig:
    default = config_class()
    fields = _field_names(config_class)
    values: dict[str, Any] = {}
    for name in fields:
        try:
            value = getattr(default, name, None)
        except Exception:  # an attribute that differs from layer to layer
            continue
        if name in FACTORS and value is not None:
            values[name] = FACTORS[name]
        elif isinstance(value, PreTrainedConfig):
            inner = {k.split(".", 1)[1]: v for k, v in overrides.items() if k.startswith(f"{name}.")}
            values[name] = _small(type(value), inner, tower=tower or not TEXT.search(name)).to_dict()
        elif name in SMALL and value is not None and not isinstance(value, list | tuple | dict):
            size = TOWER_LAYERS if tower and name in LAYERS else 3 if name in ENCODER_LAYERS else SMALL[name]
            smaller = isinstance(value, int) and (value > size or name in LAYERS)
            values[name] = size if smaller else value
        elif name in FILLED and value is None:
            values[name] = FILLED[name]
        elif name.endswith("_token_id") and isinstance(value, int) and value >= VOCABULARY:
            values[name] = SPECIAL_TOKENS.get(name, 3)
        elif name.endswith("_token_index") and isinstance(value, int) and value >= VOCABULARY:
            values[name] = 3
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:
        values["num_key_value_heads"] = SMALL["num_attention_heads"]
    values |= {name: value for name, value in overrides.items() if "." not in name}
    _shrink_sections(default, values)
    return config_class(**values)


def _shrink_sections(default: PreTrainedConfig, values: dict[str, Any]) -> None:
    """Fit the sections of a rotary embedding for images (time, height, width) into a small head."""
    rope = getattr(default, "rope_parameters", None)
    if not isinstance(rope, dict) or "mrope_section" not in rope or "rope_parameters" in values:
        return
    heads = values.get("num_attention_heads", 4)
    head = values.get("head_dim") or values.get("hidden_size", 32) // heads
    total = int(head * rope.get("partial_rotary_factor", 1.0)) // 2
    third = total // 3
    values["rope_parameters"] = rope | {"mrope_section": [total - 2 * third, third, third]}


LAYERS = ("layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "depth")
ENCODER_LAYERS = ("encoder_layers", "num_encoder_layers")
TOWER_LAYERS = 2
"""Layers of a tower for images or sound, other than the text's, so that neither can be taken for the other."""
TEXT = re.compile(r"text|language|llm|decoder|thinker|lm_|backbone")
FACTORS = {"residual_multiplier": 0.5, "attention_out_multiplier": 0.6, "ssm_out_multiplier": 0.7}
"""Factors that a default of one would hide."""
FILLED = {"head_dim": 8, "num_key_value_heads": 4}
"""Sizes that a default leaves open and some types cannot do without."""


def _field_names(config_class: type[PreTrainedConfig]) -> list[str]:
    if dataclasses.is_dataclass(config_class):
        return [f.name for f in dataclasses.fields(config_class) if f.init]
    return list(inspect.signature(config_class.__init__).parameters)[1:]


def tiny_model(family: str, model_type: str, seed: int = 0) -> PreTrainedModel:
    """Return a random model of a type, its weights large enough that every part of it matters."""
    torch.manual_seed(seed)
    network = FAMILIES[family][1].from_config(tiny_config(model_type), dtype=torch.float32)
    if (size := sum(p.numel() for p in network.parameters())) > LARGEST:
        raise ValueError(f"{size:,} parameters are not tiny")
    _enlarge(network)
    return network.eval()


LARGEST = 6_000_000


@torch.no_grad()
def _enlarge(network: torch.nn.Module) -> None:
    """Give all matrices weights of the size that keeps activations at theirs, and move what is zero or one."""
    for name, parameter in network.named_parameters():
        if not parameter.is_floating_point():
            continue
        leaf = name.rpartition(".")[2]
        if leaf in {"A_log", "dt_bias", "time_decay", "time_first"}:
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        elif "embed" in name and parameter.ndim == 2:
            parameter.normal_(0, 0.5)
        elif parameter.ndim >= 2:
            parameter.normal_(0, parameter.shape[-1] ** -0.5)
        elif "norm" in name.lower() and leaf == "weight":
            parameter.copy_(parameter.nan_to_num() + torch.randn_like(parameter) * 0.1)
        else:
            parameter.copy_(parameter.nan_to_num().clamp(-2, 2) + torch.randn_like(parameter) * 0.1)


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer whose words are w0, w1, ... into a folder."""
    from tests.tiny import word_tokenizer

    word_tokenizer().save_pretrained(folder)
