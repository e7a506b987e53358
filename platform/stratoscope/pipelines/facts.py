"""The facts that the page of every run ends with."""

from collections.abc import Iterator

from stratoscope.results import Manifest


def run_facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield pairs of a name and a text: what the run took, and what would repeat it."""
    yield "Seconds", ", ".join(f"{stage} {seconds:,.1f}" for stage, seconds in manifest.timings.items())
    yield "Seed", str(manifest.seed)
    yield "Versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield "Commit", manifest.git_commit or "not a checkout"
