"""The rules of the house that no linter knows."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOMAIN = (
    "statistics",
    "activations",
    "scoring",
    "evaluation",
    "models",
    "data",
    "results",
    "mitigation",
    "forecasting",
    "pruning",
)


def test_platform_never_shadows_the_standard_library() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert not (ROOT / "platform.py").exists()
    code = "import platform; platform.system(); print(platform.__file__)"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not answer.stdout.startswith(str(ROOT))


def test_no_file_bears_the_name_of_a_standard_module() -> None:
    names = {path.stem for folder in (ROOT, ROOT / "jobs") for path in folder.glob("*.py")}
    assert not names & set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", DOMAIN)
def test_domain_packages_work_without_ray(package: str) -> None:
    code = f"import sys; sys.modules['ray'] = None; import stratoscope.{package}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "platform", check=True)


def test_the_pages_of_options_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("write_options", ROOT / "docs" / "write_options.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for job in module.JOBS:
        page = ROOT / "docs" / f"options-{job}.md"
        assert page.read_text(encoding="utf-8") == module.options_page(job), "run make docs"


def test_jobs_are_executable() -> None:
    jobs = list((ROOT / "jobs").glob("*.py"))
    assert jobs
    assert all(job.stat().st_mode & 0o111 for job in jobs)


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "--site-dir", str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert (tmp_path / "tutorial" / "index.html").exists()
