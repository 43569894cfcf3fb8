//! The report of counters at the end of a process.

use crate::process::succeeds;
use std::path::Path;

#[test]
fn counters_are_reported_if_the_environment_asks() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("counters-{}.json", std::process::id()));
    succeeds("kernels::elementwise", &[("VICUGNA_EMULATED_COUNTERS", file.to_str().unwrap())]);
    let json = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(json.starts_with("[{\"kernel\":\"add_f32\",\"launches\":1,\"counters\":{"), "{json}");
    assert!(json.contains("\"global_store_bytes\":1332,"), "{json}");
    let table = succeeds("kernels::elementwise", &[("VICUGNA_EMULATED_COUNTERS", "-")]);
    assert!(table.contains("add_f32, launches: 1\n"), "{table}");
    assert!(!succeeds("kernels::elementwise", &[]).contains("launches"));
}
