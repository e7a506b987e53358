"""Saving of checkpoints."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_a_model_is_written_without_deepspeed_which_can_be_imported_afterwards(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    code = (
        "import pathlib, sys; from stratoscope.models import load_model;"
        "from stratoscope.models.saving import save_network;"
        "save_network(load_model(sys.argv[1], head=True).network, pathlib.Path(sys.argv[2]));"
        "print('deepspeed' in sys.modules); import deepspeed; print(deepspeed.__name__)"
    )
    command = [sys.executable, "-c", code, str(tiny_model_folder), str(tmp_path / "written")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert (lines[0], lines[-1]) == ("False", "deepspeed")
    assert (tmp_path / "written" / "model.safetensors").is_file()
