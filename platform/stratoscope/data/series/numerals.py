"""Numbers in text cells: decimal marks, thousands separators, percentages and marks of missing values."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.data.series.source import DecimalMark, Reading, listed

Mark = Literal["point", "comma"]
MISSING_MARKS = ("", "na", "n/a", "nan", "null", "none", "?", "-", "--", "---", ".", "..", "#n/a", "#na", "<na>", "nat")
"""Cells that are missing values, in lower case."""
NINES = (999.0, 999.9, 999.99, 9999.0, 9999.9, 9999.99, 99999.0, 999999.0, 9999999.0)
OTHER_SENTINELS = (-99.0, -99.9, -99.99, -32768.0, 32767.0, -2147483648.0, 1e20, -1e20, 1e30, -1e30)


def _with_single(values: list[float]) -> NDArray[np.float64]:
    """Return numbers, and what float32 makes of them: a column of that type has -99.9 as -99.90000153."""
    doubles = np.array(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        singles = doubles.astype(np.float32)
    return np.concatenate([doubles, singles[np.isfinite(singles)]])


SENTINELS = _with_single([*NINES, *(-nines for nines in NINES), *OTHER_SENTINELS])
"""Numbers that stand for missing values where they lie far from all others."""
PLAIN_NUMBER = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
GROUP = "\u00a0\u202f '_"
"""Characters that separate thousands, besides the point and the comma."""
STRICT: dict[Mark, str] = {
    "point": rf"^[+-]?(\d+|\d{{1,3}}([,{GROUP}]\d{{3}})+)?(\.\d*)?([eE][+-]?\d+)?$",
    "comma": rf"^[+-]?(\d+|\d{{1,3}}([.{GROUP}]\d{{3}})+)?(,\d*)?([eE][+-]?\d+)?$",
}


def _evidence_pattern(own: str, other: str) -> str:
    """Return the pattern of numbers whose decimal mark is `own` and cannot be `other`."""
    fraction = rf"\d*{own}(\d{{1,2}}|\d{{4,}})|\d{{4,}}{own}\d+|0*{own}\d+"
    groups = rf"\d{{1,3}}([{other}{GROUP}]\d{{3}})+{own}\d+|\d{{1,3}}({other}\d{{3}}){{2,}}"
    return rf"^[+-]?({fraction}|{groups})([eE][+-]?\d+)?$"


EVIDENCE: dict[Mark, str] = {"point": _evidence_pattern(r"\.", ","), "comma": _evidence_pattern(",", r"\.")}
"""Numbers that can only be read with this mark."""
EITHER = r"^[+-]?[1-9]\d{0,2},\d{3}$"
"""Numbers such as 1,234, which can be read with either mark."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """A column of text read as numbers."""

    values: NDArray[np.float64]
    """Numbers, shape (N,); NaN where a cell is missing or not a number."""
    missing: NDArray[np.bool_]
    """Missing cells, shape (N,)."""
    unreadable: NDArray[np.bool_]
    """Cells that are neither missing nor a number, shape (N,)."""

    @property
    def num_read(self) -> int:
        """Number of cells that are numbers."""
        return int(len(self.values) - self.missing.sum() - self.unreadable.sum())


def read_numbers(columns: Mapping[str, Any], reading: Reading) -> dict[str, Numbers]:
    """Read columns of text as numbers.

    Args:
        columns: columns as Arrow arrays of text, by name.
        reading: what is said about the source.

    Raises:
        InputError: a column mixes percentages and other numbers, or its decimal mark cannot be recognised.
    """
    texts = {name: _without_percent(name, column, reading) for name, column in columns.items()}
    plain = {name: values for name, text in texts.items() if (values := _cast(text)) is not None}
    others = {name: text for name, text in texts.items() if name not in plain}
    if reading.source.decimal == "comma" or any(
        pc.any(pc.match_substring(text, ",")).as_py() for text in others.values()
    ):
        plain, others = {}, texts
    marks = _decimal_marks(others, reading)
    return {
        name: _plain_column(plain[name], reading) if name in plain else _read_column(text, marks[name], reading)
        for name, text in texts.items()
    }


def of_floats(values: NDArray[np.float64], reading: Reading) -> Numbers:
    """Return a column that the source has as numbers, shape (N,); infinities that it does not name are unreadable."""
    return _with_missing_numbers(Numbers(values, np.isnan(values), np.isinf(values)), reading.source.missing)


def _cast(text: Any) -> NDArray[np.float64] | None:
    """Return a column of numbers as Arrow reads them; None if a cell is anything else."""
    try:
        values = pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None
    return np.asarray(values) if np.isfinite(values).all() else None


def _plain_column(values: NDArray[np.float64], reading: Reading) -> Numbers:
    nowhere = np.zeros(len(values), dtype=np.bool_)
    return _with_missing_numbers(Numbers(values, nowhere, nowhere), reading.source.missing)


def _without_percent(name: str, column: Any, reading: Reading) -> Any:
    percent = pc.fill_null(pc.match_substring_regex(column, r"\d\s*%$"), False)
    if not pc.any(percent).as_py():
        return column
    stripped = pc.utf8_trim_whitespace(pc.utf8_rtrim(column, "%"))
    others = column.filter(pc.and_(pc.invert(percent), pc.invert(_is_missing(column, reading.source.missing))))
    if any(pc.any(_is_number(others, mark)).as_py() for mark in STRICT):
        raise reading.refusal(f"column {name!r} has numbers with and without %; write all of them alike")
    reading.note(f"column {name!r} is in percent")
    return stripped


def _decimal_marks(texts: Mapping[str, Any], reading: Reading) -> dict[str, Mark]:
    """Return the decimal mark of each column: its own, or that of the other columns where it has numbers like 1,234."""
    option: DecimalMark = reading.source.decimal
    if option != "auto":
        return dict.fromkeys(texts, option)
    commas = {name: pc.any(pc.match_substring(text, ",")).as_py() for name, text in texts.items()}
    evidence = {name: _evidence(text) if any(commas.values()) else _groups(text) for name, text in texts.items()}
    elsewhere = set().union(*evidence.values())
    marks = {name: _mark(name, texts[name], found or elsewhere, reading) for name, found in evidence.items()}
    with_comma = [name for name, mark in marks.items() if mark == "comma" and (evidence[name] or commas[name])]
    if with_comma:
        reading.note(f"numbers are read with a decimal comma in {listed(with_comma)}")
    grouped = [name for name, mark in marks.items() if _has_groups(texts[name], mark)]
    if grouped:
        reading.note(f"separators of thousands are removed in {listed(grouped)}")
    return marks


def _evidence(text: Any) -> set[Mark]:
    return {mark for mark, pattern in EVIDENCE.items() if pc.any(pc.match_substring_regex(text, pattern)).as_py()}


def _groups(text: Any) -> set[Mark]:
    """Return the decimal mark that repeated points imply, as in 1.234.567: a comma."""
    return {"comma"} if pc.any(pc.match_substring_regex(text, r"^[+-]?\d{1,3}(\.\d{3}){2,}$")).as_py() else set()


def _mark(name: str, text: Any, evidence: set[Mark], reading: Reading) -> Mark:
    if len(evidence) == 1:
        return next(iter(evidence))
    if not _evidence(text) and pc.any(pc.match_substring_regex(text, EITHER)).as_py():
        raise reading.refusal(
            f"column {name!r} has numbers such as 1,234, whose comma may be a decimal mark or separate thousands; set "
            "series.decimal to comma or point"
        )
    return "point"


def _has_groups(text: Any, mark: Mark) -> bool:
    """Return whether numbers have thousands separators."""
    other = "." if mark == "comma" else ","
    groups = rf"^[+-]?\d{{1,3}}([{other}{GROUP}]\d{{3}})+(\D|$)"
    return bool(pc.any(pc.match_substring_regex(text, groups)).as_py())


def _read_column(text: Any, mark: Mark, reading: Reading) -> Numbers:
    marks = reading.source.missing
    missing = _is_missing(text, marks)
    good = pc.and_(_is_number(text, mark), pc.invert(missing))
    plain = pc.if_else(good, _normalised(text, mark), None)
    values = np.array(pc.cast(plain, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    missing_cells, good_cells = (np.asarray(mask.to_numpy(zero_copy_only=False)) for mask in (missing, good))
    return _with_missing_numbers(Numbers(values, missing_cells, ~missing_cells & ~good_cells), marks)


def _is_number(text: Any, mark: Mark) -> Any:
    """Return which cells are numbers with this decimal mark."""
    numbers = pc.and_(pc.match_substring_regex(text, STRICT[mark]), pc.match_substring_regex(text, r"^[+-]?[.,]?\d"))
    return pc.fill_null(numbers, False)


def _is_missing(text: Any, marks: tuple[str, ...] | None) -> Any:
    known = MISSING_MARKS if marks is None else ("", *(mark.lower() for mark in marks))
    return pc.is_in(pc.utf8_lower(pc.fill_null(text, "")), value_set=pa.array(known))


def _normalised(text: Any, mark: Mark) -> Any:
    """Return numbers as Arrow reads them: without a plus sign and thousands separators, with a decimal point."""
    separators = {"point": ",", "comma": "."}[mark]
    plain = pc.replace_substring_regex(text, rf"^\+|[{separators}{GROUP}]", "")
    return pc.replace_substring(plain, ",", ".") if mark == "comma" else plain


def _with_missing_numbers(numbers: Numbers, marks: tuple[str, ...] | None) -> Numbers:
    """Return numbers in which those equal to a given mark are missing, so that '-9999' also matches -9999.0."""
    named = np.isin(numbers.values, _with_single(list(_numeric(marks or ()))))
    values = np.where(named, np.nan, numbers.values)
    return Numbers(values, numbers.missing | named, numbers.unreadable & ~named)


def _numeric(marks: tuple[str, ...]) -> Iterator[float]:
    for mark in marks:
        try:
            yield float(mark)
        except ValueError:
            continue


def sentinels(values: NDArray[np.float64]) -> list[float]:
    """Return the numbers of a column that stand for missing values, such as -9999.

    They are farther from all other values than these are from each other (ours).

    Args:
        values: the column, shape (N,).
    """
    suspects = np.isin(values, SENTINELS)
    if not suspects.any():
        return []
    others = values[~suspects & np.isfinite(values)]
    if not len(others):
        return []
    low, high = others.min(), others.max()
    return [float(v) for v in np.unique(values[suspects]) if max(low - v, v - high) > high - low]
