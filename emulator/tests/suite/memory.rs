//! Loads, stores, atomics and asynchronous copies of every width, in every space.

use crate::args;
use crate::harness::{Bench, Random, grid, ptx};
use crate::opcodes::Reg::{B16, B32, B64};
use crate::opcodes::{product, run_text};
use ptx_emulator::{Arch, Device, Launch, LaunchError, Module, TrapKind};

#[test]
fn vectors_of_every_width() {
    for (ty, bytes) in [("u8", 1), ("u16", 2), ("b32", 4), ("f32", 4), ("u64", 8), ("f64", 8)] {
        for count in [1, 2, 4].into_iter().filter(|count| count * bytes <= 16) {
            let register = if bytes == 1 { "b16".to_string() } else { ty.replace('u', "b") };
            let list = (0..count).map(|i| format!("%v{i}")).collect::<Vec<_>>().join(", ");
            let (vector, list) =
                if count == 1 { (String::new(), list) } else { (format!("v{count}."), format!("{{{list}}}")) };
            for space in ["global", "shared", "local"] {
                let through = match space {
                    "global" => String::new(),
                    _ => format!(
                        ".{space} .align 16 .b8 room[512]; .reg .b64 %room; mov.u64 %room, room;
                        .reg .b64 %mine; mul.wide.u32 %mine, %t, {}; {} add.u64 %room, %room, %mine;
                        st.{space}.{vector}{ty} [%room], {list}; ld.{space}.{vector}{ty} {list}, [%room];",
                        count * bytes,
                        if space == "local" { "mov.u64 %mine, 0;" } else { "" }
                    ),
                };
                let body = format!(
                    ".reg .b32 %t; .reg .b64 %in, %out, %at; .reg .{register} %v<4>;
                    ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mul.wide.u32 %at, %t, {};
                    add.u64 %in, %in, %at; add.u64 %out, %out, %at;
                    ld.global.{vector}{ty} {list}, [%in]; {through} st.global.{vector}{ty} [%out], {list};",
                    count * bytes
                );
                let mut bench = Bench::new(&ptx(".param .u64 out, .param .u64 in", &body));
                let mut random = Random::new(bytes as u64);
                let content: Vec<u8> = (0..32 * count * bytes).map(|_| random.bits() as u8).collect();
                let (input, out) = (bench.buffer(&content), bench.empty::<u8>(content.len()));
                bench.launch("k", grid(1, 32), args![out, input]).unwrap();
                assert_eq!(bench.read::<u8>(out, content.len()), content, "{space} {vector}{ty}");
            }
        }
    }
}

#[test]
fn generic_addresses_reach_every_space() {
    let text = ".shared .align 8 .b8 s[1024]; .local .align 8 .b8 l[8]; .reg .b64 %g, %s, %l; .reg .pred %r; .reg .b32 %x;
        mov.u64 %s, s; mul.wide.u32 %g, %tid, 8; add.u64 %s, %s, %g; cvta.shared.u64 %s, %s; mov.u64 %l, l; cvta.local.u64 %l, %l;
        st.u64 [%s], %a; ld.u64 %o, [%s]; st.u64 [%l], %o; ld.u64 %o, [%l];
        isspacep.shared %p, %s; isspacep.local %q, %l; and.pred %p, %p, %q; isspacep.global %q, %in; and.pred %p, %p, %q;
        isspacep.shared %q, %in; isspacep.param %r, %in; or.pred %q, %q, %r; selp.u32 %x, 1, 0, %p; @%q mov.u32 %x, 2;
        cvta.to.shared.u64 %s, %s; ld.shared.u64 %o, [%s]; cvt.u64.u32 %g, %x; add.u64 %o, %o, %g;";
    let rows = product(&[&[0, 5, 0x0123_4567_89ab_cdef]]);
    assert_eq!(run_text(text, B64, &[B64], &rows), rows.iter().map(|row| row[0] + 1).collect::<Vec<_>>());
}

#[test]
fn constants_parameters_and_hints() {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.const .align 4 .u32 table[4] = {{10, 20, 30, 40}};\n.global .u32 counter = 7;\n{}",
        ptx(
            ".param .u64 out, .param .align 8 .b8 big[16]",
            ".reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .b64 %policy;
            ld.param.u64 %rd1, [out]; ld.param.u32 %r1, [big+4]; ld.param.v2.u32 {%r2, %r3}, [big+8];
            mov.u64 %rd2, table; ld.const.u32 %r4, [%rd2+8]; ld.const.u32 %r5, [table+4];
            mov.u64 %rd3, counter; cvta.global.u64 %rd3, %rd3; ld.u32 %r6, [%rd3];
            createpolicy.fractional.L2::evict_last.b64 %policy, 1.0;
            prefetch.global.L2 [%rd3]; membar.gl; fence.acq_rel.gpu; nanosleep.u32 5;
            st.global.L2::cache_hint.v4.u32 [%rd1], {%r1, %r2, %r3, %r4}, %policy;
            ldu.global.u32 %r7, [%rd3]; st.global.wt.u32 [%rd1+16], %r5; st.volatile.global.u32 [%rd1+20], %r6; st.relaxed.gpu.global.u32 [%rd1+24], %r7;"
        )
        .split_once(".address_size 64\n")
        .unwrap()
        .1
    );
    let mut bench = Bench::new(&text);
    let out = bench.empty::<u32>(7);
    let big: Vec<u8> = [1u32, 2, 3, 4].iter().flat_map(|word| word.to_le_bytes()).collect();
    let kernel = bench.module.kernel("k").unwrap().clone();
    let block = kernel.pack(&[&out.to_le_bytes(), &big]).unwrap();
    bench.device.launch(&kernel, &Launch { args: &block, ..grid(1, 1) }).unwrap();
    assert_eq!(bench.read::<u32>(out, 7), [2, 3, 4, 30, 20, 7, 7]);
}

/// What an atomic makes of memory and operand, as the PTX ISA writes it.
fn updated(op: &str, ty: &str, old: u64, operand: u64) -> u64 {
    let bits = if ty.ends_with("64") { 64 } else { 32 };
    let signed = |x: u64| (x << (64 - bits)) as i64 >> (64 - bits);
    let result = match (op, ty) {
        ("add", "f32") => u64::from((f32::from_bits(old as u32) + f32::from_bits(operand as u32)).to_bits()),
        ("add", "f64") => (f64::from_bits(old) + f64::from_bits(operand)).to_bits(),
        ("add", _) => old.wrapping_add(operand),
        ("min", "s32" | "s64") => signed(old).min(signed(operand)) as u64,
        ("max", "s32" | "s64") => signed(old).max(signed(operand)) as u64,
        ("min", _) => old.min(operand),
        ("max", _) => old.max(operand),
        ("inc", _) => {
            if old >= operand {
                0
            } else {
                old + 1
            }
        }
        ("dec", _) => {
            if old == 0 || old > operand {
                operand
            } else {
                old - 1
            }
        }
        ("and", _) => old & operand,
        ("or", _) => old | operand,
        ("xor", _) => old ^ operand,
        _ => operand,
    };
    result & (u64::MAX >> (64 - bits))
}

#[test]
fn atomics_of_every_kind() {
    let kinds: &[(&str, &[&str])] = &[
        ("add", &["u32", "s32", "u64", "f32", "f64"]),
        ("min", &["u32", "s32", "u64", "s64"]),
        ("max", &["u32", "s32", "u64", "s64"]),
        ("inc", &["u32"]),
        ("dec", &["u32"]),
        ("and", &["b32", "b64"]),
        ("or", &["b32", "b64"]),
        ("xor", &["b32", "b64"]),
        ("exch", &["b32", "b64"]),
    ];
    for (op, types) in kinds {
        for ty in *types {
            let (reg, bytes) = if ty.ends_with("64") { (B64, 8) } else { (B32, 4) };
            let plain = if bytes == 8 { "b64" } else { "b32" };
            let list: &[u64] = match *ty {
                "f32" => &[0x3f80_0000, 0xbf80_0000, 0, 0x7f80_0000, 0x4049_0fdb],
                "f64" => &[0x3ff0_0000_0000_0000, 0, 0xc008_0000_0000_0000],
                _ if bytes == 8 => &[0, 1, 5, u64::MAX, 1 << 63, (1 << 63) - 1],
                _ => &[0, 1, 5, 0xffff_ffff, 0x8000_0000, 0x7fff_ffff],
            };
            let rows = product(&[list, list]);
            for space in ["global", "shared"] {
                // Each thread has its own word: of the input in global memory, or in shared memory.
                let place = if space == "global" {
                    "mov.u64 %m, %in;"
                } else {
                    "mov.u64 %m, s; mul.wide.u32 %at, %tid, 8; add.u64 %m, %m, %at;"
                };
                let setup = format!(".shared .align 8 .b8 s[1024]; .reg .b64 %m; {place} st.{space}.{plain} [%m], %a;");
                let returns = format!("{setup} atom.{space}.{op}.{ty} %o, [%m], %b;");
                for (row, got) in rows.iter().zip(run_text(&returns, reg, &[reg; 2], &rows)) {
                    assert_eq!(got, row[0], "atom.{space}.{op}.{ty} gives the value before");
                }
                let name = if *op == "exch" { "atom" } else { "red" };
                let sink = if *op == "exch" { "_, " } else { "" };
                let leaves = format!("{setup} {name}.{space}.{op}.{ty} {sink}[%m], %b; ld.{space}.{plain} %o, [%m];");
                for (row, got) in rows.iter().zip(run_text(&leaves, reg, &[reg; 2], &rows)) {
                    assert_eq!(got, updated(op, ty, row[0], row[1]), "{name}.{space}.{op}.{ty} of {row:x?}");
                }
            }
        }
    }
}

#[test]
fn compare_and_swap() {
    for (ty, reg) in [("b16", B16), ("b32", B32), ("b64", B64)] {
        let rows = product(&[&[3, 9], &[3, 9], &[5]]);
        let text = format!(
            "st.global.{ty} [%in], %a; atom.global.cas.{ty} %o, [%in], %b, %c; ld.global.{ty} %b, [%in]; mad.lo.{} %o, %o, 16, %b;",
            ty.replace('b', "u")
        );
        for (row, got) in rows.iter().zip(run_text(&text, reg, &[reg; 3], &rows)) {
            assert_eq!(got, 16 * row[0] + if row[0] == row[1] { row[2] } else { row[0] }, "cas.{ty} of {row:?}");
        }
    }
}

#[test]
fn lanes_that_meet_at_one_word_all_count() {
    let body = ".reg .b32 %r<4>; .reg .b64 %rd<2>; ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
        atom.global.add.u32 %r2, [%rd1], 1; red.global.max.u32 [%rd1+4], %r1; atom.global.add.noftz.f16x2 %r3, [%rd1+8], 0x3c003c00;";
    for (seed, threads) in [(0, 1), (1, 2), (2, 2)] {
        let mut bench = Bench::new(&ptx(".param .u64 out", body));
        let out = bench.buffer(&[0u32; 3]);
        let counters = bench.launch("k", Launch { seed, threads, ..grid(5, 96) }, args![out]).unwrap();
        // 480 ones in f16.
        assert_eq!(bench.read::<u32>(out, 3), [480, 95, 0x5f80_5f80]);
        assert_eq!(counters.atomics, 3 * 480);
    }
}

#[test]
fn copies_of_every_size() {
    for (cache, bytes) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
        for source in 0..=bytes {
            let body = format!(
                ".reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .b16 %h; .reg .pred %p; .shared .align 16 .b8 s[512];
                ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [in]; ld.param.u32 %r5, [size]; mov.u32 %r1, %tid.x;
                mul.wide.u32 %rd3, %r1, {bytes}; add.u64 %rd2, %rd2, %rd3; add.u64 %rd1, %rd1, %rd3;
                mul.lo.u32 %r2, %r1, {bytes}; mov.u32 %r3, s; add.u32 %r2, %r2, %r3;
                cp.async.{cache}.shared.global [%r2], [%rd2], {bytes}, %r5; cp.async.commit_group; cp.async.wait_group 0;
                mov.u32 %r4, 0;
                L: add.u32 %r6, %r2, %r4; ld.shared.u8 %h, [%r6]; cvt.u64.u32 %rd4, %r4; add.u64 %rd5, %rd1, %rd4; st.global.u8 [%rd5], %h;
                add.u32 %r4, %r4, 1; setp.lt.u32 %p, %r4, {bytes}; @%p bra L;"
            );
            let mut bench = Bench::new(&ptx(".param .u64 out, .param .u64 in, .param .u32 size", &body));
            let content: Vec<u8> = (0..32 * bytes).map(|i| i as u8 | 1).collect();
            let (input, out) = (bench.buffer(&content), bench.empty::<u8>(content.len()));
            bench.launch("k", grid(1, 32), args![out, input, source as u32]).unwrap();
            let want: Vec<u8> =
                content.iter().enumerate().map(|(at, &byte)| if at % bytes < source { byte } else { 0 }).collect();
            assert_eq!(bench.read::<u8>(out, content.len()), want, "cp.async.{cache} of {source} of {bytes} bytes");
        }
    }
}

#[test]
fn malformed_memory_instructions_are_refused() {
    for text in [
        "ld.global.v3.u32 {%r1, %r2, %r3}, [%rd1];",
        "ld.global.v4.u64 {%rd1, %rd2, %rd3, %rd4}, [%rd1];",
        "ld.global.u32 {%r1, %r2}, [%rd1];",
        "ld.shared.nc.u32 %r1, [%rd1];",
        "st.const.u32 [%rd1], %r1;",
        "st.global.u64 [%rd1], %r1;",
        "atom.global.inc.s32 %r1, [%rd1], %r2;",
        "cp.async.cg.shared.global [%r1], [%rd1], 8;",
        "cp.async.ca.shared.global [%r1], [%rd1], 3;",
        "ld.global.u32 %r1, [missing];",
        "ld.global.u32 %r1, %rd1;",
    ] {
        let ptx = ptx("", &format!(".reg .b32 %r<4>; .reg .b64 %rd<5>;\n{text}"));
        assert!(Module::parse(&ptx).is_err(), "{text}");
    }
}

#[test]
fn a_store_through_a_parameter_address_is_told() {
    let body = ".reg .b64 %rd<2>; .reg .b32 %r<2>; mov.u64 %rd1, out; cvta.param.u64 %rd1, %rd1; mov.u32 %r1, 1; st.u32 [%rd1], %r1;";
    let mut bench = Bench::new(&ptx(".param .u64 out", body));
    match bench.launch("k", grid(1, 1), args![0u64]) {
        Err(LaunchError::Trap(trap)) => assert_eq!(trap.kind, TrapKind::BadSpace),
        other => panic!("{other:?}"),
    }
}

#[test]
#[cfg(target_os = "linux")]
fn memory_that_nothing_touches_costs_none() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() // KiB
    };
    let (mut device, before) = (Device::new(Arch::Sm80), resident());
    device.alloc(8 << 30).unwrap();
    let taken = resident().saturating_sub(before);
    assert!(taken < 2 << 20, "8 GiB of device memory took {taken} KiB of the machine's");
}
