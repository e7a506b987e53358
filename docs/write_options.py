"""Write docs/options-JOB.md from the fields of each job, so that the pages never differ from the code."""

from pathlib import Path

from stratoscope.pipelines.config import field_names
from stratoscope.pipelines.faithfulness import FaithfulnessConfig
from stratoscope.pipelines.hallucination import HallucinationConfig
from stratoscope.pipelines.mitigation import MitigationConfig
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.search import SearchConfig

HERE = Path(__file__).parent
JOBS = {
    "score": ScoreConfig,
    "hallucination": HallucinationConfig,
    "search": SearchConfig,
    "mitigation": MitigationConfig,
    "faithfulness": FaithfulnessConfig,
}


def options_page(job: str) -> str:
    """Return a job's page as Markdown."""
    lines = [
        f"# Options of the job `{job}`",
        "",
        "Every field goes into a YAML file by its section, or on the command line as `--section.field VALUE`.",
        "Lists are comma-separated or JSON. This page is written by `make docs`.",
        "",
        "| option | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in field_names(JOBS[job]):
        default = "null" if field.default is None else _plain(field.default)
        lines.append(f"| `--{name}` | `{default}` | {field.description.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    for job in JOBS:
        (HERE / f"options-{job}.md").write_text(options_page(job), encoding="utf-8")
