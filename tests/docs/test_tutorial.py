"""The commands of the tutorial and the notebook run as they are written."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.pages import ROOT, shell_fences

TUTORIAL = (ROOT / "docs" / "start" / "tutorial.md").read_text()
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_look.ipynb"
JOBS = ("score", "search", "hallucination", "mitigation", "faithfulness", "audit")

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(3600)]


def environment() -> dict[str, str]:
    """Return the environment of a shell in which the checkout's `.venv` is active."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT / "platform")}


def test_the_commands_of_the_tutorial_run_as_written(tmp_path: Path) -> None:
    blocks = shell_fences(TUTORIAL)
    for job in JOBS:
        assert any(f"stratoscope {job} " in block for block in blocks), job
    for block in blocks:
        began = time.monotonic()
        answer = subprocess.run(
            ["bash", "-e", "-c", block], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        # The page states how long the steps take: pytest -s shows it.
        print(f"{time.monotonic() - began:6.0f} s  {block.splitlines()[0]}")
        assert answer.returncode == 0, f"{block}\n{answer.stdout[-2000:]}{answer.stderr[-2000:]}"
    for job in JOBS:
        assert list((tmp_path / "runs" / job).glob("*/report.html")), job


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", ()))
    assert [word for word in ("ci_low", "without [", "sciq") if word not in shown] == []
    assert list((tmp_path / "runs" / "mitigation").glob("*/models/*/config.json"))
