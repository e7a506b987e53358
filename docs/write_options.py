"""Write docs/options-score.md from the fields of the job, so that the page never differs from the code."""

from pathlib import Path

from stratoscope.pipelines.config import field_names
from stratoscope.pipelines.score import ScoreConfig

HERE = Path(__file__).parent


def options_page() -> str:
    """Return the page as Markdown."""
    lines = [
        "# Options of the scoring job",
        "",
        "Every field goes into a YAML file by its section, or on the command line as `--section.field VALUE`.",
        "Lists are comma-separated or JSON. This page is written by `make docs`.",
        "",
        "| option | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in field_names(ScoreConfig):
        default = "null" if field.default is None else _plain(field.default)
        lines.append(f"| `--{name}` | `{default}` | {field.description} |")
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    (HERE / "options-score.md").write_text(options_page(), encoding="utf-8")
