"""The folder of a local Ray."""

from pathlib import Path

import pytest

from stratoscope.errors import InputError
from stratoscope.execution import ray_folder, socket_folder


@pytest.fixture(autouse=True)
def no_folder_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)


def test_a_short_folder_is_used_as_ray_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path("/tmp") / tmp_path.parent.name[:4] / "t"
    monkeypatch.setenv("TMPDIR", str(short))
    assert ray_folder() == f"{short}/ray"


@pytest.mark.parametrize("folder", ["long", "file", "missing device"])
def test_sockets_lie_elsewhere_where_tmpdir_cannot_hold_them(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    paths = {"long": str(tmp_path / ("x" * 200)), "file": str(tmp_path / "file"), "missing device": "/dev/null/x"}
    monkeypatch.setenv("TMPDIR", paths[folder])
    chosen = ray_folder()
    assert chosen.startswith("/tmp/ray-")
    path = Path(chosen) / "session_2026-01-01_00-00-00_000000_4194304" / "sockets" / "plasma_store"
    assert len(str(path)) <= 107


def test_tmpdir_is_named_where_no_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 200)))
    monkeypatch.setattr(socket_folder, "SHORT", str(tmp_path / ("y" * 100)))
    with pytest.raises(InputError, match=r"^TMPDIR .* set TMPDIR to a folder .* at most \d+ bytes$"):
        ray_folder()
