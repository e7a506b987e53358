"""Names that a user gives: of local paths, and on the Hugging Face hub, resolved to a commit with a bounded wait."""

from pathlib import Path
from typing import Literal

from stratoscope.errors import InputError, first_line

TIMEOUT_S = 6.0


def local_path(name: str) -> Path:
    """Return the local path that a name stands for; the home folder of an unknown user (`~name`) is left as it is."""
    path = Path(name)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def hub_commit(kind: Literal["model", "dataset"], name: str, revision: str | None, field: str) -> str:
    """Return the commit that a hub name points to; if the hub cannot be reached, the commit in the local cache.

    Args:
        kind: kind of repository.
        name: 'owner/name'.
        revision: branch, tag or commit; None is the main branch.
        field: the configuration field that holds the name, for messages.

    Raises:
        InputError: the hub does not know the name, or cannot be reached and nothing is cached.
    """
    import httpx2
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import (
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return str(HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=TIMEOUT_S).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(
            f"{field} {name!r} (revision {revision or 'main'}): the hub has no such {kind}; check it, or log in if "
            "it is private"
        ) from error
    except HFValidationError as error:
        raise InputError(f"{field} {name!r} is neither a path here nor a hub name: {first_line(error)}") from error
    except (httpx2.HTTPError, OfflineModeIsEnabled, OSError) as error:
        probe = "config.json" if kind == "model" else "README.md"
        cached = try_to_load_from_cache(name, probe, revision=revision, repo_type=kind)
        if not isinstance(cached, str):
            raise InputError(
                f"{field} {name!r}: the hub cannot be reached ({first_line(error)}) and the {kind} is not cached; "
                "use a local path or a known name"
            ) from error
        return Path(cached).parent.name
