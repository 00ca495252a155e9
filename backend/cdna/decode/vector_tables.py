"""Opcodes of the vector and matrix formats; see backend/cdna/decode/tables.py for how a row is read."""

from __future__ import annotations

from backend.cdna.decode.tables import read_table

VOP1 = read_table(
    "v_",
    """
00 = | nop
01 v32 = b32 | mov_b32
02 s32 = v32 | readfirstlane_b32
03 v32 = f64 /cm | cvt_i32_f64
04 v64 = b32 /cm | cvt_f64_i32
05 v32 = b32 /cm | cvt_f32_i32 cvt_f32_u32
07 v32 = f32 /cm | cvt_u32_f32 cvt_i32_f32
0a v32 = f32 /cm | cvt_f16_f32
0b v32 = f16 /cm | cvt_f32_f16
0c v32 = f32 /c | cvt_rpi_i32_f32 cvt_flr_i32_f32
0e v32 = b32 /cm | cvt_off_f32_i4
0f v32 = f64 /cm | cvt_f32_f64
10 v64 = f32 /cm | cvt_f64_f32
11 v32 = b32 /cm | cvt_f32_ubyte0 cvt_f32_ubyte1 cvt_f32_ubyte2 cvt_f32_ubyte3
15 v32 = f64 /cm | cvt_u32_f64
16 v64 = b32 /cm | cvt_f64_u32
17 v64 = f64 /cm | trunc_f64 ceil_f64 rndne_f64 floor_f64
1b v32 = f32 /cm | fract_f32 trunc_f32 ceil_f32 rndne_f32 floor_f32 exp_f32 log_f32 rcp_f32 rcp_iflag_f32 rsq_f32
25 v64 = f64 /cm | rcp_f64 rsq_f64
27 v32 = f32 /cm | sqrt_f32
28 v64 = f64 /cm | sqrt_f64
29 v32 = f32 /cm | sin_f32 cos_f32
2b v32 = b32 | not_b32 bfrev_b32 ffbh_u32 ffbl_b32 ffbh_i32
30 v32 = f64 /cm | frexp_exp_i32_f64
31 v64 = f64 /cm | frexp_mant_f64 fract_f64
33 v32 = f32 /c | frexp_exp_i32_f32
34 v32 = f32 /cm | frexp_mant_f32
38 v64 = b64 | mov_b64
39 v32 = b16 /cm | cvt_f16_u16 cvt_f16_i16
3b v32 = f16 /cm | cvt_u16_f16 cvt_i16_f16 rcp_f16 sqrt_f16 rsq_f16 log_f16 exp_f16 frexp_mant_f16 frexp_exp_i16_f16
44 v32 = f16 /cm | floor_f16 ceil_f16 trunc_f16 rndne_f16 fract_f16 sin_f16 cos_f16
4b v32 = f32 /cm | exp_legacy_f32 log_legacy_f32
4d v32 = f16 /cm | cvt_norm_i16_f16 cvt_norm_u16_f16
4f v32 = b32 | sat_pk_u8_i16
51 v32 = v32 | swap_b32
52 a32 = a32 | accvgpr_mov_b32
54 v32 = b32 /cm | cvt_f32_fp8 cvt_f32_bf8
56 v64 = b32 /cm | cvt_pk_f32_fp8 cvt_pk_f32_bf8
58 v32 = b32 gfx950 | prng_b32
59 v32 = v32 gfx950 | permlane16_swap_b32 permlane32_swap_b32
5b v32 = g16 /cm gfx950 | cvt_f32_bf16
""",
)

VOP2 = read_table(
    "v_",
    """
00 v32 = f32 f32 m64 | cndmask_b32
01 v32 = f32 f32 /cm | add_f32 sub_f32 subrev_f32
04 v64 = f64 f64 /cm | fmac_f64
05 v32 = f32 f32 /cm | mul_f32
06 v32 = b32 b32 /c | mul_i32_i24
07 v32 = b32 b32 | mul_hi_i32_i24
08 v32 = b32 b32 /c | mul_u32_u24
09 v32 = b32 b32 | mul_hi_u32_u24
0a v32 = f32 f32 /cm | min_f32 max_f32
0c v32 = b32 b32 | min_i32 max_i32 min_u32 max_u32 lshrrev_b32 ashrrev_i32 lshlrev_b32 and_b32 or_b32 xor_b32
16 v32 = h32 h32 /cm gfx950 | dot2c_f32_bf16
17 v32 = f32 b32 f32 | fmamk_f32
18 v32 = f32 f32 b32 | fmaak_f32
19 v32 m64 = b32 b32 /c | add_co_u32 sub_co_u32 subrev_co_u32
1c v32 m64 = b32 b32 m64 /c | addc_co_u32 subb_co_u32 subbrev_co_u32
1f v32 = f16 f16 /cm | add_f16 sub_f16 subrev_f16 mul_f16 mac_f16
24 v32 = f16 b32 f16 | madmk_f16
25 v32 = f16 f16 b32 | madak_f16
26 v32 = b16 b16 /c | add_u16 sub_u16 subrev_u16
29 v32 = b16 b16 | mul_lo_u16 lshlrev_b16 lshrrev_b16 ashrrev_i16
2d v32 = f16 f16 /cm | max_f16 min_f16
2f v32 = b16 b16 | max_u16 max_i16 min_u16 min_i16
33 v32 = f16 b16 /cm | ldexp_f16
34 v32 = b32 b32 /c | add_u32 sub_u32 subrev_u32
37 v32 = p32 p32 /cm | dot2c_f32_f16
38 v32 = b32 b32 /c | dot2c_i32_i16 dot4c_i32_i8 dot8c_i32_i4
3b v32 = f32 f32 /cm | fmac_f32
3c v32 = p32 p32 | pk_fmac_f16
3d v32 = b32 b32 | xnor_b32
""",
)

_FLOAT_RELATIONS = "f lt eq le gt lg ge o u nge nlg ngt nle neq nlt tru"
_INTEGER_RELATIONS = "f lt eq le gt ne ge t"


def _comparison_rows() -> str:
    rows = ["10 m64 = f32 b32 | cmp_class_f32 cmpx_class_f32", "12 m64 = f64 b32 | cmp_class_f64 cmpx_class_f64"]
    rows.append("14 m64 = f16 b16 | cmp_class_f16 cmpx_class_f16")
    for first, kind in ((0x20, "f16"), (0x40, "f32"), (0x60, "f64")):
        for number, what in ((first, "cmp"), (first + 16, "cmpx")):
            names = " ".join(f"{what}_{relation}_{kind}" for relation in _FLOAT_RELATIONS.split())
            rows.append(f"{number:x} m64 = {kind} {kind} /c | {names}")
    for first, kind in ((0xA0, "i16"), (0xA8, "u16"), (0xC0, "i32"), (0xC8, "u32"), (0xE0, "i64"), (0xE8, "u64")):
        for number, what in ((first, "cmp"), (first + 16, "cmpx")):
            names = " ".join(f"{what}_{relation}_{kind}" for relation in _INTEGER_RELATIONS.split())
            source = ("i" if kind == "i64" else "b") + kind[1:]
            rows.append(f"{number:x} m64 = {source} {source} | {names}")
    return "\n".join(rows)


VOPC = read_table("v_", _comparison_rows())

VOP3 = read_table(
    "v_",
    """
1c2 v32 = b32 b32 b32 /c | mad_i32_i24 mad_u32_u24
1c4 v32 = f32 f32 f32 /cm | cubeid_f32 cubesc_f32 cubetc_f32 cubema_f32
1c8 v32 = b32 b32 b32 | bfe_u32 bfe_i32 bfi_b32
1cb v32 = f32 f32 f32 /cm | fma_f32
1cc v64 = f64 f64 f64 /cm | fma_f64
1cd v32 = b32 b32 b32 | lerp_u8 alignbit_b32 alignbyte_b32
1d0 v32 = f32 f32 f32 /cm | min3_f32
1d1 v32 = b32 b32 b32 | min3_i32 min3_u32
1d3 v32 = f32 f32 f32 /cm | max3_f32
1d4 v32 = b32 b32 b32 | max3_i32 max3_u32
1d6 v32 = f32 f32 f32 /cm | med3_f32
1d7 v32 = b32 b32 b32 | med3_i32 med3_u32
1d9 v32 = b32 b32 b32 /c | sad_u8 sad_hi_u8 sad_u16 sad_u32
1dd v32 = f32 b32 b32 /c | cvt_pk_u8_f32
1de v32 = f32 f32 f32 /cm | div_fixup_f32
1df v64 = f64 f64 f64 /cm | div_fixup_f64
1e0 v32 m64 = f32 f32 f32 /cm | div_scale_f32
1e1 v64 m64 = f64 f64 f64 /cm | div_scale_f64
1e2 v32 = f32 f32 f32 /cm | div_fmas_f32
1e3 v64 = f64 f64 f64 /cm | div_fmas_f64
1e4 v32 = b32 b32 b32 /c | msad_u8
1e5 v64 = b64 b32 b64 /c | qsad_pk_u16_u8 mqsad_pk_u16_u8
1e7 v128 = b64 b32 v128 /c | mqsad_u32_u8
1e8 v64 m64 = b32 b32 b64 /c | mad_u64_u32
1e9 v64 m64 = b32 b32 i64 /c | mad_i64_i32
1ea v32 = f16 f16 f16 /cm | mad_legacy_f16
1eb v32 = b16 b16 b16 /c | mad_legacy_u16 mad_legacy_i16
1ed v32 = b32 b32 b32 | perm_b32
1ee v32 = f16 f16 f16 /cm | fma_legacy_f16 div_fixup_legacy_f16
1f0 v32 = f32 b32 /c | cvt_pkaccum_u8_f32
1f1 v32 = b16 b16 b32 /co | mad_u32_u16 mad_i32_i16
1f3 v32 = b32 b32 b32 | xad_u32
1f4 v32 = f16 f16 f16 /cmo | min3_f16
1f5 v32 = b16 b16 b16 /co | min3_i16 min3_u16
1f7 v32 = f16 f16 f16 /cmo | max3_f16
1f8 v32 = b16 b16 b16 /co | max3_i16 max3_u16
1fa v32 = f16 f16 f16 /cmo | med3_f16
1fb v32 = b16 b16 b16 /co | med3_i16 med3_u16
1fd v32 = b32 b32 b32 | lshl_add_u32 add_lshl_u32 add3_u32 lshl_or_b32 and_or_b32 or3_b32
203 v32 = f16 f16 f16 /cmo | mad_f16
204 v32 = b16 b16 b16 /co | mad_u16 mad_i16
206 v32 = f16 f16 f16 /cmo | fma_f16 div_fixup_f16
208 v64 = b64 b32 b64 | lshl_add_u64
233 v32 = b16 b16 b16 /ot gfx950 | bitop3_b16
234 v32 = b32 b32 b32 /t gfx950 | bitop3_b32
235 v32 = f32 f32 f32 /o gfx950 | cvt_scalef32_pk_fp8_f32 cvt_scalef32_pk_bf8_f32
237 v32 = f32 b32 f32 /o gfx950 | cvt_scalef32_sr_fp8_f32 cvt_scalef32_sr_bf8_f32
239 v64 = b32 f32 /o gfx950 | cvt_scalef32_pk_f32_fp8 cvt_scalef32_pk_f32_bf8
23b v32 = b32 f32 /o gfx950 | cvt_scalef32_f32_fp8 cvt_scalef32_f32_bf8
23d v32 = f32 f32 f32 /o gfx950 | cvt_scalef32_pk_fp4_f32
23f v64 = b32 f32 /o gfx950 | cvt_scalef32_pk_f32_fp4
240 v32 = f32 f32 /o gfx950 | cvt_scalef32_pk_fp8_f16 cvt_scalef32_pk_bf8_f16
244 v32 = f32 f32 /o gfx950 | cvt_scalef32_pk_fp8_bf16 cvt_scalef32_pk_bf8_bf16
248 v32 = b32 f32 /o gfx950 | cvt_scalef32_pk_f16_fp8 cvt_scalef32_pk_f16_bf8 cvt_scalef32_f16_fp8 cvt_scalef32_f16_bf8
24c v32 = f32 f32 /o gfx950 | cvt_scalef32_pk_fp4_f16 cvt_scalef32_pk_fp4_bf16
250 v32 = b32 f32 /o gfx950 | cvt_scalef32_pk_f16_fp4 cvt_scalef32_pk_bf16_fp4
265 v32 = b32 b32 b32 /o gfx950 | ashr_pk_i8_i32 ashr_pk_u8_i32
267 v32 = f32 f32 /cm gfx950 | cvt_pk_f16_f32 cvt_pk_bf16_f32
269 v32 = b32 f32 /o gfx950 | cvt_scalef32_pk_bf16_fp8 cvt_scalef32_pk_bf16_bf8
280 v64 = f64 f64 /cm | add_f64 mul_f64 min_f64 max_f64
284 v64 = f64 b32 /cm | ldexp_f64
285 v32 = b32 b32 | mul_lo_u32 mul_hi_u32 mul_hi_i32
288 v32 = f32 b32 /cm | ldexp_f32
289 s32 = v32 u32 | readlane_b32
28a v32 = u32 u32 | writelane_b32
28b v32 = b32 b32 | bcnt_u32_b32 mbcnt_lo_u32_b32 mbcnt_hi_u32_b32
28f v64 = b32 b64 | lshlrev_b64 lshrrev_b64
291 v64 = b32 i64 | ashrrev_i64
292 v64 = f64 b32 /cm | trig_preop_f64
293 v32 = b32 b32 | bfm_b32
294 v32 = f32 f32 /c | cvt_pknorm_i16_f32 cvt_pknorm_u16_f32
296 v32 = f32 f32 /cm | cvt_pkrtz_f16_f32
297 v32 = b32 b32 | cvt_pk_u16_u32 cvt_pk_i16_i32
299 v32 = f16 f16 /co | cvt_pknorm_i16_f16 cvt_pknorm_u16_f16
29c v32 = b32 b32 /c | add_i32 sub_i32
29e v32 = b16 b16 /co | add_i16 sub_i16
2a0 v32 = f16 f16 /co | pack_b32_f16
2a1 v32 = f32 f32 /cm | mul_legacy_f32
2a2 v32 = f32 f32 /o | cvt_pk_fp8_f32 cvt_pk_bf8_f32
2a4 v32 = f32 b32 /o | cvt_sr_fp8_f32 cvt_sr_bf8_f32
2a6 v32 = f32 b32 /o gfx950 | cvt_sr_f16_f32 cvt_sr_bf16_f32
2a8 v32 = f32 f32 f32 /cm gfx950 | minimum3_f32 maximum3_f32
""",
)

VOP3P = read_table(
    "v_",
    """
00 v32 = b32 b32 b32 /c | pk_mad_i16
01 v32 = b32 b32 | pk_mul_lo_u16
02 v32 = b32 b32 /c | pk_add_i16 pk_sub_i16
04 v32 = b32 b32 | pk_lshlrev_b16 pk_lshrrev_b16 pk_ashrrev_i16 pk_max_i16 pk_min_i16
09 v32 = b32 b32 b32 /c | pk_mad_u16
0a v32 = b32 b32 /c | pk_add_u16 pk_sub_u16
0c v32 = b32 b32 | pk_max_u16 pk_min_u16
0e v32 = p32 p32 p32 /c | pk_fma_f16
0f v32 = p32 p32 /c | pk_add_f16 pk_mul_f16 pk_min_f16 pk_max_f16
1a v32 = h32 h32 f32 /c gfx950 | dot2_f32_bf16
1b v32 = p32 p32 p32 /c gfx950 | pk_minimum3_f16 pk_maximum3_f16
20 v32 = f32 f32 f32 /cx | fma_mix_f32
21 v32 = f32 f32 f32 /cx | fma_mixlo_f16 fma_mixhi_f16
23 v32 = p32 p32 f32 /c | dot2_f32_f16
26 v32 = b32 b32 b32 /c | dot2_i32_i16 dot2_u32_u16 dot4_i32_i8 dot4_u32_u8 dot8_i32_i4 dot8_u32_u4
30 v64 = q64 q64 q64 /c | pk_fma_f32
31 v64 = q64 q64 /c | pk_mul_f32 pk_add_f32
33 v64 = q64 q64 | pk_mov_b32
""",
)

MAI = read_table(
    "v_",
    """
2d a128 = a256 a256 a128 /s gfx950 | mfma_f32_16x16x128_f8f6f4
2e a512 = a256 a256 a512 /s gfx950 | mfma_f32_32x32x64_f8f6f4
35 a128 = a128 a128 a128 /b gfx950 | mfma_f32_16x16x32_bf16 mfma_i32_16x16x64_i8
37 a512 = a128 a128 a512 /b gfx950 | mfma_f32_32x32x16_bf16 mfma_i32_32x32x32_i8
39 a128 = a128 a256 v32 /k gfx950 | smfmac_f32_16x16x64_bf16 smfmac_i32_16x16x128_i8 smfmac_f32_16x16x128_bf8_bf8
3c a128 = a128 a256 v32 /k gfx950 | smfmac_f32_16x16x128_bf8_fp8 smfmac_f32_16x16x128_fp8_bf8
3e a128 = a64 a64 a128 /b gfx942 | mfma_f32_16x16x8_xf32
3f a512 = a64 a64 a512 /b gfx942 | mfma_f32_32x32x4_xf32
40 a1024 = a32 a32 a1024 /b | mfma_f32_32x32x1_2b_f32
41 a512 = a32 a32 a512 /b | mfma_f32_16x16x1_4b_f32
42 a128 = a32 a32 a128 /b | mfma_f32_4x4x1_16b_f32
43 a128 = a128 a256 v32 /k gfx950 | smfmac_f32_16x16x128_fp8_fp8
44 a512 = a32 a32 a512 /b | mfma_f32_32x32x2_f32
45 a128 = a32 a32 a128 /b | mfma_f32_16x16x4_f32
46 a512 = a128 a256 v32 /k gfx950 | smfmac_f32_32x32x32_bf16 smfmac_i32_32x32x64_i8
48 a1024 = a64 a64 a1024 /b | mfma_f32_32x32x4_2b_f16
49 a512 = a64 a64 a512 /b | mfma_f32_16x16x4_4b_f16
4a a128 = a64 a64 a128 /b | mfma_f32_4x4x4_16b_f16
4b a512 = a128 a256 v32 /k gfx950 | smfmac_f32_32x32x64_bf8_bf8
4c a512 = a64 a64 a512 /b | mfma_f32_32x32x8_f16
4d a128 = a64 a64 a128 /b | mfma_f32_16x16x16_f16
4e a512 = a128 a256 v32 /k gfx950 | smfmac_f32_32x32x64_bf8_fp8 smfmac_f32_32x32x64_fp8_bf8
50 a1024 = a32 a32 a1024 /b | mfma_i32_32x32x4_2b_i8
51 a512 = a32 a32 a512 /b | mfma_i32_16x16x4_4b_i8
52 a128 = a32 a32 a128 /b | mfma_i32_4x4x4_16b_i8
53 a512 = a128 a256 v32 /k gfx950 | smfmac_f32_32x32x64_fp8_fp8
54 a128 = a128 a128 a128 /b gfx950 | mfma_f32_16x16x32_f16
55 a512 = a128 a128 a512 /b gfx950 | mfma_f32_32x32x16_f16
56 a512 = a64 a64 a512 /b | mfma_i32_32x32x16_i8
57 a128 = a64 a64 a128 /b | mfma_i32_16x16x32_i8
58 v32 = a32 | accvgpr_read_b32
59 a32 = b32 | accvgpr_write_b32
5a a128 = a128 a256 v32 /k gfx950 | smfmac_f32_16x16x64_f16
5b a512 = a128 a256 v32 /k gfx950 | smfmac_f32_32x32x32_f16
5d a1024 = a64 a64 a1024 /b | mfma_f32_32x32x4_2b_bf16
5e a512 = a64 a64 a512 /b | mfma_f32_16x16x4_4b_bf16
5f a128 = a64 a64 a128 /b | mfma_f32_4x4x4_16b_bf16
60 a512 = a64 a64 a512 /b | mfma_f32_32x32x8_bf16
61 a128 = a64 a64 a128 /b | mfma_f32_16x16x16_bf16
62 a128 = a64 a128 v32 /k | smfmac_f32_16x16x32_f16
64 a512 = a64 a128 v32 /k | smfmac_f32_32x32x16_f16
66 a128 = a64 a128 v32 /k | smfmac_f32_16x16x32_bf16
68 a512 = a64 a128 v32 /k | smfmac_f32_32x32x16_bf16
6a a128 = a64 a128 v32 /k | smfmac_i32_16x16x64_i8
6c a512 = a64 a128 v32 /k | smfmac_i32_32x32x32_i8
6e a256 = a64 a64 a256 /b | mfma_f64_16x16x4_f64
6f a64 = a64 a64 a64 /b | mfma_f64_4x4x4_4b_f64
70 a128 = a64 a64 a128 /b | mfma_f32_16x16x32_bf8_bf8 mfma_f32_16x16x32_bf8_fp8 mfma_f32_16x16x32_fp8_bf8
73 a128 = a64 a64 a128 /b | mfma_f32_16x16x32_fp8_fp8
74 a512 = a64 a64 a512 /b | mfma_f32_32x32x16_bf8_bf8 mfma_f32_32x32x16_bf8_fp8 mfma_f32_32x32x16_fp8_bf8
77 a512 = a64 a64 a512 /b | mfma_f32_32x32x16_fp8_fp8
78 a128 = a64 a128 v32 /k | smfmac_f32_16x16x64_bf8_bf8 smfmac_f32_16x16x64_bf8_fp8 smfmac_f32_16x16x64_fp8_bf8
7b a128 = a64 a128 v32 /k | smfmac_f32_16x16x64_fp8_fp8
7c a512 = a64 a128 v32 /k | smfmac_f32_32x32x32_bf8_bf8 smfmac_f32_32x32x32_bf8_fp8 smfmac_f32_32x32x32_fp8_bf8
7f a512 = a64 a128 v32 /k | smfmac_f32_32x32x32_fp8_fp8
""",
)
