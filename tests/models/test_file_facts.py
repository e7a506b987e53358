"""Facts about files are remembered until the file changes, and never longer."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stratoscope.errors import InputError
from stratoscope.models import file_facts
from stratoscope.models.checkpoint import check_finite
from stratoscope.models.file_facts import SMALL, remembered, remembered_digest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache, in which a file is settled at once."""
    monkeypatch.setenv("STRATOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_facts, "SETTLED_S", -1.0)
    return tmp_path / "cache" / "files"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large"
    file.write_bytes(b"a" * SMALL)
    return file


class Reader:
    """Returns the first byte of a file and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, file: Path) -> str:
        self.calls += 1
        return file.read_bytes()[:1].decode()


def test_a_fact_is_computed_once_for_each_name_and_state_of_a_file(cache: Path, large: Path) -> None:
    read = Reader()
    assert [remembered("first", large, read) for _ in range(3)] == ["a", "a", "a"]
    assert read.calls == 1
    assert remembered("other", large, lambda _: None) is None
    assert remembered("other", large, read) is None, "that a file has no such thing is a fact, too"
    assert len(list(cache.iterdir())) == 2


@pytest.mark.usefixtures("cache")
def test_a_change_that_keeps_size_and_time_of_the_content_is_noticed(large: Path) -> None:
    read, state = Reader(), large.stat()
    remembered("first", large, read)
    time.sleep(0.02)  # a tick of the file system's clock
    with large.open("r+b") as content:
        content.write(b"b")
    os.utime(large, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert large.stat().st_mtime_ns == state.st_mtime_ns
    assert remembered("first", large, read) == "b"


def test_a_file_that_has_just_changed_is_not_remembered(
    cache: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_facts, "SETTLED_S", 60.0)
    read = Reader()
    assert [remembered("first", large, read) for _ in range(2)] == ["a", "a"]
    assert read.calls == 2
    assert not cache.exists()


@pytest.mark.usefixtures("cache")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(large: Path) -> None:
    def change(file: Path) -> str:
        file.write_bytes(b"b" * SMALL * 2)
        return "a"

    assert remembered("first", large, change) == "a"
    assert remembered("first", large, Reader()) == "b"


def test_a_damaged_record_is_computed_again(cache: Path, large: Path) -> None:
    digest = remembered_digest(large)
    (record,) = cache.iterdir()
    for damage in ("", "{", "[]", json.dumps({"file": str(large)})):
        record.write_text(damage)
        assert remembered_digest(large) == digest
        assert json.loads(record.read_text())["value"] == digest


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STRATOSCOPE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(file_facts, "SETTLED_S", -1.0)
    assert remembered("first", large, Reader()) == "a"


def test_weights_that_become_nan_are_refused_although_they_were_finite_before(cache: Path, tmp_path: Path) -> None:
    weights = torch.zeros(SMALL)
    save_file({"weight": weights}, tmp_path / "model.safetensors")
    check_finite(tmp_path, "model")
    assert len(list(cache.iterdir())) == 1
    check_finite(tmp_path, "model")
    weights[5] = torch.nan
    save_file({"weight": weights}, tmp_path / "model.safetensors")
    for _ in range(2):
        with pytest.raises(InputError, match="the weight weight holds NaN or infinite values"):
            check_finite(tmp_path, "model")
