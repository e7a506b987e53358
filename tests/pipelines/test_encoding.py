"""Prompts that were encoded ahead of the actor."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stratoscope.errors import InputError
from stratoscope.execution import ActorPool
from stratoscope.models import Encoding, encode, load_model, load_tokenizer, resolve_source
from stratoscope.pipelines.hallucination import HallucinationConfig
from stratoscope.pipelines.hallucination import inputs as question_inputs
from stratoscope.pipelines.hallucination import run as hallucination_run
from stratoscope.pipelines.hallucination.encoding import decode_shard
from stratoscope.pipelines.hallucination.rows import encode_question
from stratoscope.pipelines.hallucination.worker import HallucinationWorker
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.score.encoding import ShardEncoder, pack_encoded, unpack_encoded
from stratoscope.pipelines.score.inputs import open_inputs
from stratoscope.pipelines.score.run import shard_encoder, worker_settings
from stratoscope.pipelines.score.worker import ScoreWorker
from stratoscope.pipelines.sharded.layout import Shards
from stratoscope.results import Storage, from_parquet
from stratoscope.tables.hallucination import GeneratedRow, rate_rows
from tests.models import zoo
from tests.models.test_positions import LIMIT, PHI3, save


def question_worker(fields: dict) -> tuple[question_inputs.HallucinationInputs, HallucinationWorker]:
    """Return the inputs of a hallucination run and a worker in this process."""
    config = validate(HallucinationConfig, fields)
    inputs = question_inputs.open_inputs(config)
    return inputs, HallucinationWorker(hallucination_run.worker_settings(config, inputs, ActorPool(1, 1, 1, 1, 0)))


@pytest.mark.parametrize("too_long", ["truncate", "refuse"])
def test_a_shard_comes_back_as_it_would_be_encoded_by_the_actor(tiny_model_folder: Path, too_long: str) -> None:
    source = resolve_source(str(tiny_model_folder))
    policy = Encoding(chat=False, bos="auto", max_tokens=4, too_long=too_long)  # type: ignore[arg-type]
    texts = ["w1 w2", "", "w3 w4 w5 w6 w7 w8", "w9"]
    shard = {"shard": 2, "start": 8, "prompt_id": list("abcd"), "group": ["x"] * 4, "text": texts}
    prepared = ShardEncoder(source, trust_remote_code=False, policy=policy)(shard)
    assert "text" not in prepared
    assert {name: prepared[name] for name in ("shard", "start", "prompt_id")} == {
        name: shard[name] for name in ("shard", "start", "prompt_id")
    }
    expected = encode(load_tokenizer(source), texts, policy)
    unpacked = unpack_encoded(prepared)
    assert [(tuple(e.ids), e.truncated, e.error) for e in unpacked] == [
        (tuple(e.ids), e.truncated, e.error) for e in expected
    ]


def test_nothing_is_packed_as_nothing() -> None:
    assert unpack_encoded(pack_encoded([])) == []


def test_a_worker_computes_the_same_from_texts_and_from_encoded_prompts(
    tiny_model_folder: Path, prompts_file: Path
) -> None:
    config = validate(
        ScoreConfig, {"model": {"source": str(tiny_model_folder)}, "prompts": {"source": str(prompts_file)}}
    )
    inputs = open_inputs(config)
    worker = ScoreWorker(worker_settings(config, inputs, ActorPool(1, 1, 1, 1, 0)))
    (row,) = Shards(inputs.layout, inputs.prompts.table, [0])[0].to_pylist()
    from_texts, from_ids = (worker(shard) for shard in (row, shard_encoder(config, inputs)(row)))
    assert from_texts.files == from_ids.files
    varying = ("started", "ended", "peak_memory_bytes", "peak_gpu_memory_bytes")
    counts = [{k: v for k, v in r.counts.items() if k not in varying} for r in (from_texts, from_ids)]
    assert counts[0] == counts[1]
    assert counts[0]["batch_tokens"] == 2048


@pytest.mark.parametrize("answers", ["given", "own", "gold_and_own"])
def test_a_worker_computes_the_same_from_questions_and_from_encoded_ones(
    tiny_model_folder: Path, tmp_path: Path, answers: str
) -> None:
    file = tmp_path / "questions.jsonl"
    lines = [
        {"question": f"w{i} w{i + 1} w{i % 7}", "right": [f"w{i + 2}", "w9 w4"], "wrong": [f"w{i + 3} w1", "w5"]}
        for i in range(30)
    ]
    file.write_text("\n".join(json.dumps({"id": str(i)} | line) for i, line in enumerate(lines)))
    fields = {
        "model": {"source": str(tiny_model_folder)},
        "pairs": {"source": [str(file)], "format": ["pairs"], "answers": answers},
        "generation": {"max_tokens": 4},
    }
    config = validate(HallucinationConfig, fields)
    inputs = question_inputs.open_inputs(config)
    worker = HallucinationWorker(hallucination_run.worker_settings(config, inputs, ActorPool(1, 1, 1, 1, 0)))
    work = hallucination_run.sharded_work(config, inputs, ActorPool(1, 1, 1, 1, 1))
    assert work.prepare is not None
    (row, *_) = Shards(inputs.layout, inputs.questions.table, [0])[0].to_pylist()
    # As Ray Data does it: the columns travel in a table.
    (encoded,) = pa.Table.from_pylist([work.prepare(row)]).to_pylist()
    from_texts, from_ids = (worker(shard) for shard in (row, encoded))
    assert from_texts.files == from_ids.files
    assert ("generated" in from_ids.files) == (answers != "given")
    assert from_texts.counts["scored"] == from_ids.counts["scored"] > 0


def test_a_begin_of_sequence_that_the_tokenizer_lacks_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder, prompts = tmp_path / "model", tmp_path / "prompts.txt"
    shutil.copytree(tiny_model_folder, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "bos_token"}))
    prompts.write_text("w1 w2\nw3\n")
    fields = {"model": {"source": str(folder)}, "prompts": {"source": str(prompts)}}
    open_inputs(validate(ScoreConfig, fields))
    fields["prompts"]["bos"] = "always"
    with pytest.raises(InputError, match=r"^prompts.bos always: .* no begin-of-sequence token; use auto or never"):
        open_inputs(validate(ScoreConfig, fields))


def test_a_question_without_finite_logits_is_an_error(tiny_model_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    lines = [{"question": f"w{i} w{i + 1}", "right": [f"w{i}"]} for i in range(30)]
    file.write_text("\n".join(map(json.dumps, lines)))
    fields = {
        "model": {"source": str(tiny_model_folder)},
        "pairs": {"source": [str(file)], "format": ["pairs"], "answers": "own"},
        "generation": {"shots": 0, "max_tokens": 4},
        "batching": {"shard_size": 30},
    }
    inputs, worker = question_worker(fields)
    worker.model.network.model.norm.weight.data.fill_(math.nan)
    (row,) = Shards(inputs.layout, inputs.questions.table, [0])[0].to_pylist()
    files = worker(row).files
    assert (
        from_parquet(files["errors"])["error"].to_pylist()
        == ["no answer was written: the model's logits are not finite"] * 30
    )
    assert "generated" not in files


def test_what_vllm_wrote_belongs_to_its_prompt_and_weights(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two data sets have the same rows after examples of their own; later the weights change."""
    model, sources = tmp_path / "model", []
    shutil.copytree(tiny_model_folder, model)
    for number, name in enumerate("ab"):
        rows = [{"question": f"w{i} w{i + 1}", "right": [f"w{i}"]} for i in range(20)]
        rows += [{"question": f"w{50 + number} w{i}", "right": ["w1"]} for i in range(20)]
        sources.append(str(tmp_path / f"{name}.jsonl"))
        Path(sources[-1]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {
        "model": {"source": str(model)},
        "pairs": {"source": sources, "format": ["pairs"], "answers": "own", "limit": None},
        "generation": {"shots": 2, "max_tokens": 4},
    }
    calls: list[list[str]] = []

    def write(_model: str, prompts: list[str], **_settings: object) -> dict[int, str]:
        calls.append(prompts)
        return {i: f"{len(calls)}: {prompt}" for i, prompt in enumerate(prompts) if i}  # the first fails

    monkeypatch.setattr(question_inputs, "write_with_vllm", write)
    monkeypatch.setattr(question_inputs, "resources", dict)
    storage, config = Storage(str(tmp_path / "run")), validate(HallucinationConfig, fields)

    def written() -> list[tuple[str | None, str]]:
        inputs = question_inputs.write_answers_with_vllm(storage, config, question_inputs.open_inputs(config))
        return [(question.written, question.prompt) for question in inputs.questions]

    first = written()
    assert [text for text, _ in first] == [None, *(f"1: {prompt}" for _, prompt in first[1:])]
    assert written() == first
    assert len(calls) == 1
    network = load_model(str(model), head=True).network
    network.lm_head.weight.data += 1
    network.save_pretrained(model)
    assert [text for text, _ in written()][1:] == [f"2: {prompt}" for _, prompt in first[1:]]


@pytest.mark.parametrize("answers", ["own", "gold_and_own"])
def test_an_own_answer_without_a_word_is_neither_read_nor_counted(
    tiny_model_folder: Path, tmp_path: Path, answers: str
) -> None:
    file = tmp_path / "questions.jsonl"
    lines = [{"question": f"w{i} w{i + 1}", "right": [f"w{i}"]} for i in range(30)]
    file.write_text("\n".join(json.dumps({"id": str(i)} | line) for i, line in enumerate(lines)))
    fields = {
        "model": {"source": str(tiny_model_folder)},
        "pairs": {"source": [str(file)], "format": ["pairs"], "answers": answers},
        "generation": {"shots": 0},
        "batching": {"shard_size": 30},
    }
    inputs, worker = question_worker(fields)
    texts = ["", ".", "—", "the", *["w99 w98"] * 26]
    (row,) = Shards(inputs.layout, inputs.questions.with_written(texts).table, [0])[0].to_pylist()
    files = worker(row).files

    read = from_parquet(files["answers"]).to_pylist()
    assert {answer["text"] for answer in read if answer["origin"] == "own"} == {"w99 w98"}
    assert sum(not answer["right"] for answer in read) == 26
    (rate,) = rate_rows(GeneratedRow.read(from_parquet(files["generated"])), 0.95)
    assert (rate.answered, rate.wrong) == (26, 26)
    if answers == "own":
        assert from_parquet(files["errors"])["error"].to_pylist() == ["the model wrote no word"] * 4


def test_a_right_own_answer_of_an_article_is_read_and_counted(tiny_model_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    lines = [{"question": f"w{i} w{i + 1}", "right": ["A+"]} for i in range(30)]
    file.write_text("\n".join(map(json.dumps, lines)))
    fields = {
        "model": {"source": str(tiny_model_folder)},
        "pairs": {"source": [str(file)], "format": ["pairs"], "answers": "own"},
        "generation": {"shots": 0},
        "batching": {"shard_size": 30},
    }
    inputs, worker = question_worker(fields)
    texts = ["a+.", "", *["w99 w98"] * 28]
    (row,) = Shards(inputs.layout, inputs.questions.with_written(texts).table, [0])[0].to_pylist()
    files = worker(row).files
    read = from_parquet(files["answers"]).to_pylist()
    assert [answer["text"] for answer in read if answer["right"]] == ["a+."]
    (rate,) = rate_rows(GeneratedRow.read(from_parquet(files["generated"])), 0.95)
    assert (rate.answered, rate.wrong) == (29, 28)


def test_a_model_that_padding_changes_reads_answers_as_it_reads_each_alone(tmp_path: Path) -> None:
    """Rows of one length run together; the log-likelihoods go to their own answers."""
    zoo.tiny_model("causal", "rwkv").save_pretrained(tmp_path)
    zoo.write_tokenizer(tmp_path)
    file = tmp_path / "questions.jsonl"
    lines = [
        {"question": f"w{i} w{i % 7} " + "w2 " * (i % 3), "right": ["w9 w4"], "wrong": ["w5", f"w{i} w1 w7"]}
        for i in range(30)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    tables = []
    for max_tokens in (2048, 1):  # together, and each question in a batch of its own
        fields = {
            "model": {"source": str(tmp_path)},
            "pairs": {"source": [str(file)], "format": ["pairs"]},
            "batching": {"max_tokens": max_tokens},
        }
        inputs, worker = question_worker(fields)
        (row, *_) = Shards(inputs.layout, inputs.questions.table, [0])[0].to_pylist()
        result = worker(row)
        assert result.counts["errors"] == 0
        tables.append(
            [pq.read_table(pa.BufferReader(result.files[name])).to_pandas() for name in ("answers", "pair_stats")]
        )
    (answers, stats), (answers_alone, stats_alone) = tables
    np.testing.assert_allclose(answers["log_likelihood"], answers_alone["log_likelihood"], atol=1e-4)
    assert (answers["log_likelihood"] < 0).all()
    for name in ("mean", "m2"):
        np.testing.assert_allclose(
            np.stack(stats[name].to_list()), np.stack(stats_alone[name].to_list()), rtol=1e-4, atol=1e-5
        )


def test_a_model_that_scales_long_rows_otherwise_reads_answers_as_it_reads_each_alone(tmp_path: Path) -> None:
    """Questions of one batch, and the answers to one question, lie on both sides of the limit."""
    file = tmp_path / "questions.jsonl"
    words = [" ".join(f"w{i + j}" for j in range(LIMIT - 8 + i % 5)) for i in range(30)]
    lines = [{"question": text, "right": ["w9 w4"], "wrong": ["w5", "w6 w1 w7 w8 w8"]} for text in words]
    file.write_text("\n".join(map(json.dumps, lines)))
    config = validate(
        HallucinationConfig,
        {"model": {"source": save(PHI3, tmp_path)}, "pairs": {"source": [str(file)], "format": ["pairs"]}},
    )
    inputs = question_inputs.open_inputs(config)
    worker = HallucinationWorker(hallucination_run.worker_settings(config, inputs, ActorPool(1, 1, 1, 1, 0)))
    (shard, *_) = Shards(inputs.layout, inputs.questions.table, [0])[0].to_pylist()
    answers = from_parquet(worker(shard).files["answers"])["log_likelihood"].to_pylist()
    rows = [row for q in decode_shard(shard) for row in encode_question(worker.model.tokenizer, q).rows]
    assert min(len(row.ids) for row in rows) < LIMIT < max(len(row.ids) for row in rows)
    for row, value in zip(rows, answers, strict=True):
        with torch.inference_mode():
            log_p = worker.model.network(torch.tensor([row.ids]), use_cache=False).logits[0].log_softmax(-1)
        targets = torch.tensor(row.answer_ids)[:, None]
        assert value == pytest.approx(float(log_p[row.question_tokens - 1 : -1].gather(1, targets).sum()), abs=1e-4)
