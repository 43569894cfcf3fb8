// AdamW over many tensors in one launch, and the norm of their gradients. Loshchilov & Hutter 2019,
// https://arxiv.org/abs/1711.05101; in PyTorch's order of operations.
//
//   grad_norm         partial[chunk] = sum of grad² over a chunk
//   grad_norm_finish  norm = sqrt(sum of partial), scale = min(1, max_norm / (norm + 1e-6)); where norm is not finite,
//                     scale is NaN
//   adamw             g = grad * scale, m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g²,
//                     param = param (1 - lr decay) - lr m / correction1 / (sqrt(v / correction2) + eps), where correctioni
//                     is 1 - betai^step; where scale is NaN, nothing changes
//
// Pointers: tensors [] and chunks [] as below; partial [chunks] norm [1] scale [1] in f32. All that tensors point to is
//   f32, [n], on 16-byte boundaries.
// Launch: grad_norm, adamw: grid chunks, block 256. grad_norm_finish: grid 1, block 1024.
// Numerics: f32; squares are summed as trees over lanes, warps and chunks, so the order depends on the shapes alone.
#include "common.cuh"

constexpr int64_t CHUNK = 8192;  // elements of a tensor that one block handles

struct Tensor {
    float* param;
    const float* grad;
    float* m;
    float* v;
    int64_t n;
};

// Elements index * CHUNK and on of a tensor.
struct Chunk {
    uint32_t tensor, index;
};

// The block's part of its tensor: one thread reads the tables for all. Calls f(width, part, i) for each of its packs.
template <typename F> DEVICE void for_chunk(const Tensor* tensors, const Chunk* chunks, F f) {
    __shared__ Tensor shared;
    if (threadIdx.x == 0) {
        const Chunk chunk = chunks[blockIdx.x];
        const Tensor t = tensors[chunk.tensor];
        const int64_t first = chunk.index * CHUNK;
        shared = {t.param + first, t.grad + first, t.m + first, t.v + first, least(CHUNK, t.n - first)};
    }
    __syncthreads();
    const Tensor part = {global(shared.param), global(shared.grad), global(shared.m), global(shared.v), shared.n};
    for (int64_t i = threadIdx.x * 4; i + 4 <= part.n; i += blockDim.x * 4) f(Width<4>{}, part, i);
    if (threadIdx.x < part.n % 4) f(Width<1>{}, part, part.n - part.n % 4 + threadIdx.x);
}

KERNEL(256)
grad_norm(float* __restrict__ partial, const Tensor* __restrict__ tensors, const Chunk* __restrict__ chunks) {
    float squares = 0.0f;
    for_chunk(tensors, chunks, [&](auto width, const Tensor& part, int64_t i) {
        constexpr int N = decltype(width)::value;
        const Pack<float, N> g = load<N>(part.grad + i);
#pragma unroll
        for (int j = 0; j < N; ++j) squares += g[j] * g[j];
    });
    squares = block_sum(squares);
    if (threadIdx.x == 0) partial[blockIdx.x] = squares;
}

KERNEL(1024)
grad_norm_finish(float* __restrict__ norm, float* __restrict__ scale, const float* __restrict__ partial, int chunks,
                 float max_norm) {
    float squares = 0.0f;
    for (int i = threadIdx.x; i < chunks; i += 1024) squares += partial[i];
    const float root = sqrtf(block_sum(squares));
    if (threadIdx.x != 0) return;
    *norm = root;
    *scale = root < INFINITY ? least(1.0f, max_norm / (root + 1e-6f)) : NAN;
}

KERNEL(256)
adamw(const Tensor* __restrict__ tensors, const Chunk* __restrict__ chunks, const float* __restrict__ scale, float lr,
      float beta1, float beta2, float eps, float decay, float correction1, float correction2) {
    const float factor = load_for_warp(scale);
    if (factor != factor) return;
    for_chunk(tensors, chunks, [&](auto width, const Tensor& part, int64_t i) {
        constexpr int N = decltype(width)::value;
        const Pack<float, N> g = load<N>(part.grad + i), p = load<N>(part.param + i);
        const Pack<float, N> m = load<N>(part.m + i), v = load<N>(part.v + i);
        float new_p[N], new_m[N], new_v[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float grad = g[j] * factor;
            new_m[j] = beta1 * m[j] + (1.0f - beta1) * grad;
            new_v[j] = beta2 * v[j] + (1.0f - beta2) * grad * grad;
            const float denominator = sqrtf(new_v[j] / correction2) + eps;
            new_p[j] = p[j] * (1.0f - lr * decay) - lr / correction1 * (new_m[j] / denominator);
        }
        store(part.param + i, rounded<float>(new_p));
        store(part.m + i, rounded<float>(new_m));
        store(part.v + i, rounded<float>(new_v));
    });
}
