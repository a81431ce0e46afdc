"""What is read from SASS, AMDGCN and PTX."""

from __future__ import annotations

from bench import disassembly


def test_sass_is_read() -> None:
    sass = """
        /*0160*/              @!P0 LDG.E.U16 R8, desc[UR6][R16.64] ;
        /*0170*/                   LDG.E.128.CONSTANT R8, desc[UR6][R16.64] ;
        /*0180*/              @P1 RED.E.ADD.F32.FTZ.RN.STRONG.GPU desc[UR6][R2.64], R5 ;
        /*0190*/                   ATOMS.ADD R1, [R2], R3 ;
        /*01a0*/                   REDUX.SUM UR4, R2 ;
        /*01b0*/              @UP0 ATOMG.E.ADD.F32 PT, RZ, desc[UR6][R2.64], R27 ;
        /*01c0*/                   STL.64 [R1+0x8], R2 ;
        /*01d0*/                   NOP ;
    """
    facts = disassembly.nvidia_facts(
        sass, "Function k:\n  REG:32 STACK:8 SHARED:0 LOCAL:4 CONSTANT[0]:1"
    )
    assert facts == disassembly.CodeFacts(
        registers=32, spill_bytes=12, global_atomics=2, widest_global_load_bits=128, instructions=7
    )
    # A frame that nothing uses is no spill.
    unused = disassembly.nvidia_facts("/*0000*/ EXIT ;", "REG:32 STACK:8 LOCAL:0")
    assert unused.spill_bytes == 0
    assert disassembly.nvidia_facts(
        "/*0000*/ LDG.E.ENL2.256 R8, R2 ;", "REG:1 STACK:0 LOCAL:0"
    ) == (disassembly.CodeFacts(1, 0, 0, 256, 1))


def test_amdgcn_is_read() -> None:
    text = (
        "\tglobal_load_dwordx4 v[0:3], v4, s[0:1]\n\tbuffer_load_ushort v9, v4, s[16:19], 0 offen\n"
        "\tglobal_atomic_add_f32 v4, v0, s[4:5]\n\t.amdgpu_metadata\n  - .agpr_count:     0\n"
        "    .private_segment_fixed_size: 16\n    .vgpr_count:     13\n"
    )
    assert disassembly.amd_facts(text) == disassembly.CodeFacts(13, 16, 1, 128, 3)


def test_ptx_is_read() -> None:
    text = """
        .file 1 "/somewhere/coords.py"
        .loc 1 7 3
        ld.global.b32 { %r1 }, [ %rd1 + 0 ];
        mov.b32 %f1, %r1;
        .loc 1 9 3
        fma.rn.f32 %f3, %f1, %f2, 0f3F000000;
        fma.rn.f32 %f4, %f2, %f1, %f3;
        .loc 1 12 3
        add.f64 %fd1, %fd2, %fd3;
    """
    assert disassembly.expressions_at(text, "coords.py", range(9, 10)) == {
        "fma.rn.f32(?, ld, fma.rn.f32(?, ld, 0f3F000000))"
    }
    assert disassembly.uses_float64(text)
    assert not disassembly.uses_float64(text.replace("f64", "f32"))
