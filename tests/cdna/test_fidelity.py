"""The fidelity report: what is approximate, and that none of it reaches an address but integer divisions."""

from __future__ import annotations

from dataclasses import replace

from build import c, ins, s, v
from code_object_files import wheel_file, wheel_files
from single_wave import kernel

from backend.cdna.code_object import load_code_object
from backend.cdna.fidelity import fidelity, reason_of


def test_what_is_approximate() -> None:
    assert reason_of(ins("v_exp_f32", v(1), v(2))) is not None
    assert reason_of(ins("v_mfma_f32_16x16x16_bf16", v(0, 4), (v(4, 2), v(6, 2), v(0, 4)))) is not None
    assert reason_of(ins("v_mul_f32", v(1), (v(2), v(3)))) is None
    assert reason_of(ins("v_cvt_pk_fp8_f32", v(1), (v(2), v(3)))) is None
    assert reason_of(ins("buffer_load_dword", v(1), (v(2), s(4, 4), c(16)), offen=True)) is None


def test_a_kernel_that_does_nothing_is_exact() -> None:
    end = (0xBF810000).to_bytes(4, "little")
    report = fidelity(replace(kernel("gfx950"), text=end))
    assert (report.exact, report.approximations, report.addresses_are_exact) == (1, (), True)


def test_in_the_wheel_only_reciprocals_of_integers_reach_an_address() -> None:
    """v_rcp_iflag_f32 begins an integer division, whose correction steps make up for its last place."""
    for name in sorted(wheel_files())[::5]:
        for each in load_code_object(wheel_file(name)).kernels:
            report = fidelity(each)
            reaching = {approximation.mnemonic for approximation in report.approximations if approximation.reaches_address}
            assert reaching <= {"v_rcp_iflag_f32"}
            assert any(approximation.mnemonic.startswith("v_mfma") for approximation in report.approximations)
            assert report.exact > 1000
