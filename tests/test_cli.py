import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stratoscope.cli import VIEWS, main
from stratoscope.errors import InputError
from stratoscope.pipelines.jobs import JOBS, job_maker
from stratoscope.pipelines.runtime.job import Job

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "transformers", "pyarrow", "pydantic", "stratoscope.results")


def imported(code: str) -> list[str]:
    """Return which heavy packages a process imports for some code."""
    code += f"\nimport sys; print([name for name in {HEAVY} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "platform", capture_output=True, text=True, check=True
    )
    return list(eval(answer.stdout.splitlines()[-1]))


def test_options_are_listed_and_refused_without_torch_and_ray() -> None:
    code = f"""
from contextlib import suppress
from stratoscope.cli import main
for name in {list(JOBS)}:
    assert main([name, "--no_such_option"]) == 2
    with suppress(SystemExit):
        main([name, "--help"])
"""
    assert not set(imported(code)) & {"torch", "ray", "transformers"}


def test_the_first_line_of_a_job_comes_within_two_seconds() -> None:
    command = [sys.executable, "-m", "stratoscope.cli", "score"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("score: ")
        seconds = cpu_seconds(process.pid)
        process.kill()
    assert seconds < 2


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, which does not depend on what else the machine does."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("arguments", [["scoer"], ["--help"], ["--version"]])
def test_what_runs_no_job_answers_at_once(arguments: list[str]) -> None:
    assert imported(f"from stratoscope.cli import main; main({arguments})") == []


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported("import stratoscope; dir(stratoscope)") == []
    without = set(imported("import stratoscope; stratoscope.open_run; stratoscope.list_runs"))
    assert not without & {"torch", "ray", "transformers"}


def test_the_usage_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    usage = capsys.readouterr().out
    for name in (*JOBS, *VIEWS):
        assert f"\n  {name} " in usage
    assert main(["-h"]) == 0
    assert capsys.readouterr().out == usage


def test_the_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"stratoscope {importlib.metadata.version('stratoscope')}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["scoer"], "stratoscope: command 'scoer' is unknown; did you mean 'score'? Known: score, search, "),
        (["--versoin"], "stratoscope: command '--versoin' is unknown; did you mean '--version'?"),
        (["report", "--lates"], "report: option '--lates' is unknown; did you mean '--latest'?"),
        (["score", "--model", "smollm2"], "score: option '--model' is a section; did you mean '--model.source'?"),
    ],
)
def test_refusals_are_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", JOBS)
def test_every_job_is_found_by_its_name(name: str) -> None:
    maker = job_maker(name)
    assert maker.name == name
    assert not isinstance(maker, type) or issubclass(maker, Job)
    assert callable(maker.show)
    assert JOBS[name].config_class.__doc__
    script = (ROOT / "jobs" / f"{name}.py").read_text(encoding="utf-8")
    assert f'JOBS["{name}"]' in script


def test_the_scripts_are_the_jobs() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == JOBS.keys()


def test_an_unknown_job_is_refused() -> None:
    with pytest.raises(InputError, match="job 'scoer' is unknown; did you mean 'score'"):
        job_maker("scoer")


def test_names_that_no_run_has_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path)]
    for command in (["runs"], ["report", "--latest"], ["compare", "a", "b"]):
        assert main([*command, *output, "--job", "scor"]) == 2
        assert "job 'scor' is unknown; did you mean 'score'?" in capsys.readouterr().err
    assert main(["history", *output, "--name", "nope"]) == 2
    assert "name 'nope' is no finished audit" in capsys.readouterr().err
    assert main(["history", *output]) == 0


def test_a_query_prints_a_thousand_rows_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = ["history", "--output", str(tmp_path), "--sql", "SELECT range AS number FROM range(2500)"]
    for limit, rows, note in (([], 1000, True), (["--limit", "1200"], 1200, True), (["--limit", "null"], 2500, False)):
        assert main([*query, *limit]) == 0
        printed = capsys.readouterr()
        numbers = [line.strip() for line in printed.out.splitlines() if line.strip() != "number"]
        assert numbers == [str(number) for number in range(rows)]
        assert ("--limit null shows all" in printed.err) == note


def test_a_query_ends_quietly_when_nobody_reads_its_rows(tmp_path: Path) -> None:
    query = "SELECT range AS number FROM range(10000000000)"
    command = [sys.executable, "-m", "stratoscope.cli", "history", "--output", str(tmp_path), "--limit", "null"]
    with subprocess.Popen(
        [*command, "--sql", query], cwd=ROOT / "platform", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().strip() == b"number"
        process.stdout.close()
        process.wait(timeout=30)
        assert process.stderr.read() == b""
