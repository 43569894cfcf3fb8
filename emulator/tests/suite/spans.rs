//! A warp's access to one run of memory, of which a byte or a lane is not like the others.

use crate::args;
use crate::harness::{Bench, grid, ptx};
use ptx_emulator::{Launch, TrapKind};

const PARAMS: &str = ".param .u64 data, .param .u32 byte, .param .u32 first";

/// Block `first` runs `one` and the other block `two`. `%wide` is each lane's 16 bytes of `data`, `%at` one byte of it.
fn blocks(one: &str, two: &str) -> Bench {
    Bench::new(&ptx(
        PARAMS,
        &format!(
            ".reg .b32 %t, %b, %f, %r<4>; .reg .b16 %h; .reg .b64 %data, %at, %wide; .reg .pred %p;
            ld.param.u64 %data, [data]; ld.param.u32 %b, [byte]; ld.param.u32 %f, [first];
            cvt.u64.u32 %at, %b; add.u64 %at, %at, %data; mov.u32 %t, %tid.x; mul.wide.u32 %wide, %t, 16;
            add.u64 %wide, %wide, %data; mov.u16 %h, 1; mov.u32 %r0, 1; mov.u32 %r1, %r0; mov.u32 %r2, 1; mov.u32 %r3, 1;
            mov.u32 %b, %ctaid.x; setp.ne.u32 %p, %b, %f; @%p bra SECOND;
            {one} bra DONE; SECOND: {two} DONE:"
        ),
    ))
}

const LOAD: &str = "ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%wide];";
const STORE: &str = "st.global.v4.u32 [%wide], {%r0, %r1, %r2, %r3};";
const APART_LOAD: &str = "ld.global.u32 %r0, [%wide];";
const APART_STORE: &str = "st.global.u32 [%wide], %r0;";

#[test]
fn one_byte_of_a_wide_access_races() {
    let cases = [
        ("st.global.u8 [%at], %h;", LOAD),
        ("st.global.u8 [%at], %h;", STORE),
        ("ld.global.u8 %h, [%at];", STORE),
        ("st.global.u8 [%at], %h;", "ld.global.nc.v4.u32 {%r0, %r1, %r2, %r3}, [%wide];"),
        ("st.global.u8 [%at], %h;", APART_LOAD),
        ("st.global.u8 [%at], %h;", APART_STORE),
        ("ld.global.u8 %h, [%at];", APART_STORE),
        ("and.b64 %at, %at, -4; st.global.u32 [%at], %r0;", APART_STORE),
    ];
    for (one, two) in cases {
        let apart = two == APART_LOAD || two == APART_STORE;
        for byte in [0u32, 5, 254, 256, 304, 511].into_iter().filter(|byte| !apart || byte % 16 < 4) {
            for (first, threads, seed) in [(0u32, 1, 0), (1, 1, 0), (0, 2, 7)] {
                let mut bench = blocks(one, two);
                let data = bench.buffer(&[0u32; 128]);
                let trap = bench.trap("k", Launch { threads, seed, ..grid(2, 32) }, args![data, byte, first]);
                let kind = if two.contains(".nc") { TrapKind::ReadOnly } else { TrapKind::GlobalRace };
                assert_eq!(trap.kind, kind, "{one} {two} {byte} {first}");
                if threads == 1 {
                    assert!(trap.detail.contains(&format!("{:#x}", data + u64::from(byte))), "{byte}: {trap}");
                }
            }
        }
    }
}

#[test]
fn words_that_lie_apart_are_looked_at_one_by_one() {
    let mut bench = blocks(APART_STORE, "ld.global.u32 %r0, [%at];");
    let data = bench.empty::<u32>(125);
    bench.launch("k", grid(1, 32), args![data, 0u32, 0u32]).unwrap();
    for word in 0..124 {
        let launch = bench.launch("k", grid(1, 1), args![data, 4 * word, 1u32]);
        assert_eq!(launch.is_ok(), word % 4 == 0, "{word}");
    }
    // A block between the words of another.
    let mut bench = blocks(APART_STORE, "st.global.u32 [%wide+4], %r0;");
    let data = bench.buffer(&[0u32; 126]);
    bench.launch("k", grid(2, 32), args![data, 0u32, 0u32]).unwrap();
    for (length, lane) in [(124, 31), (65, 17), (1, 1)] {
        let data = bench.empty::<u32>(length);
        let trap = bench.trap("k", grid(1, 32), args![data, 0u32, 0u32]);
        assert_eq!((trap.kind, trap.lane), (TrapKind::OutOfBounds, Some(lane)), "{length}");
    }
}

#[test]
fn neighbouring_bytes_of_a_word_are_different_bytes() {
    let mut bench = blocks("st.global.u8 [%at], %h;", "st.global.u8 [%at+1], %h; ld.global.u16 %h, [%at+2];");
    let data = bench.buffer(&[0u32; 128]);
    let counters = bench.launch("k", grid(2, 1), args![data, 4u32, 0u32]).unwrap();
    assert_eq!(counters.global_distinct_sectors, 1);
    assert_eq!(bench.read::<u8>(data, 8), [0, 0, 0, 0, 1, 1, 0, 0]);
    // Words of one block beside bytes of another, sixteen bytes apart.
    let mut bench = blocks("st.global.u8 [%at], %h;", "st.global.v4.u32 [%wide], {%r0, %r1, %r2, %r3};");
    let data = bench.buffer(&[0u32; 136]);
    let counters = bench.launch("k", grid(2, 32), args![data, 515u32, 0u32]).unwrap();
    assert_eq!(counters.global_distinct_sectors, 17);
}

#[test]
fn atomics_race_with_bytes_of_their_words() {
    for (one, two) in [
        ("st.global.u8 [%at], %h;", "red.global.add.u32 [%data], 1;"),
        ("ld.global.u8 %h, [%at];", "red.global.add.u32 [%data], 1;"),
        ("red.global.add.noftz.bf16x2 [%data], %r0;", "st.global.u8 [%at], %h;"),
    ] {
        for first in [0u32, 1] {
            let mut bench = blocks(one, two);
            let data = bench.buffer(&[0u32; 4]);
            let trap = bench.trap("k", grid(2, 1), args![data, 3u32, first]);
            assert_eq!(trap.kind, TrapKind::GlobalRace, "{one} {two} {first}");
        }
    }
}

#[test]
fn a_last_warp_of_some_lanes_ends_with_its_buffer() {
    for access in [LOAD, STORE] {
        let mut bench = blocks(access, "");
        let data = bench.buffer(&[0u32; 4 * 48]);
        bench.launch("k", grid(1, 48), args![data, 0u32, 0u32]).unwrap();
        let mut bench = blocks(access, "");
        let data = bench.buffer(&[0u8; 16 * 48 - 1]);
        let trap = bench.trap("k", grid(1, 48), args![data, 0u32, 0u32]);
        assert_eq!((trap.kind, trap.warp, trap.lane), (TrapKind::OutOfBounds, 1, Some(15)));
    }
}

#[test]
fn a_run_over_two_allocations_is_told_at_the_first_lane_outside() {
    for access in [LOAD, STORE] {
        let mut bench = blocks(access, "");
        let data = bench.buffer(&[0u32; 64]);
        bench.buffer(&[0u32; 64]);
        let trap = bench.trap("k", grid(1, 32), args![data, 0u32, 0u32]);
        assert_eq!((trap.kind, trap.lane), (TrapKind::OutOfBounds, Some(16)));
    }
}

#[test]
fn one_lane_may_be_misaligned() {
    for access in [LOAD, STORE] {
        for (lane, by) in [(0, 8), (17, 4), (31, 1)] {
            let shift = format!("setp.eq.u32 %p, %t, {lane}; @%p add.u64 %wide, %wide, {by};");
            let mut bench = blocks(&(shift + access), "");
            let data = bench.buffer(&[0u32; 132]);
            let trap = bench.trap("k", grid(1, 32), args![data, 0u32, 0u32]);
            assert_eq!((trap.kind, trap.lane), (TrapKind::Misaligned, Some(lane)));
        }
    }
}

#[test]
fn one_byte_of_a_run_may_be_unwritten() {
    for byte in [0u64, 63, 300, 511] {
        let mut bench = blocks(LOAD, "");
        let data = bench.buffer(&[0u32; 128]);
        bench.device.poison(data + byte, 1).unwrap();
        let trap = bench.trap("k", grid(1, 32), args![data, 0u32, 0u32]);
        assert_eq!((trap.kind, trap.lane), (TrapKind::Uninitialized, Some(byte as u32 / 16)));
        assert!(trap.detail.contains(&format!("byte {byte} ")), "{trap}");
    }
}

#[test]
fn pages_that_were_written_whole_can_lose_a_byte() {
    let mut bench = blocks(LOAD, "");
    let data = bench.buffer(&[1u8; 2 * 4096 + 512]);
    let load = |bench: &mut Bench, part: u64| bench.launch("k", grid(1, 32), args![data + 512 * part, 0u32, 0u32]);
    for byte in [0u64, 511, 4095, 4096, 8191, 8192, 8703] {
        for part in 0..17 {
            load(&mut bench, part).unwrap();
        }
        bench.device.poison(data + byte, 1).unwrap();
        for part in 0..17 {
            assert_eq!(load(&mut bench, part).is_ok(), part != byte / 512, "byte {byte}, part {part}");
        }
        bench.device.write(data + byte, &[2]).unwrap();
    }
}

#[test]
fn a_page_is_written_whole_once_all_its_parts_are() {
    let mut bench = blocks(LOAD, "");
    let mut store = blocks(STORE, "");
    std::mem::swap(&mut bench.module, &mut store.module);
    let data = bench.empty::<u8>(4096 + 512);
    for part in [7u64, 0, 1, 2, 3, 4, 6, 8] {
        bench.launch("k", grid(1, 32), args![data + 512 * part, 0u32, 0u32]).unwrap();
    }
    std::mem::swap(&mut bench.module, &mut store.module);
    for part in 0..9u64 {
        let result = bench.launch("k", grid(1, 32), args![data + 512 * part, 0u32, 0u32]);
        assert_eq!(result.is_ok(), part != 5, "{part}");
    }
}

#[test]
fn lanes_that_overlap_write_what_they_agree_on() {
    let pairs = "shr.u32 %b, %t, 1; mul.wide.u32 %wide, %b, 16; add.u64 %wide, %wide, %data;";
    let mut bench = blocks(&format!("{pairs} {STORE}"), "");
    let data = bench.empty::<u32>(64);
    bench.launch("k", grid(1, 32), args![data, 0u32, 0u32]).unwrap();
    assert_eq!(bench.read::<u32>(data, 64), [1; 64]);
    let mut bench = blocks(&format!("{pairs} mov.u32 %r3, %t; {STORE}"), "");
    let data = bench.empty::<u32>(64);
    let trap = bench.trap("k", grid(1, 32), args![data, 0u32, 0u32]);
    assert_eq!((trap.kind, trap.lane), (TrapKind::WriteConflict, Some(1)));
}

/// Every thread writes `s` but for `skipped`, all meet, warp 0 runs `one` and, after it, warp 1 runs `two`. `%wide` is each
/// lane's 16 bytes of `s`, `%at` one byte of it, `%row` 16 bytes of every lane's own among the first 32 rows of 48.
fn warps(skipped: u32, one: &str, two: &str) -> Bench {
    Bench::new(&ptx(
        ".param .u64 data, .param .u32 byte",
        &format!(
            ".reg .b32 %t, %b, %l, %s, %at, %wide, %row, %i, %r<4>; .reg .b16 %h; .reg .b64 %data; .reg .pred %p, %q;
            .shared .align 16 .b8 s[1536];
            ld.param.u64 %data, [data]; ld.param.u32 %b, [byte]; mov.u32 %s, s; add.u32 %at, %s, %b;
            mov.u32 %t, %tid.x; and.b32 %l, %t, 31; mad.lo.u32 %wide, %l, 16, %s; mad.lo.u32 %row, %l, 48, %s;
            mov.u16 %h, 1; mov.u32 %r0, 1; mov.u32 %r1, 1; mov.u32 %r2, 1; mov.u32 %r3, 1; mov.u32 %i, %t;
            FILL: add.u32 %b, %s, %i; setp.ne.u32 %q, %i, {skipped}; @%q st.shared.u8 [%b], %h;
            add.u32 %i, %i, 64; setp.lt.u32 %p, %i, 1536; @%p bra FILL;
            bar.sync 0; setp.ge.u32 %p, %t, 32; @%p bra SECOND;
            {one} bra DONE; SECOND: {two} DONE:"
        ),
    ))
}

const NONE: u32 = u32::MAX;
const WIDE_LOAD: &str = "ld.shared.v4.u32 {%r0, %r1, %r2, %r3}, [%wide];";
const WIDE_STORE: &str = "st.shared.v4.u32 [%wide], {%r0, %r1, %r2, %r3};";
const ROW_LOAD: &str = "ld.shared.v4.u32 {%r0, %r1, %r2, %r3}, [%row];";
const ROW_STORE: &str = "st.shared.v4.u32 [%row], {%r0, %r1, %r2, %r3};";
const MATRIX: &str = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%row];";
const WORD_STORE: &str = "and.b32 %at, %at, 0xfffffffc; st.shared.u32 [%at], %r0;";

#[test]
fn one_byte_of_a_wide_access_to_shared_memory_races() {
    for wide in [WIDE_LOAD, WIDE_STORE, ROW_LOAD, ROW_STORE, MATRIX] {
        for byte in [0u32, 7, 48, 63, 493] {
            let runs = wide.contains("%wide");
            if !runs && byte % 48 >= 16 || runs && byte >= 512 {
                continue;
            }
            let mut narrow = vec!["st.shared.u8 [%at], %h;", WORD_STORE];
            narrow.extend(wide.starts_with("st").then_some("ld.shared.u8 %h, [%at];"));
            for narrow in narrow {
                for (one, two) in [(narrow, wide), (wide, narrow)] {
                    let mut bench = warps(NONE, one, two);
                    let trap = bench.trap("k", grid(1, 64), args![0u64, byte]);
                    assert_eq!((trap.kind, trap.warp), (TrapKind::SharedRace, 1), "{one} {two} {byte}");
                    let told = if narrow == WORD_STORE { byte & !3 } else { byte };
                    assert!(trap.detail.contains(&format!("shared byte {told:#x},")), "{one} {two} {byte}: {trap}");
                }
                let mut bench =
                    warps(NONE, &format!("{narrow} barrier.sync 1, 64;"), &format!("barrier.sync 1, 64; {wide}"));
                bench.launch("k", grid(1, 64), args![0u64, byte]).unwrap();
            }
        }
    }
}

#[test]
fn one_byte_of_a_wide_read_of_shared_memory_may_be_unwritten() {
    for (wide, byte) in [(WIDE_LOAD, 300), (WIDE_LOAD, 511), (ROW_LOAD, 49), (MATRIX, 1503)] {
        let mut bench = warps(byte, wide, "");
        let trap = bench.trap("k", grid(1, 64), args![0u64, 0u32]);
        let lane = if wide == WIDE_LOAD { byte / 16 } else { byte / 48 };
        assert_eq!((trap.kind, trap.lane), (TrapKind::Uninitialized, Some(lane)), "{wide} {byte}");
        assert!(trap.detail.contains(&format!("shared byte {byte:#x},")), "{trap}");
        // Words around it, and once it is written.
        let narrow = format!("ld.shared.u8 %h, [s+{}]; st.shared.u8 [s+{byte}], %h; {wide}", byte - 1);
        let mut bench = warps(byte, &narrow, "");
        bench.launch("k", grid(1, 64), args![0u64, 0u32]).unwrap();
    }
}

#[test]
fn a_copy_of_one_word_is_in_flight_under_a_wide_access() {
    let copy = "setp.eq.u32 %p, %l, 5; and.b32 %at, %at, 0xfffffffc; @%p cp.async.ca.shared.global [%at], [%data], 4;";
    for wide in [WIDE_LOAD, WIDE_STORE, ROW_LOAD, ROW_STORE, MATRIX] {
        for byte in [0u32, 52, 492] {
            for (one, two) in [(format!("{copy} {wide}"), String::new()), (copy.into(), wide.into())] {
                let mut bench = warps(NONE, &one, &two);
                let data = bench.buffer(&[3u32]);
                let trap = bench.trap("k", grid(1, 64), args![data, byte]);
                assert_eq!(trap.kind, TrapKind::CopyInFlight, "{one} {two}");
                assert!(trap.detail.contains(&format!("shared byte {byte:#x},")), "{trap}");
            }
            let mut bench = warps(NONE, &format!("{copy} cp.async.wait_all; {wide}"), "");
            let data = bench.buffer(&[3u32]);
            bench.launch("k", grid(1, 64), args![data, byte]).unwrap();
        }
    }
}

#[test]
fn a_wide_copy_is_not_issued_into_a_byte_in_use() {
    for copy in ["cp.async.cg.shared.global [%wide], [%data], 16;", "cp.async.cg.shared.global [%row], [%data], 16;"] {
        for narrow in ["st.shared.u8 [%at], %h;", "ld.shared.u8 %h, [%at];"] {
            let mut bench = warps(NONE, narrow, copy);
            let data = bench.buffer(&[3u32; 4]);
            let trap = bench.trap("k", grid(1, 64), args![data, 489u32]);
            assert_eq!((trap.kind, trap.warp), (TrapKind::SharedRace, 1), "{copy} {narrow}");
        }
    }
}

#[test]
fn wide_accesses_to_shared_memory_end_with_it() {
    for (wide, lane) in [(WIDE_LOAD, 28), (WIDE_STORE, 28), (ROW_LOAD, 31), (ROW_STORE, 31), (MATRIX, 31)] {
        let mut bench = warps(NONE, &format!("add.u32 %wide, %wide, 1088; add.u32 %row, %row, 32; {wide}"), "");
        let result = bench.launch("k", grid(1, 64), args![0u64, 0u32]);
        let shift = if lane == 28 { 0 } else { 16 };
        assert_eq!(result.is_err(), lane == 28, "{wide}");
        let mut bench =
            warps(NONE, &format!("add.u32 %wide, %wide, 1088; add.u32 %row, %row, {}; {wide}", 32 + shift), "");
        let trap = bench.trap("k", grid(1, 64), args![0u64, 0u32]);
        assert_eq!((trap.kind, trap.lane), (TrapKind::OutOfBounds, Some(lane)), "{wide}");
        let odd = format!("setp.eq.u32 %p, %l, 9; @%p add.u32 %wide, %wide, 8; @%p add.u32 %row, %row, 4; {wide}");
        let trap = warps(NONE, &odd, "").trap("k", grid(1, 64), args![0u64, 0u32]);
        assert_eq!((trap.kind, trap.lane), (TrapKind::Misaligned, Some(9)), "{wide}");
    }
}
