"""Files of a run that are truncated or damaged: each is named, and what can be computed again is."""

import json
import logging
from pathlib import Path

import pyarrow as pa
import pytest

from stratoscope.errors import DamagedFileError
from stratoscope.results import (
    Manifest,
    Run,
    RunFolder,
    ShardResult,
    ShardStore,
    Storage,
    damaged_table,
    iter_table,
    list_runs,
    table_writer,
    to_parquet,
    write_table,
)

TABLE = pa.table({"layer": list(range(5000)), "name": [f"layer {i}" for i in range(5000)]})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a manifest, a table written at once and another in parts."""
    folder = RunFolder(str(tmp_path), "score", "one")
    manifest = Manifest("score", "one", {}, 0, status="done")
    folder.write_manifest(manifest)
    write_table(folder.storage, "whole", TABLE)
    with table_writer(folder.storage, "parts", TABLE.schema) as append:
        append(TABLE)
    return Run(folder.storage, manifest)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    """Change bytes in the first quarter of a file, where a Parquet file has values."""
    content = bytearray(path.read_bytes())
    start = len(content) // 4
    content[start : start + 64] = bytes(64)
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = pytest.mark.parametrize("damage", [truncate, overwrite, empty])


@DAMAGES
@pytest.mark.parametrize("name", ["whole", "parts"])
def test_a_damaged_table_is_named(run: Run, name: str, damage) -> None:
    assert run.table(name).equals(TABLE)
    damage(Path(run.path) / f"{name}.parquet")
    with pytest.raises(
        DamagedFileError, match=f"{run.path}/{name}.parquet cannot be read, .* repeat the command"
    ) as error:
        run.table(name)
    assert len(str(error.value)) <= 500
    with pytest.raises(DamagedFileError, match=f"{name}.parquet"):
        list(iter_table(run.storage, name))


def test_a_truncated_table_is_found_without_reading_it(run: Run) -> None:
    assert damaged_table(run.storage) is None
    truncate(Path(run.path) / "whole.parquet")
    assert damaged_table(run.storage) == f"{run.path}/whole.parquet"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"job": "score"}', b"\xff\xfe"])
def test_a_damaged_manifest_is_named(run: Run, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file = Path(run.path) / "manifest.json"
    file.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"one/manifest\.json cannot be read, .* remove the run's folder"):
        Manifest.read(run.storage)
    with caplog.at_level(logging.WARNING):
        assert list(list_runs(str(file.parents[2]))) == []
    assert "one/manifest.json cannot be read" in caplog.text


def test_a_damaged_json_file_is_named(run: Run) -> None:
    run.storage.write("summary.json", b'{"headline":')
    with pytest.raises(DamagedFileError, match=f"{run.path}/summary.json cannot be read"):
        run.storage.read_json("summary.json")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """The folder of three finished shards."""
    store = ShardStore(Storage(str(tmp_path)))
    for shard in range(3):
        store.write(ShardResult(shard, {"stats": to_parquet(TABLE.slice(shard, 1000))}, {"prompts": 1000}))
    assert store.done() == {shard: {"prompts": 1000} for shard in range(3)}
    return tmp_path / "shards"


@DAMAGES
@pytest.mark.parametrize("file", ["000001.json", "000001.stats.parquet"])
def test_a_damaged_shard_is_done_again(
    shards: Path,
    file: str,
    damage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(shards / file)
    store = ShardStore(Storage(str(shards.parent)))
    with caplog.at_level(logging.WARNING):
        assert sorted(store.done()) == [0, 2]
    assert f"{shards / file} cannot be read" in caplog.text
    assert "shard 1 is computed again" in caplog.text
    assert store.num_done() == 2
    assert [part.num_rows for part in store.read("stats")] == [1000, 1000]
    store.write(ShardResult(1, {"stats": to_parquet(TABLE.slice(1, 1000))}, {"prompts": 1000}))
    assert sorted(store.done()) == [0, 1, 2]


def test_a_shard_without_its_file_is_done_again(shards: Path) -> None:
    (shards / "000002.stats.parquet").unlink()
    assert sorted(ShardStore(Storage(str(shards.parent))).done()) == [0, 1]


def test_shards_of_a_version_without_digests_are_checked_too(shards: Path) -> None:
    for marker in shards.glob("*.json"):
        counts = json.loads(marker.read_text())
        del counts["digests"]
        marker.write_text(json.dumps(counts))
    truncate(shards / "000000.stats.parquet")
    assert sorted(ShardStore(Storage(str(shards.parent))).done()) == [1, 2]
