"""Fetching models from the Hugging Face hub, and a sentence for every way in which that fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from lightning_drift.common.errors import UserError

_FROM_CACHE = ContextVar("from_cache", default=False)


class NotCachedError(UserError):
    """The hub would have to be reached, and was not to be.

    Args:
        name: ``owner/repository``.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not in the cache folder {constants.HF_HUB_CACHE}")
        self.name = name


@contextmanager
def from_cache() -> Iterator[None]:
    """Take what the cache holds and do not reach the hub, for a while."""
    token = _FROM_CACHE.set(True)
    try:
        yield
    finally:
        _FROM_CACHE.reset(token)


def not_cached(error: BaseException | None) -> str | None:
    """The repository whose lack is behind an error; None if it tells of something else."""
    while error is not None and not isinstance(error, NotCachedError):
        error = error.__cause__
    return None if error is None else error.name


def fetch_folder(
    name: str,
    choose: Callable[[list[str]], list[str]],
    instead: str,
    option: str = "",
    revision: str | None = None,
) -> Path:
    """The snapshot of a hub repository, completed with what the cache lacks.

    Args:
        name: ``owner/repository``.
        choose: Given all files of the repository, returns those to fetch.
        instead: What the user can give instead, for messages.
        option: The option that holds the name, for messages.
        revision: Branch, tag or commit; None for the main branch.

    Returns:
        A folder of the cache; its name is the commit. Where the hub cannot be reached it is the cached one.

    Raises:
        UserError: The repository is not public or has no such revision, or the hub cannot be reached and the
            cache holds no snapshot.
        NotCachedError: Within `from_cache`, the cache holds no whole snapshot.
    """
    if _FROM_CACHE.get():
        return _cached(name, revision)
    with _sentences(name, instead, option, revision):
        try:
            # Asks once, where list_repo_files asks again for half a minute.
            entries = HfApi().model_info(name, revision=revision).siblings or []
            files, offline = choose([entry.rfilename for entry in entries]), False
        except Exception as error:  # each HTTP client has its own
            # What is cached must do. Of a snapshot that we chose files from, not all files are there: asking
            # for none of them takes it as it is. Where the hub refuses, snapshot_download says why.
            files, offline = [], not isinstance(error, RepositoryNotFoundError | RevisionNotFoundError)
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=files, local_files_only=offline)
        )


def _cached(name: str, revision: str | None) -> Path:
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except Exception as error:  # the library has several for it
        raise NotCachedError(name) from error
    if any(folder.parent.parent.glob("blobs/*.incomplete")):
        raise NotCachedError(name)
    return folder


def fetch_file(repository: str, file: str, instead: str, option: str = "") -> Path:
    """One file of a hub repository, fetched where the cache lacks it.

    Args:
        repository: ``owner/repository``.
        file: The file's path in it.
        instead: What the user can give instead, for messages.
        option: The option that holds the name, for messages.

    Raises:
        UserError: The repository is not public, or the hub cannot be reached and the cache lacks the file.
    """
    with _sentences(f"{repository}/{file}", instead, option):
        return Path(hf_hub_download(repository, file))


@contextmanager
def _sentences(name: str, instead: str, option: str, revision: str | None = None) -> Iterator[None]:
    advice = (
        f"Give {instead} instead, or fetch it once where the hub can be reached and copy it into the cache "
        f"folder {constants.HF_HUB_CACHE}"
    )
    try:
        yield
    except RevisionNotFoundError as error:
        raise UserError(f"{name} has no revision {revision} on the hub", option) from error
    except GatedRepoError as error:
        raise UserError(
            f"{name} asks for consent on its hub page; give it there and log in with `hf auth login`", option
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name} is neither a local path nor a public model on the hub. {advice}", option
        ) from error
    except Exception as error:  # each HTTP client has its own
        at = f"{name} at {revision}" if revision else name
        raise UserError(
            f"{at} is not in the cache and the hub cannot be reached. {advice}", option
        ) from error
