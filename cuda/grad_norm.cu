// The sums of squares of many tensors, and what clips their norm. Pascanu et al. 2013, https://arxiv.org/abs/1211.5063;
// the formula of PyTorch's clip_grad_norm_.
//
//   grad_norm       partial[chunk] = (sum of grad² over the elements of up to 2⁴⁴ in size,
//                                     sum of (grad * 2⁻⁸⁴)² over the others)
//   grad_norm_sum   squares[tensor] = sum of partial over the tensor's chunks
//   grad_norm_clip  scale = min(1, max_norm / (norm + 1e-6)), where norm² = the sum of squares; NaN where that is not
//                   finite
//
// So a sum is finite just where all elements are, and stands for a + 2¹⁶⁸ b, with a and b of a size that f32 has up to
// 2³⁹ elements. Elements below 2⁻⁷⁵ in size count as 0.
// Pointers: tensors [] and chunks [] as in tensors.cuh, of which only grad, n, first and is_bf16 are read; partial
//   [chunks, 2], squares [tensors, 2], scale [1] in f32.
// Launch: grad_norm: grid chunks, sum: grid tensors, clip: grid 1; block 256.
// Numerics: f32, sums as trees over lanes and warps.
#include "tensors.cuh"

constexpr float LARGE = 0x1p44f, SCALE = 0x1p-84f;

KERNEL(256)
grad_norm(float* __restrict__ partial, const Tensor* __restrict__ tensors, const uint32_t* __restrict__ chunks) {
    float squares[2] = {};
    for_chunk(tensors, chunks, [&](auto width, const auto& part, int64_t i) {
        constexpr int N = decltype(width)::value;
        const auto grad = load<N>(part.grad + i);
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

// Pairs [n, 2], over the block.
DEVICE void sum_pairs(float (&sums)[2], const float* pairs, int64_t n) {
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        const Pack<float, 2> pair = load<2>(pairs + 2 * i);
        sums[0] += pair[0], sums[1] += pair[1];
    }
    block_sums(sums);
}

KERNEL(256)
grad_norm_sum(float* __restrict__ squares, const Tensor* __restrict__ tensors, const float* __restrict__ partial) {
    __shared__ int64_t first, n;
    if (threadIdx.x == 0) first = tensors[blockIdx.x].first, n = tensors[blockIdx.x].n;
    __syncthreads();
    float sums[2] = {};
    sum_pairs(sums, partial + 2 * first, (n + CHUNK - 1) / CHUNK);
    if (threadIdx.x == 0) store(squares + 2 * int64_t(blockIdx.x), rounded<float>(sums));
}

KERNEL(256)
grad_norm_clip(float* __restrict__ scale, const float* __restrict__ squares, int tensors, float max_norm) {
    float sums[2] = {};
    sum_pairs(sums, squares, tensors);
    if (threadIdx.x != 0) return;
    // The norm in a unit that it does not overflow in.
    const bool large = sums[1] > 0.0f;
    const float unit = large ? SCALE : 1.0f;
    const float norm = sqrtf(large ? sums[1] + sums[0] * SCALE * SCALE : sums[0]);
    const float clip = max_norm * unit / (norm + 1e-6f * unit);
    *scale = is_finite(sums[0]) && is_finite(sums[1]) ? least(1.0f, clip) : NOT_A_NUMBER;
}
