// Matrix multiplication: out = alpha * (a · b + a2 · b2) + addend, where a · b is [M, N].
//
//   matmul_nt  a [M, K], b [N, K], a2 [M, K2], b2 [N, K2]    a layer's product with its weight
//   matmul_nn  a [M, K], b [K, N], a2 [M, K2], b2 [K2, N]    the gradient of its input
//   matmul_tn  a [K, M], b [K, N], a2 [K2, M], b2 [K2, N]    the gradient of its weight
//
// Pointers: a b a2 b2 in the kernel's dtype; out and addend [M, N] in f32 if out_f32, else in bf16; addend may be out,
//   or null for nothing; a2 and b2 are not read where K2 is 0. Each starts on 16 bytes.
// Launch: grid (ceil(N / tile), ceil(M / tile), slices) with the tile in the kernel's name; block 128. `depth` is how
//   much of K a slice takes, a multiple of 32; slices = ceil(K / depth), at least 1. Of more than one slice, each stores
//   its sums alone: out is f32 [slices, M, N], alpha 1, addend null.
// Numerics: bf16 on tensor cores, f32 by fused multiply-add; sums in f32 in order of K, rounded once when stored.
#include "gemm.cuh"

#define TILED(T, DTYPE, TILE, LAYOUT, A_INNER, B_INNER)                                                                \
    KERNEL(128)                                                                                                        \
    matmul_##LAYOUT##_##DTYPE##_##TILE(void* out, const void* addend, const T* a, const T* b, const T* a2,             \
                                       const T* b2, int M, int N, int K, int K2, float alpha, int depth,               \
                                       int out_f32) {                                                                  \
        gemm<T, TILE, TILE, A_INNER, B_INNER>({out, addend, alpha}, out_f32, {a, b, K}, {a2, b2, K2}, M, N, depth);    \
    }

#define KERNELS(T, DTYPE, TILE)                                                                                        \
    TILED(T, DTYPE, TILE, nt, true, true)                                                                              \
    TILED(T, DTYPE, TILE, nn, true, false)                                                                             \
    TILED(T, DTYPE, TILE, tn, false, false)

KERNELS(bf16, bf16, 128)
KERNELS(bf16, bf16, 64)
KERNELS(float, f32, 128)
KERNELS(float, f32, 64)
