"""Opcodes of LDS, buffer and flat memory instructions; see backend/cdna/decode/tables.py for how a row is read."""

from __future__ import annotations

from backend.cdna.decode.tables import read_table

DS = read_table(
    "ds_",
    """
00 = v32 a32 | add_u32 sub_u32 rsub_u32 inc_u32 dec_u32 min_i32 max_i32 min_u32 max_u32 and_b32 or_b32 xor_b32
0c = v32 a32 a32 | mskor_b32
0d = v32 a32 | write_b32
0e = v32 a32 a32 /2 | write2_b32 write2st64_b32
10 = v32 a32 a32 | cmpst_b32 cmpst_f32
12 = v32 a32 | min_f32 max_f32
14 = | nop
15 = v32 a32 | add_f32
17 = v32 a32 | pk_add_f16 pk_add_bf16
1e = v32 a32 | write_b8 write_b16
20 a32 = v32 a32 | add_rtn_u32 sub_rtn_u32 rsub_rtn_u32 inc_rtn_u32 dec_rtn_u32 min_rtn_i32 max_rtn_i32 min_rtn_u32 max_rtn_u32
29 a32 = v32 a32 | and_rtn_b32 or_rtn_b32 xor_rtn_b32
2c a32 = v32 a32 a32 | mskor_rtn_b32
2d a32 = v32 a32 | wrxchg_rtn_b32
2e a64 = v32 a32 a32 /2 | wrxchg2_rtn_b32 wrxchg2st64_rtn_b32
30 a32 = v32 a32 a32 | cmpst_rtn_b32 cmpst_rtn_f32
32 a32 = v32 a32 | min_rtn_f32 max_rtn_f32
34 a32 = v32 a32 a32 | wrap_rtn_b32
35 a32 = v32 a32 | add_rtn_f32
36 a32 = v32 | read_b32
37 a64 = v32 /2 | read2_b32 read2st64_b32
39 a32 = v32 | read_i8 read_u8 read_i16 read_u16
3d a32 = v32 /w | swizzle_b32
3e v32 = v32 v32 | permute_b32 bpermute_b32
40 = v32 a64 | add_u64 sub_u64 rsub_u64 inc_u64 dec_u64 min_i64 max_i64 min_u64 max_u64 and_b64 or_b64 xor_b64
4c = v32 a64 a64 | mskor_b64
4d = v32 a64 | write_b64
4e = v32 a64 a64 /2 | write2_b64 write2st64_b64
50 = v32 a64 a64 | cmpst_b64 cmpst_f64
52 = v32 a64 | min_f64 max_f64
54 = v32 a32 | write_b8_d16_hi write_b16_d16_hi
56 a32 = v32 | read_u8_d16 read_u8_d16_hi read_i8_d16 read_i8_d16_hi read_u16_d16 read_u16_d16_hi
5c = v32 a64 | add_f64
60 a64 = v32 a64 | add_rtn_u64 sub_rtn_u64 rsub_rtn_u64 inc_rtn_u64 dec_rtn_u64 min_rtn_i64 max_rtn_i64 min_rtn_u64 max_rtn_u64
69 a64 = v32 a64 | and_rtn_b64 or_rtn_b64 xor_rtn_b64
6c a64 = v32 a64 a64 | mskor_rtn_b64
6d a64 = v32 a64 | wrxchg_rtn_b64
6e a128 = v32 a64 a64 /2 | wrxchg2_rtn_b64 wrxchg2st64_rtn_b64
70 a64 = v32 a64 a64 | cmpst_rtn_b64 cmpst_rtn_f64
72 a64 = v32 a64 | min_rtn_f64 max_rtn_f64
76 a64 = v32 | read_b64
77 a128 = v32 /2 | read2_b64 read2st64_b64
7c a64 = v32 a64 | add_rtn_f64
b7 a32 = v32 a32 | pk_add_rtn_f16 pk_add_rtn_bf16
de = v32 a96 | write_b96
df = v32 a128 | write_b128
e0 a64 = v32 gfx950 | read_b64_tr_b4
e1 a96 = v32 gfx950 | read_b96_tr_b6
e2 a64 = v32 gfx950 | read_b64_tr_b8 read_b64_tr_b16
fe a96 = v32 | read_b96
ff a128 = v32 | read_b128
""",
)

# Loads name their data as the destination, stores as a source; atomics do both when they return (glc, written sc0).
MUBUF = read_table(
    "buffer_",
    """
10 a32 = | load_ubyte load_sbyte load_ushort load_sshort load_dword
15 a64 = | load_dwordx2
16 a96 = | load_dwordx3
17 a128 = | load_dwordx4
18 = a32 | store_byte store_byte_d16_hi store_short store_short_d16_hi store_dword
1d = a64 | store_dwordx2
1e = a96 | store_dwordx3
1f = a128 | store_dwordx4
20 a32 = | load_ubyte_d16 load_ubyte_d16_hi load_sbyte_d16 load_sbyte_d16_hi load_short_d16 load_short_d16_hi
28 = /n | wbl2 inv
40 = a32 /r | atomic_swap
41 = a64 /r | atomic_cmpswap
42 = a32 /r | atomic_add atomic_sub atomic_smin atomic_umin atomic_smax atomic_umax atomic_and atomic_or atomic_xor atomic_inc
4c = a32 /r | atomic_dec atomic_add_f32 atomic_pk_add_f16
4f = a64 /r | atomic_add_f64 atomic_min_f64 atomic_max_f64
52 = a32 /r gfx950 | atomic_pk_add_bf16
60 = a64 /r | atomic_swap_x2
61 = a128 /r | atomic_cmpswap_x2
62 = a64 /r | atomic_add_x2 atomic_sub_x2 atomic_smin_x2 atomic_umin_x2 atomic_smax_x2 atomic_umax_x2 atomic_and_x2
69 = a64 /r | atomic_or_x2 atomic_xor_x2 atomic_inc_x2 atomic_dec_x2
""",
)

FLAT = read_table(
    "",
    """
10 a32 = | load_ubyte load_sbyte load_ushort load_sshort load_dword
15 a64 = | load_dwordx2
16 a96 = | load_dwordx3
17 a128 = | load_dwordx4
18 = a32 | store_byte store_byte_d16_hi store_short store_short_d16_hi store_dword
1d = a64 | store_dwordx2
1e = a96 | store_dwordx3
1f = a128 | store_dwordx4
20 a32 = | load_ubyte_d16 load_ubyte_d16_hi load_sbyte_d16 load_sbyte_d16_hi load_short_d16 load_short_d16_hi
26 = /l | load_lds_ubyte load_lds_sbyte load_lds_ushort load_lds_sshort load_lds_dword
40 = a32 /r | atomic_swap
41 = a64 /r | atomic_cmpswap
42 = a32 /r | atomic_add atomic_sub atomic_smin atomic_umin atomic_smax atomic_umax atomic_and atomic_or atomic_xor atomic_inc
4c = a32 /r | atomic_dec atomic_add_f32 atomic_pk_add_f16
4f = a64 /r | atomic_add_f64 atomic_min_f64 atomic_max_f64
52 = a32 /r | atomic_pk_add_bf16
60 = a64 /r | atomic_swap_x2
61 = a128 /r | atomic_cmpswap_x2
62 = a64 /r | atomic_add_x2 atomic_sub_x2 atomic_smin_x2 atomic_umin_x2 atomic_smax_x2 atomic_umax_x2 atomic_and_x2
69 = a64 /r | atomic_or_x2 atomic_xor_x2 atomic_inc_x2 atomic_dec_x2
7d = /l gfx950 | load_lds_dwordx4 load_lds_dwordx3
""",
)
