"""What the pages of the documentation contain: commands, files that these read, links and headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown.extensions.toc import slugify

ROOT = Path(__file__).parents[2]
GENERATED = {"commands.md", "glossary.md", "tables.md"}
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
HEREDOC = re.compile(r"cat > (\S+) <<'END'\n(.*?\n)END\n", re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
SPAN = re.compile(r"`((?:python jobs/|make |stratoscope )[^`]+)`")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
SHELLS = ("", "bash", "sh")
OPERATORS = {"&&", "||", ";", "|", "(", ")"}


@dataclass(frozen=True)
class Command:
    """A command that a page shows."""

    page: str
    """Path of the page in the repository."""
    words: tuple[str, ...]
    """The words of the command, without variables before it."""
    inline: bool = False
    """Whether it stands in a sentence, which may name a command and an option without their values."""

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def pages() -> list[Path]:
    """Return README and the other texts at the root, and all pages of the site."""
    roots = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return roots + sorted((ROOT / "docs").rglob("*.md"))


def shell_fences(text: str) -> list[str]:
    """Return the code blocks of a page that have no language or that of a shell."""
    blocks = ((match[1], match[2], match[3]) for match in FENCE.finditer(text))
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, kind, code in blocks if kind in SHELLS]


def written_files(text: str) -> dict[str, str]:
    """Return the content of the files that the commands of a page write, by name."""
    return {match[1]: match[2] for code in shell_fences(text) for match in HEREDOC.finditer(code)}


def commands() -> list[Command]:
    """Return the commands of all pages that are written by hand, each once for a page."""
    written = [page for page in pages() if page.name not in GENERATED and not page.name.startswith("options-")]
    return list(dict.fromkeys(command for page in written for command in _commands(page)))


def _commands(page: Path) -> Iterator[Command]:
    name, text = str(page.relative_to(ROOT)), page.read_text()
    for code in shell_fences(text):
        for line in HEREDOC.sub("", code).replace("\\\n", " ").splitlines():
            yield from (Command(name, words) for words in _split(line))
    for match in SPAN.finditer(FENCE.sub("", text)):
        yield from (Command(name, words, inline=True) for words in _split(match[1].replace("\n", " ")))


def _split(line: str) -> Iterator[tuple[str, ...]]:
    """Return the commands of a line; none if it is no line of a shell, such as output with a single quote."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in OPERATORS:
            command.append(word)
        elif command:
            yield tuple(_bare(command))
            command = []


def _bare(words: list[str]) -> list[str]:
    """Return a command without the variables before it, and the job of `ray job submit` without that."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if "submit" in words and "--" in words:
        words = words[words.index("--") + 1 :]
    return words


def comments(page: Path) -> list[str]:
    """Return the comments of a page's commands."""
    lines = [line for code in shell_fences(page.read_text()) for line in code.splitlines()]
    return [line.partition(" # ")[2] for line in lines if " # " in line]


def links(page: Path) -> list[str]:
    """Return the links of a page into the repository."""
    targets = LINK.findall(FENCE.sub("", page.read_text()))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {slugify(re.sub(r"[`*]", "", heading), "-") for heading in headings}
