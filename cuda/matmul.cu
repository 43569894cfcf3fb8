// Matrix multiplication: out = alpha * (a · b + a2 · b2) + addend, where a · b is [M, N].
//
//   matmul_nt    a [M, K], b [N, K], a2 [M, K2], b2 [N, K2]    a layer's product with its weight
//   matmul_nn    a [M, K], b [K, N], a2 [M, K2], b2 [K2, N]    the gradient of its input (dgrad)
//   matmul_tn    a [K, M], b [K, N], a2 [K2, M], b2 [K2, N]    the gradient of its weight (wgrad)
//   matmul_rows  as matmul_nt, for M up to 16
//   matmul_sum   out = alpha * (sum over slices) + addend
//
// Pointers: a b a2 b2 in the kernel's dtype, rows of memory lda ldb lda2 ldb2 elements apart; out and addend [M, N], rows
//   ldc apart, in f32 if out_f32, else in bf16; addend may be out, or null for nothing; a2 and b2 are not read where K2 is
//   0. Each starts on 16 bytes. But for `any`, so does each row of an operand, and where K is inner it is a multiple of
//   16 bytes.
// Launch: nt, nn, tn: grid (tiles of M * tiles of N, slices). `depth` is how much of K a slice takes, a multiple of 32;
//   slices = ceil(K / depth), at least 1. Each of several slices stores its sums alone: out is f32 [slices, M * N rounded
//   up to 4], ldc N, alpha 1, addend null, and matmul_sum adds them, `stride` elements apart: grid.y runs of
//   n elements, one of M * N, or where ldc is not N one for each of up to 65535 rows, N and ldc multiples of 4.
//   tile 256       128 x 256, block 256, 1 block an SM    85 FLOP for a byte from L2: an H100 at mma.sync's ~600 TFLOP/s
//                  asks 7 TB/s of its L2, near its limit; each warp has 64 x 64, so 32 mma for 8 ldmatrix
//   tile 128       128 x 128, block 128, 2 blocks an SM   64 FLOP for a byte, for fewer tiles; warps of 64 x 64
//   tile 64, any   64 x 64, block 128                     what has few rows or columns; rows that start anywhere
//   rows: grid ceil(N / 16), block 256. sum: any grid.x, block up to 256; 4
//   elements a thread.
//   shared matmul_nt_bf16_256 98304
//   shared matmul_nn_bf16_256 98304
//   shared matmul_tn_bf16_256 98304
//   shared matmul_nt_bf16_128 49152
//   shared matmul_nn_bf16_128 49152
//   shared matmul_tn_bf16_128 49152
//   shared matmul_nt_bf16_64 32768
//   shared matmul_nn_bf16_64 32768
//   shared matmul_tn_bf16_64 32768
//   shared matmul_nt_bf16_any 32768
//   shared matmul_nn_bf16_any 32768
//   shared matmul_tn_bf16_any 32768
//   shared matmul_nt_f32_64 32768
//   shared matmul_nn_f32_64 32768
//   shared matmul_tn_f32_64 32768
//   shared matmul_nt_f32_any 32768
//   shared matmul_nn_f32_any 32768
//   shared matmul_tn_f32_any 32768
// Numerics: bf16 on tensor cores, f32 by fused multiply-add; sums in f32 in order of K (rows: each of 8 warps adds every
//   8th stretch of K, then the warps in order), rounded once when stored.
#include "gemm.cuh"
#include "gemm_rows.cuh"

#define TILED(T, NAME, BM, BN, WARPS_M, WARPS_N, LAYOUT, A_INNER, B_INNER, ALIGNED)                                    \
    KERNEL(32 * WARPS_M * WARPS_N, 1)                                                                                  \
    matmul_##LAYOUT##_##NAME(void* out, const void* addend, const T* a, const T* b, const T* a2, const T* b2, int M,   \
                             int N, int K, int K2, int ldc, int lda, int ldb, int lda2, int ldb2, float alpha,         \
                             int out_f32, int depth) {                                                                 \
        Gemm<T, BM, BN, WARPS_M, WARPS_N, A_INNER, B_INNER, ALIGNED> block{M, N};                                      \
        block.run({out, addend, ldc, alpha, out_f32 != 0}, {a, b, lda, ldb, K}, {a2, b2, lda2, ldb2, K2}, depth);      \
    }

#define LAYOUTS(T, NAME, BM, BN, WARPS_M, WARPS_N, ALIGNED)                                                            \
    TILED(T, NAME, BM, BN, WARPS_M, WARPS_N, nt, true, true, ALIGNED)                                                  \
    TILED(T, NAME, BM, BN, WARPS_M, WARPS_N, nn, true, false, ALIGNED)                                                 \
    TILED(T, NAME, BM, BN, WARPS_M, WARPS_N, tn, false, false, ALIGNED)

LAYOUTS(bf16, bf16_256, 128, 256, 2, 4, true)
LAYOUTS(bf16, bf16_128, 128, 128, 2, 2, true)
LAYOUTS(bf16, bf16_64, 64, 64, 2, 2, true)
LAYOUTS(bf16, bf16_any, 64, 64, 2, 2, false)
LAYOUTS(float, f32_64, 64, 64, 2, 2, true)
LAYOUTS(float, f32_any, 64, 64, 2, 2, false)

KERNEL(256)
matmul_rows_bf16(void* out, const void* addend, const bf16* a, const bf16* b, const bf16* a2, const bf16* b2, int M,
                 int N, int K, int K2, int ldc, int lda, int ldb, int lda2, int ldb2, float alpha, int out_f32) {
    gemm_rows({out, addend, ldc, alpha, out_f32 != 0}, {a, b, lda, ldb, K}, {a2, b2, lda2, ldb2, K2}, M, N);
}

KERNEL(256)
matmul_sum(void* out, const void* addend, const float* slices, int64_t n, int count, int64_t stride, int ldc,
           float alpha, int out_f32) {
    const Result result = {out, addend, ldc, alpha, out_f32 != 0};
    slices += blockIdx.y * n;
    for_packs<4>(n, [&](auto width, int64_t i) {
        constexpr int N = decltype(width)::value;
        Pack<float, N> sum{};
        for (int slice = 0; slice < count; ++slice) {
            const Pack<float, N> more = load<N>(slices + slice * stride + i);
#pragma unroll
            for (int j = 0; j < N; ++j) sum.v[j] += more[j];
        }
        store_result(result, blockIdx.y * int64_t(ldc) + i, sum);
    });
}
