"""A repository is read, never run: whatever its configuration names, and whoever it belongs to."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from backend.aiter.codefiles import open_source
from backend.errors import AiterfuzzError, CannotRunError
from backend.git import ENVIRONMENT, MOST_MEMORY, OFF, ObjectReader, git, git_folder, path_and_revision
from backend.real.python.trees import GitTree
from fuzz.cli import main
from reprod.history import commit, commits_between, is_before
from tests.tiers import one_of_each

ROOT = Path(__file__).parents[1]
COMMANDS = """
    core.sshCommand core.fsmonitor core.pager core.editor core.askPass core.gitProxy core.alternateRefsCommand
    gpg.program gpg.ssh.program gpg.x509.program gpg.ssh.defaultKeyCommand diff.external credential.helper
    filter.x.smudge filter.x.clean filter.x.process diff.x.textconv diff.x.command remote.origin.uploadpack
    pager.log pager.cat-file alias.cat-file alias.log uploadpack.packObjectsHook
"""
"""What git's configuration may name a command by."""

FILES = {"csrc/py_itfs_cu/asm_mla.cu": "// none\n", "aiter/mla.py": "x = 1\n", "python/sglang/a.py": "y = 1\n"}


def run(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.invalid", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def honest(tmp_path: Path) -> Path:
    """A repository of two commits."""
    root = tmp_path / "honest"
    root.mkdir()
    run(root, "init", "-q", "-b", "main")
    run(root, "config", "uploadpack.allowFilter", "true")
    for number in (1, 2):
        for name, text in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text * number)
        run(root, "add", "-A")
        run(root, "commit", "-q", "-m", f"number {number}")
    return root


@pytest.fixture
def hostile(honest: Path, tmp_path: Path) -> Path:
    """A partial clone of it that lacks every file, whose configuration names a command wherever git knows one."""
    root, command = tmp_path / "hostile", tmp_path / "command"
    run(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{honest}", str(root))
    _sign(root)
    command.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/MARK\nexit 1\n")
    command.chmod(0o755)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for hook in ("post-checkout", "post-index-change", "reference-transaction", "pre-auto-gc", "fsmonitor-watchman"):
        (hooks / hook).symlink_to(command)
    (tmp_path / "attributes").write_text("* filter=x diff=x\n")
    for name in COMMANDS.split():
        run(root, "config", name, str(command))
    for name in ("protocol.allow", "protocol.ssh.allow", "protocol.ext.allow"):
        run(root, "config", name, "always")
    run(root, "config", "core.hooksPath", str(hooks))
    run(root, "config", "log.showSignature", "true")
    run(root, "config", "core.attributesFile", str(tmp_path / "attributes"))
    return root


def _sign(root: Path) -> None:
    """Gives the last commit a signature, which git asks a program about where it shows one."""

    def asked(*arguments: str, given: str = "") -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, input=given, check=True, capture_output=True, text=True).stdout

    head, _, body = asked("cat-file", "commit", "HEAD").partition("\n\n")
    signature = "-----BEGIN PGP SIGNATURE-----\n \n iQ==\n -----END PGP SIGNATURE-----"
    text = f"{head}\ngpgsig {signature}\n\n{body}"
    asked("update-ref", "refs/heads/main", asked("hash-object", "-t", "commit", "-w", "--stdin", given=text).strip())


def test_the_trap_works(hostile: Path, tmp_path: Path) -> None:
    """Git as it comes runs what the configuration names: the tests below would see it."""
    subprocess.run(["git", "-C", str(hostile), "log", "-1", "--format=%s"], capture_output=True, check=False)
    assert (tmp_path / "MARK").exists()


REMOTES = ("ssh://nowhere.invalid/x", "ext::sh -c 'echo ran >> MARK'", "unchanged")


@pytest.mark.parametrize("remote", REMOTES)
def test_reading_runs_nothing_of_the_repository_s(hostile: Path, tmp_path: Path, remote: str) -> None:
    if remote != "unchanged":
        run(hostile, "config", "remote.origin.url", remote.replace("MARK", str(tmp_path / "MARK")))
    (tmp_path / "MARK").unlink(missing_ok=True)
    history = commit(str(hostile), "HEAD")
    assert history.subject == "number 2"
    assert is_before(str(hostile), "HEAD~1", "HEAD")
    assert len(commits_between(str(hostile), "HEAD~1", "HEAD")) <= 1
    source = open_source(f"{hostile}@HEAD")
    with pytest.raises(AiterfuzzError, match="partial clone"):
        source.read("aiter/mla.py")
    tree = GitTree(hostile, "HEAD", "python")
    with pytest.raises(CannotRunError, match="partial clone"):
        tree.read("sglang/a.py")
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("decide", "{0}@HEAD", "--heads", "64"),
        ("gate", "{0}@HEAD", "--seconds", "1"),
        ("bisect", "--aiter", "{0}", "--good", "HEAD~1", "--bad", "HEAD", "{1}"),
        ("run", "--aiter", "{0}@HEAD", "--cases", "1"),
    ],
    ids=lambda command: command[0],
)
def test_no_command_runs_anything_of_a_repository_s(hostile: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    case = tmp_path / "case.json"
    case.write_text('{"num_head": 64, "kv_lens": [1024]}')
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.cli", *(word.format(hostile, case) for word in command)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (2, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "MARK").exists()


def test_a_repository_of_another_user_is_refused_with_what_to_do(honest: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a folder to another user needs root")
    for path in (honest, honest / ".git"):
        os.chown(path, 12345, 12345)
    for asked in (lambda: open_source(f"{honest}@HEAD"), lambda: commit(str(honest), "HEAD"), lambda: GitTree(honest, "HEAD")):
        with pytest.raises(CannotRunError, match=r"belongs to another user.*safe\.directory"):
            asked()


OF_A_REPOSITORY = "HEAD config packed-refs refs/heads/main objects/info/alternates commondir shallow info/grafts"


@pytest.mark.parametrize("name", one_of_each(OF_A_REPOSITORY.split()))
def test_git_is_not_waited_for_without_end(honest: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe in place of a file: whoever opens it waits for somebody who writes."""
    place = honest / ".git" / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    monkeypatch.setattr("backend.git.MOST_SECONDS", 1)
    with pytest.raises(CannotRunError, match="git has not answered"):
        open_source(f"{honest}@HEAD")


def test_an_object_is_not_waited_for_without_end(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ObjectReader(honest)
    name = run(honest, "rev-parse", "HEAD~1:aiter/mla.py")
    place = honest / ".git" / "objects" / name[:2] / name[2:]
    place.unlink()
    os.mkfifo(place)
    assert reader.read("HEAD:aiter/mla.py") == b"x = 1\nx = 1\n"
    monkeypatch.setattr("backend.git.MOST_SECONDS", 1)
    with pytest.raises(CannotRunError, match="git has not answered"):
        reader.read(name)


def test_git_does_not_fill_the_memory(honest: Path) -> None:
    """A device in place of a file: git reads until nothing is left."""
    (honest / ".git" / "objects" / "info" / "alternates").symlink_to("/dev/zero")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with pytest.raises(AiterfuzzError):
        open_source(f"{honest}@HEAD")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, (MOST_MEMORY >> 10) + (64 << 10))


def test_path_and_revision_are_told_apart_everywhere_alike(tmp_path: Path) -> None:
    (tmp_path / "a@b").mkdir()
    assert path_and_revision(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), "")
    assert path_and_revision(f"{tmp_path / 'a@b'}@v1") == (str(tmp_path / "a@b"), "v1")
    assert path_and_revision("aiter@v1..v2") == ("aiter", "v1..v2")
    assert path_and_revision("@v1") == ("@v1", "")
    assert path_and_revision("aiter@") == ("aiter", "")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("bisect", "case.json", "--aiter", "{0}@HEAD", "--good", "HEAD", "--bad", "HEAD"), "the fault once"),
        (("verify", "script.py", "--aiter", "{0}@HEAD", "--release", "2026-06"), "one of them"),
        (("replay", "{1}", "--aiter", "{0}@HEAD", "--matrix"), "whose revisions the matrix has"),
        (("scout", "sglang==0.5.13", "--aiter", "{0}"), "PATH@REV"),
    ],
)
def test_a_revision_that_contradicts_the_rest_is_said(
    honest: Path, tmp_path: Path, argv: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "case.json").write_text('{"num_head": 16, "kv_lens": [1]}')
    entry = next((Path(__file__).parents[1] / "corpus").glob("F7-*.json"))
    named = [str(tmp_path / "case.json") if each == "case.json" else each.format(honest, entry) for each in argv]
    assert main(named) == 2
    assert told in capsys.readouterr().err


def test_objects_by_name(honest: Path, tmp_path: Path) -> None:
    reader = ObjectReader(honest)
    assert reader.read("HEAD:aiter/mla.py") == b"x = 1\nx = 1\n"
    assert reader.read("HEAD:none") is None
    assert reader.read("HEAD~1:aiter/mla.py") == b"x = 1\n"
    bare = tmp_path / "bare"
    run(tmp_path, "clone", "-q", "--bare", str(honest), str(bare))
    assert git_folder(bare) == str(bare)
    assert git(bare, "cat-file", "-t", "HEAD") == b"commit\n"
    assert git(tmp_path, "cat-file", "-t", "HEAD") is None


def test_git_is_called_in_one_place() -> None:
    calls = [
        path.relative_to(ROOT)
        for room in ("backend", "fuzz", "reprod")
        for path in (ROOT / room).rglob("*.py")
        if '["git"' in path.read_text() or "'git'" in path.read_text()
    ]
    assert calls == [Path("backend/git.py")]
    assert set(OFF) >= {"core.hooksPath", "core.fsmonitor", "core.sshCommand", "log.showSignature"}
    assert "GIT_NO_LAZY_FETCH" in ENVIRONMENT
