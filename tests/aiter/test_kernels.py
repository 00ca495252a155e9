"""Kernel tables and release recognition: built in, in a checkout's CSV, and against the checkout they were taken from."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from backend.aiter.arguments import TargetGpu
from backend.aiter.codefiles import FolderSource, blob_id, code_path, installed_wheel, kernel_csv, open_code, open_source
from backend.aiter.kernargs import kernarg_reads
from backend.aiter.kernel_rules import KernelKey
from backend.aiter.kernels import (
    KernelChoice,
    NoKernel,
    built_in_table,
    choose_kernel,
    parse_kernel_csv,
    source_table,
)
from backend.aiter.release import (
    LAUNCHER_SOURCE,
    fingerprint,
    nearest_release,
    read_table,
    release,
    unknown_fingerprint_warning,
)
from backend.case import NUM_CU, RELEASES, Arch, DType
from backend.errors import CannotRunError, UnmodelledError, UsageError

FP8_16_HEADS = KernelKey(DType.FP8, DType.FP8, 16, True, 1, False)
HEADER = "qType,kvType,Gqa,ps,qSeqLen,prefill,causal,lse,knl_name,co_name\n"


def device(arch: Arch) -> TargetGpu:
    return TargetGpu(arch, NUM_CU[arch])


def folder_source(folder: Path, files: dict[str, bytes]) -> FolderSource:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return FolderSource("scratch", (("", str(folder)),))


def test_a_row_whose_code_object_is_absent_is_no_kernel(tmp_path: Path) -> None:
    csv = HEADER + "fp8,fp8,16,1,1,0,0,0,_ZN5aiter1kE,there.co\nfp8,fp8,16,1,2,0,0,0,_ZN5aiter1mE,absent.co\n"
    files = {code_path(Arch.GFX950, "mla_asm.csv"): csv.encode(), code_path(Arch.GFX950, "there.co"): b"code"}
    source = folder_source(tmp_path, files)
    table = source_table(source, Arch.GFX950)
    assert table is not None
    found = choose_kernel(release("2026-06"), device(Arch.GFX950), FP8_16_HEADS, table, source)
    assert isinstance(found, KernelChoice)
    assert (found.code_object, found.blob_id) == ("there.co", blob_id(b"code"))
    two_queries = FP8_16_HEADS._replace(max_seqlen_q=2)
    missing = choose_kernel(release("2026-06"), device(Arch.GFX950), two_queries, table, source)
    assert missing == NoKernel("hsa/gfx950/mla/absent.co is not in scratch")


def test_a_key_without_a_row_names_the_key() -> None:
    # aiter#4752: no row for bf16 q + fp8 KV, 16 heads, 5 queries.
    key = KernelKey(DType.BF16, DType.FP8, 16, True, 5, False)
    missing = choose_kernel(release("2026-06"), device(Arch.GFX950), key)
    assert isinstance(missing, NoKernel)
    assert missing.missing_key is not None
    assert missing.reason.endswith("qType=bf16 kvType=fp8 Gqa=16 ps=1 qSeqLen=5 causal=0 lse=0")


@pytest.mark.parametrize(
    "text",
    [
        "qType,kvType,ps,qSeqLen,knl_name,co_name\nfp8,fp8,1,1,k,c.co\n",
        HEADER + "fp8,fp8,sixteen,1,1,0,0,0,k,c.co\n",
        HEADER + "fp8,fp8\n",
    ],
)
def test_a_broken_table_is_named_with_its_row(text: str) -> None:
    with pytest.raises(CannotRunError, match=r"somewhere, row 2: .*expected the columns"):
        parse_kernel_csv(text, "somewhere", causal=0)


def test_prefill_rows_are_left_out_and_those_of_ranks_are_rows_of_their_own() -> None:
    header = HEADER.replace("lse,", "lse,cprr,")
    rows = "fp8,fp8,16,1,1,1,0,0,0,k,prefill.co\nfp8,fp8,16,1,1,0,0,0,1,r,parallel.co\nfp8,fp8,16,1,1,0,0,0,0,k,plain.co\n"
    table = parse_kernel_csv(header + "# a comment\n" + rows, "t", causal=0)
    found = {key.cprr: [row.code_object for row in rows] for key, rows in table.rows.items()}
    assert found == {False: ["plain.co"], True: ["parallel.co"]}


def test_a_second_row_of_one_symbol_is_dropped() -> None:
    table = parse_kernel_csv(HEADER + "fp8,fp8,16,1,1,0,0,0,k,a.co\nfp8,fp8,32,1,1,0,0,0,k,b.co\n", "t", causal=0)
    assert [row.code_object for found in table.rows.values() for row in found] == ["a.co"]


def test_the_mask_that_a_launcher_asks_for_is_read_from_its_source(tmp_path: Path) -> None:
    rows = "fp8,fp8,16,1,1,0,0,0,k0,unmasked.co\nfp8,fp8,16,1,1,0,1,0,k1,masked.co\n"
    for launcher, expected in ((b"int causal = 0;", "unmasked.co"), (b"int config_causal = causal;", "masked.co")):
        files = {code_path(Arch.GFX950, "mla_asm.csv"): (HEADER + rows).encode(), LAUNCHER_SOURCE: launcher}
        files |= {code_path(Arch.GFX950, name): b"code" for name in ("masked.co", "unmasked.co")}
        source = replace(folder_source(tmp_path / expected, files), label=expected)
        table = source_table(source, Arch.GFX950)
        found = choose_kernel(release("2026-08"), device(Arch.GFX950), FP8_16_HEADS, table, source)
        assert isinstance(found, KernelChoice)
        assert found.code_object == expected


def test_two_rows_of_one_key_are_both_told() -> None:
    # 2026-08 ships them; which one AITER takes depends on the order of an unordered map.
    key = KernelKey(DType.BF16, DType.BF16, 8, False, 2, False)
    found = choose_kernel(release("2026-08"), device(Arch.GFX950), key)
    assert isinstance(found, KernelChoice)
    assert found.code_object == "mla_a16w16_qh8_qseqlen2_gqaratio8.co"
    assert found.shadowed == ("mla_a16w16_qh8_qseqlen2_gqaratio8_causal.co",)


@pytest.mark.parametrize("arch", list(Arch))
def test_the_wheel_holds_every_kernel_of_2025_11(arch: Arch) -> None:
    source = installed_wheel()
    table = built_in_table(release("2025-11"), arch)
    assert len(table.rows) == 14
    for rows in table.rows.values():
        assert [blob_id(open_code(source, arch, row.code_object)) for row in rows] == [row.blob_id for row in rows]
        for row in rows:
            assert row.symbol.encode() in open_code(source, arch, row.code_object)


def test_the_wheel_has_the_host_sources_that_2025_11_was_verified_with() -> None:
    source = installed_wheel()
    assert unknown_fingerprint_warning(release("2025-11"), source) is None
    assert nearest_release(source) is release("2025-11")
    warning = unknown_fingerprint_warning(release("2026-06"), source)
    assert warning is not None
    assert "aiter/mla.py" in warning


@pytest.mark.parametrize(
    ("launcher", "nearest"),
    [(b"torch::Tensor", "2025-11"), (b"CFG* map = &cfg_mla_asm;", "2026-06"), (b"cfg_mla_asm args.s_cp_rank", "2026-08")],
)
def test_another_revision_takes_the_rules_that_its_launcher_speaks_of(tmp_path: Path, launcher: bytes, nearest: str) -> None:
    source = folder_source(tmp_path, {LAUNCHER_SOURCE: launcher, "aiter/mla.py": b"changed"})
    assert nearest_release(source) is release(nearest)
    assert fingerprint(source)["aiter/mla.py"] == hashlib.sha256(b"changed").hexdigest()
    warning = unknown_fingerprint_warning(release(nearest), source)
    assert warning is not None
    assert "aiter/mla.py" in warning
    assert "reduce.cu (absent)" in warning


def test_a_tree_without_a_launcher_has_no_release(tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match=r"scratch: no csrc/py_itfs_cu/asm_mla\.cu"):
        nearest_release(folder_source(tmp_path, {}))


def test_releases_are_single_and_pickle_by_name() -> None:
    for name in RELEASES:
        assert pickle.loads(pickle.dumps(release(name))) is release(name)
    with pytest.raises(UsageError, match="given '2024-01'"):
        release("2024-01")


def test_kernarg_reads_cover_every_kernel_of_every_table() -> None:
    for name in RELEASES:
        for arch in Arch:
            for rows in built_in_table(release(name), arch).rows.values():
                for row in rows:
                    assert row.blob_id is not None
                    reads = kernarg_reads(row.blob_id)
                    assert reads.arch is arch
                    assert {"ptr_R", "ptr_Q", "ptr_KV", "ptr_LTD", "s_MQA"} <= reads.kernargs
                    persistent = "_ps" in row.code_object
                    assert bool(reads.work_item) == persistent
                    assert ("partial_loc" in reads.work_item) == persistent


def test_kernarg_reads_of_the_kernel_that_stores_through_a_null_pointer() -> None:
    # aiter#2983: gfx950, 32 heads, bf16: the launcher passes RP = null from 2026 on; the fixed kernel does not read it.
    assert "ptr_RP" in kernarg_reads("7a0493c0e496829a2b4b3e32ffd60c9b5d5b7e60").kernargs
    assert "ptr_RP" not in kernarg_reads("4b1c3132decc83071139b47bbe13517dcc9775ad").kernargs
    with pytest.raises(UnmodelledError, match="code object 0000"):
        kernarg_reads("0000")


@pytest.mark.checkout
@pytest.mark.parametrize("name", RELEASES)
def test_built_in_tables_equal_the_checkout(name: str, aiter_checkout: Path) -> None:
    rules = release(name)
    source = open_source(f"{aiter_checkout}@{rules.commit}")
    assert unknown_fingerprint_warning(rules, source) is None
    assert nearest_release(source) is rules
    for arch in Arch:
        built_in = built_in_table(rules, arch)
        for rows in built_in.rows.values():
            assert [row.blob_id for row in rows] == [blob_id(open_code(source, arch, row.code_object)) for row in rows]
        if kernel_csv(source, arch) is None:
            assert name == "2025-11"
            continue
        own = source_table(source, arch)
        assert own is not None
        names = {
            key: [(row.symbol, row.code_object) for row in rows] for key, rows in own.rows.items() if key.kv_dtype != "byte"
        }
        assert names == {key: [(row.symbol, row.code_object) for row in rows] for key, rows in built_in.rows.items()}
        assert own.causal == built_in.causal


def test_tables_are_read_without_their_description() -> None:
    assert all(row["release"] in RELEASES for row in read_table("host_sources.csv"))
