"""Outcomes of a sweep over model types: rows, the page that shows them, and what has changed since it was written."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS = ("read", "left", "attention", "mlp", "mlp_hidden", "prune", "format")
RIGHT, REFUSED, WRONG, TRACEBACK, UNBUILDABLE = "right", "refused", "wrong", "traceback", "cannot be built"


@dataclass
class Cell:
    """The outcome in one column."""

    outcome: str
    detail: str = ""


@dataclass
class Row:
    """The outcome for one type."""

    family: str
    model_type: str
    architecture: str = ""
    cells: dict[str, Cell] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    """The children of each kind of layer, and how its residual path looks."""


def read_rows(file: Path) -> dict[str, Row]:
    """Return the rows of a file by type."""
    if not file.is_file():
        return {}
    rows = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        cells = {name: Cell(**cell) for name, cell in fields.pop("cells").items()}
        rows[fields["model_type"]] = Row(**fields, cells=cells)
    return rows


TABLE = Path(__file__).parents[2] / "docs" / "models.md"
TITLES = {"causal": "Causal language models", "image-text": "Images and text", "masked": "Masked language models"}
HEADER = """# Model types

Every model type that transformers {version} registers for causal, image-text and masked language modelling, built tiny
with random weights and compared with a plain forward pass of each prompt alone. `make sweep` repeats this and lists
what has changed; `make sweep-table` then writes this page from the result.

| column | what is compared |
|---|---|
| read | taps `block` and `update`, of prompts padded on the right and of prompts alone |
| left | the same of prompts padded on the left |
| attention, mlp | what the token mixer and the feed-forward part add to the residual stream |
| mlp_hidden | the hidden activation of the feed-forward part |
| prune | a model without some of its layers: in memory, skipped in the whole model, and exported and loaded plainly |
| format | the number format of the exported checkpoint |

A note at a right outcome of `prune` names the layers that are not dropped, because the model does not run without them
or its other layers compute something else.

**right**: equal. **refused**: no numbers, but one line that says why. **wrong**: other numbers. **traceback**: an error
that is no refusal. **cannot be built**: transformers cannot make or load such a model here.
"""


def table(rows: Sequence[Row]) -> str:
    """Return the page that shows the outcome of all types."""
    import transformers

    notes: dict[str, int] = {}
    parts = [HEADER.format(version=transformers.__version__), totals_table(rows)]
    for family, title in TITLES.items():
        own = sorted((row for row in rows if row.family == family), key=lambda row: row.model_type)
        parts += [f"## {title}", f"| type | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
        parts += [
            f"| {row.model_type} | {' | '.join(_shown(row.cells[c], row, notes) for c in COLUMNS)} |" for row in own
        ]
        parts.append("")
    parts += ["## Notes", ""] + [f"[^{number}]: {note}" for note, number in notes.items()]
    return "\n".join(parts) + "\n"


def totals_table(rows: Sequence[Row]) -> str:
    """Return the table with the number of types for each outcome and column."""
    outcomes = (RIGHT, REFUSED, WRONG, TRACEBACK, UNBUILDABLE)
    lines = [f"| types | column | {' | '.join(outcomes)} |", f"|---|---|{'---|' * len(outcomes)}"]
    for family in TITLES:
        own = [row for row in rows if row.family == family]
        for column in COLUMNS:
            counts = [sum(row.cells[column].outcome == outcome for row in own) for outcome in outcomes]
            lines.append(f"| {family} | {column} | {' | '.join(map(str, counts))} |")
        lines.append(f"| {family} | all but left | {sum(_all_right(row) for row in own)} | | | | |")
        without = sum(_all_right(row, without=("left", "format")) for row in own)
        lines.append(f"| {family} | all but left and format | {without} | | | | |")
    return "\n".join(lines) + "\n"


def _all_right(row: Row, *, without: Sequence[str] = ("left",)) -> bool:
    return all(row.cells[column].outcome == RIGHT for column in COLUMNS if column not in without)


def _shown(cell: Cell, row: Row, notes: dict[str, int]) -> str:
    if cell.outcome == RIGHT and not cell.detail:
        return RIGHT
    note = _general(cell, row)
    return f"{cell.outcome}[^{notes.setdefault(note, len(notes) + 1)}]"


def _general(cell: Cell, row: Row) -> str:
    """Return the detail of a cell without what differs from type to type and from machine to machine."""
    text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(row.model_type.partition('/')[0])}(?![A-Za-z0-9])", "TYPE", cell.detail)
    text = re.sub(r"\b[A-Z]\w*(Model|Thinker|ForCausalLM|ForConditionalGeneration|Config)\b", "CLASS", text)
    text = re.sub(r"<class '[^']*'>", "its class", text)
    if cell.outcome == WRONG:
        text = re.sub(r"(-?[\d.]+(e[+-]?\d+)?|inf) apart, count -?[\d.]+(e[+-]?\d+)? \(\d+\)", "apart", text)
        text = re.sub(r"; in all:.*", "", re.sub(r" layer \d prompt \d", "", text))
        text = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?(?=( apart|$| of a layer))", "N", text)
    return f"{cell.outcome}: {text}"


def read_table_text(text: str) -> dict[str, tuple[str, ...]]:
    """Return the outcomes by type of a page that `table` wrote."""
    expected = {}
    for line in text.splitlines():
        values = [re.sub(r"\[\^\d+\]", "", value.strip()) for value in line.strip("|").split("|")]
        if len(values) == len(COLUMNS) + 1 and values[1] in {RIGHT, REFUSED, WRONG, TRACEBACK, UNBUILDABLE}:
            expected[values[0]] = tuple(values[1:])
    return expected


def read_page(text: str) -> dict[str, Row]:
    """Return the rows of a page that `table` wrote, by type, their details as the page's notes have them."""
    notes = dict(re.findall(r"^(\[\^\d+\]): [a-z ]+: (.*)$", text, re.MULTILINE))
    families = {title: family for family, title in TITLES.items()}
    rows: dict[str, Row] = {}
    family = ""
    for line in text.splitlines():
        family = families.get(line.removeprefix("## "), family)
        values = [value.strip() for value in line.strip("|").split("|")]
        if family and len(values) == len(COLUMNS) + 1 and read_table_text(line):
            pairs = [value.partition("[^") for value in values[1:]]
            cells = {c: Cell(o, notes.get(f"[^{n}", "")) for c, (o, _, n) in zip(COLUMNS, pairs, strict=True)}
            rows[values[0]] = Row(family, values[0], cells=cells)
    return rows


def changes(rows: Sequence[Row], expected: dict[str, tuple[str, ...]]) -> list[str]:
    """Return a line for each outcome that is not the expected one."""
    lines = [f"{name}: is gone" for name in expected.keys() - {row.model_type for row in rows}]
    for row in rows:
        before = expected.get(row.model_type, ("new",) * len(COLUMNS))
        for column, outcome in zip(COLUMNS, before, strict=True):
            cell = row.cells[column]
            if cell.outcome != outcome:
                lines.append(f"{row.model_type} {column}: {outcome} -> {cell.outcome} {cell.detail[:160]}")
    return lines
