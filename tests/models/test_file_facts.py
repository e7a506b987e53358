"""Facts about files are remembered until the file changes, and never longer."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stratoscope.digest import file_digest
from stratoscope.errors import InputError
from stratoscope.models import file_facts
from stratoscope.models.checkpoint import check_finite
from stratoscope.models.file_facts import SMALL, remembered, remembered_digest
from stratoscope.models.fingerprint import weights_fingerprint
from stratoscope.models.source import ModelSource

forget = file_facts._remembered.cache_clear
"""Forgets what this process knows, as a new one would."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty cache, in which a file is settled at once."""
    monkeypatch.setenv("STRATOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_facts, "SETTLED_S", -1.0)
    forget()
    yield tmp_path / "cache" / "files"
    forget()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large"
    file.write_bytes(b"a" * SMALL)
    return file


class Reader:
    """Returns the first byte of a file and counts how often it is asked."""

    def __init__(self, meanwhile: Callable[[Path], object] = lambda _: None) -> None:
        self.calls, self._meanwhile = 0, meanwhile

    def __call__(self, file: Path) -> str:
        self.calls += 1
        found = file.read_bytes()[:1].decode()
        self._meanwhile(file)
        return found


def test_a_fact_is_computed_once_for_each_name_and_state_of_a_file(cache: Path, large: Path) -> None:
    read = Reader()
    for _ in range(3):
        assert remembered("first", large, read) == "a"
        forget()
    assert read.calls == 1
    assert remembered("other", large, lambda _: None) is None
    forget()
    assert remembered("other", large, read) is None, "that a file has no such thing is a fact, too"
    assert len(list(cache.iterdir())) == 2


def test_a_change_that_keeps_size_and_time_of_the_content_is_noticed(cache: Path, large: Path) -> None:
    read, state = Reader(), large.stat()
    remembered("first", large, read)
    assert len(list(cache.iterdir())) == 1
    time.sleep(0.02)  # a tick of the file system's clock
    with large.open("r+b") as content:
        content.write(b"b")
    os.utime(large, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert large.stat().st_mtime_ns == state.st_mtime_ns
    assert remembered("first", large, read) == "b"


def test_a_file_that_had_just_changed_is_remembered_by_the_process_alone(
    cache: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_facts, "SETTLED_S", 0.3)
    os.utime(large)
    slow = Reader(lambda _: time.sleep(0.4))  # the file has settled when it has been read, not when it was begun
    assert [remembered("first", large, slow) for _ in range(2)] == ["a", "a"]
    assert slow.calls == 1
    assert not cache.exists()
    forget()
    assert remembered("first", large, Reader()) == "a"
    assert len(list(cache.iterdir())) == 1


def test_what_a_file_held_before_it_changed_is_not_taken_for_its_content(cache: Path, large: Path) -> None:
    def change(file: Path) -> None:
        time.sleep(0.02)
        file.write_bytes(b"b" * SMALL)

    remembered("first", large, Reader(change))
    forget()
    assert remembered("first", large, Reader()) == "b"
    assert cache.exists()


def test_a_small_file_is_read_again(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"a" * (SMALL - 1))
    read = Reader()
    for _ in range(2):
        assert remembered("first", tmp_path / "small", read) == "a"
        forget()
    assert read.calls == 2
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"value": null}', '{"value": 5}', '{"value": "abc"}'])
def test_a_damaged_record_of_a_digest_is_no_digest(cache: Path, large: Path, damage: str) -> None:
    digest = remembered_digest(large)
    (record,) = cache.iterdir()
    record.write_text(damage)
    forget()
    assert remembered_digest(large) == digest == file_digest(large)


def test_a_record_that_cannot_be_read_is_written_anew(cache: Path, large: Path) -> None:
    remembered_digest(large)
    (record,) = cache.iterdir()
    record.write_text("{")
    forget()
    assert remembered_digest(large) == json.loads(record.read_text())["value"]
    assert list(cache.iterdir()) == [record], "nothing else is left there"


def test_without_a_cache_a_fact_is_computed_once_in_each_process(
    tmp_path: Path, large: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STRATOSCOPE_CACHE", str(tmp_path / "file"))
    read = Reader()
    assert [remembered("first", large, read) for _ in range(2)] == ["a", "a"]
    assert read.calls == 1
    assert not cache.exists()


def test_a_fingerprint_follows_the_weights(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    found = []
    for value in (0.0, 1.0, 0.0):
        save_file({"weight": torch.full((SMALL,), value)}, folder / "model.safetensors")
        found.append(weights_fingerprint(ModelSource("model", "folder", str(folder))))
        time.sleep(0.02)
    assert found[0] == found[2] != found[1]
    assert len(list(cache.iterdir())) == 3


@pytest.mark.usefixtures("cache")
def test_weights_that_become_nan_are_refused_although_they_were_finite_before(tmp_path: Path) -> None:
    weights = torch.zeros(SMALL)
    save_file({"weight": weights}, tmp_path / "model.safetensors")
    check_finite(tmp_path, "model")
    weights[5] = torch.nan
    time.sleep(0.02)
    save_file({"weight": weights}, tmp_path / "model.safetensors")
    for _ in range(2):
        with pytest.raises(InputError, match="the weight weight holds NaN or infinite values"):
            check_finite(tmp_path, "model")
        forget()
