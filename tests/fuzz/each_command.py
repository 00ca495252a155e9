"""Every command, read from the parser, with a short use of each that works; what their tests share."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from _pytest.capture import CaptureResult

from backend.real.frameworks.fetch import open_source
from fuzz.cli import FORMER, main, parser

LOGS = Path(__file__).parents[1] / "data" / "logs"
CORPUS = Path(__file__).parents[2] / "corpus"

NO_SUCH = "/proc/no/such"


def leaves(of: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command with its parts, by what is typed."""
    parts = [action for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    if not parts:
        yield name, of
    for action in parts:
        for word, part in action.choices.items():
            yield from leaves(part, f"{name} {word}".strip())


ALL_LEAVES = dict(leaves(parser()))


def called_now(name: str) -> str:
    """The part of a command that a name of earlier versions is; of what became something else, the name."""
    first, *rest = name.split()
    now = " ".join((FORMER.get(first, first), *rest))
    return now if " " in now and now in ALL_LEAVES else name


LEAVES = {name: leaf for name, leaf in ALL_LEAVES.items() if called_now(name) == name}
"""Without the old names of what is a part of a command now: they are the same parsers."""

WORKS = {
    "run": "--cases 3 --shapes tp2 --out {out}",
    "campaign": "--print-config",
    "nightly": "--print-config",
    "report": "{store} --out {out}",
    "merge": "{store} --out {out}",
    "corpus replay": "{entry}",
    "explain": "{case}",
    "diagnose": "{log} --no-script",
    "decide": "sglang==0.5.13 --heads 16",
    "gate": "sglang-27188 --heads 16 --kv-dtype fp8 --seconds 0.1",
    "scout": "sglang==0.5.13 --heads 16 --seconds 1 --aiter {repository}@HEAD",
    "bisect": "{case} --aiter {repository} --good HEAD --bad HEAD",
    "corpus add": "{fault} --id Z9 --title x --corpus {out}",
    "corpus nightly-test": "{fault} --out {out}/test_x.py",
    "corpus write": "{fault} --out {out} --no-verify",
    "corpus mark": "{found} written-up --corpus {copied}",
    "rule new": "{out}.py",
    "selftest agree": "--devices model,cdna --cases 1 --max-batch 1 --max-kv 16 --heads 16 --backend direct --modes fast "
    "--q-dtype fp8 --kv-dtype fp8 --query-rows 1 --page-sizes 1",
    "selftest accuracy kernels": "--heads 16 --kv-lens 3",
    "selftest accuracy gsm8k": "--url http://127.0.0.1:9 --data {questions} --out {out}/answers --retries 0 --questions 1",
    "verify": "{script}",
    "takes": "{repository} HEAD~1..HEAD",
    "doctor": "",
    "version": "",
}
"""A short use of each, which comes as far as printing something where the machine has what it needs."""


def made_places(root: Path) -> dict[str, str]:
    """What stands for the names in braces above."""
    files = {
        "case": ("case.json", '{"num_head": 64, "kv_lens": [5, 3]}'),
        "fault": ("fault.json", '{"num_head": 64, "kv_lens": [1], "backend": "sglang-before-27188"}'),
        "garbage": ("garbage", "\0\x01{[" * 50),
        "refuses": (
            "refuses.py",
            "from backend.serving.policy import CaseRefused\ndef policy(case):\n    raise CaseRefused('no')\n",
        ),
        "leaves": ("leaves.py", "import os\ndef policy(case):\n    os._exit(0)\n"),
        "half": (
            "half.py",
            "from backend.serving.policy import CaseRefused\nfrom backend.serving.sglang import SGLANG_27188\n"
            "def policy(case):\n    if case.num_head == 64:\n        raise CaseRefused('no')\n    return SGLANG_27188(case)\n",
        ),
        "greedy": (
            "greedy.py",
            "import dataclasses\nfrom backend.serving.sglang import SGLANG_27188\n"
            "def policy(case):\n    return dataclasses.replace(SGLANG_27188(case), sizing_batch=10**12)\n",
        ),
        "raises": ("raises.py", "def policy(case):\n    return 1 // 0\n"),
        "exits": ("exits.py", "def policy(case):\n    raise SystemExit(0)\n"),
        "sleeps": ("sleeps.py", "import time\ndef policy(case):\n    time.sleep(1e6)\n"),
        "killed": ("killed.py", "import os\ndef policy(case):\n    os.kill(os.getpid(), 9)\n"),
        "crashes": ("crashes.py", "import os\ndef policy(case):\n    os.kill(os.getpid(), 11)\n"),
        "starves": ("starves.py", "def policy(case):\n    raise MemoryError\n"),
        "refused_case": (
            "refused.json",
            '{"num_head": 32, "kv_lens": [9], "max_seqlen_q": 5, "q_dtype": "fp8", "kv_dtype": "fp8"}',
        ),
        "huge_case": ("huge.json", json.dumps({"num_head": 16, "kv_lens": [4194304] * 600})),
        "kills_itself": ("kills.py", "import os\nos.kill(os.getpid(), 9)\n"),
        "sleeping_script": ("sleeping.py", "import time\ntime.sleep(60)\n"),
        "repro": ("repro.py", "import torch\ntorch.ones(3, device='cuda')\n"),
        "script": ("script.py", "print('nothing is launched')\n"),
        "broken": ("broken.py", "def\n"),
        "forks": ("forks.py", "import os\nif os.fork() == 0:\n    os._exit(0)\nos.wait()\nos._exit(0)\n"),
        "questions": ("q.jsonl", "\n".join(json.dumps({"question": "1+1?", "answer": "#### 2"}) for _ in range(7))),
    }
    for name, text in files.values():
        (root / name).write_text(text)
    made = {key: str(root / name) for key, (name, _) in files.items()}
    for name in ("empty", "repository"):
        (root / name).mkdir()
        made[name] = str(root / name)
    (root / "repository" / "README").write_text("no AITER\n")
    git = ("git", "-C", made["repository"], "-c", "user.name=x", "-c", "user.email=x@x.org")
    subprocess.run([*git, "init", "-q"], check=True)
    for number in range(2):
        (root / "repository" / f"{number}").touch()
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", f"{number}"], check=True)
    shutil.copytree(CORPUS, root / "copied")
    entries = sorted(path for path in CORPUS.glob("*.json") if "life" in json.loads(path.read_text()))
    made |= {"copied": str(root / "copied"), "found": entries[0].name.split("-")[0], "log": str(LOGS / "no_kernel.log")}
    made["entry"] = str(next(CORPUS.glob("F1-*.json")))
    stores = (("store", "sglang-27188", "16"), ("refused", made["refuses"], "16"), ("halved", made["half"], "16,64"))
    for name, backend, heads in stores:
        types = ("--q-dtype", "fp8", "--kv-dtype", "fp8", "--query-rows", "1")
        main(["run", "--backend", backend, "--heads", heads, *types, "--cases", "4", "--out", str(root / name)])
        made[name] = str(root / name)
    line = "self.num_head_padded = 16 if self.num_head < 16 else self.num_head\n"
    text = open_source("sglang==0.5.13").target.text
    assert line in text
    (root / "killed_file.py").write_text(text.replace(line, f"{line}            import os; os.kill(os.getpid(), 9)\n"))
    made["killed_file"] = str(root / "killed_file.py")
    (root / "piped").mkdir()
    for name in ("case.json", "rule.py", "campaign.sqlite"):
        os.mkfifo(root / "piped" / name)
    shutil.copytree(root / "repository", root / "torn")
    for piece in (root / "torn" / ".git" / "objects").rglob("*"):
        if piece.is_file():
            piece.chmod(0o600)
            piece.write_bytes(b"")
    shutil.copytree(root / "store", root / "damaged")
    with (root / "damaged" / "campaign.sqlite").open("r+b") as file:
        file.truncate(5000)
    return made | {name: str(root / name) for name in ("damaged", "piped", "torn")}


def typed(command: str, line: str, places: Mapping[str, str], tmp_path: Path) -> list[str]:
    out = tmp_path / "out"
    return [*command.split(), *(word.format(**places, out=out) for word in line.split())]


def not_run(code: int, printed: CaptureResult[str], allowed: tuple[int, ...] = (2, 3)) -> None:
    assert code in allowed, (code, printed)
    assert "Traceback" not in printed.err, printed.err
    assert "error of aiterfuzz itself" not in printed.err
    assert (printed.err + printed.out).strip(), "it is said why"
    assert not any(line.startswith(("clean", "No memory fault")) for line in printed.out.splitlines())
