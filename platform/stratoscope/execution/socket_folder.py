"""The folder of a local Ray, short enough for the names of its sockets."""

import os
import tempfile
from pathlib import Path

from stratoscope.errors import SHOWN_VALUE, InputError, shorten

MAX_SOCKET_PATH = 107
"""Maximum number of bytes in the path of a Unix socket."""
IN_FOLDER = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Bytes that Ray appends to its folder for its sockets."""
SHORT = "/tmp"


def ray_folder() -> str:
    """Return the folder for a local Ray: in TMPDIR as Ray has it, or in /tmp if TMPDIR is too long or not writable.

    Raises:
        InputError: neither can be used.
    """
    configured = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or SHORT
    for parent, name in ((configured, "ray"), (SHORT, f"ray-{os.getuid()}")):
        folder = str(Path(parent).absolute() / name)
        if len(os.fsencode(folder)) + IN_FOLDER <= MAX_SOCKET_PATH and _writable(folder):
            return folder
    limit = MAX_SOCKET_PATH - IN_FOLDER - len("/ray")
    raise InputError(
        f"TMPDIR {shorten(repr(configured), SHOWN_VALUE)} cannot hold the sockets of Ray, and neither can {SHORT}; set "
        f"TMPDIR to a folder that can be written and whose path has at most {limit} bytes"
    )


def _writable(folder: str) -> bool:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
