"""Questions with right and wrong answers: formats, selection and refusals."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.data import PairChoice, PairSource, Question, load_pairs
from stratoscope.data.distractors import answer_type, sample_wrong_answers
from stratoscope.data.qa import RawQuestion, question_prompt
from stratoscope.errors import InputError

WIKIQA = """QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel
Q1\thow big is it\tD1\tT\tD1-0\tIt is a thing.\t0
Q1\thow big is it\tD1\tT\tD1-1\tIt is 3 m "big".\t1
Q2\twho is she\tD2\tT\tD2-0\tNobody knows.\t0
"""
TRUTHFULQA = """Type,Category,Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers,Source
a,b,What is it?,It is x,It is y,It is x; It may be x,"It is y; It, too, is z",s
"""


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def load(*sources: str, kind: str = "auto", **choice: object) -> list[Question]:
    return list(load_pairs([PairSource(s, kind) for s in sources], PairChoice(**choice)))


def answers_of(question: Question) -> list[tuple[str, bool, str]]:
    return [(a.text, a.right, a.origin) for a in question.answers]


def test_truthfulqa_in_both_its_forms(tmp_path: Path) -> None:
    csv = tmp_path / "truthfulqa.csv"
    csv.write_text(TRUTHFULQA)
    (question,) = load(str(csv), kind="truthfulqa")
    expected = [
        ("It is x", True, "gold"),
        ("It may be x", True, "gold"),
        ("It is y", False, "given"),
        ("It, too, is z", False, "given"),
    ]
    assert answers_of(question) == expected
    assert question.prompt == "Question: What is it?\nAnswer:"
    row = {
        "question": "What is it?",
        "best_answer": "It is x",
        "correct_answers": ["It is x", "It may be x"],
        "incorrect_answers": ["It is y", "It, too, is z"],
    }
    (same,) = load(write(tmp_path / "hub.jsonl", [row]))
    assert answers_of(same) == expected


def test_wikiqa_gathers_the_sentences_of_a_question(tmp_path: Path) -> None:
    file = tmp_path / "wiki.tsv"
    file.write_text(WIKIQA)
    loaded = load_pairs([PairSource(str(file))], PairChoice())
    (question,) = loaded
    assert answers_of(question) == [('It is 3 m "big".', True, "gold"), ("It is a thing.", False, "given")]
    assert question.prompt == "Question: how big is it?\nAnswer:"
    (facts,) = loaded.datasets
    assert (facts.format, facts.read, facts.unusable, facts.kept) == ("wikiqa", 2, 1, 1)


def test_halueval_and_own_files(tmp_path: Path) -> None:
    row = {"knowledge": "K.", "question": "Who?", "right_answer": "Ann", "hallucinated_answer": "Bob"}
    (question,) = load(write(tmp_path / "h.jsonl", [row]))
    assert question.prompt == "K.\nQuestion: Who?\nAnswer:"
    assert answers_of(question) == [("Ann", True, "gold"), ("Bob", False, "given")]
    own = [
        {"question": "Who?", "right": ["Ann", "ann", ""], "wrong": ["Bob", "ANN"], "dataset": "one"},
        {"question": "When?", "right": ["1999"], "wrong": ["2000"], "dataset": "two"},
    ]
    first, second = load(write(tmp_path / "own.jsonl", own))
    assert (first.dataset, answers_of(first)) == ("one", [("Ann", True, "gold"), ("Bob", False, "given")])
    assert (second.dataset, second.gold) == ("two", ("1999",))


def test_missing_questions_and_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"question": None, "right": "a", "wrong": "b"},
        {"question": "Q1?", "right": ["a", None, ""], "wrong": ["b", None]},
        {"question": "Q2?", "right": None, "wrong": "b"},
        {"question": "Q3?", "right": "a"},
        {"question": "Q1?", "right": ["a", None, ""], "wrong": ["b", None]},
        *({"question": f"R{i}?", "right": "a", "wrong": "b", "context": None} for i in range(4)),
    ]
    loaded = load_pairs([PairSource(write(tmp_path / "q.jsonl", rows))], PairChoice(limit=3))
    (facts,) = loaded.datasets
    left_out = (facts.empty, facts.unusable, facts.duplicates, facts.shots, facts.over_limit)
    assert (facts.read, facts.kept, left_out, facts.missing_answers) == (9, 3, (1, 2, 1, 0, 2), 8)
    assert not any("None" in q.prompt or "None" in a.text for q in loaded for a in q.answers)


def test_missing_distractors_are_no_answers(tmp_path: Path) -> None:
    row = {"question": "Q?", "correct_answer": "a", "distractor1": None, "distractor2": "b", "distractor3": None}
    (question,) = load(write(tmp_path / "s.jsonl", [row]))
    assert [a.text for a in question.answers] == ["a", "b"]


def test_numbers_and_booleans_are_answers_with_the_text_of_the_file(tmp_path: Path) -> None:
    rows = [
        {"question": "Q1?", "right": 5, "wrong": [6, 2.50]},
        {"question": "Q2?", "right": True, "wrong": False},
        {"question": "Q3?", "right": "1969-07-20", "wrong": "1970-01-01"},
    ]
    questions = {q.prompt: [a.text for a in q.answers] for q in load(write(tmp_path / "q.jsonl", rows))}
    assert sorted(questions.values()) == [["1969-07-20", "1970-01-01"], ["5", "6", "2.5"], ["true", "false"]]
    file = tmp_path / "q.csv"
    file.write_text("question,right,wrong\nQ1?,007,1.50\nQ2?,008,2\n")
    assert sorted([a.text for a in q.answers] for q in load(str(file))) == [["007", "1.50"], ["008", "2"]]


def test_lists_in_cells_are_several_answers(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(
        "question,best_answer,correct_answers,incorrect_answers\n"
        """Q1?,a,"['a'\n ""it's b""]",['c' 'd']\n"""
        """Q2?,a,"[""a"", ""b; b""]","['c', 'd']"\n"""
    )
    answers = sorted([a.text for a in q.answers] for q in load(str(file)))
    assert answers == [["a", "b; b", "c", "d"], ["a", "it's b", "c", "d"]]
    file.write_text("question,right,wrong\nQ1?,\"{'value': 'a'}\",b\n")
    with pytest.raises(InputError, match=r"row 1 is not of format pairs.*printed dictionary"):
        load(str(file))


@pytest.mark.parametrize("by_text", [True, False])
def test_truthfulqa_in_its_multiple_choice_form(tmp_path: Path, by_text: bool) -> None:
    labelled = {"mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1, "c": 1, "b": 0, "d": 0}}
    split = {name: {"choices": list(t), "labels": list(t.values())} for name, t in labelled.items()}
    rows = [{"question": "Q?", **(labelled if by_text else split)}]
    (question,) = load(write(tmp_path / "mc_task.jsonl", rows))
    assert [(a.text, a.right) for a in question.answers] == [("a", True), ("c", True), ("b", False), ("d", False)]


def test_wikiqa_counts_all_its_rows_and_leaves_quotes_alone(tmp_path: Path) -> None:
    file = tmp_path / "wiki.tsv"
    file.write_text(WIKIQA.replace("It is a thing.", '"Big is a song.'))
    loaded = load_pairs([PairSource(str(file))], PairChoice())
    assert [a.text for q in loaded for a in q.answers] == ['It is 3 m "big".', '"Big is a song.']
    assert loaded.datasets[0].rows == 3
    file.write_text(WIKIQA.replace("Nobody knows.\t0", "Nobody knows.\t2"))
    with pytest.raises(InputError, match=r"row 3 .*neither 0 nor 1"):
        load(str(file))


def test_wikiqa_strips_answers_and_reads_labels_in_any_case(tmp_path: Path) -> None:
    rows = ["q\tright\tTRUE", "q\tright \tFALSE", "q\t   \tfalse", "q\twrong\tFalse", "q\tunlabelled\t "]
    file = tmp_path / "wiki.tsv"
    file.write_text("\n".join(["Question\tSentence\tLabel", *rows]))
    loaded = load_pairs([PairSource(str(file), "wikiqa")], PairChoice())
    (question,) = loaded
    assert [(a.text, a.right) for a in question.answers] == [("right", True), ("wrong", False)]
    assert loaded.datasets[0].missing_answers == 2
    file.write_text("\n".join(["Question\tSentence\tLabel", *rows, "q\tx\tyes"]))
    with pytest.raises(InputError, match=r"row 6 .*the label 'yes' is neither 0 nor 1, and neither true nor false"):
        load(str(file))


def test_known_sets_and_their_wrong_answers() -> None:
    sciq, *_ = load("sciq", limit=2)
    assert [a.origin for a in sciq.answers] == ["gold", "given", "given", "given"]
    for name in ("nq_open", "triviaqa"):
        loaded = load_pairs([PairSource(name)], PairChoice(limit=50))
        assert loaded.datasets[0].wrong_origin == "other"
        for question in loaded:
            right, wrong = question.answers
            assert (right.right, wrong.right, wrong.origin) == (True, False, "other")
            assert wrong.text.casefold() not in {gold.casefold() for gold in question.gold}


def test_own_answers_need_short_right_ones(tmp_path: Path) -> None:
    (question,) = load("sciq", limit=1, answers="own")
    assert question.answers == ()
    assert len(question.gold) == 1
    (question,) = load("triviaqa", limit=1, answers="gold_and_own")
    assert [a.right for a in question.answers] == [True]
    assert len(question.gold) > 1
    file = tmp_path / "wiki.tsv"
    file.write_text(WIKIQA)
    with pytest.raises(InputError, match="cannot be compared"):
        load(str(file), answers="own")


def test_a_smaller_limit_keeps_a_beginning_and_equal_questions_count_once(tmp_path: Path) -> None:
    rows = [{"question": f"Q{i}?", "right": "a", "wrong": "b"} for i in range(20)]
    path = write(tmp_path / "q.jsonl", [*rows, rows[3]])
    ids = [q.question_id for q in load(path)]
    assert len(set(ids)) == len(ids) == 20
    assert [q.question_id for q in load(path, limit=7)] == ids[:7]
    assert [q.question_id for q in load(path, seed=1)] != ids


@pytest.mark.parametrize("header", ["question,right,wrong", "question,answer"])
def test_questions_that_differ_only_as_texts_have_ids_of_their_own(header: str, tmp_path: Path) -> None:
    rows = [f"q{i % 150},{v},x{i}" for i in range(300) for v in ("007", "7")]
    rows = [",".join(row.split(",")[: header.count(",") + 1]) for row in rows]
    loaded = []
    for name, lines in (("a", rows), ("a", rows), ("b", rows[::-1])):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "q.csv").write_text("\n".join([header, *lines]))
        loaded.append(load_pairs([PairSource(str(folder / "q.csv"))], PairChoice(shots=3)))
    assert len({questions.fingerprint for questions in loaded}) == 1
    ids = [question.question_id for question in loaded[0]]
    assert len(set(ids)) == len(ids) > 100


def test_wrong_answers_are_sampled_from_questions_of_the_same_type() -> None:
    assert answer_type("Who wrote it", "Jane Austen") == ("who", "name", 2)
    assert answer_type("In what year was it", "1999") == ("what", "year", 1)
    assert answer_type("how many are there", "3 or 4") == ("how many", "number", 3)
    questions = [f"who is {i}" for i in range(10)] + [f"what year is {i}" for i in range(10)]
    gold = [[f"Name N{i}"] for i in range(10)] + [[str(1900 + i)] for i in range(10)]
    sampled = sample_wrong_answers(questions, gold, 0)
    for index, answer in enumerate(sampled):
        assert answer != gold[index][0]
        assert answer in [g[0] for g in (gold[:10] if index < 10 else gold[10:])]
    order = list(reversed(range(20)))
    again = sample_wrong_answers([questions[i] for i in order], [gold[i] for i in order], 0)
    assert [again[order.index(i)] for i in range(20)] == sampled
    assert sample_wrong_answers(["who"], [["A"]], 0) == [None]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([{"question": "Q?", "right": "a"}], "auto", "no question of 'f' has a wrong answer"),
        ([{"question": "Q?", "right": "a", "wrong": ["A"]}], "auto", "no question of 'f' has one right and one wrong"),
        ([{"q": "Q?"}], "auto", "which match no format"),
        ([{"question": "Q?", "right": "a", "wrong": "b"}], "wikiqa", "is not of format wikiqa"),
        ([{"question": "Q?", "right": "a", "wrong": "b"}], "wikqa", "is not a format"),
    ],
)
def test_unusable_questions_are_refused(tmp_path: Path, rows: list[dict[str, object]], kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(write(tmp_path / "f.jsonl", rows), kind=kind)
    with pytest.raises(InputError, match=r"pairs\.source 'nowhere' is not a known set"):
        load("nowhere")


def test_shots_precede_every_question_and_are_not_questions_themselves(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "right": ["", f"a{i}"], "wrong": ["x"]} for i in range(12)]
    file = write(tmp_path / "pairs.jsonl", rows)
    questions = load(file, shots=3, answers="own")
    assert len(questions) == 9
    *blocks, last = questions[0].prompt.split("\n\n")
    shots = {re.fullmatch(r"Question: q(\d+)\?\nAnswer: a(\d+)", block)[1] for block in blocks}
    assert len(shots) == 3
    questions_asked = {re.fullmatch(r"Question: q(\d+)\?\nAnswer:", q.prompt.split("\n\n")[-1])[1] for q in questions}
    assert last.endswith("Answer:")
    assert not shots & questions_asked
    assert len({q.prompt.rpartition("\n\n")[0] for q in questions}) == 1
    assert load(file, shots=3, answers="own", seed=1)[0].prompt != questions[0].prompt


def asked(text: str) -> str:
    """Return a question as its prompt has it."""
    prompt = question_prompt(RawQuestion(text, {}, ()))
    return prompt.removeprefix("Question: ").removesuffix("\nAnswer:")


@pytest.mark.parametrize(
    "text",
    [
        "什么是AI？",  # noqa: RUF001
        "请介绍一下北京。",
        "答案是：",  # noqa: RUF001
        "「それは何ですか？」",  # noqa: RUF001
        "ما هو الذكاء الاصطناعي؟",
        "یہ کیا ہے۔",  # noqa: RUF001
        "यह क्या है।",
        'Who said "I am?"',
        "Who said “I am?”",
        "Wer sagte „Bin ich?“",
        "Qui a dit « suis-je ? »",
        "Is it (or is it not?)",
        "To be or not to be…",
        "Name it.",
        "Name it: ",
    ],
)
def test_a_question_that_has_its_end_mark_gets_no_other(text: str) -> None:
    assert asked(text) == text.strip()


@pytest.mark.parametrize(
    "text", ["who is she", 'Who sings "Help!"', "Where is it (in the U.S.)", "AI是什么", "它在“北京”"]
)
def test_a_question_without_an_end_mark_of_its_own_gets_one(text: str) -> None:
    assert asked(text) == f"{text}?"


@given(st.text(st.characters(max_codepoint=127), min_size=1))
def test_only_a_quoted_question_differs_from_the_rule_for_plain_text(text: str) -> None:
    text = text.strip()
    plain = text if re.search(r"[.?!:]$", text) else f"{text}?"
    assert asked(text) == (text if re.search(r"\?[\s\"')\]}]+$", text) else plain)
