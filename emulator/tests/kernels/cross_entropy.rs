//! What the kernels of cross_entropy compute.

use crate::case::Arg::{F32 as Float, I64, U32 as Int};
use crate::case::{Bf16, Case, F32, Kind, U32};
use crate::catalogue::{draw, name};

pub const CROSS_ENTROPY: &str = include_str!("../../../ptx/cross_entropy.ptx");

/// Rows of logits with a target each: their losses, and `factor * (softmax - onehot)`.
fn softmax(logits: &[f64], targets: &[f64], factor: f64) -> (Vec<f64>, Vec<f64>) {
    let row = |(row, &target): (&[f64], &f64)| {
        let max = row.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
        let at = |c: usize| factor * ((row[c] - max).exp() / sum - f64::from(u8::from(c == target as usize)));
        (sum.ln() - (row[target as usize] - max), (0..row.len()).map(at).collect::<Vec<_>>())
    };
    let (losses, gradients): (Vec<f64>, Vec<_>) =
        logits.chunks(logits.len() / targets.len()).zip(targets).map(row).unzip();
    (losses, gradients.concat())
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // A block of 64 takes 1024 logits in packs at a time, 256 alone, of which a thread has four: the row ends in each.
    for v in [2 * 1024 + 4, 1024 + 256 + 44, 512 + 44, 768 + 4, 1024, 2 * 256 + 37, 256 + 97, 131, 197, 5] {
        let (rows, first) = (3, 2);
        let mut logits: Vec<f64> = draw(F32, v as u64, rows * v).iter().map(|x| F32.rounded(6.0 * x)).collect();
        logits[1] = f64::NEG_INFINITY;
        let targets = [0, v / 2, v - 1].map(|target| target as f64);
        let (losses, dlogits) = softmax(&logits, &targets, 40.0);
        let losses = [vec![7.0; first], losses].concat();
        let case = |entry: &str| {
            let all = vec![7.0; first + rows];
            Case::new(CROSS_ENTROPY, entry, &format!("{rows} x {v}"), [rows as u32, 1, 1], 64).changed(
                F32,
                &all,
                losses.clone(),
            )
        };
        let operands =
            |case: Case| case.input(F32, &logits).input(U32, &targets).scalar(Int(first as u32)).scalar(Int(v as u32));
        cases.push(operands(case("cross_entropy_fwd")));
        for kind in [F32, Bf16] {
            let case = case(&name("cross_entropy_fwd_bwd", kind)).output(kind, dlogits.clone());
            cases.push(operands(case).scalar(Float(40.0)));
        }
    }
    for n in [1, 1024 + 33] {
        let losses = draw(F32, 5, n);
        cases.push(
            Case::new(CROSS_ENTROPY, "cross_entropy_sum", &format!("{n}"), [1, 1, 1], 1024)
                .output(F32, vec![losses.iter().sum::<f64>() / 3.0])
                .input(F32, &losses)
                .scalar(Int(n as u32))
                .scalar(Float(3.0)),
        );
    }
    for kind in [F32, Bf16] {
        cases.extend(scatter(kind));
        cases.extend(bwd(kind));
    }
    cases
}

fn scatter(kind: Kind) -> impl Iterator<Item = Case> {
    let pack = 16 / kind.bytes();
    [(65 * pack, 64), (2 * pack, 32), (65, 64), (3, 32)].into_iter().map(move |(h, block)| {
        const NONE: usize = u32::MAX as usize;
        let (places, first) = ([NONE, 1, NONE, 0, 2], 2);
        let (before, drows) = (draw(kind, 1, (first + places.len()) * h), draw(kind, 2, 3 * h));
        let row = |&place: &usize| if place == NONE { vec![0.0; h] } else { drows[place * h..][..h].to_vec() };
        let after = [&before[..first * h], &places.iter().flat_map(row).collect::<Vec<_>>()].concat();
        let grid = [places.len() as u32, 1, 1];
        Case::new(CROSS_ENTROPY, &name("cross_entropy_scatter", kind), &format!("H {h}"), grid, block)
            .changed(kind, &before, after)
            .input(kind, &drows)
            .input(U32, &places.map(|place| place as f64))
            .scalar(Int(first as u32))
            .scalar(Int(h as u32))
    })
}

fn bwd(kind: Kind) -> impl Iterator<Item = Case> {
    let n = 512 * (16 / kind.bytes()) + 16 / kind.bytes() + 3;
    [(0.5, 2.0, n), (0.5, 2.0, 3), (1.0, 2.0, n), (1.0, f64::INFINITY, n)].into_iter().map(move |(dy, loss, n)| {
        let gradient = draw(kind, 4, n);
        let factor = if f64::is_finite(loss) { dy } else { f64::NAN };
        Case::new(CROSS_ENTROPY, &name("cross_entropy_bwd", kind), &format!("{n}, {dy} {loss}"), [2, 1, 1], 256)
            .changed(kind, &gradient, gradient.iter().map(|g| g * factor).collect())
            .input(F32, &[dy])
            .input(F32, &[loss])
            .scalar(I64(n as i64))
    })
}
