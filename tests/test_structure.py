"""Rules of the repository that no linter checks; `make structure` prints the figures."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from stratoscope.pipelines.jobs import JOBS, RegisteredJob
from stratoscope.results.run import TableProperty
from stratoscope.runs import RUN_CLASSES
from tests import structure

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


@pytest.mark.long
@pytest.mark.parametrize("package", DOMAIN)
def test_domain_packages_work_without_ray(package: str) -> None:
    code = (
        f"import sys; sys.modules['ray'] = None; import stratoscope.{package} as package; "
        "[getattr(package, name) for name in package.__all__]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "platform", check=True)


def test_generated_pages_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, content in module.pages().items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name} is outdated: run make docs"


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda job: job.name)
def test_every_table_has_row_types_with_docstrings_and_a_property(job: RegisteredJob) -> None:
    for _, name, row_type in job.tables():
        assert row_type.__doc__, name
        assert [column.name for column in row_type.columns() if not column.meaning] == [], name
        assert isinstance(getattr(RUN_CLASSES[job.name], name), TableProperty), name
    described = {name for _, name, _ in job.tables()}
    properties = {name for name, value in vars(RUN_CLASSES[job.name]).items() if isinstance(value, TableProperty)}
    assert properties == described


def test_rows_are_built_by_name() -> None:
    assert structure.rows_built_by_position() == []


def test_each_class_name_exists_once() -> None:
    assert structure.repeated_class_names() == []


def test_no_modules_import_each_other() -> None:
    assert structure.import_cycle() == []


def test_public_names_have_docstrings() -> None:
    assert structure.docstring_share() >= 0.95, structure.undocumented()


def test_functions_are_short() -> None:
    assert structure.length_quantile(0.5) <= 7
    assert structure.length_quantile(0.9) <= 23


def test_pipelines_are_the_smaller_part() -> None:
    assert structure.pipelines_share() <= 0.45


def test_docstrings_of_attributes_begin_with_their_noun() -> None:
    assert [place for place, text in structure.attribute_docstrings() if text.startswith("Of ")] == []


def test_jobs_are_executable() -> None:
    jobs = list((ROOT / "jobs").glob("*.py"))
    assert jobs
    assert all(job.stat().st_mode & 0o111 for job in jobs)


@pytest.mark.long
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "--site-dir", str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert (tmp_path / "start" / "tutorial" / "index.html").exists()


def test_jobs_that_read_activations_start_without_tune_and_train() -> None:
    code = (
        "import sys, stratoscope.pipelines.score.run, stratoscope.pipelines.hallucination.run; "
        "print(sorted({'ray.tune', 'ray.train'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "platform"
    )
    assert answer.stdout == "[]\n"
