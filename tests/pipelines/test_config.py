from collections.abc import Callable, Iterator
from enum import Enum
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from stratoscope.cli import main
from stratoscope.errors import InputError
from stratoscope.pipelines.audit import AuditConfig
from stratoscope.pipelines.commands.compare import CompareConfig
from stratoscope.pipelines.commands.history import HistoryConfig
from stratoscope.pipelines.commands.report import ReportConfig
from stratoscope.pipelines.commands.runs import RunsConfig
from stratoscope.pipelines.faithfulness import FaithfulnessConfig
from stratoscope.pipelines.hallucination import HallucinationConfig
from stratoscope.pipelines.jobs import JOBS
from stratoscope.pipelines.mitigation import MitigationConfig
from stratoscope.pipelines.runtime.command_line import parse_command_line
from stratoscope.pipelines.runtime.config import (
    ConfigSection,
    default_text,
    merged,
    result_settings,
    validate,
)
from stratoscope.pipelines.runtime.option_names import field_names, section_class
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.search import SearchConfig

ROOT = Path(__file__).parents[2]


def load(*arguments: str) -> ScoreConfig:
    return parse_command_line(ScoreConfig, "score", arguments)


def test_defaults_then_file_then_command_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("seed: 3\nprompts:\n  limit: 7\n  source: boolq\n")
    config = load("--config", str(file), "--prompts.limit", "9")
    assert (config.seed, config.prompts.limit, config.prompts.source) == (3, 9, "boolq")
    assert load().prompts.limit == 256


def test_lists_flags_and_nulls() -> None:
    config = load(
        "--activations.taps", "mlp,update", "--scores.quantile", "[0.1, 0.2]", "--prompts.limit=null", "--dry_run"
    )
    assert config.activations.taps == ["mlp", "update"]
    assert config.scores.quantile == [0.1, 0.2]
    assert config.prompts.limit is None
    assert config.dry_run
    for spelled in (["--prompts.chat"], ["--prompts.chat", "true"], ["--prompts.chat=True"]):
        assert load(*spelled).prompts.chat
    for spelled in ([], ["--no-prompts.chat"], ["--prompts.chat", "false"], ["--prompts.chat=false"]):
        assert not load(*spelled).prompts.chat


def test_the_shipped_configuration_is_valid() -> None:
    config = load("--config", str(ROOT / "jobs" / "configs" / "score.yaml"))
    assert len(config.activations.taps) == 5


def test_where_and_how_fast_a_run_goes_does_not_decide_its_result() -> None:
    here = result_settings(load("--output", "x", "--run_id", "y", "--actors.max", "7"))
    assert here == result_settings(load())
    assert here != result_settings(load("--prompts.limit", "7"))
    assert here != result_settings(load("--seed", "7"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts.limt", "3"], "option '--prompts.limt' is unknown; did you mean '--prompts.limit'?"),
        (["--prompts.limit", "many"], "prompts.limit 'many': input should be a valid integer"),
        (["--prompts.limit", "0"], "greater than or equal to 1"),
        (["--prompts.limit"], "expected one argument"),
        (["--activations.taps", "blok"], "activations.taps.0 'blok': input should be 'block'"),
        (["--activations.taps", "mlp,mlp"], "given twice"),
        (["--activations.epsilons", "-1"], "activations.epsilons.0 -1: input should be greater than 0"),
        (["--scores.metrics", "avs"], "did you mean 'avss'"),
        (["--scores.quantile", "1.5"], "scores.quantile.0 1.5: input should be less than 1"),
        (["--scores.epsilon", "[]"], "at least one of epsilon and quantile"),
        (["--actors.min", "3", "--actors.max", "2"], "max (2) is less than min (3)"),
        (["--config", "nosuch.yaml"], "config 'nosuch.yaml' cannot be read"),
        (["stray"], "stray"),
        (["--model", "smollm2"], "option '--model' is a section; did you mean '--model.source'?"),
        (["--activations=mlp"], "option '--activations' is a section; did you mean '--activations.taps'?"),
        (["--promts.limit", "3"], "did you mean '--prompts.limit'?"),
        (["--promts", "sciq"], "option '--promts' is unknown; did you mean '--prompts.source'?"),
        (["--bootstrap", "300"], "option '--bootstrap' is unknown; did you mean '--scores.bootstrap'?"),
        (["--seed=-1"], "seed '-1': input should be greater than or equal to 0"),
        (["--scores.bootstrap", "99999999999"], "scores.bootstrap '99999999999': input should be less than"),
        (["--prompts.limit", str(10**20)], "prompts.limit '100000000000000000000': input should be less than"),
        (["--scores.epsilon", "nan"], "scores.epsilon.0 nan: input should be a finite number"),
        (["--scores.epsilon=0.1,+Inf"], "scores.epsilon.1 inf: input should be a finite number"),
        (["--scores.quantile", "[-infinity, 0.5]"], "scores.quantile.0 -inf: input should be a finite number"),
        (["--scores.ratio", "nan"], "scores.ratio 'NaN': input should be a finite number"),
        (["--model.source", "x" * 300], "model.source 'xxx"),
        (["--prompts.source", "a/" * 3000], "a path has at most 4,000 bytes"),
        (["--config", ""], "config '' cannot be read"),
        (["--dry-rum"], "option '--dry-rum' is unknown; did you mean '--dry_run'?"),
        (["--scores.metrics", "[avss"], "--scores.metrics '[avss' is not a list"),
        (["--activations.epsilons={0.1"], "--activations.epsilons '{0.1' is not a list"),
    ],
)
def test_mistakes_are_one_line_that_names_the_field(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        load(*arguments)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--texts.template", "{{ passage }}"], ["{{ passage }}"]),
        (["--texts.template=Q: {{ question }}, A: {{ answer }}"], ["Q: {{ question }}, A: {{ answer }}"]),
        (["--texts.template", "{{ a }}, b", "--texts.template", "[{{ c }}]"], ["{{ a }}, b", "[{{ c }}]"]),
        (["--texts.template", '["{{ a }}", "{{ b }}"]'], ["{{ a }}", "{{ b }}"]),
    ],
)
def test_templates_on_the_command_line_may_have_braces_and_commas(arguments: list[str], expected: list[str]) -> None:
    sources = ",".join(["boolq", "sciq", "sst2"][: len(expected)])
    config = parse_command_line(MitigationConfig, "mitigation", ["--texts.source", sources, *arguments])
    assert config.texts.template == expected


def test_mistakes_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    for content, message in (
        ("prompts:\n  limt: 3\n", "field 'prompts.limt' is unknown; did you mean 'prompts.limit'?"),
        ("model: smollm2\n", "model 'smollm2': model is a section; did you mean 'model.source'?"),
        ("- a\n", "must hold fields by name"),
        ("a: [", "is not YAML"),
        ("promts:\n  limit: 3\n", "field 'promts' is unknown; did you mean 'prompts'?"),
        ("bootstrap: 9\n", "field 'bootstrap' is unknown; did you mean 'scores.bootstrap'?"),
    ):
        file.write_text(content)
        with pytest.raises(InputError) as refused:
            load("--config", str(file))
        assert message in str(refused.value)


def test_help_lists_every_field_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "score" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["score", "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("--prompts.limit", "(default: 256)", "--activations.taps", "--actors.max", "--run_id", "--dry_run"):
        assert text in shown


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scoer"]) == 2
    assert "did you mean 'score'?" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "jobs" / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_a_configuration_of_its_job(path: Path) -> None:
    classes = {
        "score": ScoreConfig,
        "hallucination": HallucinationConfig,
        "mitigation": MitigationConfig,
        "recovery": MitigationConfig,
        "recover": MitigationConfig,
        "seeds": FaithfulnessConfig,
        "flags": HallucinationConfig,
        "audit": AuditConfig,
    }
    config = parse_command_line(classes.get(path.stem.split("_")[0], SearchConfig), "job", ["--config", str(path)])
    assert result_settings(config) != result_settings(type(config)())


def choices(annotation: Any) -> list[Any]:
    """Return the values of all literals and enumerations in an annotation."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return list(annotation)
    return [value for argument in get_args(annotation) for value in choices(argument)]


def is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(map(is_list, get_args(annotation)))


@pytest.mark.parametrize("job", JOBS)
def test_every_choice_is_accepted_as_text(job: str) -> None:
    config_class = JOBS[job].config_class
    for name, field in field_names(config_class):
        values = [default_text(value) for value in choices(field.annotation)]
        together = [",".join(values)] if values and is_list(field.annotation) else []
        for text in [*values, *together]:
            config, refused = loaded(config_class, f"--{name}", text)
            if config is not None:
                assert default_text(reduce(getattr, name.split("."), config)) == text, name
            else:
                assert "input should be" not in refused


def loaded(config_class: type[ConfigSection], *arguments: str) -> tuple[ConfigSection | None, str]:
    """Return the configuration, or why it was refused."""
    try:
        return parse_command_line(config_class, "job", arguments), ""
    except InputError as error:
        return None, str(error)


class NumbersSection(ConfigSection):
    """A section with choices of all kinds."""

    level: Literal[1, 2, 3] = 1
    """A number."""
    levels: list[Literal[1, 2]] = [1]
    """Numbers."""
    share: Literal["auto", 0.5] | None = None
    """A number, a name or nothing."""
    switch: Literal[True, "auto"] = "auto"
    """A switch with a third position."""


def test_numbers_among_choices_are_accepted_from_the_command_line() -> None:
    config = parse_command_line(MitigationConfig, "mitigation", ["--train.zero", "3"])
    assert config.train.zero == 3
    arguments = ["--level=2", "--levels", "2,1", "--share", "0.5", "--switch", "true"]
    assert parse_command_line(NumbersSection, "numbers", arguments) == NumbersSection(
        level=2, levels=[2, 1], share=0.5, switch=True
    )
    assert parse_command_line(NumbersSection, "numbers", ["--share", "null", "--switch", "auto"]) == NumbersSection()
    with pytest.raises(InputError, match="level '4': input should be 1, 2 or 3"):
        parse_command_line(NumbersSection, "numbers", ["--level", "4"])


def test_dashes_are_taken_for_underscores() -> None:
    config = load("--dry-run", "--prompts.max-tokens", "9", "--statistics.max-rows=7", "--no-prompts.chat")
    assert (config.dry_run, config.prompts.max_tokens, config.statistics.max_rows) == (True, 9, 7)
    assert not load("--no-dry-run").dry_run
    assert load("--scores.epsilon", ".5,.1", "--run-id", "a-b").run_id == "a-b"


def test_help_shows_choices_and_defaults_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for job in JOBS:
        with pytest.raises(SystemExit):
            main([job, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        for wrong in ("BLOCK", "<Tap", "(default: None)", "(default: False)", "(default: ['"):
            assert wrong not in shown, job
        if job == "score":
            assert "list[{block,update,attention,mlp,mlp_hidden}]" in shown
            assert "(default: block,update)" in shown
            assert "(default: null)" in shown


WRONG_VALUES: dict[str, Any] = {
    "negative": -1,
    "zero": 0,
    "huge": 10**20,
    "hugely negative": -(10**20),
    "a large float": 1e300,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "nan as text": "nan",
    "inf as text": "-inf",
    "empty": "",
    "null character": "a\0b",
    "not UTF-8": "a\udcff",
    "long": "x" * 100_000,
    "long path": "x/" * 10_000,
    "truth": True,
    "fields": {"no_such": [1]},
    "list": [[1], {}],
}
MAY_BE_NEGATIVE = ("thresholds.rank_correlation",)
VIEW_CONFIGS: dict[str, type[ConfigSection]] = {
    "history": HistoryConfig,
    "report": ReportConfig,
    "runs": RunsConfig,
    "compare": CompareConfig,
}
CONFIGS: dict[str, type[ConfigSection]] = {name: job.config_class for name, job in JOBS.items()} | VIEW_CONFIGS
REQUIRED: dict[str, dict[str, Any]] = {"compare": {"runs": ["a", "b"]}, "report": {"run": "a"}}
"""Settings without which a configuration is refused."""
ENTRIES: dict[str, dict[str, Any]] = {"models": {"source": "smollm2"}, "forecasters": {"forecaster": "dlinear"}}
"""Smallest entries of the lists of sections."""


def settings_of_every_field(config_class: type[ConfigSection], value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the dotted name of each field, and settings with the value there."""
    for name, field in field_names(config_class):
        entry = section_class(field.annotation)
        yield name, nested(name, value)
        if is_list(field.annotation) and entry is None:
            yield name, nested(name, [value])
        elif entry is not None:
            for inner, _ in field_names(entry):
                yield f"{name}.0.{inner}", {name: [merged(ENTRIES[name], nested(inner, value))]}


def nested(name: str, value: Any) -> dict[str, Any]:
    first, _, rest = name.partition(".")
    return {first: nested(rest, value) if rest else value}


def leaves(value: Any) -> Iterator[Any]:
    """Yield the numbers and texts within a value."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def makes_sense(name: str, value: Any) -> bool:
    """Return whether each part of an accepted value is an ordinary number or text."""
    if isinstance(value, float | int):
        return abs(value) <= 2**32 and (value >= 0 or name in MAY_BE_NEGATIVE)
    return value is None or not isinstance(value, str) or (0 < len(value) <= 20_000 and "\0" not in value)


@pytest.mark.parametrize("kind", WRONG_VALUES)
@pytest.mark.parametrize("job", CONFIGS)
def test_a_wrong_value_of_any_field_is_refused_by_the_name_of_the_field(job: str, kind: str) -> None:
    for name, settings in settings_of_every_field(CONFIGS[job], WRONG_VALUES[kind]):
        try:
            config = validate(CONFIGS[job], REQUIRED.get(job, {}) | settings)
        except InputError as error:
            message = str(error)
            assert len(message) <= 500, name
            assert "\n" not in message, name
            assert name.rpartition(".")[2] in message, f"{name}: {message}"
        else:
            assert all(makes_sense(name, leaf) for leaf in leaves(config.model_dump())), name


@pytest.mark.parametrize("job", CONFIGS)
def test_every_number_has_bounds_and_is_no_truth_value(job: str) -> None:
    for name, field in field_names(CONFIGS[job]):
        if field.annotation not in (bool, str) and set(types_of(field.annotation)) & {int, float}:
            assert loaded(CONFIGS[job], f"--{name}", "1e19")[0] is None, name
            for settings in (nested(name, True), nested(name, [True])):
                if bool not in types_of(field.annotation):
                    with pytest.raises(InputError, match=name.rpartition(".")[2]):
                        validate(CONFIGS[job], REQUIRED.get(job, {}) | settings)


def types_of(annotation: Any) -> list[Any]:
    """Return the classes that an annotation consists of."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [type(value) for value in inner]
    return [kind for part in inner for kind in types_of(part)] if inner else [annotation]


@pytest.mark.parametrize("factory", [lambda d: {"x": d}, lambda d: [d]])
def test_settings_that_are_nested_too_deeply_are_refused(factory: Callable[[Any], Any]) -> None:
    value = reduce(lambda inner, _: factory(inner), range(5000), 1)
    with pytest.raises(InputError, match=r"settings.*nested more than 20 levels deep"):
        validate(AuditConfig, {"settings": {"score": value}})


@pytest.mark.parametrize(
    ("job", "options", "message"),
    [
        ("score", ["--scores.epsilon", "0.01,0.01"], "given twice"),
        ("score", ["--scores.metrics", "avss,avss"], "given twice"),
        ("score", ["--scores.quantile", "0.1,0.1"], "given twice"),
        ("score", ["--scores.epsilon", "0.1,0.102"], "scores.epsilon 0.1 and 0.102 are both placed at 0.1016"),
        ("hallucination", ["--contrasts.epsilon", "0.01,0.01"], "given twice"),
        ("hallucination", ["--contrasts.parts", "answer,answer"], "given twice"),
        ("hallucination", ["--contrasts.variance", "pooled,pooled"], "given twice"),
        ("hallucination", ["--contrasts.epsilon", "0.1,0.102"], "contrasts.epsilon 0.1 and 0.102 are both placed at"),
        ("search", ["--thresholds.choose_on", "sciq,sciq"], "given twice"),
    ],
)
def test_scores_that_would_be_one_are_refused(job: str, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_command_line(CONFIGS[job], job, options)


def test_thresholds_that_are_counted_exactly_are_distinct_however_close() -> None:
    options = ["--scores.epsilon", "0.1,0.102", "--activations.epsilons", "0.1,0.102"]
    assert load(*options).scores.epsilon == [0.1, 0.102]
