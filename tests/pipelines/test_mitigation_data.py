"""Questions and texts of a mitigation run: which are trained on, and which are held out."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import normalizers

from stratoscope.data import bare_question
from stratoscope.errors import InputError, RunError
from stratoscope.evaluation import TextSampling
from stratoscope.execution import WorkerResources
from stratoscope.models import describe_model, encode_text, load_tokenizer, resolve_source
from stratoscope.pipelines.mitigation import MitigationConfig
from stratoscope.pipelines.mitigation.dataset import MitigationData, TrainingInputs, load_data
from stratoscope.pipelines.mitigation.estimate import estimate, need
from stratoscope.pipelines.mitigation.run import read_counts
from stratoscope.pipelines.mitigation.samples import SamplerSettings, sample_rows, with_samples
from stratoscope.pipelines.reporting.data_notes import part_counts
from stratoscope.pipelines.runtime.command_line import parse_command_line
from stratoscope.pipelines.runtime.config import validate
from stratoscope.results import Storage, write_table
from stratoscope.tables.mitigation import TABLES
from tests.jobs.reacting import pairs_file

__all__ = ["pairs_file"]


def test_no_question_or_text_is_in_two_parts(tiny_model_folder: Path, pairs_file: Path, prompts_file: Path) -> None:
    fields = {
        "pairs": {"source": [str(pairs_file)], "limit": 10},
        "texts": {"source": [str(prompts_file)], "limit": 20, "max_tokens": 12},
        "evaluation": {"limit": 6, "only": ["second"], "text": str(prompts_file)},
        "tune": {"num_samples": 1, "limit": 4},
    }
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    config = validate(MitigationConfig, fields)
    first = load_data(config, tokenizer, frozenset(), 64)
    assert first.counts["first"] == {"trained": 10, "validated": 4, "held_out": 6, "left_out": 0, "unreadable": 0}
    assert first.counts["second"] == {"trained": 0, "validated": 0, "held_out": 6, "left_out": 0, "unreadable": 0}
    validation, held_out = ({q.question_id for q in part.questions} for part in (first.validation, first.held_out))
    assert not held_out & (validation | first.used)
    assert validation <= first.used
    assert not {text.text_id for text in first.held_out.texts} & first.used
    seen = frozenset(list(held_out)[:3])
    again = load_data(config, tokenizer, seen, 64)
    assert not {q.question_id for q in again.held_out.questions} & seen
    assert again.fingerprint != first.fingerprint
    assert {name: len(examples) for name, examples in again.held_out.separation.items()} == {"first": 6, "second": 6}


def write_questions(path: Path, prompts: Sequence[str]) -> str:
    """Write questions whose answers differ, also where they have the same prompt."""
    rows = [{"question": prompt, "right": [f"w{i}"], "wrong": [f"w{i + 1}"]} for i, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_no_held_out_question_is_trained_on_from_another_row_or_data_set(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    prompts = [f"w{i // 2} w3 w{i // 2 % 5}" for i in range(80)]
    sources = [write_questions(tmp_path / f"{name}.jsonl", prompts[:n]) for name, n in (("every", 80), ("hard", 20))]
    fields = {
        "layers": "1",
        "pairs": {"source": sources, "limit": 30},
        "evaluation": {"limit": 10, "only": ["hard"]},
        "texts": {"source": ["boolq"], "limit": 4},
        "tune": {"num_samples": 1, "limit": 4},
    }
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    data = load_data(validate(MitigationConfig, fields), tokenizer, frozenset(), 64)
    evaluated = (*data.held_out.questions, *data.validation.questions)
    trained = {example.question for example in data.corpus.questions}
    assert len(trained) > 10
    assert not trained & {tuple(encode_text(tokenizer, question.prompt)) for question in evaluated}
    assert not {q.prompt for q in data.held_out.questions} & {q.prompt for q in data.validation.questions}
    assert not {q.question_id for q in data.held_out.questions} & data.used


def test_questions_that_are_too_long_are_not_counted_as_trained(tiny_model_folder: Path, tmp_path: Path) -> None:
    long = " ".join(f"w{j}" for j in range(90))
    prompts = [f"w{i} {long if i % 2 else ''} w{i // 3}" for i in range(60)]
    fields = {
        "layers": "1",
        "pairs": {"source": [write_questions(tmp_path / "mixed.jsonl", prompts)], "limit": 40},
        "evaluation": {"limit": 8},
        "objective": {"forgetting": 0},
    }
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    data = load_data(validate(MitigationConfig, fields), tokenizer, frozenset(), 64)
    counts = data.counts["mixed"]
    assert 0 < counts["trained"] == len(data.corpus.questions) < 40
    assert counts["trained"] + counts["left_out"] == 40
    says = f", {counts['left_out']} left out of training (longer than the model's limit"
    assert says in part_counts(counts)
    assert says in read_counts({"datasets": [asdict(each) for each in data.datasets], "questions": data.counts})[0]
    fields["pairs"]["source"] = [write_questions(tmp_path / "long.jsonl", prompts[1::2])]
    with pytest.raises(InputError, match="no question is left for training, 22 left out of training"):
        load_data(validate(MitigationConfig, fields), tokenizer, frozenset(), 64)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"texts": {"source": []}}, "texts.source: there are no texts to train on"),
        (
            {"samples": {"number": 4}, "objective": {"forgetting": 0}},
            "samples.number: no term of the objective is computed on texts",
        ),
        ({"texts": {"source": ["sciq", "sst2"], "limit": [4, 5, 6]}}, "2 sources and 3 numbers in limit"),
        ({"texts": {"limit": [0]}}, "texts.limit"),
        ({"samples": {"number": 4, "max_tokens": 1}}, "samples.max_tokens"),
        ({"samples": {"number": 4, "temperature": 0}}, "samples.temperature"),
    ],
)
def test_texts_that_cannot_be_are_refused(fields: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        validate(MitigationConfig, fields)


def test_no_text_contains_a_held_out_question(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The rows of the texts are others, so that only their words tell which questions they contain."""
    questions = [f"w{i} w3 w{i % 5} w{i + 1}" for i in range(30)]
    lines = {question: f"w1 W{question[1:]}, w9" for question in questions}
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join([*lines.values(), "w8", ""]), encoding="utf-8")
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    fields = {
        "layers": "1",
        "pairs": {"source": [write_questions(tmp_path / "pairs.jsonl", questions)], "limit": 20},
        "texts": {"source": [str(texts)], "limit": None},
        "evaluation": {"limit": 6},
    }
    data = load_data(validate(MitigationConfig, fields), tokenizer, frozenset(), 64)
    held_out = {bare_question(question.prompt).rstrip("?") for question in data.held_out.questions}
    assert len(held_out) == 6
    others = [line for question, line in lines.items() if question not in held_out]
    assert sorted(data.corpus.texts) == sorted(tuple(encode_text(tokenizer, line)) for line in others)
    assert read_counts({"sources": [asdict(source) for source in data.sources]}) == [
        f"{texts}: 31 rows read: 24 kept, 0 empty, 0 duplicate, 6 with a held-out question, 1 of a single token"
    ]


def test_no_text_is_in_two_parts_whatever_its_source(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Two files have versions of the same texts, in rows of other columns and by another template."""
    texts = [f"w{i} w{i + 1} " + "w3 " * 30 + f"w{i % 7}" for i in range(40)]
    table, plain = tmp_path / "a.jsonl", tmp_path / "b.txt"
    table.write_text("".join(json.dumps({"text": text, "page": i}) + "\n" for i, text in enumerate(texts)))
    plain.write_text("\n".join(f"{text} w99" for text in texts))
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))

    def load(**fields: object) -> MitigationData:
        return load_data(validate(MitigationConfig, {"drop": "1", **fields}), tokenizer, frozenset(), 64)

    def first_words(rows: Iterable[Sequence[int]]) -> list[tuple[str, ...]]:
        return [tuple(tokenizer.decode(row).removeprefix("w50 ").split()[:2]) for row in rows]

    data = load(texts={"source": [str(table)], "limit": 30}, evaluation={"text": str(plain)})
    held_out = first_words(text.ids for text in data.held_out.texts)
    assert len(held_out) == 10
    assert not set(held_out) & set(first_words(data.corpus.texts))

    sources = {"source": [str(table), str(plain)], "template": ["w50 {{ text }}", "{{ text }}"], "limit": 30}
    data = load(texts=sources, tune={"num_samples": 2, "limit": 10})
    validated, trained = first_words(text.ids for text in data.validation.texts), first_words(data.corpus.texts)
    assert len(validated) == 20
    assert not set(validated) & set(trained)
    assert [source.prompts_held_out for source in data.sources] != [0, 0]
    assert sum(source.num_prompts for source in data.sources) == len(validated) + len(trained)


def test_held_out_questions_whose_answers_have_no_token_are_left_out(tiny_model_folder: Path, tmp_path: Path) -> None:
    rows = [{"question": f"w{i} w3", "right": ["w7"], "wrong": ["w8" if i % 4 else "\u200b"]} for i in range(40)]
    file = tmp_path / "blank.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    fields = {"layers": "1", "pairs": {"source": [str(file)], "limit": 20}, "evaluation": {"limit": 16}}
    data = load_data(validate(MitigationConfig, fields), tokenizer, frozenset(), 64)
    counts = data.counts["blank"]
    assert 0 < counts["unreadable"] == 16 - counts["held_out"]
    assert all(answer.text.startswith("w") for q in data.held_out.questions for answer in q.answers)
    assert f"{counts['unreadable']} left out of the evaluation (an answer has no token)" in part_counts(counts)


def test_each_source_of_texts_may_have_its_own_limit(tiny_model_folder: Path, prompts_file: Path) -> None:
    other = prompts_file.with_name("others.txt")
    other.write_text("".join(f"w{i} w{i + 1} w3\n" for i in range(40)), encoding="utf-8")
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    fields = {"drop": "1", "texts": {"source": [str(prompts_file), str(other)], "limit": [7, 20]}}
    data = load_data(validate(MitigationConfig, fields), tokenizer, frozenset(), 64)
    assert [source.num_prompts for source in data.sources] == [7, 20]
    fields["texts"]["limit"] = 9  # as configurations of earlier versions have it
    config = validate(MitigationConfig, fields)
    assert config.texts.limits == [9, 9]
    for arguments, limits in ((["null"], [None, None]), (["3,4"], [3, 4]), (["5"], [5, 5])):
        given = ["--texts.source", "sciq,sst2", "--texts.limit", *arguments]
        assert parse_command_line(MitigationConfig, "mitigation", given).texts.limits == limits


def test_generated_texts_are_for_training_and_a_part_of_them_for_the_search(tiny_model_folder: Path) -> None:
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    fields = {
        "drop": "1",
        "texts": {"source": [], "max_tokens": 12},
        "samples": {"number": 20},
        "tune": {"num_samples": 1, "limit": 4},
    }
    config = validate(MitigationConfig, fields)
    assert (config.num_samples, config.tokens_per_sample) == (24, 12)
    data = load_data(config, tokenizer, frozenset(), 64)
    assert not data.corpus.texts
    facts = describe_model(resolve_source(str(tiny_model_folder)))
    memory = need(config, facts, data, 3, 128)
    plan = dict(estimate(config, facts, data, memory))
    assert plan["samples"].startswith(
        "24 texts of at most 12 tokens that the model generates, 4 of them for the search"
    )
    assert "about 48 tokens a step" in plan["work"]
    samples = [(i, i + 1) for i in range(24)]
    whole = data.with_samples(samples, config.num_validation_texts)
    assert whole.corpus.texts == tuple(samples[4:])
    assert [text.ids for text in whole.validation.texts] == samples[:4]
    assert whole.num_samples == 20
    without = validate(MitigationConfig, fields | {"tune": {}})
    assert without.num_samples == 20
    assert data.with_samples(samples, 0).num_samples == 24


def test_a_resumed_run_uses_the_texts_that_were_generated_before(tiny_model_folder: Path, tmp_path: Path) -> None:
    source = resolve_source(str(tiny_model_folder))
    config = validate(MitigationConfig, {"drop": "1", "texts": {"source": []}, "samples": {"number": 8}})
    settings = SamplerSettings(config.model.to_loading(source, 0), TextSampling(8, 8, seed=5), num_threads=1)
    rows = sample_rows(settings)
    assert [row.sample for row in rows] == [*range(len(rows))] != []
    assert all(row.text.split() == [f"w{token - 4}" for token in row.tokens if token > 3] for row in rows)
    storage = Storage(str(tmp_path))
    write_table(storage, "samples", TABLES["samples"].table(rows))
    data = load_data(config, load_tokenizer(source), frozenset(), 64)
    inputs = TrainingInputs(config, source, 4, "float32", data, 64, 64, WorkerResources(1, 1, 0), {}, 64)
    # No Ray runs here, so nothing can be generated.
    again = with_samples(SimpleNamespace(storage=storage), inputs)
    assert again.data.corpus.texts == tuple(tuple(row.tokens) for row in rows)
    write_table(storage, "samples", TABLES["samples"].table([]))
    with pytest.raises(RunError, match="the model generated no text"):
        with_samples(SimpleNamespace(storage=storage), inputs)
