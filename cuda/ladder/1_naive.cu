// First rung of the ladder: out = a · bᵀ, one thread an element.
//
//   gemm_naive    a [M, K], b [N, K] → out [M, N]
//
// Pointers: a b in bf16, out in f32, all row after row.
// Launch: grid (ceil(N / 256), M), block 256.
// Numerics: sums in f32 in order of K.
//
// What it teaches: a product of matrices is a dot product for each element, and its threads share nothing. An element
// of `a` is asked for N times and one of `b` M times, so memory moves two elements for each multiplication. A warp's lanes
// stand in one row of the result: they read the same element of `a`, which costs one sector, and 32 rows of `b`, each
// K elements from the next, which cost 32 sectors of 32 bytes for 2 bytes of each (uncoalesced access).
#include "../common.cuh"

KERNEL(256) gemm_naive(float* out, const bf16* a, const bf16* b, int M, int N, int K) {
    const int row = blockIdx.y, column = blockIdx.x * 256 + threadIdx.x;
    if (column >= N) return;
    const bf16 *left = a + int64_t(row) * K, *right = b + int64_t(column) * K;
    float sum = 0;
    for (int k = 0; k < K; ++k) sum += to_float(left[k]) * to_float(right[k]);
    out[int64_t(row) * N + column] = sum;
}
