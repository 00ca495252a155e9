"""Opcodes of the scalar formats; see backend/cdna/decode/tables.py for how a row is read."""

from __future__ import annotations

from backend.cdna.decode.tables import read_table

SOP2 = read_table(
    "s_",
    """
00 s32 = b32 b32 | add_u32 sub_u32 add_i32 sub_i32 addc_u32 subb_u32 min_i32 min_u32 max_i32 max_u32 cselect_b32
0b s64 = b64 b64 | cselect_b64
0c s32 = b32 b32 | and_b32
0d s64 = b64 b64 | and_b64
0e s32 = b32 b32 | or_b32
0f s64 = b64 b64 | or_b64
10 s32 = b32 b32 | xor_b32
11 s64 = b64 b64 | xor_b64
12 s32 = b32 b32 | andn2_b32
13 s64 = b64 b64 | andn2_b64
14 s32 = b32 b32 | orn2_b32
15 s64 = b64 b64 | orn2_b64
16 s32 = b32 b32 | nand_b32
17 s64 = b64 b64 | nand_b64
18 s32 = b32 b32 | nor_b32
19 s64 = b64 b64 | nor_b64
1a s32 = b32 b32 | xnor_b32
1b s64 = b64 b64 | xnor_b64
1c s32 = b32 b32 | lshl_b32
1d s64 = b64 b32 | lshl_b64
1e s32 = b32 b32 | lshr_b32
1f s64 = b64 b32 | lshr_b64
20 s32 = b32 b32 | ashr_i32
21 s64 = i64 b32 | ashr_i64
22 s32 = b32 b32 | bfm_b32
23 s64 = b32 b32 | bfm_b64
24 s32 = b32 b32 | mul_i32 bfe_u32 bfe_i32
27 s64 = b64 b32 | bfe_u64
28 s64 = i64 b32 | bfe_i64
2a s32 = b32 b32 | absdiff_i32
2c s32 = b32 b32 | mul_hi_u32 mul_hi_i32 lshl1_add_u32 lshl2_add_u32 lshl3_add_u32 lshl4_add_u32
32 s32 = b32 b32 | pack_ll_b32_b16 pack_lh_b32_b16 pack_hh_b32_b16
""",
)

SOP1 = read_table(
    "s_",
    """
00 s32 = b32 | mov_b32
01 s64 = b64 | mov_b64
02 s32 = b32 | cmov_b32
03 s64 = b64 | cmov_b64
04 s32 = b32 | not_b32
05 s64 = b64 | not_b64
06 s32 = b32 | wqm_b32
07 s64 = b64 | wqm_b64
08 s32 = b32 | brev_b32
09 s64 = b64 | brev_b64
0a s32 = b32 | bcnt0_i32_b32
0b s32 = b64 | bcnt0_i32_b64
0c s32 = b32 | bcnt1_i32_b32
0d s32 = b64 | bcnt1_i32_b64
0e s32 = b32 | ff0_i32_b32
0f s32 = b64 | ff0_i32_b64
10 s32 = b32 | ff1_i32_b32
11 s32 = b64 | ff1_i32_b64
12 s32 = b32 | flbit_i32_b32
13 s32 = b64 | flbit_i32_b64
14 s32 = b32 | flbit_i32
15 s32 = b64 | flbit_i32_i64
16 s32 = b32 | sext_i32_i8 sext_i32_i16 bitset0_b32
19 s64 = b32 | bitset0_b64
1a s32 = b32 | bitset1_b32
1b s64 = b32 | bitset1_b64
1c s64 = | getpc_b64
1d = s64 | setpc_b64
1e s64 = s64 | swappc_b64
20 s64 = b64 | and_saveexec_b64 or_saveexec_b64 xor_saveexec_b64 andn2_saveexec_b64 orn2_saveexec_b64 nand_saveexec_b64
26 s64 = b64 | nor_saveexec_b64 xnor_saveexec_b64
28 s32 = b32 | quadmask_b32
29 s64 = b64 | quadmask_b64
2a s32 = s32 | movrels_b32
2b s64 = s64 | movrels_b64
2c s32 = b32 | movreld_b32
2d s64 = b64 | movreld_b64
30 s32 = b32 | abs_i32
32 = b32 | set_gpr_idx_idx
33 s64 = b64 | andn1_saveexec_b64 orn1_saveexec_b64 andn1_wrexec_b64 andn2_wrexec_b64
37 s64 = b32 | bitreplicate_b64_b32
""",
)

SOPC = read_table(
    "s_",
    """
00 = b32 b32 | cmp_eq_i32 cmp_lg_i32 cmp_gt_i32 cmp_ge_i32 cmp_lt_i32 cmp_le_i32
06 = b32 b32 | cmp_eq_u32 cmp_lg_u32 cmp_gt_u32 cmp_ge_u32 cmp_lt_u32 cmp_le_u32 bitcmp0_b32 bitcmp1_b32
0e = b64 b32 | bitcmp0_b64 bitcmp1_b64
10 = b32 b32 | setvskip
11 = b32 | set_gpr_idx_on
12 = b64 b64 | cmp_eq_u64 cmp_lg_u64
""",
)

SOPK = read_table(
    "s_",
    """
00 s32 = | movk_i32 cmovk_i32
02 = s32 | cmpk_eq_i32 cmpk_lg_i32 cmpk_gt_i32 cmpk_ge_i32 cmpk_lt_i32 cmpk_le_i32
08 = s32 | cmpk_eq_u32 cmpk_lg_u32 cmpk_gt_u32 cmpk_ge_u32 cmpk_lt_u32 cmpk_le_u32
0e s32 = | addk_i32 mulk_i32
11 s32 = | getreg_b32
12 = s32 | setreg_b32
14 = | setreg_imm32_b32
15 s64 = | call_b64
""",
)

SOPP = read_table(
    "s_",
    """
00 = | nop endpgm branch - cbranch_scc0 cbranch_scc1 cbranch_vccz cbranch_vccnz cbranch_execz cbranch_execnz barrier
0b = | setkill waitcnt sethalt sleep setprio sendmsg sendmsghalt trap icache_inv incperflevel decperflevel ttracedata
1c = | set_gpr_idx_off set_gpr_idx_mode
""",
)

SMEM = read_table(
    "s_",
    """
00 s32 = s64 | load_dword
01 s64 = s64 | load_dwordx2
02 s128 = s64 | load_dwordx4
03 s256 = s64 | load_dwordx8
04 s512 = s64 | load_dwordx16
08 s32 = s128 | buffer_load_dword
09 s64 = s128 | buffer_load_dwordx2
0a s128 = s128 | buffer_load_dwordx4
0b s256 = s128 | buffer_load_dwordx8
0c s512 = s128 | buffer_load_dwordx16
10 = s32 s64 | store_dword
11 = s64 s64 | store_dwordx2
12 = s128 s64 | store_dwordx4
18 = s32 s128 | buffer_store_dword
19 = s64 s128 | buffer_store_dwordx2
1a = s128 s128 | buffer_store_dwordx4
20 = | dcache_inv dcache_wb dcache_inv_vol dcache_wb_vol
24 s64 = | memtime memrealtime
80 = s32 s64 /r | atomic_swap
81 = s64 s64 /r | atomic_cmpswap
82 = s32 s64 /r | atomic_add atomic_sub atomic_smin atomic_umin atomic_smax atomic_umax atomic_and atomic_or atomic_xor
8b = s32 s64 /r | atomic_inc atomic_dec
a0 = s64 s64 /r | atomic_swap_x2
a1 = s128 s64 /r | atomic_cmpswap_x2
a2 = s64 s64 /r | atomic_add_x2 atomic_sub_x2 atomic_smin_x2 atomic_umin_x2 atomic_smax_x2 atomic_umax_x2 atomic_and_x2
a9 = s64 s64 /r | atomic_or_x2 atomic_xor_x2 atomic_inc_x2 atomic_dec_x2
""",
)
