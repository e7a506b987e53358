"""Prompts, questions with right and wrong answers, and time series, from known sets, local files and the hub."""

from stratoscope.data.delimited import Quoting
from stratoscope.data.encoding import check_encoding
from stratoscope.data.known import KNOWN_SETS, read_known
from stratoscope.data.order import OrderedPrompts, Prompt, order_prompts
from stratoscope.data.pairs import Answers, DataSet, PairChoice, PairSource, QuestionSet, decode, load_pairs
from stratoscope.data.prompts import PromptSet, PromptSource, load_prompts, row_id
from stratoscope.data.qa import AUTO, FORMATS, Answer, Question, bare_question
from stratoscope.data.series import (
    KNOWN_SERIES,
    DateOrder,
    DecimalMark,
    Delimiter,
    Fill,
    Header,
    Series,
    SeriesSource,
    SeriesSplit,
    SplitRule,
    TimeAxis,
    load_series,
)

__all__ = [
    "AUTO",
    "FORMATS",
    "KNOWN_SERIES",
    "KNOWN_SETS",
    "Answer",
    "Answers",
    "DataSet",
    "DateOrder",
    "DecimalMark",
    "Delimiter",
    "Fill",
    "Header",
    "OrderedPrompts",
    "PairChoice",
    "PairSource",
    "Prompt",
    "PromptSet",
    "PromptSource",
    "Question",
    "QuestionSet",
    "Quoting",
    "Series",
    "SeriesSource",
    "SeriesSplit",
    "SplitRule",
    "TimeAxis",
    "bare_question",
    "check_encoding",
    "decode",
    "load_pairs",
    "load_prompts",
    "load_series",
    "order_prompts",
    "read_known",
    "row_id",
]
