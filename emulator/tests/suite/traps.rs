//! What a kernel must not do, and how it is told.

use crate::args;
use crate::harness::{Bench, grid, ptx};
use ptx_emulator::{Arch, Device, Launch, LaunchError, TrapKind};

/// Reads `data[tid + first]` and writes it to `out[tid]`, as 32-bit words.
const COPY: &str = "
    .reg .b32 %r<6>; .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [data];
    ld.param.u32 %r1, [first];
    mov.u32 %r2, %tid.x;
    add.s32 %r3, %r2, %r1;
    mul.wide.s32 %rd3, %r3, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.u32 %r4, [%rd4];
    mul.wide.s32 %rd5, %r2, 4;
    add.s64 %rd6, %rd1, %rd5;
    st.global.u32 [%rd6], %r4;";

const COPY_PARAMS: &str = ".param .u64 out, .param .u64 data, .param .u32 first";

fn copy_bench() -> (Bench, u64, u64) {
    let mut bench = Bench::new(&ptx(COPY_PARAMS, COPY));
    let data = bench.buffer(&[7u32; 32]);
    let out = bench.empty::<u32>(32);
    (bench, out, data)
}

#[test]
fn a_copy_inside_its_buffers_runs() {
    let (mut bench, out, data) = copy_bench();
    bench.launch("k", grid(1, 32), args![out, data, 0]).unwrap();
    assert_eq!(bench.read::<u32>(out, 32), [7; 32]);
}

#[test]
fn one_element_too_far_names_line_and_lane() {
    let (mut bench, out, data) = copy_bench();
    let trap = bench.trap("k", grid(1, 32), args![out, data, 1]);
    assert_eq!((trap.kind, trap.warp, trap.lane), (TrapKind::OutOfBounds, 0, Some(31)));
    assert_eq!(
        trap.to_string(),
        format!(
            "k: reads 4 bytes at {:#x}, at the end of the 128 bytes at {data:#x} at PTX line 15, block (0, 0, 0), warp 0, lane 31",
            data + 128
        )
    );
}

#[test]
fn a_read_before_the_buffer_is_told() {
    let (mut bench, out, data) = copy_bench();
    let trap = bench.trap("k", grid(1, 32), args![out, data, -1]);
    assert_eq!((trap.kind, trap.lane), (TrapKind::OutOfBounds, Some(0)));
}

#[test]
fn a_null_pointer_and_a_freed_one_are_told() {
    let (mut bench, out, data) = copy_bench();
    assert!(bench.trap("k", grid(1, 32), args![out, 0u64, 0]).detail.contains("null pointer"));
    bench.device.free(data).unwrap();
    assert!(bench.trap("k", grid(1, 32), args![out, data, 0]).detail.contains("freed"));
}

#[test]
fn a_misaligned_address_is_told() {
    let (mut bench, out, data) = copy_bench();
    let trap = bench.trap("k", grid(1, 31), args![out, data + 2, 0]);
    assert_eq!((trap.kind, trap.lane), (TrapKind::Misaligned, Some(0)));
}

#[test]
fn reading_what_nobody_wrote_is_told() {
    let (mut bench, out, data) = copy_bench();
    bench.device.poison(data + 20, 1).unwrap();
    let trap = bench.trap("k", grid(1, 32), args![out, data, 0]);
    assert_eq!((trap.kind, trap.lane), (TrapKind::Uninitialized, Some(5)));
}

#[test]
fn a_read_only_buffer_is_not_written() {
    let (mut bench, out, data) = copy_bench();
    #[expect(clippy::single_range_in_vec_init, reason = "a list of ranges, of which there is one")]
    let ranges = [out + 12..out + 16];
    let trap = bench.trap("k", Launch { read_only: &ranges, ..grid(1, 32) }, args![out, data, 0]);
    assert_eq!((trap.kind, trap.lane), (TrapKind::ReadOnly, Some(3)));
}

#[test]
fn blocks_that_write_one_address_race() {
    let (mut bench, out, data) = copy_bench();
    let trap = bench.trap("k", grid(2, 32), args![out, data, 0]);
    assert_eq!(trap.kind, TrapKind::GlobalRace);
}

#[test]
fn a_block_that_reads_what_another_writes_races() {
    for threads in [1, 2] {
        let mut bench = Bench::new(&ptx(COPY_PARAMS, COPY));
        let data = bench.buffer(&[7u32; 64]);
        let trap = bench.trap("k", Launch { threads, ..grid(2, 32) }, args![data, data, 32]);
        assert_eq!(trap.kind, TrapKind::GlobalRace);
    }
}

#[test]
fn what_is_read_as_constant_is_not_written() {
    let body = COPY.replace("ld.global", "ld.global.nc");
    let mut bench = Bench::new(&ptx(COPY_PARAMS, &body));
    let data = bench.buffer(&[7u32; 32]);
    let trap = bench.trap("k", grid(1, 32), args![data, data, 0]);
    assert_eq!(trap.kind, TrapKind::ReadOnly);
}

/// Stores each thread's number at `address` in global memory.
fn store_at(address: &str) -> String {
    format!(
        ".reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p<2>;
        ld.param.u64 %rd1, [out];
        mov.u32 %r1, %tid.x;
        {address}
        mul.wide.u32 %rd2, %r2, 4;
        add.s64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3], %r3;"
    )
}

#[test]
fn lanes_that_write_different_values_to_one_address_are_told() {
    let mut bench = Bench::new(&ptx(".param .u64 out", &store_at("shr.u32 %r2, %r1, 1; mov.u32 %r3, %r1;")));
    let out = bench.empty::<u32>(32);
    let trap = bench.trap("k", grid(1, 32), args![out]);
    assert_eq!((trap.kind, trap.lane), (TrapKind::WriteConflict, Some(1)));
    let mut bench = Bench::new(&ptx(".param .u64 out", &store_at("shr.u32 %r2, %r1, 1; mov.u32 %r3, 5;")));
    let out = bench.empty::<u32>(32);
    bench.launch("k", grid(1, 32), args![out]).unwrap();
}

/// Each thread writes its shared word, then after `between` reads the word `shift` further.
fn shared(between: &str) -> String {
    ptx(
        ".param .u64 out, .param .u32 shift",
        &format!(
            ".reg .b32 %r<9>; .reg .b64 %rd<4>; .reg .pred %p<3>;
            .shared .align 4 .b8 s[512];
            ld.param.u64 %rd1, [out];
            ld.param.u32 %r1, [shift];
            mov.u32 %r2, %tid.x;
            shl.b32 %r3, %r2, 2;
            mov.u32 %r4, s;
            add.s32 %r5, %r4, %r3;
            st.shared.u32 [%r5], %r2;
            setp.lt.u32 %p1, %r2, 16;
            {between}
            add.s32 %r6, %r2, %r1;
            and.b32 %r6, %r6, 63;
            shl.b32 %r6, %r6, 2;
            add.s32 %r6, %r4, %r6;
            ld.shared.u32 %r7, [%r6];
            mul.wide.u32 %rd2, %r2, 4;
            add.s64 %rd3, %rd1, %rd2;
            st.global.u32 [%rd3], %r7;"
        ),
    )
}

#[test]
fn shared_memory_is_passed_on_over_a_barrier() {
    let mut bench = Bench::new(&shared("bar.sync 0;"));
    let out = bench.empty::<u32>(64);
    bench.launch("k", grid(1, 64), args![out, 32]).unwrap();
    assert_eq!(bench.read::<u32>(out, 64), (0..64).map(|i| (i + 32) % 64).collect::<Vec<_>>());
}

#[test]
fn without_a_barrier_warps_race() {
    for seed in 0..4 {
        let mut bench = Bench::new(&shared(""));
        let out = bench.empty::<u32>(64);
        let trap = bench.trap("k", Launch { seed, ..grid(1, 64) }, args![out, 32]);
        let unwritten = trap.kind == TrapKind::Uninitialized;
        assert!(trap.kind == TrapKind::SharedRace || unwritten, "{trap}");
        bench.launch("k", Launch { seed, ..grid(1, 64) }, args![out, 0]).unwrap();
    }
}

#[test]
fn a_barrier_of_half_a_warp_is_told() {
    for (between, kind) in [
        ("@%p1 bar.sync 0;", TrapKind::BarrierDivergence),
        ("@%p1 barrier.sync.aligned 0;", TrapKind::BarrierDivergence),
        ("@%p1 bar.warp.sync 0xffffffff;", TrapKind::CollectiveMask),
        ("@%p1 shfl.sync.bfly.b32 %r8, %r2, 1, 31, 0xffffffff;", TrapKind::CollectiveMask),
        ("@!%p1 shfl.sync.bfly.b32 %r8, %r2, 1, 31, 0xffff;", TrapKind::CollectiveMask),
        ("@%p1 vote.sync.ballot.b32 %r8, %p1, 0xffffffff;", TrapKind::CollectiveMask),
    ] {
        let mut bench = Bench::new(&shared(between));
        let out = bench.empty::<u32>(32);
        let trap = bench.trap("k", grid(1, 32), args![out, 0]);
        assert_eq!(trap.kind, kind, "{trap}");
    }
}

#[test]
fn half_a_warp_may_work_together() {
    for between in [
        "@%p1 shfl.sync.bfly.b32 %r8, %r2, 1, 31, 0xffff;",
        "@%p1 bra L; bar.warp.sync 0xffff0000; bra E; L: bar.warp.sync 0xffff; E:",
        "@%p1 bra L; bar.warp.sync -1; bra E; L: bar.warp.sync -1; E:",
    ] {
        let mut bench = Bench::new(&shared(between));
        let out = bench.empty::<u32>(32);
        bench.launch("k", grid(1, 32), args![out, 0]).unwrap();
    }
}

#[test]
fn warps_at_different_barriers_are_told() {
    let between = "setp.lt.u32 %p2, %r2, 32; @%p2 bra L; bar.sync 0; bra E; L: bar.sync 0; E:";
    let mut bench = Bench::new(&shared(between));
    let out = bench.empty::<u32>(64);
    assert_eq!(bench.trap("k", grid(1, 64), args![out, 0]).kind, TrapKind::BarrierDivergence);
}

/// An asynchronous copy of 16 bytes for each of 32 threads, then `wait`, then a read of the first word copied.
fn copy_async(before: &str, wait: &str) -> String {
    ptx(
        ".param .u64 out, .param .u64 data",
        &format!(
            ".reg .b32 %r<9>; .reg .b64 %rd<8>;
            .shared .align 16 .b8 s[1024];
            ld.param.u64 %rd1, [out];
            ld.param.u64 %rd2, [data];
            mov.u32 %r1, %tid.x;
            mul.wide.u32 %rd3, %r1, 16;
            add.s64 %rd4, %rd2, %rd3;
            shl.b32 %r2, %r1, 4;
            mov.u32 %r3, s;
            add.s32 %r4, %r3, %r2;
            {before}
            cp.async.cg.shared.global [%r4], [%rd4], 16;
            cp.async.commit_group;
            {wait}
            ld.shared.u32 %r5, [%r4];
            mul.wide.u32 %rd5, %r1, 4;
            add.s64 %rd6, %rd1, %rd5;
            st.global.u32 [%rd6], %r5;"
        ),
    )
}

#[test]
fn an_asynchronous_copy_arrives_at_its_wait() {
    for wait in ["cp.async.wait_group 0;", "cp.async.wait_all;", "cp.async.commit_group; cp.async.wait_group 1;"] {
        let mut bench = Bench::new(&copy_async("", wait));
        let (data, out) = (bench.buffer(&(0..128).collect::<Vec<u32>>()), bench.empty::<u32>(32));
        bench.launch("k", grid(1, 32), args![out, data]).unwrap();
        assert_eq!(bench.read::<u32>(out, 32), (0..32).map(|i| 4 * i).collect::<Vec<_>>());
    }
}

#[test]
fn a_copy_in_flight_is_not_touched() {
    for wait in ["", "cp.async.wait_group 1;"] {
        let mut bench = Bench::new(&copy_async("", wait));
        let (data, out) = (bench.buffer(&[0u32; 128]), bench.empty::<u32>(32));
        assert_eq!(bench.trap("k", grid(1, 32), args![out, data]).kind, TrapKind::CopyInFlight);
    }
}

#[test]
fn a_copy_into_what_another_warp_touched_is_told() {
    // Each warp writes the other's destination first.
    let before = "xor.b32 %r6, %r2, 512; add.s32 %r6, %r3, %r6; st.shared.u32 [%r6], %r1;";
    let mut bench = Bench::new(&copy_async(before, "cp.async.wait_all;"));
    let (data, out) = (bench.buffer(&[0u32; 256]), bench.empty::<u32>(64));
    assert_eq!(bench.trap("k", grid(1, 64), args![out, data]).kind, TrapKind::SharedRace);
    let before = format!("{before} bar.sync 0;");
    let mut bench = Bench::new(&copy_async(&before, "cp.async.wait_all;"));
    let (data, out) = (bench.buffer(&[0u32; 256]), bench.empty::<u32>(64));
    bench.launch("k", grid(1, 64), args![out, data]).unwrap();
}

#[test]
fn a_loop_without_end_is_told() {
    let mut bench = Bench::new(&ptx("", "L: bra L;"));
    let trap = bench.trap("k", Launch { step_limit: 100_000, ..grid(2, 64) }, args![]);
    assert_eq!(trap.kind, TrapKind::StepLimit);
}

#[test]
fn the_trap_instruction_is_told() {
    let mut bench = Bench::new(&ptx("", "trap;"));
    assert_eq!(bench.trap("k", grid(1, 1), args![]).kind, TrapKind::TrapInstruction);
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let mut bench = Bench::new(&ptx("", ".shared .align 16 .b8 s[1024];\n.reg .b32 %r<2>; mov.u32 %r1, s;"));
    for (launch, words) in [
        (Launch { grid: [0, 1, 1], ..grid(1, 1) }, "grid"),
        (Launch { grid: [1, u32::MAX, 1], ..grid(1, 1) }, "grid"),
        (grid(1, 0), "block"),
        (grid(1, 1025), "block"),
        (Launch { block: [1024, 1024, 1024], ..grid(1, 1) }, "block"),
        (Launch { shared_bytes: 163 << 10, ..grid(1, 1) }, "sm_80 allows 166912"),
        (Launch { shared_bytes: u64::MAX, ..grid(1, 1) }, "shared"),
    ] {
        match bench.launch("k", launch, args![]) {
            Err(LaunchError::Refused { detail, .. }) => assert!(detail.contains(words), "{detail}"),
            other => panic!("{other:?}"),
        }
    }
    bench.device = Device::new(Arch::Sm86);
    assert!(bench.launch("k", Launch { shared_bytes: 98 << 10, ..grid(1, 1) }, args![]).is_ok());
    assert!(bench.launch("k", Launch { shared_bytes: 99 << 10, ..grid(1, 1) }, args![]).is_err());
}

#[test]
fn memory_has_an_end() {
    let mut device = Device::with_memory(Arch::Sm80, 1000);
    let first = device.alloc(600).unwrap();
    assert_eq!(device.alloc(600).unwrap_err().to_string(), "out of memory: 600 bytes asked, 400 free");
    device.free(first).unwrap();
    assert!(device.free(first).is_err());
    assert!(device.alloc(1000).is_ok());
    assert!(Device::with_memory(Arch::Sm80, u64::MAX).alloc(u64::MAX - 600).is_err());
}

#[test]
fn a_call_is_refused_with_its_line_and_what_to_do() {
    let printf = ".reg .b64 %rd<2>;
        { .reg .b32 temp_param_reg; .param .b64 param0; st.param.b64 [param0+0], %rd1;
        .param .b32 retval0; call.uni (retval0), vprintf, (param0); }";
    let text = ptx("", printf).replace(
        ".visible",
        ".extern .func (.param .b32 func_retval0) vprintf(.param .b64 vprintf_param_0);\n.visible",
    );
    let error = ptx_emulator::Module::parse(&text).unwrap_err().to_string();
    assert!(error.contains("line 8") && error.contains("inline the function") && error.contains("printf"), "{error}");
    let error = ptx_emulator::Module::parse(&ptx("", "\ncall.uni f;")).unwrap_err().to_string();
    assert!(error.contains("line 7") && error.contains("inline the function"), "{error}");
}
