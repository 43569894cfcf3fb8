// Low-rank adapters, and their products that drop elements of the input. Hu et al. 2021, https://arxiv.org/abs/2106.09685
//
//   lora_operands    to = scale * from, with zeros beyond its rows and columns, of many matrices at once
//   lora_xa    out = alpha * dropout(a) · bᵀ               the input's product with A: a [M, K], b [N, K]
//   lora_da    out = alpha * aᵀ · dropout(b)               the gradient of A: a [K, M], b [K, N]
//   lora_dx    out = alpha * (dropout(a2 · b2) + a · b) + addend     the gradient of the input: a [M, K], b [K, N],
//              a2 [M, K2], b2 [K2, N]
//
// Pointers: matrices [count] of Operand; each from [rows, columns] in f32, to [padded_rows, padded_columns] in the kernel's
//   dtype. Launch: grid (count, any), block 256.
// Of the products, pointers, launch and sums are those of matmul_nt, matmul_tn and matmul_nn (matmul.cu); K2 is 0 but for
//   lora_dx. What is dropped is that of dropout.cu, of xa and da by an element's number in the memory of its operand, of dx
//   by its number in the result with rows of N. But for `any`, first_element and N of dx are multiples of 4.
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

// One matrix of an adapter, as the products of its layer read it.
struct Operand {
    const float* from;
    void* to;
    int rows, columns, padded_rows, padded_columns;
    float scale;
    int unused;
};

// The blocks of a matrix go through it element by element; a thread divides once, then counts rows and columns.
template <typename T> DEVICE void operands(const Operand* matrices) {
    __shared__ Operand shared;
    if (threadIdx.x == 0) shared = matrices[blockIdx.x];
    __syncthreads();
    const Operand& m = shared;
    const float* from = global(m.from);
    T* to = global(static_cast<T*>(m.to));
    const int64_t n = int64_t(m.padded_rows) * m.padded_columns, step = int64_t(gridDim.y) * blockDim.x;
    int64_t i = blockIdx.y * int64_t(blockDim.x) + threadIdx.x;
    int row = int(i / m.padded_columns), column = int(i % m.padded_columns);
    const int rows_step = int(step / m.padded_columns), columns_step = int(step % m.padded_columns);
#pragma unroll 1
    for (; i < n; i += step) {
        const bool is_inside = row < m.rows && column < m.columns;
        to[i] = from_float<T>(is_inside ? m.scale * from[int64_t(row) * m.columns + column] : 0.0f);
        row += rows_step, column += columns_step;
        if (column >= m.padded_columns) column -= m.padded_columns, ++row;
    }
}

KERNEL(256) lora_operands_bf16(const Operand* __restrict__ matrices) { operands<bf16>(matrices); }
KERNEL(256) lora_operands_f32(const Operand* __restrict__ matrices) { operands<float>(matrices); }
