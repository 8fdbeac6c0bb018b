"""A pushed model is received byte for byte, read back with equal logits, and every refusal is one line."""

from __future__ import annotations

import functools
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch

from pure import tree
from stages.cli.main import main
from stages.models import checksums, language_model, push
from tests.stages.models.hub_server import TOKEN, Hub, serving
from tests.stages.models.test_language_model import make_model

MODEL = make_model()
pytestmark = pytest.mark.filterwarnings(  # huggingface_hub, of the library that it sends files with
    "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run: its final_model in two shards with a card, and what must not be sent."""
    run = tmp_path_factory.mktemp("push") / "run"
    folder = language_model.save(run / "final_model", MODEL, shard_bytes=10_000)
    checksums.write(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Modell für 数据\n", "utf-8")
    return run


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    run = shutil.copytree(saved, tmp_path / "run")
    for name in ("optimizer.pt", ".env", "optimizer.safetensors", "log.txt"):
        (run / "final_model" / name).write_text(TOKEN)
    (run / "config.json").write_text('{"options": {}}')
    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as hub:
        yield hub


def test_the_bytes_that_arrive_are_the_files_and_load_with_equal_logits(
    run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run), "ada/model-1.5", "--private", "--endpoint", hub.url]) == 0
    stored = hub.repositories["ada/model-1.5"]["main"]
    folder = run / "final_model"
    sent = {name for name in stored if name != ".gitattributes"}
    expected = {*checksums.read(folder), "SHA256SUMS", "README.md"}
    assert sent == expected
    assert sum(name.endswith(".safetensors") for name in sent) > 1
    assert all(stored[name] == (folder / name).read_bytes() for name in sent)
    assert hub.objects  # the weights went through LFS
    assert hub.private["ada/model-1.5"] in ("private", True)
    printed = "".join(capsys.readouterr())
    assert "not sent: .env, log.txt, optimizer.pt, optimizer.safetensors" in printed
    assert f"{hub.url}/ada/model-1.5/commit/" in printed
    assert TOKEN not in printed
    download = functools.partial(
        huggingface_hub.snapshot_download, endpoint=hub.url, cache_dir=tmp_path / "cache", token=TOKEN
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded = language_model.load("ada/model-1.5")
    tokens = torch.arange(12)[None]
    for one, two in zip(tree.leaves(loaded.params), tree.leaves(MODEL.params), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(loaded.model.forward(loaded.params, tokens), MODEL.model.forward(MODEL.params, tokens))


def test_a_repository_that_exists_is_only_replaced_when_asked(
    run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {".gitattributes": b"", "model.safetensors": b"old", "README.md": b"old", "picture.png": b"mine"}
    hub.repositories = {"ada/old": {"main": dict(old)}, "ada/empty": {"main": {".gitattributes": b""}}}
    assert main(["push", str(run), "ada/old", "--endpoint", hub.url]) == 2
    assert "ada/old exists and holds 4 files; add --update" in capsys.readouterr().err
    assert hub.repositories["ada/old"]["main"] == old
    assert main(["push", str(run), "ada/old", "--update", "--endpoint", hub.url]) == 0
    stored = hub.repositories["ada/old"]["main"]
    assert stored["picture.png"] == b"mine"
    assert "model.safetensors" not in stored  # or transformers would load it instead of the shards
    assert stored["README.md"] == (run / "final_model" / "README.md").read_bytes()
    assert "deleted there: model.safetensors" in capsys.readouterr().out
    assert main(["push", str(run), "ada/empty", "--revision", "try", "--endpoint", hub.url]) == 0
    assert set(hub.repositories["ada/empty"]["main"]) == {".gitattributes"}
    assert "tokenizer.json" in hub.repositories["ada/empty"]["try"]


def test_a_branch_that_holds_a_model_is_only_replaced_when_asked(run: Path, hub: Hub) -> None:
    branches = {"main": {".gitattributes": b""}, "dev": {"model.safetensors": b"old"}}
    hub.repositories = {"ada/old": branches}
    upload = push.plan(run)
    with pytest.raises(ValueError, match="ada/old: the branch dev exists and holds 1 files; add --update"):
        push.push(upload, "ada/old", endpoint=hub.url, revision="dev")
    assert branches["dev"] == {"model.safetensors": b"old"}
    push.push(upload, "ada/old", endpoint=hub.url, revision="dev", update=True)
    assert "tokenizer.json" in branches["dev"]


def test_private_is_refused_for_a_public_repository(run: Path, hub: Hub) -> None:
    empty = {".gitattributes": b""}
    hub.repositories = {"ada/open": {"main": dict(empty)}, "ada/mine": {"main": dict(empty)}}
    hub.private = {"ada/open": False, "ada/mine": True}
    upload = push.plan(run)
    for update in (False, True):
        with pytest.raises(ValueError, match="ada/open exists and is public, expected a private one"):
            push.push(upload, "ada/open", endpoint=hub.url, private=True, update=update)
    assert hub.repositories["ada/open"]["main"] == empty
    push.push(upload, "ada/mine", endpoint=hub.url, private=True)
    assert "tokenizer.json" in hub.repositories["ada/mine"]["main"]


def test_a_card_on_the_hub_is_not_deleted_by_a_folder_without_one(run: Path, hub: Hub) -> None:
    hub.repositories = {"ada/old": {"main": {"README.md": b"mine", "model.safetensors": b"old"}}}
    (run / "final_model" / "README.md").unlink()
    push.push(push.plan(run), "ada/old", endpoint=hub.url, update=True)
    stored = hub.repositories["ada/old"]["main"]
    assert stored["README.md"] == b"mine"
    assert "model.safetensors" not in stored


def test_a_card_of_other_weights_and_a_home_folder_are_not_sent(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = run / "final_model" / "README.md"
    card.write_text(f"trained in {run}")
    assert "README.md" in push.plan(run).files
    monkeypatch.setenv("HOME", str(run.parent))
    with pytest.raises(ValueError, match=r"README\.md: line 1 has the path of your home folder"):
        push.plan(run)
    card.write_text(f"| sha256 of `model.safetensors` | `{'0' * 64}` |\n")
    with pytest.raises(ValueError, match=r"README\.md: the card is of other weights"):
        push.plan(run)


@pytest.mark.parametrize(
    ("word", "status", "message"),
    [
        ("create", 401, "the hub does not know the token; run hf auth login"),
        ("create", 403, "the token may not write there"),
        ("preupload", 404, "there is no such repository or branch"),
        ("lfs-store", 403, "the token may not write there"),
        ("commit", 400, r"the hub refused it \(400\)"),
        ("validate-yaml", 400, "Invalid metadata in README"),
    ],
)
def test_a_refusal_is_one_line_without_the_token(
    word: str, status: int, message: str, run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuse = {word: status}
    upload = push.plan(run)
    with pytest.raises(ValueError, match=message) as error:
        push.push(upload, "ada/new", endpoint=hub.url)
    assert TOKEN not in str(error.value)
    assert "\n" not in str(error.value)


def test_no_network_no_token_and_offline_are_told(
    run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upload = push.plan(run)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(
        OSError, match=rf"http://127\.0\.0\.1:{port}/ada/new: it could not be pushed .* check the network"
    ):
        push.push(upload, "ada/new", endpoint=f"http://127.0.0.1:{port}")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="there is no token; run hf auth login, or set HF_TOKEN"):
        push.push(upload, "ada/new", endpoint=hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set in the environment"):
        push.push(upload, "ada/new", endpoint=hub.url)
    assert hub.requests == []


def test_a_dry_run_sends_nothing_and_a_damaged_file_is_never_sent(
    run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run), "ada/new", "--dry_run", "--endpoint", hub.url]) == 0
    assert "would push" in capsys.readouterr().out
    weights = max((run / "final_model").glob("model*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert main(["push", str(run), "ada/new", "--endpoint", hub.url]) == 2
    assert f"{weights.name}: its sha256 is" in capsys.readouterr().err
    assert hub.requests == []


@pytest.mark.parametrize(
    "name",
    ["model", "a b/c", "ada/model.git", "ada/a--b", "ада/model", "../x", "ada/" + "x" * 97, "a/b/c", "-a/b"],
)
def test_a_name_that_cannot_be_one_is_refused_before_anything_else(name: str) -> None:
    with pytest.raises(ValueError, match="expected OWNER/NAME"):
        push.check_names(name)


@pytest.mark.parametrize(
    ("flag", "value"), [("revision", "a b"), ("revision", "refs/pr/1"), ("endpoint", "hub.org")]
)
def test_a_branch_or_an_address_that_cannot_be_one_is_refused(flag: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"--{flag} '{value}': expected"):
        push.check_names("ada/model", **{flag: value})


def test_folders_that_hold_no_model_are_refused(run: Path, tmp_path: Path) -> None:
    folder = run / "final_model"
    (folder / "SHA256SUMS").write_text((folder / "SHA256SUMS").read_text() + f"{'0' * 64}  secret.bin\n")
    with pytest.raises(ValueError, match=r"lists secret\.bin, which is no file of a model"):
        push.plan(run)
    (folder / "SHA256SUMS").unlink()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is a link to .*gone, which does not exist"):
        push.plan(run)
    shutil.rmtree(folder)  # a run that was killed: its own config.json has flags and paths
    with pytest.raises(ValueError, match="expected the folder of a complete run"):
        push.plan(run)
    with pytest.raises(FileNotFoundError, match="none: there is no such folder"):
        push.plan(tmp_path / "none")


def test_adapters_name_their_base_on_the_hub_and_not_a_folder_here(tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    fields = {"base_model_name_or_path": f"{tmp_path}/base/final_model", "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    (folder / "base.json").write_text(json.dumps({"path": f"{tmp_path}/base/final_model", "digest": "x"}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    checksums.write(folder)
    with pytest.raises(ValueError, match=r"base of the adapters is a folder here .* --base_model OWNER/NAME"):
        push.plan(folder)
    upload = push.plan(folder, "ada/base")
    assert upload.base == "ada/base"
    for name, data in upload.files.items():
        sent = data if isinstance(data, bytes) else data.read_bytes()
        assert str(tmp_path).encode() not in sent
        (tmp_path / "there").mkdir(exist_ok=True)
        (tmp_path / "there" / name).write_bytes(sent)
    checksums.verify(tmp_path / "there")
    assert (
        json.loads((tmp_path / "there" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "ada/base"
    )
