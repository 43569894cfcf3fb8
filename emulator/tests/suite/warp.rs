//! What the lanes of a warp and the warps of a block tell each other.

use crate::args;
use crate::harness::{Bench, Random, grid, ptx};
use ptx_emulator::{Launch, TrapKind};

/// Runs `text`, which makes %o of %a in each of `threads` lanes.
fn run(text: &str, values: &[u32]) -> Vec<u32> {
    let body = format!(
        ".reg .b32 %a, %o, %t; .reg .b64 %in, %out, %at; .reg .pred %p, %q;
        ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mul.wide.u32 %at, %t, 4;
        add.u64 %in, %in, %at; add.u64 %out, %out, %at; ld.global.b32 %a, [%in];
        {text}
        st.global.b32 [%out], %o;"
    );
    let mut bench = Bench::new(&ptx(".param .u64 out, .param .u64 in", &body));
    let (input, out) = (bench.buffer(values), bench.empty::<u32>(values.len()));
    bench.launch("k", grid(1, values.len() as u32), args![out, input]).unwrap();
    bench.read(out, values.len())
}

fn values() -> Vec<u32> {
    let mut random = Random::new(6);
    (0..32).map(|_| random.bits() as u32).collect()
}

#[test]
fn shuffles_of_every_kind() {
    let values = values();
    for mode in ["up", "down", "bfly", "idx"] {
        for width in [32u32, 16, 8, 4, 2, 1] {
            for by in [0, 1, 2, 3, 7, 16, 31] {
                // As CUDA's __shfl_sync makes it: segments of `width` lanes.
                let clamp = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
                let text =
                    format!("shfl.sync.{mode}.b32 %o|%p, %a, {by}, {clamp}, 0xffffffff; @!%p xor.b32 %o, %o, 1;");
                let want = |lane: u32| {
                    let (first, at) = (lane / width * width, lane % width);
                    let from = match mode {
                        "up" => at.checked_sub(by),
                        "down" => Some(at + by).filter(|&from| from < width),
                        "bfly" => Some((lane ^ by).wrapping_sub(first)).filter(|_| lane ^ by < first + width),
                        _ => Some(by % width),
                    };
                    match from {
                        Some(from) => values[(first.wrapping_add(from)) as usize],
                        None => values[lane as usize] ^ 1,
                    }
                };
                assert_eq!(run(&text, &values), (0..32).map(want).collect::<Vec<_>>(), "{mode} by {by} in {width}");
            }
        }
    }
}

#[test]
fn votes() {
    let ballot = run("setp.lt.u32 %p, %t, 5; vote.sync.ballot.b32 %o, %p, -1;", &values());
    assert_eq!(ballot, [0x1f; 32]);
    for (limit, [all, any, uni]) in [(0, [0, 0, 1]), (7, [0, 1, 0]), (32, [1, 1, 1])] {
        for (mode, want) in [("all", all), ("any", any), ("uni", uni)] {
            let text = format!("setp.lt.u32 %p, %t, {limit}; vote.sync.{mode}.pred %q, %p, -1; selp.b32 %o, 1, 0, %q;");
            assert_eq!(run(&text, &values()), [want; 32], "{text}");
            let text =
                format!("setp.ge.u32 %p, %t, {limit}; vote.sync.{mode}.pred %q, !%p, -1; selp.b32 %o, 1, 0, %q;");
            assert_eq!(run(&text, &values()), [want; 32], "{text}");
        }
    }
}

#[test]
fn equal_values_find_each_other() {
    let values: Vec<u32> = (0..32).map(|lane| lane % 3).collect();
    let equal = |lane: u32| (0..32).filter(|other| other % 3 == lane % 3).fold(0, |mask, other| mask | 1 << other);
    let want: Vec<u32> = (0..32).map(equal).collect();
    assert_eq!(run("match.any.sync.b32 %o, %a, -1;", &values), want);
    assert_eq!(run(".reg .b64 %w; mov.b64 %w, {1, %a}; match.any.sync.b64 %o, %w, -1;", &values), want);
    let text = "match.all.sync.b32 %o|%p, %a, -1; @%p add.u32 %o, %o, 1;";
    assert_eq!(run(text, &values), [0; 32]);
    assert_eq!(run(text, &[4; 32]), [0; 32], "all ones and one more");
}

#[test]
fn warps_reduce() {
    let values = values();
    let signed = values.iter().map(|&x| x as i32);
    for (op, want) in [
        ("add.u32", values.iter().fold(0u32, |a, &b| a.wrapping_add(b))),
        ("add.s32", values.iter().fold(0u32, |a, &b| a.wrapping_add(b))),
        ("min.u32", *values.iter().min().unwrap()),
        ("max.u32", *values.iter().max().unwrap()),
        ("min.s32", signed.clone().min().unwrap() as u32),
        ("max.s32", signed.clone().max().unwrap() as u32),
        ("and.b32", values.iter().fold(u32::MAX, |a, &b| a & b)),
        ("or.b32", values.iter().fold(0, |a, &b| a | b)),
        ("xor.b32", values.iter().fold(0, |a, &b| a ^ b)),
    ] {
        assert_eq!(run(&format!("redux.sync.{op} %o, %a, -1;"), &values), [want; 32], "{op}");
        // Of the lower half alone.
        let text = format!("mov.u32 %o, 9; setp.lt.u32 %p, %t, 16; @%p redux.sync.{op} %o, %a, 0xffff;");
        assert_eq!(run(&text, &values)[16..], [9; 16], "{op}");
    }
}

#[test]
fn lanes_know_themselves() {
    type Case = (&'static str, fn(u32) -> u32);
    let cases: [Case; 8] = [
        ("mov.u32 %o, %laneid;", |lane| lane),
        ("mov.u32 %o, %lanemask_eq;", |lane| 1 << lane),
        ("mov.u32 %o, %lanemask_lt;", |lane| (0..lane).map(|other| 1 << other).sum()),
        ("mov.u32 %o, %lanemask_le;", |lane| (0..=lane).map(|other| 1 << other).sum()),
        ("mov.u32 %o, %lanemask_gt;", |lane| (lane + 1..32).map(|other| 1 << other).sum()),
        ("mov.u32 %o, %lanemask_ge;", |lane| (lane..32).map(|other| 1 << other).sum()),
        ("mov.u32 %o, 0; setp.lt.u32 %p, %t, 4; @%p activemask.b32 %o;", |lane| if lane < 4 { 15 } else { 0 }),
        ("mov.u32 %o, %ntid.x;", |_| 32),
    ];
    for (text, want) in cases {
        assert_eq!(run(text, &[0; 32]), (0..32).map(want).collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn threads_know_their_place() {
    let body = ".reg .b32 %r<16>; .reg .b64 %rd<3>; ld.param.u64 %rd1, [out];
        mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ctaid.y; mov.u32 %r6, %ctaid.z;
        // Place in the launch: ((((cz 2 + cy) 3 + cx) 2 + z) 3 + y) 5 + x.
        mad.lo.u32 %r7, %r6, 2, %r5; mad.lo.u32 %r7, %r7, 3, %r4; mad.lo.u32 %r7, %r7, 2, %r3; mad.lo.u32 %r7, %r7, 3, %r2; mad.lo.u32 %r7, %r7, 5, %r1;
        mov.u32 %r8, %nctaid.x; mov.u32 %r9, %nctaid.z; mov.u32 %r10, %ntid.y; mov.u32 %r11, %nwarpid; mad.lo.u32 %r8, %r8, 10, %r9; mad.lo.u32 %r8, %r8, 10, %r10;
        mul.wide.u32 %rd2, %r7, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r8;";
    let mut bench = Bench::new(&ptx(".param .u64 out", body));
    let out = bench.empty::<u32>(360);
    bench.launch("k", Launch { grid: [3, 2, 2], block: [5, 3, 2], seed: 4, ..Launch::default() }, args![out]).unwrap();
    assert_eq!(bench.read::<u32>(out, 360), [323; 360]);
}

#[test]
fn barriers_reduce() {
    let values: Vec<u32> = (0..96).collect();
    assert_eq!(run("setp.lt.u32 %p, %a, 40; bar.red.popc.u32 %o, 0, %p;", &values), [40; 96]);
    for (limit, all, any) in [(0, 0, 0), (40, 0, 1), (96, 1, 1)] {
        for (op, want) in [("and", all), ("or", any)] {
            let text = format!("setp.lt.u32 %p, %a, {limit}; bar.red.{op}.pred %q, 1, %p; selp.b32 %o, 1, 0, %q;");
            assert_eq!(run(&text, &values), vec![want; 96], "{text}");
        }
    }
}

/// The first warp makes values and arrives, the second waits and takes them.
const PIPELINE: &str = ".shared .align 4 .b8 s[128]; .reg .b32 %s, %w; mov.u32 %s, s; and.b32 %w, %t, 31; shl.b32 %w, %w, 2; add.u32 %s, %s, %w;
    mov.u32 %o, 0; setp.lt.u32 %p, %t, 32; @!%p bra TAKE;
    st.shared.b32 [%s], %a; barrier.arrive 3, 64; bra END;
    TAKE: barrier.sync 3, 64; ld.shared.b32 %o, [%s]; END:";

#[test]
fn one_warp_makes_what_another_takes() {
    let values: Vec<u32> = (100..164).collect();
    let got = run(PIPELINE, &values);
    assert_eq!(got[32..], values[..32]);
    assert_eq!(got[..32], [0; 32]);
}

#[test]
fn a_value_made_after_the_arrival_is_a_race() {
    let late = PIPELINE.replace(
        "st.shared.b32 [%s], %a; barrier.arrive 3, 64;",
        "st.shared.b32 [%s], %t; barrier.arrive 3, 64; st.shared.b32 [%s], %a;",
    );
    let body = format!(
        ".reg .b32 %a, %o, %t; .reg .b64 %out, %at; .reg .pred %p; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mov.u32 %a, %t;
        {late} mul.wide.u32 %at, %t, 4; add.u64 %out, %out, %at; st.global.b32 [%out], %o;"
    );
    for seed in 0..4 {
        let mut bench = Bench::new(&ptx(".param .u64 out", &body));
        let out = bench.empty::<u32>(64);
        let trap = bench.trap("k", Launch { seed, ..grid(1, 64) }, args![out]);
        assert_eq!(trap.kind, TrapKind::SharedRace, "seed {seed}: {trap}");
    }
}

#[test]
fn branches_go_where_their_index_says() {
    let text = "mov.u32 %o, 0; T: .branchtargets A, B, C; brx.idx %a, T; A: add.u32 %o, %o, 1; B: add.u32 %o, %o, 10; C: add.u32 %o, %o, 100;";
    let values: Vec<u32> = (0..32).map(|lane| lane % 3).collect();
    assert_eq!(run(text, &values), values.iter().map(|at| [111, 110, 100][*at as usize]).collect::<Vec<_>>());
    let text = "mov.u32 %o, 1; setp.lt.u32 %p, %a, 3; @%p bra.uni L; exit; L:";
    assert_eq!(run(text, &[0; 32]), [1; 32]);
    // Lanes that return early leave the others to go on.
    let text = "mov.u32 %o, 7; st.global.b32 [%out], %o; setp.lt.u32 %p, %t, 3; @%p ret; mov.u32 %o, 1;";
    assert_eq!(run(text, &[0; 32]), [[7; 3].as_slice(), &[1; 29]].concat());
}

#[test]
fn breakpoints_stop() {
    for text in ["trap;", "brkpt;"] {
        let mut bench = Bench::new(&ptx("", text));
        assert_eq!(bench.trap("k", grid(1, 1), args![]).kind, TrapKind::TrapInstruction);
    }
}
