"""Files of rows: what is read from them, and what is refused with its place."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
import pytest

from stratoscope.data import delimited, json_rows, row_id
from stratoscope.data.files import FileReading, read_files
from stratoscope.errors import InputError

ROWS = [{"text": f"sentence {i}", "n": i} for i in range(5)]
CELLS = [
    ["1", "-3", "", "NA", "007"],
    ["1.50", "2", "nan", "1e3"],
    ["true", "False", ""],
    ["0", "1", "true"],
    ["2020-01-01", "2020-01-01 10:00:00", "2020-01-01T10:00:00.5"],
    ["2020-01-01T00:00:00Z", ""],
    ["12:30", "12:30:15", "2020-01-01"],
    ["a", "b,c", 'x"y', "two\nlines", "", " s ", "é"],
]
VALUES = [
    [1, 2.5, None],
    ["a", "", None],
    ["2020-01-01", "2020-01-01T00:00:00"],
    ["2020-01-01", "x"],
    [True, None],
    [{"a": 1}, {"b": "x"}, {}, None],
    [[1], [], [2.5]],
    [10**25, 1],
]


def written(path: Path, **reading: str) -> list[dict[str, str]]:
    return [{k: str(v) for k, v in row.written.items()} for row in read_files(path, reading=FileReading(**reading))]


def refusal(path: Path, content: bytes, **reading: str) -> str:
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        list(read_files(path, reading=FileReading(**reading)))
    assert len(str(error.value)) < 500
    return str(error.value)


@pytest.mark.parametrize("seed", range(30))
def test_rows_of_csv_have_arrows_types_and_the_files_texts(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = random.Random(seed)
    columns = [generator.choice(CELLS) for _ in range(3)] + [CELLS[-1]]
    cells = [[generator.choice(column) for column in columns] for _ in range(generator.randint(1, 9))]
    content = io.StringIO()
    csv.writer(content, lineterminator=generator.choice(["\n", "\r\n"])).writerows([list("abcd"), *cells])
    path = tmp_path / "a.csv"
    path.write_bytes(content.getvalue().encode())
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    expected = pyarrow.csv.read_csv(path, parse_options=parsing).to_pylist()
    monkeypatch.setattr(delimited, "_BLOCK_ROWS", 3)
    rows = list(read_files(path))
    assert [row_id(row) for row in rows] == [row_id(row) for row in expected]
    for row, texts in zip(rows, cells, strict=True):
        assert all(value is None or str(value) == text for value, text in zip(row.written.values(), texts, strict=True))


@pytest.mark.parametrize("seed", range(30))
def test_rows_of_json_have_arrows_types_and_the_files_values(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = random.Random(seed)
    columns = {name: generator.choice(VALUES) for name in "abcd"}
    values = [
        {name: generator.choice(column) for name, column in columns.items() if generator.random() < 0.8}
        for _ in range(generator.randint(1, 9))
    ]
    lines, array = tmp_path / "a.jsonl", tmp_path / "b.json"
    lines.write_text("\n".join(map(json.dumps, values)))
    array.write_text(json.dumps(values, indent=generator.choice([None, 1])))
    expected = [row_id(row) for row in pyarrow.json.read_json(lines).to_pylist()]
    monkeypatch.setattr(json_rows, "_BLOCK_DOCUMENTS", generator.choice([1, 3, 100]))
    monkeypatch.setattr(json_rows, "_READ_CHARACTERS", generator.choice([1, 20, 1000]))
    for path in (lines, array):
        rows = list(read_files(path))
        assert [row_id(row) for row in rows] == expected
        names = dict.fromkeys(name for value in values for name in value)
        assert [row.written for row in rows] == [{name: value.get(name) for name in names} for value in values]


def test_json_columns_may_change_their_type_and_lines_may_be_long(tmp_path: Path) -> None:
    values = [{"text": "a", "meta": {"title": "x"}}, {"text": "b" * 5_000_000, "meta": {"title": 1984}}, {"text": "c"}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, values)))
    assert [row.written for row in read_files(path)] == [{"meta": None, **value} for value in values]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "txt", "parquet", "arrow"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_every_kind_of_file_may_be_compressed(tmp_path: Path, kind: str, compression: str) -> None:
    plain = tmp_path / f"a.{kind}"
    table = pa.table({"text": [row["text"] for row in ROWS]})
    if kind == "parquet":
        pyarrow.parquet.write_table(table, plain)
    elif kind == "arrow":
        with pa.ipc.new_stream(plain, table.schema) as writer:
            writer.write_table(table)
    elif kind == "json":
        plain.write_text(json.dumps(table.to_pylist()))
    elif kind == "jsonl":
        plain.write_text("\n".join(map(json.dumps, table.to_pylist())))
    else:
        plain.write_text("\n".join(["text"] * (kind != "txt") + table["text"].to_pylist()) + "\n")
    packed = tmp_path / f"a.{kind}.{'gz' if compression == 'gzip' else 'zst'}"
    with pa.CompressedOutputStream(str(packed), compression) as file:
        file.write(plain.read_bytes())
    assert written(packed) == written(plain) == [{"text": row["text"]} for row in ROWS]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "txt"])
def test_unicode_is_detected(tmp_path: Path, encoding: str, kind: str) -> None:
    lines = {"jsonl": '{"text": "Café"}', "csv": "text\nCafé", "tsv": "text\nCafé", "txt": "Café"}
    path = tmp_path / f"a.{kind}"
    path.write_bytes((lines[kind] + "\n").encode(encoding))
    assert written(path) == [{"text": "Café"}]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "txt"])
def test_another_encoding_is_refused_with_its_place_or_named(tmp_path: Path, kind: str) -> None:
    first = {"jsonl": "", "csv": "text\n", "tsv": "text\n", "txt": "x\n"}[kind]
    text = '{"text": "Café"}\n' if kind == "jsonl" else "Café\n"
    path = tmp_path / f"a.{kind}"
    message = refusal(path, (first + text).encode("latin-1"))
    position = (first + text).index("é")
    assert f"byte 0xe9 at position {position} in line {1 + first.count(chr(10))} is not UTF-8" in message
    assert "prompts.encoding" in message
    assert written(path, encoding="latin-1")[-1] == {"text": "Café"}


def test_byte_order_marks_between_joined_files_are_no_text(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("\ufeffone\n\ufefftwo\n")
    lines.write_text('\ufeff{"text": "one"}\n\ufeff{"text": "two"}\n')
    assert written(text) == written(lines) == [{"text": "one"}, {"text": "two"}]


def test_quotes_in_tsv_are_text_unless_they_evidently_enclose_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tn\n"Second thoughts.\t1\nHe said "no".\t2\n"Good" is it.\t3\nends"\t4\n"All."\t5\n')
    assert [row["text"] for row in written(path)] == [
        '"Second thoughts.',
        'He said "no".',
        '"Good" is it.',
        'ends"',
        '"All."',
    ]
    evident = [
        ('"text"\t"n"\n"a"\t1\n', "a"),
        ('text\tn\n"two\nlines"\t1\n', "two\nlines"),
        ('text\tn\n"a\tb"\t1\n', "a\tb"),
        ('text\tn\n"say ""a"""\t1\nb\t2\n', 'say "a"'),
        ('text\tn\n"a"\t1\n"b"\t2\n', "a"),
    ]
    for content, expected in evident:
        path.write_text(content)
        assert written(path)[0]["text"] == expected
    assert written(path, quoting="never")[0]["text"] == '"a"'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'text,n\na,1\n"Good" is,2\n', "the row that begins in line 3 has a field that begins with a quote"),
        ("a.csv", b'text,n\na,1\n"open,2\nb,3\n', "the row that begins in line 3"),
        ("a.csv", b"text,n\na,1\nb,2,3\n", "line 3 has 3 fields, but the header has 2"),
        ("a.tsv", b"text\tn\na\t1\nb\n", "line 3 has 1 fields, but the header has 2"),
        ("a.csv", b"text,n,text\na,1,b\n", "two columns have the name 'text'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b", "text": "c"}\n', "line 2: two columns have the name 'text'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b}\n{"text": "c"}\n', "the object that begins in line 2 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n["b"]\n', "line 2 has a list instead of an object"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2 has half of a surrogate pair"),
        ("a.jsonl", b'{"a": ' * 100_000, "nested too deeply"),
        ("a.json", b'[{"text": "a"},\n{"text": "b"}', "the file was cut off"),
        ("a.json", b'[{"text": "a"}\n{"text": "b"}]', "line 2 is not JSON: a comma"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], "cannot be read as jsonl"),
        ("a.parquet", b"", "cannot be read as parquet"),
    ],
)
def test_faults_are_refused_with_their_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    assert message in refusal(tmp_path / name, content)


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), content)
    assert "two columns have the name 'text'" in refusal(tmp_path / "a.parquet", content.getvalue())


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json", "a.csv.gz", "header.csv"])
def test_a_file_without_rows_has_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"text,n\n" if name.startswith("header") else b"")
    assert written(path) == []
