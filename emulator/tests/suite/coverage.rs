//! Every family of opcodes that the decoder accepts is named by a test.

const TESTS: &[&str] = &[
    include_str!("opcodes.rs"),
    include_str!("integers.rs"),
    include_str!("floats.rs"),
    include_str!("doubles.rs"),
    include_str!("halves.rs"),
    include_str!("memory.rs"),
    include_str!("warp.rs"),
    include_str!("fragments.rs"),
    include_str!("traps.rs"),
];

#[test]
fn every_opcode_has_a_test() {
    let named = |opcode: &str| {
        // As PTX, or as the name that a test appends a type to.
        let spelled = [format!("{opcode}."), format!("\"{opcode}\""), format!(" {opcode};"), format!("\"{opcode};")];
        TESTS.iter().any(|text| spelled.iter().any(|spelled| text.contains(spelled)))
    };
    let missing: Vec<_> = ptx_emulator::opcodes().filter(|opcode| !named(opcode)).collect();
    assert!(missing.is_empty(), "no test names {missing:?}");
    assert!(!named("frobnicate"));
}

#[test]
fn unknown_instructions_name_their_line() {
    for text in [
        "frobnicate.b32 %r1, %r1;",
        "add.b32 %r1, %r1, %r1;",
        "shl.s32 %r1, %r1, 1;",
        "call f;",
        "cvt.f32.s32 %r1, %r1;",
    ] {
        let ptx = crate::harness::ptx("", &format!(".reg .b32 %r<2>;\n{text}"));
        let error = ptx_emulator::Module::parse(&ptx).unwrap_err().to_string();
        assert!(error.contains('7') || error.contains('6'), "{text}: {error}");
        assert!(error.contains("line"), "{text}: {error}");
    }
}
