"""The manifest of a run: configuration, fingerprints, versions, timings and outcome."""

import importlib.metadata
import json
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from stratoscope.digest import code_digest, digest
from stratoscope.errors import DamagedFileError
from stratoscope.results.storage import Storage

SCHEMA_VERSION = 1
NAME = "manifest.json"
PACKAGES = (
    "stratoscope",
    "ray",
    "torch",
    "transformers",
    "datasets",
    "numpy",
    "pyarrow",
    "lm-eval",
    "optuna",
    "deepspeed",
    "peft",
    "ptwt",
)


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that results depend on."""
    return {name: _package_version(name) for name in PACKAGES}


@cache
def _package_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@cache
def git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, or None outside one; read once per process."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


@dataclass
class Manifest:
    """The record that identifies and describes a run; `manifest.json` holds it."""

    job: str
    run_id: str
    config: dict[str, Any]
    seed: int
    schema_version: int = SCHEMA_VERSION
    status: Literal["running", "done", "failed"] = "running"
    exit_code: int | None = None
    error: str | None = None
    versions: dict[str, str] = field(default_factory=package_versions)
    git_commit: str | None = field(default_factory=git_commit)
    code: str | None = field(default_factory=code_digest)
    """Digest of the package's source."""
    earlier_code: list[str] = field(default_factory=list)
    """Digests of the package's source at earlier starts, if the run uses results of other code, versions or extensions.
    Such a run has no identity and no request."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    identity: str | None = None
    """Digest of everything that determines the result; runs of equal identity have equal results."""
    request: str | None = None
    """Digest of what the run was asked for: configuration, code, packages, machine and the state of its input files."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Properties of the model, data and machines that the job records."""
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    finished: str | None = None
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    """Highest host memory of any actor; null for jobs that do not measure it."""
    peak_gpu_memory_bytes: int | None = None
    """Highest GPU memory that PyTorch allocated in any actor; CUDA's own memory is not in it. 0 without a GPU; null for
    jobs that do not measure it."""
    counts: dict[str, int] = field(default_factory=dict)
    """Counts of units computed, skipped and retried, and of prompts by outcome."""
    progress: dict[str, Any] = field(default_factory=dict)
    """Progress of the last stage that reported any: done, total, errors, rate and unit."""

    @property
    def input_digest(self) -> str:
        """Digest of all fingerprints. Runs that use this run's tables depend on it."""
        return digest(self.fingerprints)

    def to_json(self) -> bytes:
        """Return the content of `manifest.json`."""
        return json.dumps(asdict(self), indent=2, default=str).encode()

    @classmethod
    def read(cls, run: Storage) -> "Manifest":
        """Read the manifest of a run's folder.

        Raises:
            FileNotFoundError: the folder has none.
            DamagedFileError: it cannot be read.
        """
        try:
            return cls.from_json(run.read(NAME))
        except (ValueError, TypeError, AttributeError) as error:
            advice = "remove the run's folder and repeat the command, or choose another run_id"
            raise DamagedFileError(run.url(NAME), error, advice) from error

    @classmethod
    def from_json(cls, content: bytes) -> "Manifest":
        """Read a manifest of any version: unknown fields are ignored, and missing ones are empty or None."""
        values = {name: value for name, value in json.loads(content).items() if name in cls.__dataclass_fields__}
        return cls(**{"code": None, "git_commit": None, "versions": {}, "started": ""} | values)
