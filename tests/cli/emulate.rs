use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vicugna::io::npy::Npy;

use crate::command::{Ran, vicugna};

/// Doubles `n` floats in place.
const TWICE: &str = ".version 8.0
.target sm_80
.address_size 64
.visible .entry twice(.param .u64 data, .param .u32 n)
{
    .reg .pred %p<2>; .reg .b32 %r<5>; .reg .f32 %f<3>; .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [data];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.f32 %f1, [%rd3];
    add.f32 %f2, %f1, %f1;
    st.global.f32 [%rd3], %f2;
DONE:
    ret;
}
";

/// A folder with `twice.ptx` and files of floats.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("twice.ptx"), TWICE).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().into()
    }

    fn write(&self, name: &str, values: &[f32]) -> String {
        let mut array = Npy::zeros("f32", vec![values.len()]).unwrap();
        array.data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        array.write(Path::new(&self.path(name))).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> Vec<f32> {
        let array = Npy::read(Path::new(&self.path(name))).unwrap();
        array.data.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    /// `twice` on a grid of two blocks of 32 threads.
    fn twice(&self, arguments: &[&str], options: &[&str]) -> Ran {
        let ptx = self.path("twice.ptx");
        let given: Vec<&str> = arguments.iter().flat_map(|argument| ["--arg", argument]).collect();
        let launch = ["emulate", &ptx, "twice", "--grid", "2", "--block", "32,1,1"];
        vicugna(&[&launch[..], &given, options].concat())
    }
}

fn elementwise() -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("ptx/elementwise.ptx").to_str().unwrap().into()
}

#[test]
fn a_kernel_of_ours_runs_on_files() {
    let folder = Folder::new();
    let a = folder.write("a.npy", &(0..300).map(|i| i as f32).collect::<Vec<_>>());
    let b = folder.write("b.npy", &[0.5; 300]);
    let run = |n: &str, options: &[&str]| {
        let y = format!("out:{}:f32:3x100", folder.path("y.npy"));
        let (ptx, a, b) = (elementwise(), format!("in:{a}"), format!("in:{b}"));
        let launch = ["emulate", &ptx, "add_f32", "--grid", "1,1,1", "--block", "256"];
        let arguments = ["--arg", &y, "--arg", &a, "--arg", &b, "--arg", n];
        vicugna(&[&launch[..], &arguments, options].concat())
    };
    let json = run("i64:300", &["--json", "--schedule", "7"]).json();
    assert_eq!(json["counters"]["global_load_bytes"], 2400);
    assert_eq!(json["counters"]["global_store_bytes"], 1200);
    assert!(json["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(folder.read("y.npy"), (0..300).map(|i| i as f32 + 0.5).collect::<Vec<_>>());

    let table = run("i64:300", &["--profile"]);
    assert!(table.stdout.contains("global load bytes") && table.stdout.contains("2400"), "{}", table.stdout);
    assert!(!run("i64:300", &[]).stdout.contains("bytes"));

    let ran = run("i64:299", &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("y.npy: the kernel did not write all of it; byte 1196 is the first"), "{}", ran.stderr);
}

#[test]
fn a_trap_is_told_with_its_place() {
    let folder = Folder::new();
    let data = folder.write("data.npy", &[1.0; 40]);
    let ran = folder.twice(&[&format!("inout:{data}"), "u32:41"], &["--json"]);
    assert_eq!(ran.code, 1);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let trap = &json["trap"];
    assert_eq!((&trap["kind"], &trap["kernel"]), (&"out_of_bounds".into(), &"twice".into()), "{json}");
    assert_eq!((&trap["line"], &trap["warp"], &trap["lane"]), (&17.into(), &0.into(), &8.into()), "{json}");
    assert_eq!(trap["block"], serde_json::json!([1, 0, 0]));
    assert!(trap["detail"].as_str().unwrap().starts_with("reads 4 bytes at 0x"), "{json}");
    let place = "at PTX line 17, block (1, 0, 0), warp 0, lane 8";
    assert!(
        ran.stderr.starts_with("error: emulated: twice: reads 4 bytes") && ran.stderr.contains(place),
        "{}",
        ran.stderr
    );
    assert_eq!(folder.read("data.npy"), [1.0; 40], "a trap leaves the files as they were");
}

#[test]
fn buffers_are_what_they_are_called() {
    let folder = Folder::new();
    let data = folder.write("data.npy", &[1.5; 40]);
    let ran = folder.twice(&[&format!("inout:{data}"), "u32:40"], &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(folder.read("data.npy"), [3.0; 40]);

    let kind = |argument: &str| {
        let ran = folder.twice(&[argument, "u32:40"], &["--json"]);
        assert_eq!(ran.code, 1, "{argument}");
        serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap()["trap"]["kind"].clone()
    };
    assert_eq!(kind(&format!("in:{data}")), "read_only");
    assert_eq!(kind(&format!("out:{}:f32:40", folder.path("y.npy"))), "uninitialized");
    assert_eq!(kind("null"), "out_of_bounds");
}

#[test]
fn bad_input_gets_one_line() {
    let folder = Folder::new();
    let data = format!("inout:{}", folder.write("data.npy", &[1.0; 40]));
    folder.twice(&[&data], &[]).refused("--arg: twice takes 2 arguments, got 1");
    folder.twice(&[&data, "u64:40"], &[]).refused("--arg: twice: n must have 4 bytes, got 8");
    folder.twice(&[&data, "u32:-1"], &[]).refused("--arg: u32:-1: is no number of that type");
    folder.twice(&[&data, "40"], &[]).refused("--arg: 40: is no argument");
    let huge = format!("out:{}:f32:{}x{}", folder.path("y.npy"), u64::MAX, u64::MAX);
    folder.twice(&[&huge, "u32:1"], &[]).refused(&format!("--arg: {huge}: names no array that can be"));
    let shared = folder.twice(&[&data, "u32:1"], &["--shared", "200000"]);
    shared.refused("emulated: twice: 200000 bytes of shared memory, but sm_80 allows 166912");

    let ptx = folder.path("twice.ptx");
    let launch = |file: &str, entry: &str| vicugna(&["emulate", file, entry, "--grid", "1", "--block", "1"]);
    launch(&ptx, "thrice").refused(&format!("{ptx}: has no kernel thrice"));
    std::fs::write(&ptx, TWICE.replace("add.f32", "frobnicate.f32")).unwrap();
    let ran = launch(&ptx, "twice");
    assert!(ran.code == 1 && ran.stderr.contains("line 18"), "{}", ran.stderr);
    assert_eq!(vicugna(&["emulate", &ptx, "twice", "--grid", "1,2,3,4", "--block", "1"]).code, 2);
    assert_eq!(vicugna(&["emulate", &ptx, "twice", "--grid", "1"]).code, 2);
}
