import hashlib
import json
import random
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from stratoscope.data import KNOWN_SETS, Prompt, PromptSource, load_prompts, order_prompts, row_id
from stratoscope.errors import InputError

ROWS = [{"question": f"what is {i}", "topic": "odd" if i % 2 else "even", "n": i} for i in range(20)]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".tsv":
        pyarrow.csv.write_csv(pa.Table.from_pylist(rows), path, pyarrow.csv.WriteOptions(delimiter="\t"))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_kind_of_file_gives_the_same_prompts(tmp_path: Path, kind: str) -> None:
    expected = load_prompts(PromptSource(str(write(tmp_path / "a.jsonl", ROWS)), "{{ question }}?"), None, 0)
    loaded = load_prompts(PromptSource(str(write(tmp_path / f"b{kind}", ROWS)), "{{ question }}?"), None, 0)
    assert [(p.prompt_id, p.text) for p in loaded.prompts] == [(p.prompt_id, p.text) for p in expected.prompts]
    assert loaded.ordered.num_read == 20


def test_empty_and_duplicate_prompts_are_counted_and_the_limit_comes_after(tmp_path: Path) -> None:
    texts = ["one", "", "two", "one", "   ", "three", "two", "four"]
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(texts) + "\n")
    everything = load_prompts(PromptSource(str(path)), None, 0)
    assert (everything.ordered.num_read, everything.ordered.num_empty, everything.ordered.num_duplicates) == (8, 2, 2)
    assert sorted(p.text for p in everything.prompts) == ["four", "one", "three", "two"]
    for limit in (1, 2, 3):
        assert list(load_prompts(PromptSource(str(path)), limit, 0).prompts) == list(everything.prompts)[:limit]


def test_order_is_seeded_and_does_not_depend_on_the_file(tmp_path: Path) -> None:
    first = load_prompts(PromptSource(str(write(tmp_path / "a.jsonl", ROWS))), None, 0)
    turned = load_prompts(PromptSource(str(write(tmp_path / "b.jsonl", ROWS[::-1]))), None, 0)
    assert [p.prompt_id for p in first.prompts] == [p.prompt_id for p in turned.prompts]
    other = load_prompts(PromptSource(str(tmp_path / "a.jsonl")), None, 1)
    assert [p.prompt_id for p in other.prompts] != [p.prompt_id for p in first.prompts]
    assert {p.prompt_id for p in other.prompts} == {p.prompt_id for p in first.prompts}
    assert other.ordered.fingerprint != first.ordered.fingerprint


def test_an_id_is_of_the_row_not_of_its_rendering(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", ROWS))
    plain, asked = (load_prompts(PromptSource(path, t), None, 0) for t in ("{{ question }}", "Q: {{ question }}"))
    assert [p.prompt_id for p in plain.prompts] == [p.prompt_id for p in asked.prompts]
    assert next(plain.prompts).prompt_id in {row_id(row) for row in ROWS}
    assert row_id({"a": 1, "b": 2}) == row_id({"b": 2, "a": 1}) == "ec55c9ec4b598e6f"


def test_rows_that_differ_only_as_texts_have_ids_of_their_own(tmp_path: Path) -> None:
    rows = [f"row {i},{v},{g}" for i in range(300) for v in ("1.50", "1.5") for g in ("01", "1")]
    loaded = []
    for number, lines in enumerate((rows, rows, rows[::-1])):
        path = tmp_path / f"{number}.csv"
        path.write_text("\n".join(["text,v,g", *lines]))
        loaded.append(load_prompts(PromptSource(str(path), "{{ text }} {{ v }}", group="g"), None, 0))
    assert len({prompts.ordered.fingerprint for prompts in loaded}) == 1
    assert len({prompt.prompt_id for prompt in loaded[0].prompts}) == len(loaded[0]) == 600
    limited = load_prompts(PromptSource(str(path), "{{ text }} {{ v }}", group="g"), 7, 0)
    assert list(limited.prompts) == list(loaded[0].prompts)[:7]
    # Texts that do not show the difference are duplicates, and keep the id of the row.
    plain = load_prompts(PromptSource(str(path), "{{ text }}"), None, 0)
    assert row_id({"text": "row 0", "v": 1.5, "g": 1}) in {prompt.prompt_id for prompt in plain.prompts}


def test_groups_and_folders(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:10])
    write(tmp_path / "b.parquet", ROWS[10:])
    loaded = load_prompts(PromptSource(str(tmp_path), group="topic"), None, 0)
    assert len(loaded) == 20
    assert {p.group for p in loaded.prompts} == {"odd", "even"}


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_missing_texts_are_empty_and_the_counts_add_up(tmp_path: Path, kind: str) -> None:
    texts = ["one", None, "two", "one", "three", None, "four"]
    rows = [{"text": text, "topic": None if i == 2 else "t"} for i, text in enumerate(texts)]
    path = str(write(tmp_path / f"a{kind}", rows))
    loaded = load_prompts(PromptSource(path, "Say: {{ text }}!", group="topic"), 3, 0)
    ordered = loaded.ordered
    left_out = (ordered.num_empty, ordered.num_duplicates, ordered.num_over_limit)
    assert (ordered.num_read, len(loaded), left_out) == (7, 3, (2, 1, 1))
    everything = list(load_prompts(PromptSource(path, "Say: {{ text }}!", group="topic"), None, 0).prompts)
    assert {p.text for p in everything} == {f"Say: {text}!" for text in ("one", "two", "three", "four")}
    assert {p.group for p in everything if "two" in p.text} == {"(none)"}


def test_a_folder_saved_by_datasets_is_a_source(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "two"))
    assert len(load_prompts(PromptSource(str(tmp_path / "one")), None, 0)) == 20
    assert len(load_prompts(PromptSource(str(tmp_path / "two"), split="test"), None, 0)) == 20
    with pytest.raises(InputError, match=r"prompts\.split.*has no split 'train'"):
        load_prompts(PromptSource(str(tmp_path / "two")), None, 0)


@pytest.mark.parametrize("name", sorted(KNOWN_SETS))
def test_known_sets_are_read_and_rendered(name: str) -> None:
    loaded = load_prompts(PromptSource(name), 5, 0)
    assert len(loaded) == 5
    assert all(p.text.endswith("Answer:") or name == "lambada" for p in loaded.prompts)
    assert all(p.group == name for p in loaded.prompts)
    assert loaded.ordered.num_read >= 570


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (PromptSource(""), "is empty; give a known set"),
        (PromptSource("scqi"), "did you mean 'sciq'"),
        (PromptSource("nothing.jsonl"), "not a known set, file or hub name"),
        (PromptSource("{folder}/empty.txt"), "has no rows"),
        (PromptSource("{folder}/blank.txt"), "all 2 prompts are empty"),
        (PromptSource("{folder}/broken.parquet"), "cannot be read as parquet"),
        (PromptSource("{folder}/rows.jsonl", "{{ nosuch }}"), "does not match the columns question, topic, n"),
        (PromptSource("{folder}/rows.jsonl", "{{ question"), "is not a Jinja template"),
        (PromptSource("{folder}/rows.jsonl", group="nosuch"), "is not a column"),
        (PromptSource("{folder}/numbers.jsonl"), r"set prompts\.template, using its columns: n"),
        (PromptSource("{folder}/photo.png"), "files of kind '.png' cannot be read"),
    ],
)
def test_unusable_sources_are_refused(tmp_path: Path, source: PromptSource, message: str) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "photo.png").write_bytes(b"x")
    write(tmp_path / "rows.jsonl", ROWS)
    write(tmp_path / "numbers.jsonl", [{"n": 1}])
    filled = PromptSource(source.source.format(folder=tmp_path), source.template, group=source.group)
    with pytest.raises(InputError, match=message):
        load_prompts(filled, None, 0)


def test_a_template_cannot_reach_the_machine(tmp_path: Path) -> None:
    path = str(write(tmp_path / "rows.jsonl", ROWS))
    with pytest.raises(InputError, match="does not match"):
        load_prompts(PromptSource(path, "{{ question.__class__.__mro__ }}"), None, 0)


def test_order_and_duplicates_are_those_of_a_plain_sort() -> None:
    generator = random.Random(0)
    given = [Prompt(f"{i:04x}", "ab"[i % 2], f"text {generator.randrange(600)}") for i in range(1000)]
    by_digest = sorted(given, key=lambda p: hashlib.blake2b(f"5:{p.prompt_id}".encode(), digest_size=16).digest())
    first_of_text: dict[str, Prompt] = {}
    for prompt in by_digest:
        first_of_text.setdefault(prompt.text, prompt)
    loaded = order_prompts(given, None, 5)
    assert [Prompt(**row) for row in loaded.table.to_pylist()] == list(first_of_text.values())
    assert loaded.num_duplicates == 1000 - len(first_of_text)


@pytest.mark.parametrize(("template", "field"), [("{{ body }}", "texts.template"), (None, "texts.source")])
def test_errors_name_the_section_that_describes_the_source(template: str | None, field: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"title": "a"}\n')
    with pytest.raises(InputError, match=re.escape(field)) as refused:
        load_prompts(PromptSource(str(path), template, section="texts"), None, 0)
    assert "prompts." not in str(refused.value)
