"""Names of exported checkpoints, and the command lines in their model cards."""

import shlex
import sys
from pathlib import PurePosixPath


def checkpoint_name(source: str, change: str) -> str:
    """Return the name of a checkpoint's folder, such as `SmolLM2-135M-without-8-layers`.

    Args:
        source: the base model's name, folder or GGUF file.
        change: what was done to it.
    """
    return f"{PurePosixPath(source).name.removesuffix('.gguf')}-{change}"


def command_line(job: str) -> str | None:
    """Return the command that started this process, or None if the job was called from Python.

    Args:
        job: name of the job. Only its script and `stratoscope` are recognised as commands.
    """
    program = PurePosixPath(sys.argv[0]).name
    return shlex.join([program, *sys.argv[1:]]) if program in (f"{job}.py", "stratoscope") else None
