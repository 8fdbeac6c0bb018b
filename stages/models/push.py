"""Push a model's folder to the Hugging Face hub: the files of the model, and nothing else.

The files that belong to a model are those of `stages.models.hub.FILES`. All go in one commit, large ones
through LFS (or Xet, as the library decides); the token is that of the library huggingface_hub, and is neither
printed nor written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from data_pipes import files
from data_pipes.digest import hash_bytes
from stages.models import adapter_folder, checksums, hub
from stages.models.folder import find_final_model
from stages.models.publishable import refuse_home_paths, refuse_outdated_card
from stages.models.template_files import OTHERS

INSTALL = "pip install 'intro2llm[hub]'"
WEIGHTS = ("model", "adapter_model")
"""Beginnings of the names of files of weights; other safetensors are states of optimizers and the like."""

REPOSITORY = re.compile(r"(?![.-])[\w.-]{1,96}(?<![.-])/(?![.-])[\w.-]{1,96}(?<![.-])", re.ASCII)
MAY_BE_EMPTY = (".gitattributes",)
"""Files of a repository in which nothing was stored yet."""

ADVICE: Mapping[int, str] = MappingProxyType(
    {
        401: "the hub does not know the token; run hf auth login, or set HF_TOKEN to one that may write",
        403: "the token may not write there; make one that may write, or take a name of your own",
        404: "there is no such repository or branch, or the token may not see it; check the name",
        429: "the hub asks to wait; try again later, with --update",
    }
)
"""Status of an answer -> the line that explains it."""


class Upload(NamedTuple):
    """A model's files, as they will be on the hub.

    Fields:
        folder: of the model.
        files: name -> the file, or bytes that take its place.
        left_out: names of other files in the folder, which are not sent.
        base: name of the base of adapters on the hub; "" for a whole model.
    """

    folder: Path
    files: Mapping[str, Path | bytes]
    left_out: tuple[str, ...]
    base: str = ""


def plan(path: str | Path, base_model: str | None = None) -> Upload:
    """Choose the files to push, and verify them by SHA256SUMS.

    Args:
        path: a run's folder, or that of a model.
        base_model: of adapters: name of their base on the hub, which takes the place of its path here in
            adapter_config.json, base.json and SHA256SUMS.

    Returns:
        Upload.

    Raises:
        FileNotFoundError: if there is no such folder, or a link in it leads nowhere.
        ValueError: if it holds no model, a file differs from its sha256, SHA256SUMS lists a file that is not
            sent, adapters have a base that is a folder here, the card is of other weights, or a file has the
            path of the user's home folder.
    """
    folder = find_final_model(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder; give a run's folder, or that of a model")
    checksums.verify(folder)
    names = sorted(_list_names(folder))
    chosen = {name: folder / name for name in names if _is_sent(name)}
    _refuse_no_model(folder, chosen)
    if unsent := sorted(name for name in checksums.read(folder) if name not in chosen):
        raise ValueError(
            f"{folder / checksums.NAME} lists {unsent[0]}, which is no file of a model and would not be "
            "sent; write the list anew without it, or delete it"
        )
    left_out = tuple(name for name in names if name not in chosen)
    base, renamed = _name_base(folder, base_model)
    upload = Upload(folder, {**chosen, **renamed}, left_out, base)
    refuse_outdated_card(folder)
    refuse_home_paths(folder, upload.files)
    return upload


def push(
    upload: Upload,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    endpoint: str | None = None,
    update: bool = False,
    say: Callable[[str], Any] = print,
) -> str:
    """Push a model's files in one commit.

    Args:
        upload: from `plan`.
        repository: OWNER/NAME, which is made.
        private: only for its owner to see. One that exists is not changed: it must be private already.
        revision: branch, which is made from main if it is missing; None is main.
        endpoint: address of the hub; None is huggingface.co, or HF_ENDPOINT.
        update: the repository and the branch may hold files: those of equal names are replaced, the card
            too, and files of a model that this one does not have are deleted there, except a card. Earlier
            commits keep them.
        say: prints a line to the user.

    Returns:
        Address of the commit.

    Raises:
        ImportError: without huggingface_hub.
        ValueError: for a name that cannot be one, without a token, if the hub refuses the token, the name or
            the card, for a repository or branch that holds files, or, with `private`, one that is public.
        OSError: if the hub cannot be reached.

    Edge cases: a repository that exists and is empty is used without `update`.
    """
    check_names(repository, revision, endpoint)
    try:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
    except ImportError as error:
        raise ImportError(f"{error}; push needs {INSTALL}") from None
    if constants.HF_HUB_OFFLINE:
        raise ValueError("HF_HUB_OFFLINE is set in the environment, and push needs the network; unset it")
    token = get_token()
    if not token:
        raise ValueError("there is no token; run hf auth login, or set HF_TOKEN to one that may write")
    api = HfApi(endpoint=endpoint, token=token, library_name="intro2llm")
    target = f"{api.endpoint}/{repository}"
    with _explaining(target, token):
        there = _make_repository(api, repository, private, revision, update, say)
        stale = sorted(
            name for name in there if name not in upload.files and _is_sent(name) and name != hub.CARD
        )
        additions = [
            CommitOperationAdd(name, x if isinstance(x, bytes) else str(x))
            for name, x in upload.files.items()
        ]
        commit = api.create_commit(
            repository,
            [*additions, *(CommitOperationDelete(name) for name in stale)],
            commit_message="Upload of a model by intro2llm",
            revision=revision,
        )
        for name in stale:
            say(f"deleted there: {name}")
        stored = set(api.list_repo_files(repository, revision=revision))
    if missing := sorted(set(upload.files) - stored):
        raise ValueError(
            f"{target}: {missing[0]} was ignored there (by its .gitignore); remove that, and push again"
        )
    return str(commit.commit_url)


def check_names(repository: str, revision: str | None = None, endpoint: str | None = None) -> None:
    """Refuse names that cannot be on a hub, before anything is sent.

    Raises:
        ValueError: if the repository is not OWNER/NAME, the branch or the endpoint has no such form.

    Example:
        >>> check_names("ada/my-model")
        >>> check_names("my model")
        Traceback (most recent call last):
        ValueError: 'my model': expected OWNER/NAME, each of letters, digits, ".", "_" and "-"
    """
    is_name = REPOSITORY.fullmatch(repository) and not re.search(r"--|\.\.|\.git$", repository)
    if not is_name:
        raise ValueError(f'{repository!r}: expected OWNER/NAME, each of letters, digits, ".", "_" and "-"')
    if revision is not None and (not revision or re.search(r"\s|\.\.|^refs/|[~^:?*\[\\]", revision)):
        raise ValueError(f"--revision {revision!r}: expected the name of a branch")
    if endpoint is not None and not re.fullmatch(r"https?://[^/\s@]+(/\S*)?", endpoint):
        raise ValueError(f"--endpoint {endpoint!r}: expected an address such as https://hub.example.org")


def size_of(file: Path | bytes) -> int:
    """Number of bytes of a file of an Upload."""
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def _list_names(folder: Path) -> Iterator[str]:
    """Names of the files in a folder; a link that leads nowhere is refused if a model needs it."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() and not path.exists() and _is_sent(name):
            raise FileNotFoundError(
                f"{path} is a link to {path.readlink()}, which does not exist; restore that file"
            )
        if path.is_file():
            yield name


def _is_sent(name: str) -> bool:
    """Tests for a file of a model: not hidden, in the top folder or that of chat templates."""
    parent, _, last = name.rpartition("/")
    is_weights = last.endswith(".safetensors")
    return (
        hub.is_model_file(name)
        and parent in ("", OTHERS)
        and not last.startswith(".")
        and (not is_weights or last.startswith(WEIGHTS))
    )


def _refuse_no_model(folder: Path, chosen: Mapping[str, Path]) -> None:
    """Refuses a folder without a configuration or weights, such as that of a run that is not complete."""
    is_run = "config.json" in chosen and "options" in files.read_json(chosen["config.json"])
    has_config = "config.json" in chosen or adapter_folder.CONFIG in chosen
    if is_run or not has_config or not any(name.endswith(".safetensors") for name in chosen):
        raise ValueError(
            f"{folder}: expected the folder of a complete run (it has final_model), or of a model: "
            f"config.json or {adapter_folder.CONFIG}, and weights in safetensors"
        )


def _name_base(folder: Path, base_model: str | None) -> tuple[str, dict[str, bytes]]:
    """Name of the base of adapters on the hub, and the files that change to name it."""
    path = folder / adapter_folder.CONFIG
    if not path.is_file():
        if base_model:
            raise ValueError(
                f"--base_model {base_model}: {folder} holds no adapters, and a whole model needs no base"
            )
        return "", {}
    fields = files.read_json(path)
    found = str(fields.get("base_model_name_or_path"))
    if base_model is None:
        if hub.is_name(found):
            return found, {}
        raise ValueError(
            f"{path}: the base of the adapters is a folder here ({Path(found).name}), which nobody else "
            "has; push it first, and give its name with --base_model OWNER/NAME, or push what intro2llm "
            "merge makes of both"
        )
    check_names(base_model)
    changed = {path.name: _encode(fields | {"base_model_name_or_path": base_model})}
    own = folder / adapter_folder.BASE
    if own.is_file():
        changed[own.name] = _encode(files.read_json(own) | {"path": base_model})
    if sums := dict(checksums.read(folder)):
        sums |= {name: hash_bytes(data) for name, data in changed.items()}
        changed[checksums.NAME] = "".join(
            f"{digest}  {name}\n" for name, digest in sorted(sums.items())
        ).encode()
    return base_model, changed


def _encode(fields: Mapping[str, Any]) -> bytes:
    """JSON as the files of adapters have it."""
    return (json.dumps(fields, indent=2) + "\n").encode()


def _make_repository(
    api: Any, repository: str, private: bool, revision: str | None, update: bool, say: Callable[[str], Any]
) -> set[str]:
    """Makes the repository and the branch; returns the names of the files that are there."""
    from huggingface_hub.errors import HfHubHTTPError

    there: set[str] = set()
    try:
        api.create_repo(repository, private=private or None)
        say(f"created {api.endpoint}/{repository}{' (private)' if private else ''}")
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        if private and not api.repo_info(repository).private:
            raise ValueError(
                f"{api.endpoint}/{repository} exists and is public, expected a private one with --private; "
                "make it private in its settings there, or choose another name"
            ) from None
        there = set(api.list_repo_files(repository))
        _refuse_files(f"{api.endpoint}/{repository} exists", there, update)
    if revision not in (None, "main"):
        api.create_branch(repository, branch=revision, exist_ok=True)
        there = set(api.list_repo_files(repository, revision=revision))
        _refuse_files(f"{api.endpoint}/{repository}: the branch {revision} exists", there, update)
    return there


def _refuse_files(where: str, there: set[str], update: bool) -> None:
    """Refuses a repository or branch that holds files, unless they are to be replaced."""
    if not update and not there <= set(MAY_BE_EMPTY):
        raise ValueError(
            f"{where} and holds {len(there)} files; add --update to replace the model in it, or choose "
            "another name"
        )


@contextmanager
def _explaining(target: str, token: str) -> Iterator[None]:
    """Turns each error of the hub into one line, without the token."""
    try:
        yield
    except Exception as error:
        explained = _explain(error, target)
        raise type(explained)(str(explained).replace(token, "HIDDEN")) from None


def _explain(error: BaseException, target: str) -> Exception:
    """The error of the arguments, or of the network, that an error of the library stands for."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    answers = [getattr(x, "response", None) for x in chain]
    status: int | None = next((answer.status_code for answer in answers if answer is not None), None)
    reason = " ".join(" ".join(str(getattr(x, "server_message", None) or x) for x in chain).split())[:300]
    if status is not None and status in ADVICE:
        return ValueError(f"{target}: {ADVICE[status]} ({status})")
    if status is not None and status < 500:
        return ValueError(f"{target}: the hub refused it ({status}): {reason}")
    if type(error) is ValueError:  # of this module, or on the card
        return ValueError(" ".join(str(error).split())[:600])
    return OSError(
        f"{target}: it could not be pushed ({reason or type(error).__name__}); check the network, and push "
        "again with --update"
    )
