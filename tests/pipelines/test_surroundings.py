"""What a job checks of the machine before it reads its input."""

import threading
from pathlib import Path

import pytest

from stratoscope.errors import InputError
from stratoscope.pipelines.faithfulness import FaithfulnessConfig
from stratoscope.pipelines.mitigation import MitigationConfig
from stratoscope.pipelines.runtime import surroundings
from stratoscope.pipelines.runtime.config import JobConfig, validate
from stratoscope.pipelines.runtime.surroundings import check_place, check_surroundings, check_temporary_folder
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.search import SearchConfig
from stratoscope.results import RunFolder, Storage


def check(output: str) -> None:
    folder = RunFolder(output, "score", "a")
    check_place(output, folder)
    check_surroundings(ScoreConfig(output=output), folder)


def test_an_output_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    check(str(tmp_path / "new" / "folder"))
    check(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("{file}", "Not a directory"),
        ("{file}/inside", "Not a directory"),
        ("/dev/null", "Not a directory"),
        ("/proc/runs", "No such file or directory"),
        ("/sys/runs", ".*"),
        ("/tmp/" + "x" * 400, "File name too long"),
        ("/tmp/" + "x/" * 2500, "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(output: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"^output .* cannot be written: {reason}") as refused:
        check(output.format(file=tmp_path / "file"))
    assert len(str(refused.value)) <= 500


def test_a_store_without_credentials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match=r"^output 's3://bucket/runs' cannot be reached \(NoCredentialsError"):
        check("s3://bucket/runs")


def test_a_store_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def wait(_storage: Storage, _folder: str = "") -> list[str]:
        answered.wait()
        return []

    monkeypatch.setattr(Storage, "names", wait)
    monkeypatch.setattr(surroundings, "STORE_S", 0.1)
    with pytest.raises(InputError, match=r"no answer in 0 s"):
        check("memory://runs")
    answered.set()


@pytest.mark.parametrize("url", ["nosuch://a", "github://a", "hdfs://a/b"])
def test_a_store_that_cannot_be_opened_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"^output .* cannot be used"):
        RunFolder(url, "score", "a")


def test_tmpdir_is_named_where_no_temporary_file_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings.tempfile, "tempdir", "/dev/null/x")
    with pytest.raises(InputError, match=r"^TMPDIR"):
        check_temporary_folder()


@pytest.mark.parametrize(
    ("config_class", "settings", "field"),
    [
        (ScoreConfig, {"actors": {"gpus": 9999}}, "actors.gpus 9999 GPU"),
        (ScoreConfig, {"actors": {"cpus": 9999}}, "actors.cpus 9999 CPU"),
        (ScoreConfig, {"actors": {"min": 9999}}, "actors.min 9999"),
        (SearchConfig, {"evaluators": {"cpus": 9999}}, "evaluators.cpus 9999 CPU"),
        (SearchConfig, {"search": {"cache_gb": 1e6}}, "search.cache_gb 1,000,000.0 GB of memory"),
        (MitigationConfig, {"train": {"num_workers": 999, "questions": 999, "texts": 999}}, "train.num_workers 999"),
        (FaithfulnessConfig, {"grid": {"cpus": 9999}}, "grid.cpus 9999 CPU"),
    ],
)
def test_resources_that_the_machine_does_not_have_are_refused(
    config_class: type[JobConfig],
    settings: dict[str, object],
    field: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = validate(config_class, {"output": str(tmp_path), **settings})
    with pytest.raises(InputError, match=f"^{field}: this machine has"):
        check_surroundings(config, RunFolder(config.output, "job", "a"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    check_surroundings(config, RunFolder(config.output, "job", "a"))
