//! The mean of the scales, summed in the order that PyTorch sums on one thread of a CPU: a file that is quantized here has the
//! bits of one that bitsandbytes quantized.

/// Floats in one of its vectors.
const LANES: usize = 8;
/// Vectors that it adds to running sums of their own.
const STREAMS: usize = 4;
/// Vectors of a stream whose sum is carried to the next level, on each of the levels.
const STEP: usize = 16;
const LEVELS: usize = 4;

type Vector = [f32; LANES];

/// The mean, NaN of nothing.
pub fn mean(values: &[f32]) -> f32 {
    let (vectors, rest) = values.as_chunks::<LANES>();
    let sum = if vectors.is_empty() { few(rest) } else { sum_vectors(vectors).iter().fold(rest.iter().sum(), add) };
    sum / values.len() as f32
}

fn add(sum: f32, value: &f32) -> f32 {
    sum + value
}

/// Fewer than a vector: every fourth element has a sum of its own.
fn few(values: &[f32]) -> f32 {
    let (streams, rest) = values.as_chunks::<STREAMS>();
    let Some([first, others @ ..]) = streams.first() else { return rest.iter().fold(0.0, add) };
    others.iter().fold(rest.iter().fold(*first, add), add)
}

fn sum_vectors(vectors: &[Vector]) -> Vector {
    let (streams, rest) = vectors.as_chunks::<STREAMS>();
    let sums: [Vector; STREAMS] = std::array::from_fn(|i| cascade(streams, i));
    let [first, others @ ..] = &sums;
    others.iter().fold(rest.iter().fold(*first, plus), plus)
}

fn plus(sum: Vector, values: &Vector) -> Vector {
    std::array::from_fn(|i| sum[i] + values[i])
}

/// The sum of the vectors of one stream: after each 16 their sum is added to the next level's, and so on.
fn cascade(streams: &[[Vector; STREAMS]], stream: usize) -> Vector {
    let mut levels = [[0.0; LANES]; LEVELS];
    for (i, vectors) in streams.iter().enumerate() {
        levels[0] = plus(levels[0], &vectors[stream]);
        carry(&mut levels, i + 1);
    }
    let [first, others @ ..] = &levels;
    others.iter().fold(*first, plus)
}

/// Empties the levels that are full after `count` vectors into those above.
fn carry(levels: &mut [Vector; LEVELS], mut count: usize) {
    for level in 1..LEVELS {
        if !count.is_multiple_of(STEP) {
            return;
        }
        levels[level] = plus(levels[level], &levels[level - 1]);
        levels[level - 1] = [0.0; LANES];
        count /= STEP;
    }
}
