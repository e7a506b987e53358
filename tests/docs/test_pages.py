"""Every command that the documentation shows can be given, and every link leads somewhere."""

import ast
import re
from pathlib import Path

import pytest

from stratoscope.cli import VIEWS
from stratoscope.pipelines.commands.compare import CompareConfig
from stratoscope.pipelines.commands.history import HistoryConfig
from stratoscope.pipelines.commands.report import ReportConfig
from stratoscope.pipelines.commands.runs import RunsConfig
from stratoscope.pipelines.jobs import JOBS
from stratoscope.pipelines.runtime.command_line import parse_command_line
from stratoscope.pipelines.runtime.option_names import field_names
from tests import structure
from tests.docs.pages import ROOT, Command, anchors, commands, comments, links, pages, written_files

CONFIGS = {name: job.config_class for name, job in JOBS.items()} | {
    "report": ReportConfig,
    "compare": CompareConfig,
    "history": HistoryConfig,
    "runs": RunsConfig,
}
PLACEHOLDERS = {"JOB", "COMMAND", "NAME", "TARGET"}
COMMANDS = commands()
PAGES = [str(page.relative_to(ROOT)) for page in pages()]


def named(pattern: str) -> list[tuple[Command, str, tuple[str, ...]]]:
    """Return the commands whose first words match a pattern, with its group and the words after it."""
    found = []
    for command in COMMANDS:
        for length in (1, 2):
            match = re.fullmatch(pattern, " ".join(command.words[:length]))
            if match and match[1] not in PLACEHOLDERS:
                found.append((command, match[1], command.words[length:]))
    return found


RUNS = named(r"(?:(?:\S*python\S* )?jobs/(\w+)\.py)") + [
    found
    for found in named(r"(?:\S*/)?stratoscope (\w+)")
    if found[1] != "width"  # a job of another package
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configurations of the checkout and the files that commands of the pages write."""
    path = tmp_path_factory.mktemp("pages")
    (path / "jobs").symlink_to(ROOT / "jobs")
    for page in pages():
        for name, content in written_files(page.read_text()).items():
            (path / name).write_text(content)
    return path


def test_the_pages_show_every_job_and_view() -> None:
    assert {name for _, name, _ in RUNS} == {*JOBS, *VIEWS}


@pytest.mark.parametrize(
    ("command", "name", "arguments"), RUNS, ids=lambda value: str(value) if isinstance(value, Command) else ""
)
def test_a_command_of_a_page_has_options_and_values_that_exist(
    command: Command, name: str, arguments: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    if command.inline:
        options = {word.partition("=")[0].replace("-", "_") for word in arguments if word.startswith("--")}
        assert options <= {f"__{option}" for option, _ in field_names(CONFIGS[name])} | {"__config", "__help"}
    elif "--help" not in arguments:
        parse_command_line(CONFIGS[name], name, arguments)


def test_every_make_target_of_a_page_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {(command.page, target) for command, target, _ in named(r"make ([\w-]+)")}
    assert {target for _, target in shown} >= {"setup", "score", "test", "check"}
    assert [(page, target) for page, target in shown if target not in targets] == []


def test_every_script_of_a_page_exists() -> None:
    scripts = {(command.page, path) for command, path, _ in named(r"\S*python\S* ((?!-)\S+\.py)")}
    assert scripts
    assert [(page, path) for page, path in scripts if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_comment_holds_a_second_command(name: str) -> None:
    assert [text for text in comments(ROOT / name) if re.search(r"stratoscope \w+ |jobs/\w+\.py|  #", text)] == []


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name: str) -> None:
    page = ROOT / name
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_messages_of_troubleshooting_are_those_of_the_package() -> None:
    nodes = [node for tree in structure.modules().values() for node in ast.walk(tree)]
    texts = "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    titles = re.findall(r"^\*\*(.*)\*\*$", (ROOT / "docs/guides/troubleshooting.md").read_text(), re.MULTILINE)
    messages = [span for title in titles for span in re.findall(r"`([^`]+)`", title)]
    parts = [part.strip() for message in messages for part in message.split("...")]
    assert len(messages) > 12
    assert [part for part in parts if part not in texts] == []


TEST_NAME = re.compile(r"(?:(?P<file>[\w/]*test_\w+\.py))?(?:::)?(?P<name>test_\w+)?(?P<rest>\.\.\.)?(?:\[.*\])?")


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    defined = {
        path.relative_to(ROOT).as_posix(): set(re.findall(r"def (test_\w+)", path.read_text()))
        for path in (ROOT / "tests").rglob("test_*.py")
    }
    for span in re.findall(r"`([^`\s]*test_[^`\s]*)`", (ROOT / page).read_text()):
        match = TEST_NAME.fullmatch(span)
        if match is None:
            continue  # a command or a folder
        file, start = match["file"] or "", match["name"] or ""
        candidates = [names for path, names in defined.items() if f"/{path}".endswith(f"/{file}" if file else "")]
        assert candidates, f"{span}: there is no such file"
        found = {name for names in candidates for name in names}
        assert start in {*found, ""} or (match["rest"] and any(n.startswith(start) for n in found)), span
