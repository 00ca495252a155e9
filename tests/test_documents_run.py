"""What README and docs/ tell people to type is typed, in a shell, in a copy of the repository: it ends as they say.

A command ends with 0, or as its comment says (`# exits 1: ...`), and prints what is shown below it (`...` is anything).
The slow ones (AITERFUZZ_SLOW) fetch releases, search for a while or run a GPU; what nobody can type as it stands says why.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.real.frameworks.fetch import fetched_wheel
from backend.serving.frameworks import FRAMEWORKS

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "corpus" / "README.md")
FENCED = re.compile(r"^```[a-z]*\n(.*?)^```|^((?:    \S.*\n)+)", re.DOTALL | re.MULTILINE)
TYPED = re.compile(r"^ *(?:\$ )?((?:\.venv/bin/)?(?:aiterfuzz|make|python|pre-commit) .*)$")
EXITS = re.compile(r"#.*\bexits (\d)")

CHECKOUT = os.environ.get("AITERFUZZ_AITER_CHECKOUT", "")
PLACES = re.compile(r"/path/to/aiter|\bCHECKOUT\b")
"""How the documents call a checkout of ROCm/aiter."""

LASTS = ("--seconds 3600", "--seconds 20")
"""The one thing that is typed otherwise: an hour is a third of a minute."""

WHY_NOT = {
    r"^make (quick|test|check|versions)\b": "it is this suite",
    r"benchmarks\.": "a benchmark",
    r"\[-|\bSCRIPT\b|\bNAME\b|\bHOST\b": "a form, not a command: it has places to fill in",
    r"server\.log": "the log is the reader's",
}
"""What is not typed here, and why."""

QUICK = re.compile(r"aiterfuzz (explain|rule new|version|doctor) ")
SIMULATED = re.compile(r"--device[s]? (?!.*(cuda|rocm))|^((?!--device|gpu_selftest).)*$")


@dataclass(frozen=True)
class Typed:
    """A command of a page. shown: lines that the page says it prints, empty where it says none."""

    page: str
    line: str
    shown: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        return self.line.partition(" #")[0].strip()

    @property
    def exits(self) -> int:
        said = EXITS.search(self.line)
        return int(said[1]) if said else 0

    def __str__(self) -> str:
        return f"{self.page}: {self.command}"


def typed() -> list[Typed]:
    """Every command of every block, each once."""
    found: dict[str, Typed] = {}
    for page in PAGES:
        for block in FENCED.finditer(page.read_text(encoding="utf-8")):
            lines = (block[1] or block[2]).replace("\\\n", " ").splitlines()
            for number, line in enumerate(lines):
                if (given := TYPED.match(line)) is None:
                    continue
                shown = tuple(lines[number + 1 :]) if line.startswith("$ ") else ()
                one = Typed(page.relative_to(ROOT).as_posix(), given[1], shown)
                found.setdefault(one.command, one)
    return list(found.values())


def _parameters() -> list[object]:
    made = []
    for one in typed():
        marks = [] if QUICK.search(one.command) and SIMULATED.search(one.command) else [pytest.mark.slow]
        reasons = [reason for pattern, reason in WHY_NOT.items() if re.search(pattern, one.command)]
        marks += [pytest.mark.skip(reason=reason) for reason in reasons]
        if PLACES.search(one.command) and not reasons:
            marks.append(pytest.mark.checkout)
        made.append(pytest.param(one, id=str(one), marks=marks))
    return made


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository as a clone has it, set up and compiled: its .venv runs this interpreter on the copy's sources."""
    made = tmp_path / "aiterfuzz"
    shutil.copytree(ROOT, made, ignore=shutil.ignore_patterns(".*", "build", "findings-*", "nightly"))
    for hidden in (".gitignore", ".pre-commit-config.yaml"):
        shutil.copy(ROOT / hidden, made / hidden)
    bin_folder = made / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name, runs in (("aiterfuzz", "-P -m fuzz.cli"), ("python", ""), ("pre-commit", "-m pre_commit")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {runs} "$@"\n')
        (bin_folder / name).chmod(0o755)
    (made / ".venv" / "ready").touch()
    return made


def _as_the_page_has_it(folder: Path, one: Typed) -> None:
    """What the reader has by then: the file of a block above, the rule of `rule new`, the checkout that a page speaks of."""
    if "my_rule.toml" in one.command:
        table = re.search(r"^```toml\n(.*?)^```", (ROOT / one.page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        assert table is not None
        (folder / "my_rule.toml").write_text(table[1])
    if "my_rule.py" in one.command and "rule new" not in one.command:
        _shell(folder, "aiterfuzz rule new my_rule.py")
    if "python/sglang" in one.command:
        with zipfile.ZipFile(fetched_wheel(FRAMEWORKS["sglang"], "0.5.13")) as packed:
            packed.extractall(folder / "python", [name for name in packed.namelist() if name.endswith(".py")])
    if "python/sglang" in one.command or "pre-commit" in one.command:
        identity = "-c user.name=reader -c user.email=reader@example.org"
        done = _shell(folder, f"git init -q . && git add -A && git {identity} commit -qm all && git branch origin/main")
        assert done.returncode == 0, done.stderr


def _shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(folder / ".venv" / "bin"), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("one", _parameters())
def test_what_the_documents_tell_to_type_ends_as_they_say(one: Typed, copy: Path) -> None:
    if not SIMULATED.search(one.command) and not importlib.import_module("torch").cuda.is_available():
        pytest.skip("torch sees no GPU")
    _as_the_page_has_it(copy, one)
    done = _shell(copy, PLACES.sub(CHECKOUT, one.command).replace(*LASTS))
    assert done.returncode == one.exits, done.stdout[-4000:] + done.stderr[-4000:]
    if one.shown:
        assert _as_shown(one.shown).search(done.stdout), done.stdout


def _as_shown(lines: tuple[str, ...]) -> re.Pattern[str]:
    """What prints these lines one after another; `...` alone is any lines, within a line any text of it."""
    parts = [r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\s*?\n" for line in lines]
    return re.compile("".join(parts), re.MULTILINE)


def test_completion_as_readme_has_it() -> None:
    (line,) = re.findall(r"`(eval \"\$\(register[^`]*)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    typed = f"PATH={Path(sys.executable).parent}:$PATH; {line} && complete -p aiterfuzz"
    done = subprocess.run(["bash", "-c", typed], capture_output=True)
    assert done.returncode == 0, done.stderr
