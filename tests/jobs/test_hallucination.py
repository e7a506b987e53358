"""The hallucination job on a real local Ray, with a model that was made to react to wrong answers."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from selenium import webdriver

import stratoscope
from stratoscope.data import PairChoice, PairSource, load_pairs
from stratoscope.errors import InputError, RunError
from stratoscope.evaluation import GenerationPrompt, TextGenerator
from stratoscope.models import encode_text, load_model
from stratoscope.pipelines.hallucination import HallucinationConfig, HallucinationJob
from stratoscope.pipelines.hallucination import inputs as inputs_module
from stratoscope.pipelines.hallucination.run import worker_settings
from stratoscope.pipelines.hallucination.worker import HallucinationWorker
from stratoscope.pipelines.runtime.launch import run_from_command_line
from stratoscope.pipelines.sharded.layout import Shards
from stratoscope.results import from_parquet
from stratoscope.tables import hallucination as tables
from tests.jobs.reacting import REACTING, pairs_file, reacting_fields, reacting_model
from tests.pages import open_page, page_faults

__all__ = ["pairs_file", "reacting_fields", "reacting_model"]


@pytest.fixture(scope="module")
def run(reacting_fields: Callable[..., dict], local_ray: None) -> stratoscope.HallucinationRun:  # noqa: ARG001
    contrasts = {
        "draws": 499,
        "definitions": ["eavss", "standardized", "difference", "ratio", "hallucinated_only"],
        "parts": ["answer", "last", "change"],
        "variance": ["elementwise", "pooled"],
        "epsilon": [0.01],
        "quantile": [0.1],
    }
    return stratoscope.detect_hallucination(
        **reacting_fields(run_id="whole", contrasts=contrasts, actors={"min": 2, "max": 2})
    )


def test_the_layer_that_was_made_to_react_is_found(run: stratoscope.HallucinationRun) -> None:
    rows = [r for r in run.scores.to_pylist() if (r["definition"], r["part"]) == ("eavss", "answer")]
    rows = [r for r in rows if r["variance"] == "elementwise" and r["epsilon_kind"] == "absolute"]
    for dataset in ("first", "second"):
        found = {r["layer"]: r for r in rows if (r["dataset"], r["tap"]) == (dataset, "update")}
        assert found[REACTING]["flagged"]
        assert found[REACTING]["direction"] == "more"
        assert found[REACTING]["num_questions"] == 30
        assert found[REACTING]["ci_low"] > 0
        assert max(found, key=lambda layer: found[layer]["propensity"]) == REACTING
        assert not any(found[layer]["flagged"] for layer in range(REACTING))
    separation = run.table("separation").to_pylist()
    flagged = [r for r in separation if (r["tap"], r["features"]) == ("update", "flagged")]
    assert all(r["auroc"] > 0.85 and r["over_random_low"] > 0 for r in flagged)
    alone = {r["layer"]: r["auroc"] for r in separation if (r["dataset"], r["tap"]) == ("first", "update")}
    assert alone[REACTING] > 0.85
    assert any(re.search(rf"first, tap update: layers [\d ]*\b{REACTING}\b", v) for v in run.manifest.facts["verdicts"])


def test_tables_have_their_columns_and_rows(run: stratoscope.HallucinationRun) -> None:
    stats, answers = run.table("pair_stats"), run.table("answers")
    assert stats.schema.names == tables.PairStatsRow.schema().names
    assert run.scores.schema.equals(tables.HallucinationScoreRow.schema())
    assert answers.num_rows == 240
    units = 2 * 240 + 60
    assert stats.num_rows == units * 4 * 2
    assert set(stats["part"].to_pylist()) == {"answer", "last", "question"}
    assert answers["right"].to_pylist().count(True) == 120
    combinations = 5 * 3 * 2 * 2
    assert run.scores.num_rows == 2 * combinations * 2 * 4
    last = [r for r in stats.to_pylist() if r["part"] == "last"]
    assert {r["tokens"] for r in last} == {1}
    agreement = run.table("agreement").to_pylist()
    assert [(r["tap"], r["dataset"], r["other"]) for r in agreement] == [
        ("block", *sorted(["first", "second"], key=[d["name"] for d in run.manifest.facts["datasets"]].index)),
        ("update", *sorted(["first", "second"], key=[d["name"] for d in run.manifest.facts["datasets"]].index)),
    ]
    assert run.manifest.counts["questions"] == 60
    assert Path(run.path, "report.html").stat().st_size > 100_000
    assert not Path(run.path, "shards").exists()


def test_the_page_names_the_flagged_layers(run: stratoscope.HallucinationRun, browser: webdriver.Chrome) -> None:
    path = Path(run.path, "report.html")
    assert page_faults(browser, path) == []
    open_page(browser, path)
    assert re.search(rf"\b{REACTING}\b.* \(update\) reacts? to wrong answers", browser.title)


def test_log_likelihoods_are_those_of_the_plain_model(run: stratoscope.HallucinationRun, reacting_model: Path) -> None:
    model = load_model(str(reacting_model), head=True)
    stats = run.table("answers").slice(0, 6).to_pylist()
    questions = {
        q.question_id: q for q in load_pairs([PairSource(run.manifest.config["pairs"]["source"][0])], PairChoice())
    }
    for row in stats:
        prompt = questions[row["question_id"]].prompt
        ids = encode_text(model.tokenizer, f"{prompt} {row['text']}")
        with torch.inference_mode():
            logits = model.network(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        start = row["question_tokens"]
        expected = sum(float(logits[i - 1, ids[i]]) for i in range(start, len(ids)))
        assert row["tokens"] == len(ids) - start
        assert row["log_likelihood"] == pytest.approx(expected, abs=1e-3)


def test_a_plain_loop_and_two_actors_give_the_same_bits(
    run: stratoscope.HallucinationRun, reacting_fields: Callable[..., dict]
) -> None:
    """The run has two actors, which take the shards in any order."""
    job = HallucinationJob(HallucinationConfig.model_validate(reacting_fields(run_id="plain")))
    job.prepare()
    from stratoscope.execution import ActorPool

    inputs = job.inputs
    worker = HallucinationWorker(worker_settings(job.config, inputs, ActorPool(1, 1, 1, 1, 0)))
    shards = Shards(inputs.layout, inputs.questions.table, range(inputs.layout.num_shards))
    parts = [worker(table.to_pylist()[0]) for table in shards]
    rows = [from_parquet(part.files["pair_stats"]).to_pylist() for part in parts]
    assert [row for part in rows for row in part] == run.table("pair_stats").to_pylist()


@pytest.fixture(scope="module")
def resumed(
    reacting_fields: Callable[..., dict],
    pairs_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    local_ray: None,  # noqa: ARG001
) -> stratoscope.HallucinationRun:
    """A run that failed at a question that is too long and was resumed, with a threshold above every propensity."""
    rows = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    rows.append({**rows[0], "right": [" ".join(["w11"] * 3000)], "question": "w99"})
    path = tmp_path_factory.mktemp("long") / "long.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    settings = reacting_fields(
        run_id="resumed",
        pairs={"source": [str(path)], "limit": None},
        contrasts={"draws": 499, "threshold": 50.0},
    )
    with pytest.raises(RunError, match="1 questions could not be scored"):
        stratoscope.detect_hallucination(**settings, fail_on_error=True)
    return stratoscope.detect_hallucination(**settings)


def test_a_threshold_that_flags_nothing_is_a_result(resumed: stratoscope.HallucinationRun) -> None:
    assert not any(resumed.scores["flagged"].to_pylist())
    assert resumed.manifest.exit_code == 0
    assert any("propensity is at most" in verdict for verdict in resumed.manifest.facts["verdicts"])
    flagged = [r for r in resumed.table("separation").to_pylist() if r["features"] == "flagged"]
    assert {r["auroc"] for r in flagged} == {0.5}


def test_a_failed_run_goes_on_where_it_stopped(
    resumed: stratoscope.HallucinationRun, run: stratoscope.HallucinationRun
) -> None:
    assert resumed.manifest.counts["shards_skipped"] > 0
    assert resumed.manifest.counts["errors"] == 1
    assert "too long" in resumed.table("errors")["error"][0].as_py()
    one = {
        r["prompt_id"]: r["m2"]
        for r in run.table("pair_stats").to_pylist()
        if (r["layer"], r["tap"], r["part"]) == (1, "block", "answer")
    }
    other = {
        r["prompt_id"]: r["m2"]
        for r in resumed.table("pair_stats").to_pylist()
        if (r["layer"], r["tap"], r["part"]) == (1, "block", "answer")
    }
    assert set(one) == set(other)
    np.testing.assert_allclose([other[i] for i in one], list(one.values()), rtol=1e-5)


COMMON = {"readings": {"taps": ["update"]}, "generation": {"max_tokens": 4, "shots": 0}}
"""Fields of runs over the model's own answers."""


@pytest.fixture(scope="module")
def own_questions(reacting_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty questions; of half of them what the model writes is the right answer."""
    model = load_model(str(reacting_model), head=True)
    questions = [f"w{i} w{(i * 3) % 50} w{i % 11}" for i in range(60)]
    prompts = [
        GenerationPrompt(tuple(encode_text(model.tokenizer, f"Question: {q}?\nAnswer:")), ("\n",), 4) for q in questions
    ]
    written = TextGenerator(model, 512).answer(prompts)
    rows = [
        {"question": q, "right": [w.upper() if i % 2 else "w3"]}
        for i, (q, w) in enumerate(zip(questions, written, strict=True))
    ]
    path = tmp_path_factory.mktemp("own") / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_own_answers_are_graded_and_compared(
    reacting_fields: Callable[..., dict],
    own_questions: Path,
    tmp_path: Path,
    local_ray: None,  # noqa: ARG001
) -> None:
    never = tmp_path / "never.jsonl"
    asked = [json.loads(line)["question"] for line in own_questions.read_text().splitlines()[:20]]
    never.write_text("\n".join(json.dumps({"question": q, "right": ["never written"]}) for q in asked))
    both = {"source": [str(never), str(own_questions)], "limit": None, "answers": "own"}
    own = stratoscope.detect_hallucination(**reacting_fields(run_id="own", pairs=both, **COMMON))
    none, rate = own.table("rates").to_pylist()
    assert (none["answered"], none["wrong"]) == (20, 20)
    assert "all 20 answers to 'never' are wrong" in own.manifest.facts["verdicts"][-1]
    assert set(own.scores["dataset"].to_pylist()) == {"own"}
    assert (rate["answered"], rate["wrong"]) == (60, 30)
    assert rate["ci_low"] < 0.5 < rate["ci_high"]
    answers = own.table("answers").to_pylist()
    own_answers = [a for a in answers if a["dataset"] == "own"]
    assert {(a["origin"], a["right"]) for a in own_answers} == {("own", True), ("own", False)}
    assert own.scores["num_questions"][0].as_py() == 60


def test_own_wrong_answers_are_compared_with_given_right_ones(
    reacting_fields: Callable[..., dict],
    own_questions: Path,
    local_ray: None,  # noqa: ARG001
) -> None:
    pairs = {"source": [str(own_questions)], "limit": None, "answers": "gold_and_own"}
    beside = stratoscope.detect_hallucination(**reacting_fields(run_id="beside", pairs=pairs, **COMMON))
    origins = [(a["origin"], a["right"]) for a in beside.table("answers").to_pylist()]
    assert origins.count(("gold", True)) == 60
    assert origins.count(("own", False)) == 30
    assert beside.scores["num_questions"][0].as_py() == 30


def test_what_vllm_wrote_is_graded_and_the_actors_write_the_rest(
    reacting_fields: Callable[..., dict],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    local_ray: None,  # noqa: ARG001
) -> None:
    """vLLM itself needs a GPU; here stands what comes of its texts, and that actors answer where it failed."""
    rows = [{"question": f"w{i} w{i % 7}", "right": [f"w{10 + i}"]} for i in range(40)]
    path = tmp_path / "vllm.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    asked: list[str] = []

    def write(_model: str, prompts: list[str], **_given: object) -> dict[int, str]:
        asked.extend(prompts)
        found = {i: int(re.search(r"Question: w(\d+)", prompt)[1]) for i, prompt in enumerate(prompts)}
        return {i: f"w{10 + number}" if number % 2 else "w3" for i, number in found.items() if number != 7}

    monkeypatch.setattr(inputs_module, "vllm_installed", lambda: True)
    monkeypatch.setattr(inputs_module, "write_with_vllm", write)
    settings = reacting_fields(
        run_id="vllm",
        pairs={"source": [str(path)], "limit": None, "answers": "own"},
        readings={"taps": ["update"]},
        generation={"engine": "vllm", "max_tokens": 3, "shots": 0},
    )
    run = stratoscope.detect_hallucination(**settings)
    assert len(asked) == 40
    texts = {r["text"]: r["right"] for r in run.table("generated").to_pylist()}
    assert run.table("generated").num_rows == 40
    assert [texts[f"w{10 + i}"] for i in range(1, 40, 2) if i != 7] == [True] * 19
    assert texts["w3"] is False


@pytest.mark.parametrize(
    ("rows", "arguments", "says"),
    [
        ([{"question": "w1", "right": ["w2"]}] * 2, [], "no question of 'q' has a wrong answer"),
        ([{"question": f"w{i}", "right": ["w2"], "wrong": ["w3"]} for i in range(12)], [], "needs 13"),
        ([{"question": "w1", "right": ["w2"], "wrong": ["w3"]}], ["--pairs.format", "nonsense"], "no format"),
        ([{"question": "w1", "right": ["w2"], "wrong": ["w3"]}], ["--contrasts.definitions", "evss"], "no definition"),
        ([{"question": "w1", "right": ["w2"], "wrong": ["w3"]}], ["--contrasts.parts", "change"], "needs question"),
        ([{"question": "w1", "answer": "a", "label": 1}], ["--pairs.answers", "own"], "cannot be compared"),
        (
            [{"question": f"w{i}", "right": ["w2"], "wrong": ["w3"]} for i in range(20)],
            ["--generation.engine", "vllm"],
            "vllm",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    rows: list[dict[str, object]],
    arguments: list[str],
    says: str,
    reacting_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    given = ["--pairs.source", str(path), "--model.source", str(reacting_model), "--output", str(tmp_path / "runs")]
    assert run_from_command_line(HallucinationJob, [*given, *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line


def test_answers_of_one_kind_are_refused(reacting_fields: Callable[..., dict], tmp_path: Path, local_ray: None) -> None:  # noqa: ARG001
    rows = [{"question": f"w{i}", "right": ["never written"]} for i in range(20)]
    path = tmp_path / "one.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="all 20 answers to 'one' are wrong"):
        stratoscope.detect_hallucination(
            **reacting_fields(
                run_id="one",
                pairs={"source": [str(path)], "answers": "own"},
                readings={"taps": ["update"]},
                generation={"max_tokens": 3, "shots": 0},
            )
        )
