from pathlib import Path

import pytest

from stratoscope.cli import main
from stratoscope.errors import InputError
from stratoscope.pipelines.audit import AuditConfig
from stratoscope.pipelines.hallucination import HallucinationConfig
from stratoscope.pipelines.mitigation import MitigationConfig
from stratoscope.pipelines.runtime.config import load_config, result_settings
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.search import SearchConfig

ROOT = Path(__file__).parents[2]


def load(*arguments: str) -> ScoreConfig:
    return load_config(ScoreConfig, "score", arguments)


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
        (["--activations.epsilons", "-1"], "above 0"),
        (["--scores.metrics", "avs"], "did you mean 'avss'"),
        (["--scores.quantile", "1.5"], "between 0 and 1"),
        (["--scores.epsilon", "[]"], "at least one of epsilon and quantile"),
        (["--actors.min", "3", "--actors.max", "2"], "max (2) is less than min (3)"),
        (["--config", "nosuch.yaml"], "config 'nosuch.yaml' cannot be read"),
        (["stray"], "stray"),
    ],
)
def test_mistakes_are_one_line_that_names_the_field(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        load(*arguments)
    assert message in str(refused.value)


def test_mistakes_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    for content, message in (
        ("prompts:\n  limt: 3\n", "field 'prompts.limt' is unknown; did you mean 'prompts.limit'?"),
        ("- a\n", "must hold fields by name"),
        ("a: [", "is not YAML"),
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
        "heal": MitigationConfig,
        "audit": AuditConfig,
    }
    config = load_config(classes.get(path.stem.split("_")[0], SearchConfig), "job", ["--config", str(path)])
    assert result_settings(config) != result_settings(type(config)())
