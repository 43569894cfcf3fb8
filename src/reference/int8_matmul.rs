//! `y = x · wᵀ` with int8 weights: LLM.int8(), a row at a time. Dettmers et al. 2022, arXiv:2208.07339.
//!
//! What is rounded to integers is rounded in f32, in the order written here, which is the specification bit for bit; sums of
//! integers are exact, and all behind them is generic.

use super::Real;

/// A row as integers, and what of it stayed floats.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// `round(x * (127 / absmax))`, 0 where an outlier is.
    pub codes: Vec<i32>,
    /// The largest magnitude below the threshold.
    pub absmax: f32,
    /// The place and the value of each outlier.
    pub outliers: Vec<(usize, f32)>,
}

/// Quantizes a row. Without a threshold (0) nothing is an outlier, and a row that is not finite has an absmax of NaN.
pub fn quantize_row(x: &[f32], threshold: f32) -> Row {
    let is_inside = |x: f32| if threshold > 0.0 { x.abs() < threshold } else { x.is_finite() };
    let outliers: Vec<(usize, f32)> = x.iter().copied().enumerate().filter(|(_, x)| !is_inside(*x)).collect();
    if threshold == 0.0 && !outliers.is_empty() {
        return Row { codes: vec![0; x.len()], absmax: f32::NAN, outliers: vec![] };
    }
    let inside = x.iter().copied().filter(|x| is_inside(*x));
    let absmax = inside.fold(0.0, |absmax: f32, x| if x.abs() > absmax { x.abs() } else { absmax });
    if absmax < 127.0 / f32::MAX {
        return Row { codes: vec![0; x.len()], absmax: 0.0, outliers };
    }
    let code = |x: f32| (x * (127.0 / absmax)).round_ties_even().clamp(-127.0, 127.0) as i32;
    let codes = x.iter().map(|x| if is_inside(*x) { code(*x) } else { 0 }).collect();
    Row { codes, absmax, outliers }
}

/// `x` `[rows, K]` → its rows.
pub fn quantize(x: &[f32], k: usize, threshold: f32) -> Vec<Row> {
    x.chunks(k).map(|x| quantize_row(x, threshold)).collect()
}

/// `rows` of activations and of a weight → `y` `[rows, N]`.
pub fn forward<R: Real>(rows: &[Row], weight: &[Row]) -> Vec<R> {
    let mut y = Vec::new();
    for row in rows {
        for column in weight {
            let (scale, s_w) = (scale::<R>(row), scale::<R>(column));
            let sum: i64 = row.codes.iter().zip(&column.codes).map(|(&q, &w)| i64::from(q) * i64::from(w)).sum();
            let mut total = R::from_f64(sum as f64) * (scale * s_w);
            for &(k, x) in &row.outliers {
                total = total + R::from_f64(f64::from(x)) * (R::from_f64(f64::from(column.codes[k])) * s_w);
            }
            y.push(total);
        }
    }
    y
}

/// The rows of `dy` `[rows, N]` as integers, each element times its column's scale.
pub fn quantize_gradient(dy: &[f32], weight: &[Row]) -> Vec<Row> {
    let scaled =
        dy.chunks(weight.len()).map(|dy| dy.iter().zip(weight).map(|(dy, w)| dy * (w.absmax / 127.0)).collect());
    scaled.map(|row: Vec<f32>| quantize_row(&row, 0.0)).collect()
}

/// What [`quantize_gradient`] made of `dy` → `dx` `[rows, K]`.
pub fn backward<R: Real>(dy: &[Row], weight: &[Row], k: usize) -> Vec<R> {
    let mut dx = Vec::new();
    for row in dy {
        for i in 0..k {
            let sum: i64 = row.codes.iter().zip(weight).map(|(&q, w)| i64::from(q) * i64::from(w.codes[i])).sum();
            dx.push(R::from_f64(sum as f64) * scale::<R>(row));
        }
    }
    dx
}

/// The weight in floats, `[N, K]`.
pub fn dequantize<R: Real>(weight: &[Row]) -> Vec<R> {
    let row = |row: &Row| row.codes.iter().map(|&w| R::from_f64(f64::from(w)) * scale::<R>(row)).collect::<Vec<R>>();
    weight.iter().flat_map(row).collect()
}

fn scale<R: Real>(row: &Row) -> R {
    R::from_f64(f64::from(row.absmax)) / R::from_f64(127.0)
}
