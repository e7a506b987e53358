from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from stratoscope.errors import InputError
from stratoscope.results import (
    Manifest,
    RunFolder,
    ShardResult,
    ShardStore,
    Storage,
    from_rows,
    new_run_id,
    read_table,
    to_parquet,
    write_table,
)

SCHEMA = pa.schema([("name", pa.string()), ("value", pa.float64())])


def table(*names: str) -> pa.Table:
    return from_rows([(name, float(i)) for i, name in enumerate(names)], SCHEMA)


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A folder on the disk, and one in fsspec's memory file system, which stands for any that is not local."""
    return Storage(str(tmp_path / "a")) if request.param == "local" else Storage(f"memory://{tmp_path.name}/a")


def test_files_come_back_and_leave_nothing_aside(storage: Storage) -> None:
    assert storage.names() == []
    assert not storage.exists("x/y.bin")
    storage.write("x/y.bin", b"one")
    storage.write("x/y.bin", b"two")
    assert storage.read("x/y.bin") == b"two"
    assert storage.names("x") == ["y.bin"]


def test_the_size_of_a_folder_is_that_of_all_files_in_it(storage: Storage) -> None:
    assert storage.size() == 0
    storage.write("a.bin", b"four")
    storage.write("x/y/z.bin", b"seven b")
    assert (storage.size(), storage.child("x").size()) == (11, 7)
    write_table(storage, "t", table("a", "b"))
    assert read_table(storage, "t") == table("a", "b")
    storage.remove("x")
    assert not storage.exists("x")
    with pytest.raises(FileNotFoundError):
        storage.read("x/y.bin")


SPECIAL = ("prices[1]", "a*b", "a?b", "a{1,2}", "plain (1) #%25°'")


@pytest.mark.parametrize("folder", ["a", "runs[1]", "runs*?"])
def test_characters_of_patterns_are_plain_in_names(storage: Storage, folder: str) -> None:
    beside = storage.child("runs1")
    beside.write("x", b"beside")
    inside = storage.child(folder)
    for name in (*SPECIAL, "prices1", "aab"):
        inside.write(f"cells/{name}.bin", name.encode())
    files = [f"cells/{name}.bin" for name in SPECIAL]
    assert inside.read_all(files) == {f"cells/{name}.bin": name.encode() for name in SPECIAL}
    assert inside.read_all([]) == {}
    assert inside.names("cells") == sorted(f"{name}.bin" for name in (*SPECIAL, "prices1", "aab"))
    with pytest.raises(FileNotFoundError):
        inside.read_all(["cells/prices[2].bin", files[0]])
    inside.remove(files[0])
    assert inside.names("cells") == sorted(f"{name}.bin" for name in (*SPECIAL[1:], "prices1", "aab"))
    for content in ("old", "new"):
        with inside.writing_folder() as path:
            (path / "deep").mkdir()
            (path / "deep" / content).write_text(content)
    assert (inside.names(), inside.names("deep"), inside.read("deep/new")) == (["deep"], ["new"], b"new")
    assert beside.read("x") == b"beside"


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    storage.write("a.bin", b"old")

    def fail(_self: Path, _target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.write("a.bin", b"new")
    assert storage.read("a.bin") == b"old"
    assert storage.names() == ["a.bin"]


def test_a_shard_counts_when_its_mark_is_there(storage: Storage) -> None:
    store = ShardStore(storage)
    assert store.done() == {}
    store.write(ShardResult(3, {"rows": to_parquet(table("c"))}, {"prompts": 2}))
    store.write(ShardResult(1, {"rows": to_parquet(table("a", "b"))}, {"prompts": 5}))
    storage.write("shards/000002.rows.parquet", to_parquet(table("half")))
    assert store.done() == {1: {"prompts": 5}, 3: {"prompts": 2}}
    assert [part["name"].to_pylist() for part in store.read("rows")] == [["a", "b"], ["c"]]
    store.clear()
    assert store.done() == {}


def test_a_table_that_an_unfinished_attempt_left_is_not_read(storage: Storage) -> None:
    store = ShardStore(storage)
    storage.write("shards/000001.errors.parquet", to_parquet(table("left")))
    store.write(ShardResult(1, {"rows": to_parquet(table("a"))}, {"prompts": 1}))
    store.write(ShardResult(2, {"errors": to_parquet(table("b"))}, {"prompts": 1}))
    assert sorted(store.done()) == [1, 2]
    assert [part["name"].to_pylist() for part in store.read("errors")] == [["b"]]


@pytest.mark.parametrize("bad", ["a/b", "..", "", ".hidden", "a b", "x" * 101, "a\\b"])
def test_a_run_id_is_a_plain_name(tmp_path: Path, bad: str) -> None:
    with pytest.raises(InputError, match="run_id"):
        RunFolder(str(tmp_path), "score", bad)


def test_the_manifest_comes_back_and_forgives_later_fields(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path), "score", new_run_id())
    assert run.read_manifest() is None
    manifest = Manifest(job="score", run_id=run.run_id, config={"a": 1}, seed=3)
    run.write_manifest(manifest)
    assert run.read_manifest() == manifest
    assert manifest.versions["ray"] != "not installed"
    later = manifest.to_json().replace(b'"seed": 3', b'"seed": 3, "of_a_later_version": true')
    assert Manifest.from_json(later) == manifest


def test_an_unknown_url_is_refused() -> None:
    with pytest.raises(InputError, match="output 'nosuch://x' cannot be used"):
        Storage("nosuch://x")


def test_a_store_is_accepted_where_its_files_are_seen(storage: Storage, tmp_path: Path) -> None:
    store = ShardStore(storage)
    offer = store.offer()
    accepted = ShardStore.accept(offer)
    assert accepted is not None
    accepted.write(ShardResult(1, {}, {"prompts": 5}))
    assert store.done() == {1: {"prompts": 5}}
    other_disk = replace(offer, url=str(tmp_path / "of another node"))
    assert ShardStore.accept(other_disk) is None
    assert ShardStore.accept(replace(offer, url="unknown://x")) is None


class CutStore(MemoryFileSystem):
    """An object store that loses the connection while it uploads the weights."""

    protocol = "cut"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    def put_file(self, lpath: str, rpath: str, **options: object) -> None:
        if lpath.endswith("weights"):
            raise ConnectionError("cut")
        super().put_file(lpath, rpath, **options)


def test_the_mark_of_a_folder_is_uploaded_last(tmp_path: Path) -> None:
    fsspec.register_implementation("cut", CutStore, clobber=True)
    for url in (f"cut://{tmp_path.name}/a", f"memory://{tmp_path.name}/a", str(tmp_path / "a")):
        storage = Storage(url)
        cut = pytest.raises(ConnectionError) if url.startswith("cut") else nullcontext()
        with cut, storage.writing_folder(last="a_mark") as folder:
            for name in ("a_mark", "config", "weights"):
                (folder / name).write_text(name)
        complete = [] if url.startswith("cut") else ["a_mark", "config", "weights"]
        assert storage.exists("a_mark") == bool(complete)
        assert not complete or storage.names() == complete
