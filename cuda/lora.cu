// The products of a low-rank adapter that drop elements of its input. Hu et al. 2021, https://arxiv.org/abs/2106.09685
//
//   lora_xa    out = alpha * dropout(a) · bᵀ               the input's product with A: a [M, K], b [N, K]
//   lora_da    out = alpha * aᵀ · dropout(b)               the gradient of A: a [K, M], b [K, N]
//   lora_dx    out = alpha * (dropout(a2 · b2) + a · b) + addend     the gradient of the input: a [M, K], b [K, N],
//              a2 [M, K2], b2 [K2, N]
//
// Pointers, launch and sums are those of matmul_nt, matmul_tn and matmul_nn (matmul.cu); K2 is 0 but for lora_dx. What is
//   dropped is that of dropout.cu: of xa and da by an element's number in its operand, whose rows of memory lie end to end,
//   of dx by its number in the result, rows of N end to end. But for `any`, first_element is a multiple of 4.
//   shared lora_xa_bf16_64 32768
//   shared lora_xa_bf16_any 32768
//   shared lora_da_bf16_64 32768
//   shared lora_da_bf16_any 32768
//   shared lora_dx_bf16_256 98304
//   shared lora_dx_bf16_128 49152
//   shared lora_dx_bf16_64 32768
//   shared lora_dx_bf16_any 32768
//   shared lora_xa_f32_64 32768
//   shared lora_xa_f32_any 32768
//   shared lora_da_f32_64 32768
//   shared lora_da_f32_any 32768
//   shared lora_dx_f32_64 32768
//   shared lora_dx_f32_any 32768
// Numerics: a mask is drawn once for each element: a thread drops from the chunks that it copied to shared memory, where
//   they are rounded to the kernel's dtype; the extension of dx comes first and is dropped from in f32, in the accumulators.
#include "gemm.cuh"

#define DROPPING(OP, T, NAME, BM, BN, WARPS_M, WARPS_N, A_INNER, B_INNER, ALIGNED, DROPPED)                            \
    KERNEL(32 * WARPS_M * WARPS_N, 1)                                                                                  \
    lora_##OP##_##NAME(void* out, const void* addend, const T* a, const T* b, const T* a2, const T* b2, int M, int N,  \
                       int K, int K2, int ldc, int lda, int ldb, int lda2, int ldb2, float alpha, int out_f32,         \
                       int depth, uint64_t first_element, uint64_t seed, uint32_t step, uint32_t site,                 \
                       uint32_t threshold, float scale) {                                                              \
        Gemm<T, BM, BN, WARPS_M, WARPS_N, A_INNER, B_INNER, ALIGNED, Dropped::DROPPED> block{                          \
            M, N, {first_element, seed, step, site, threshold, scale}};                                                \
        block.run({out, addend, ldc, alpha, out_f32 != 0}, {a, b, lda, ldb, K}, {a2, b2, lda2, ldb2, K2}, depth);      \
    }

#define XA_DA(T, NAME, ALIGNED)                                                                                        \
    DROPPING(xa, T, NAME, 64, 64, 2, 2, true, true, ALIGNED, A)                                                        \
    DROPPING(da, T, NAME, 64, 64, 2, 2, false, false, ALIGNED, B)
#define DX(T, NAME, BM, BN, WARPS_M, WARPS_N, ALIGNED)                                                                 \
    DROPPING(dx, T, NAME, BM, BN, WARPS_M, WARPS_N, true, false, ALIGNED, EXTENSION)

XA_DA(bf16, bf16_64, true)
XA_DA(bf16, bf16_any, false)
DX(bf16, bf16_256, 128, 256, 2, 4, true)
DX(bf16, bf16_128, 128, 128, 2, 2, true)
DX(bf16, bf16_64, 64, 64, 2, 2, true)
DX(bf16, bf16_any, 64, 64, 2, 2, false)

XA_DA(float, f32_64, true)
XA_DA(float, f32_any, false)
DX(float, f32_64, 64, 64, 2, 2, true)
DX(float, f32_any, 64, 64, 2, 2, false)
