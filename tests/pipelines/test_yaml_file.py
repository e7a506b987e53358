"""YAML files that are refused, in one line and within a second."""

import itertools
import os
import time
from pathlib import Path

import pytest

from stratoscope.errors import InputError
from stratoscope.pipelines.runtime.yaml_file import read_yaml

LETTERS = "abcdefghij"


def bomb(of: str) -> str:
    """Return a document in which each anchor stands for nine of the one before it."""
    lines = [f"a: &a {of}"]
    for before, name in itertools.pairwise(LETTERS):
        nine = ", ".join([f"*{before}"] * 9)
        lines.append(f"{name}: &{name} [{nine}]" if of.startswith("[") else f"{name}: &{name} {{<<: [{nine}]}}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompts:\n  limit: 3\n  source: sciq\n  limit: 4\n", "line 4: field 'prompts.limit' is given twice"),
        ("seed: 1\nseed: 2\n", "line 2: field 'seed' is given twice"),
        ("models:\n- source: a\n  source: b\n", "field 'models.0.source' is given twice"),
        (bomb("[x, x, x]"), "more than 20,000 values, aliases included"),
        (bomb("{x: 1}"), "more than 20,000 values, aliases included"),
        ("a: &a [*a]", "the alias *a has no anchor before it"),
        ("a: " + "[" * 100_000, "nested more than 20 levels deep"),
        ("\n".join(" " * depth + "a:" for depth in range(900)), "nested more than 20 levels deep"),
        ("x: &x [[[[[[[[[[[[1]]]]]]]]]]]]\ny: [[[[[[[[[[[[*x]]]]]]]]]]]]", "nested more than 20 levels deep"),
        (
            "run_id: !!timestamp 2020-13-45",
            "line 1: field 'run_id' has a value that cannot be read: month must be in 1..12",
        ),
        ("scores:\n  bootstrap: " + "9" * 5000, "line 2: field 'scores.bootstrap' has a value that cannot be read"),
        ("a: 1\n---\nb: 2\n", "is not YAML: expected a single document"),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML: could not determine a constructor"),
        ("? [a]\n: 1", "is not YAML"),
        ("- a", "must hold fields by name, not a list"),
        ("text", "must hold fields by name, not a str"),
        ("#" * 1_000_001, "has more than 1,000,000 bytes"),
        (b"a: b\nc: \xe9t\xe9\n", "is not YAML in UTF-8: byte 0xe9 in line 2"),
        (os.urandom(3000) + b"\xff", "is not YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_at_once(content: str | bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    started = time.monotonic()
    with pytest.raises(InputError) as refused:
        read_yaml(str(file))
    assert message in str(refused.value)
    assert len(str(refused.value)) <= 500
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "No such file"),
        ("missing.yaml", "No such file"),
        ("/", "Is a directory"),
        ("/dev/zero", "more than 1,000,000 bytes"),
        ("x" * 9000, "File name too long"),
        ("a\0b", "null byte"),
    ],
)
def test_a_path_that_holds_no_file_is_refused(path: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as refused:
        read_yaml(path)
    assert len(str(refused.value)) <= 500


def test_what_yaml_offers_within_bounds_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("\ufeffx: &x {a: 1}\ny:\n  <<: *x\n  b: *x\n", encoding="utf-8")
    assert read_yaml(str(file)) == {"x": {"a": 1}, "y": {"a": 1, "b": {"a": 1}}}
    file.write_text("run_id: 2026-11-26\n")
    assert read_yaml(str(file)) == {"run_id": "2026-11-26"}
    file.write_text("# nothing\n")
    assert read_yaml(str(file)) == {}
