"""Brings the Python files of a release whose wheel is hundreds of megabytes, without the rest of it.

Run as a program by fetch.py: `python -m backend.real.frameworks.python_only NAME VERSION OUT.whl`. It lets the installed pip
find the wheel, reads its directory and then only its .py members by range requests (what pip does itself for metadata,
`--use-feature=fast-deps`), and writes them as a zip file. These parts of pip are not a stable interface: whoever calls
this falls back to a whole download when it fails.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

LEFT_OUT = (
    "models",
    "model_executor/models",
    "model_executor/kernels",
    "entrypoints",
    "third_party",
    "vllm_flash_attn",
    "transformers_utils",
    "benchmarks",
    "distributed/kv_transfer",
    "v1/kv_offload",
    "lora",
    "multimodal",
    "tool_parsers",
    "reasoning",
    "renderers",
)
"""Folders of vLLM that no attention backend reads; each file kept costs a request."""


def wanted(member: str, name: str) -> bool:
    """Whether a member of the wheel is kept."""
    below = member.removeprefix(f"{name}/")
    return below != member and member.endswith(".py") and not below.startswith(tuple(f"{folder}/" for folder in LEFT_OUT))


def bring(name: str, version: str, out: Path) -> int:
    """Write the .py members of the release's wheel into `out`; returns how many."""
    from pip._internal.commands.download import DownloadCommand
    from pip._internal.network.lazy_wheel import LazyZipOverHTTP
    from pip._vendor.packaging.specifiers import SpecifierSet

    command = DownloadCommand("download", "range reads")
    options, _ = command.parse_args(["--no-deps", "--only-binary=:all:", f"{name}=={version}"])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        best = finder.find_best_candidate(name, SpecifierSet(f"=={version}")).best_candidate
        if best is None:
            raise SystemExit(f"ERROR: no wheel of {name}=={version} for this Python")
        with zipfile.ZipFile(LazyZipOverHTTP(best.link.url_without_fragment, session)) as wheel:
            members = [member for member in wheel.infolist() if wanted(member.filename, name)]
            with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as kept:
                for member in members:
                    kept.writestr(member.filename, wheel.read(member))
    return len(members)


if __name__ == "__main__":
    bring(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
