"""No model type gives a wrong number or a traceback: it is right at every tap, or refused in one line."""

from dataclasses import replace
from functools import cache

import pytest
from torch import nn

from stratoscope.models import LayerLayout
from tests.models import sweep, zoo

POPULAR = (
    *("bloom", "cohere2", "deepseek_v3", "falcon", "gemma", "gemma2", "gemma3_text", "gemma4_text", "glm4", "gpt2"),
    *("gpt_neox", "gpt_oss", "gptj", "granite", "lfm2", "llama", "mamba2", "mistral", "mixtral", "olmo2", "opt"),
    *("phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_5_text", "qwen3_moe", "qwen3_next", "smollm3"),
    *(
        "gemma3",
        "llava",
        "mistral3",
        "qwen2_5_vl",
        "qwen3_vl",
        "smolvlm",
        "bert",
        "distilbert",
        "modernbert",
        "roberta",
    ),
)
"""Types that every run of the tests tries."""
FAULTS_BY_CAUSE = {
    "the search loads causal language models alone": """
        aria aya_vision cohere2_vision cohere_compass deepseek_vl deepseek_vl_hybrid dots3_note exaone4_5 idefics2
        idefics3 internvl janus kimi_k25 lfm2_vl lfm3_vl llava llava_next llava_next_video llava_onevision minicpm_ocr
        minicpmv4_6 minicpmv4_7 minimax_m3_vl mistral3 nemotron_h_omni ovis2 pp_chart2table qianfan_ocr smolvlm
        video_llama_3 video_llava vipllava
    """,
    "text alone cannot be run, and nothing says so in one line": """
        blip blip-2 blt instructblip instructblipvideo kosmos-2 perceiver pi0 t5gemma2
    """,
    "the encoder is read, or asked for, in place of the decoder": """
        bart bigbird_pegasus blenderbot blenderbot-small florence2 marian mbart mvp pegasus plbart prophetnet whisper
    """,
    "parts are multiplied before they are added": """
        beam esmc granite granite4_vision granite_docling granite_swa granitemoe granitemoe_swa granitemoeshared
        hyperclovax hyperclovax_vision_v2 minicpm3 muse_spark neomme zaya
    """,
    "a part adds the residual itself": """
        bloom bloom/post esm megatron-bert mpnet mpt roberta-prelayernorm xlm-roberta-xl
    """,
    "a norm of the sum is taken for a norm of the part": "gte jina_embeddings_v3 nomic_bert",
    "what follows a part is left out": "gpt_neox_japanese inkling_mm_model inkling_text xmod",
    "a part is written over behind the hook": "falcon falcon/new",
    "the last linear map is another part's": "axk2 dbrx falcon_h1 gemma4 gemma4_text jetmoe",
    "hidden states are not of shape (B, S, D)": "cpmant deepseek_v4 gemma3n_text glm5_next hy_v4 longformer xlnet",
    "there is no sum of parts to read": "ibert inkling2 inkling2_text mobilebert reformer",
    "the model itself lets padding change a prompt": "convbert mra nystromformer paligemma yoso",
    "positions are counted from another number": "kosmos-2.5",
    "layers that did not run have numbers": "mllama",
    "weights that are missing are random": "lighton_ocr",
    "a constant depends on a layer's number": "diffllama",
    "it is no causal language model": "bert-generation",
}
FAULTS = {model_type: cause for cause, types in FAULTS_BY_CAUSE.items() for model_type in types.split()}
"""Types that are wrong today, and why. A type that comes right shows as XPASS and leaves this list."""
FORMAT_FAULT = "a checkpoint in bfloat16 is exported in float32 from a CPU"

FAMILIES = {model_type: family for family, model_type in zoo.model_types()}


def _cases() -> list[object]:
    return [
        pytest.param(
            model_type,
            marks=[
                *([] if model_type in POPULAR else [pytest.mark.slow]),
                *([pytest.mark.xfail(reason=FAULTS[model_type], strict=False)] if model_type in FAULTS else []),
            ],
        )
        for model_type in FAMILIES
    ]


@cache
def row_of(model_type: str) -> sweep.Row:
    return sweep.sweep(FAMILIES[model_type], model_type)


def faults(model_type: str, columns: tuple[str, ...]) -> list[str]:
    cells = {column: row_of(model_type).cells[column] for column in columns}
    return [f"{c}: {x.outcome}: {x.detail}" for c, x in cells.items() if x.outcome in {sweep.WRONG, sweep.TRACEBACK}]


@pytest.mark.parametrize("model_type", _cases())
def test_a_model_type_is_right_or_refused_in_one_line(model_type: str) -> None:
    assert not faults(model_type, tuple(column for column in sweep.COLUMNS if column != "format"))


@pytest.mark.xfail(reason=FORMAT_FAULT, strict=False)
@pytest.mark.parametrize("model_type", POPULAR)
def test_a_pruned_checkpoint_keeps_its_number_format(model_type: str) -> None:
    assert not faults(model_type, ("format",))


def test_every_popular_type_can_be_built() -> None:
    assert set(POPULAR) <= set(FAMILIES)
    assert len(POPULAR) == 40
    assert set(FAULTS) <= set(FAMILIES)


def test_a_table_is_read_back_as_it_was_written() -> None:
    cells = dict.fromkeys(sweep.COLUMNS, sweep.Cell(sweep.RIGHT)) | {"mlp": sweep.Cell(sweep.REFUSED, "one line")}
    row = sweep.Row("causal", "llama", "LlamaForCausalLM", cells)
    expected = sweep.read_table_text(sweep.table([row]))
    assert expected == {"llama": ("right", "right", "right", "refused", "right", "right", "right")}
    assert sweep.changes([row], expected) == []
    cells["mlp"] = sweep.Cell(sweep.WRONG, "apart")
    assert sweep.changes([row], expected) == ["llama mlp: refused -> wrong apart"]


def test_a_tap_on_the_wrong_module_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from stratoscope.models import load

    find = load.find_anatomy

    def swapped(network: nn.Module, num_layers: int) -> LayerLayout:
        layout = find(network, num_layers)
        return replace(layout, blocks=tuple(replace(b, attention=b.mlp, mlp=b.attention) for b in layout.blocks))

    monkeypatch.setattr(load, "find_anatomy", swapped)
    row = sweep.sweep("causal", "llama")
    assert row.cells["read"].outcome == sweep.RIGHT
    assert (row.cells["attention"].outcome, row.cells["mlp"].outcome) == (sweep.WRONG, sweep.WRONG)
