// Matrix multiplication: out = alpha * (a · b + a2 · b2) + addend, where a · b is [M, N].
//
//   matmul_nt    a [M, K], b [N, K], a2 [M, K2], b2 [N, K2]    a layer's product with its weight
//   matmul_nn    a [M, K], b [K, N], a2 [M, K2], b2 [K2, N]    the gradient of its input
//   matmul_tn    a [K, M], b [K, N], a2 [K2, M], b2 [K2, N]    the gradient of its weight
//   matmul_rows  as matmul_nt, for M up to 16
//   matmul_sum   out = alpha * (sum of n elements over slices) + addend
//
// Pointers: a b a2 b2 in the kernel's dtype; out and addend [M, N] in f32 if out_f32, else in bf16; addend may be out,
//   or null for nothing; a2 and b2 are not read where K2 is 0. Each starts on 16 bytes.
// Launch: nt, nn, tn: grid (tiles of M * tiles of N, slices) with a tile's size in the kernel's name; block 128. `depth`
//   is how much of K a slice takes, a multiple of 32; slices = ceil(K / depth), at least 1. Each of several slices stores
//   its sums alone: out is f32 [slices, M * N rounded up to 4], alpha 1, addend null, and matmul_sum adds them.
//   rows: grid ceil(N / 16), block 256. sum: any grid, block 256; 4 elements a thread.
// Numerics: bf16 on tensor cores, f32 by fused multiply-add; sums in f32 in order of K (rows: each of 8 warps adds every
//   8th stretch of K, then the warps in order), rounded once when stored.
#include "gemm.cuh"
#include "gemm_rows.cuh"

#define TILED(T, DTYPE, TILE, LAYOUT, A_INNER, B_INNER)                                                                \
    KERNEL(128)                                                                                                        \
    matmul_##LAYOUT##_##DTYPE##_##TILE(void* out, const void* addend, const T* a, const T* b, const T* a2,             \
                                       const T* b2, int M, int N, int K, int K2, float alpha, int out_f32,             \
                                       int depth) {                                                                    \
        gemm<T, TILE, TILE, A_INNER, B_INNER>({out, addend, alpha, out_f32 != 0}, {a, b, K}, {a2, b2, K2}, M, N,       \
                                              depth);                                                                  \
    }

#define LAYOUTS(T, DTYPE, TILE)                                                                                        \
    TILED(T, DTYPE, TILE, nt, true, true)                                                                              \
    TILED(T, DTYPE, TILE, nn, true, false)                                                                             \
    TILED(T, DTYPE, TILE, tn, false, false)

LAYOUTS(bf16, bf16, 128)
LAYOUTS(bf16, bf16, 64)
LAYOUTS(float, f32, 64)

KERNEL(256)
matmul_rows_bf16(void* out, const void* addend, const bf16* a, const bf16* b, const bf16* a2, const bf16* b2, int M,
                 int N, int K, int K2, float alpha, int out_f32) {
    gemm_rows({out, addend, alpha, out_f32 != 0}, {a, b, K}, {a2, b2, K2}, M, N);
}

KERNEL(256)
matmul_sum(void* out, const void* addend, const float* slices, int64_t n, int count, float alpha, int out_f32) {
    const Result result = {out, addend, alpha, out_f32 != 0};
    for_packs<4>(n, [&](auto width, int64_t i) {
        constexpr int N = decltype(width)::value;
        Pack<float, N> sum{};
        for (int slice = 0; slice < count; ++slice) {
            const Pack<float, N> more = load<N>(slices + slice * slice_stride(n) + i);
#pragma unroll
            for (int j = 0; j < N; ++j) sum.v[j] += more[j];
        }
        store_result(result, i, sum);
    });
}
