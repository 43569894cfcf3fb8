// Sums of squares over many tensors in one launch.
//
//   grad_norm  partial[chunk] = (sum of grad² over the elements of up to 2⁴⁸ in size,
//                                sum of (grad * 2⁻⁸⁰)² over the others)
//
// So a sum is finite just where all elements are, and of a size that f32 has. The host adds the chunks of a tensor in
// f64, in order: partial[0] + 2¹⁶⁰ partial[1]. Elements below 2⁻⁷⁵ in size count as 0.
// Pointers: tensors [] and chunks [] as in tensors.cuh, of which only grad and n are read; partial [chunks, 2] in f32.
// Launch: grid chunks, block 256.
// Numerics: f32, sums as trees over lanes and warps.
#include "tensors.cuh"

constexpr float LARGE = 0x1p48f, SCALE = 0x1p-80f;

template <typename T> DEVICE void grad_norm(float* partial, const Tensor* tensors, const Chunk* chunks) {
    float squares[2] = {};
    for_chunk<T>(tensors, chunks, [&](auto width, const Part<T>& part, int64_t i) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> grad = load<N>(part.grad + i);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const bool large = fabsf(grad[j]) > LARGE;  // false for NaN, which the first sum shows
            const float g = large ? grad[j] * SCALE : grad[j];
            squares[0] += large ? 0.0f : g * g;
            squares[1] += large ? g * g : 0.0f;
        }
    });
    block_sums(squares);
    if (threadIdx.x == 0) store(partial + 2 * int64_t(blockIdx.x), rounded<float>(squares));
}

#define KERNELS(T, DTYPE)                                                                                              \
    KERNEL(256)                                                                                                        \
    grad_norm_##DTYPE(float* __restrict__ partial, const Tensor* __restrict__ tensors,                                 \
                      const Chunk* __restrict__ chunks) {                                                              \
        grad_norm<T>(partial, tensors, chunks);                                                                        \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
