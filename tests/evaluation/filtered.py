"""A task of lm-evaluation-harness whose answers are extracted by two filters, as those of gsm8k are."""

import json
from collections.abc import Sequence
from pathlib import Path

ANSWER_TOKENS = 6
FILTERED = """
task: words
dataset_path: json
dataset_kwargs: {data_files: {test: DOCS}}
test_split: test
output_type: generate_until
doc_to_text: "{{ q }}"
doc_to_target: "{{ a }}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 6, do_sample: false}
repeats: REPEATS
filter_list:
  - name: strict-match
    filter: [{function: regex, regex_pattern: "^\\\\W*(\\\\w+)"}, {function: take_first}]
  - name: flexible-extract
    filter: [{function: regex, regex_pattern: "(\\\\w+)", group_select: -1}, {function: take_first}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def write_filtered_task(folder: Path, questions: Sequence[str], answers: Sequence[str], repeats: int = 1) -> str:
    """Write a task with two filters, of which the one reads the first word of an answer, the other the last."""
    docs = [json.dumps({"q": question, "a": answer}) for question, answer in zip(questions, answers, strict=True)]
    (folder / "docs.jsonl").write_text("\n".join(docs) + "\n")
    text = FILTERED.replace("DOCS", str(folder / "docs.jsonl")).replace("REPEATS", str(repeats))
    (folder / "words.yaml").write_text(text)
    return str(folder / "words.yaml")
