"""No model type gives a wrong number or a traceback: it is right at every tap, or refused in one line."""

from functools import cache

import pytest

from tests.models import outcomes, sweep, zoo

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
FAMILIES = {model_type: family for family, model_type in zoo.model_types()}


def _cases() -> list[object]:
    return [
        pytest.param(model_type, marks=[] if model_type in POPULAR else [pytest.mark.slow]) for model_type in FAMILIES
    ]


@cache
def row_of(model_type: str) -> outcomes.Row:
    return sweep.sweep(FAMILIES[model_type], model_type)


def faults(model_type: str, columns: tuple[str, ...]) -> list[str]:
    cells = {column: row_of(model_type).cells[column] for column in columns}
    return [
        f"{c}: {x.outcome}: {x.detail}" for c, x in cells.items() if x.outcome in {outcomes.WRONG, outcomes.TRACEBACK}
    ]


@pytest.mark.long
@pytest.mark.parametrize("model_type", _cases())
def test_a_model_type_is_right_or_refused_in_one_line(model_type: str) -> None:
    assert not faults(model_type, tuple(column for column in outcomes.COLUMNS if column != "format"))


@pytest.mark.long
@pytest.mark.parametrize("model_type", POPULAR)
def test_a_pruned_checkpoint_keeps_its_number_format(model_type: str) -> None:
    assert not faults(model_type, ("format",))


def test_every_popular_type_can_be_built() -> None:
    assert set(POPULAR) <= set(FAMILIES)
    assert len(POPULAR) == 40


def test_a_table_is_read_back_as_it_was_written() -> None:
    cells = dict.fromkeys(outcomes.COLUMNS, outcomes.Cell(outcomes.RIGHT)) | {
        "mlp": outcomes.Cell(outcomes.REFUSED, "one line")
    }
    row = outcomes.Row("causal", "llama", "LlamaForCausalLM", cells)
    expected = outcomes.read_table_text(outcomes.table([row]))
    assert expected == {"llama": ("right", "right", "right", "refused", "right", "right", "right")}
    assert outcomes.changes([row], expected) == []
    page = outcomes.read_page(outcomes.table([row]))
    assert outcomes.table(list(page.values())) == outcomes.table([row])
    cells["mlp"] = outcomes.Cell(outcomes.WRONG, "apart")
    assert outcomes.changes([row], expected) == ["llama mlp: refused -> wrong apart"]


def test_a_tap_on_the_wrong_module_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from stratoscope.activations import residual

    kinds = {"mixer": "mlp", "mlp": "mixer", None: None}
    part_kind = residual.part_kind
    monkeypatch.setattr(residual, "part_kind", lambda layer, path: kinds[part_kind(layer, path)])
    row = sweep.sweep("causal", "llama")
    assert row.cells["read"].outcome == outcomes.RIGHT
    assert (row.cells["attention"].outcome, row.cells["mlp"].outcome) == (outcomes.WRONG, outcomes.WRONG)
