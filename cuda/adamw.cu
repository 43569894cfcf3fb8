// AdamW over many tensors in one launch. Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101; in PyTorch's order
// of operations.
//
//   adamw  g = gradient_scale * grad, m = m + (1 - beta1) * (g - m), v = beta2 * v + (1 - beta2) * g²,
//          param = decay * param - step_size * m / (sqrt(v) / sqrt_c2 + eps)
//
// The host computes the factors in f64 and rounds each once: decay = 1 - learning_rate * weight_decay, step_size =
// learning_rate / c1, sqrt_c2 = sqrt(c2), where ci = 1 - betai^step. Where gradient_scale is not finite nothing changes.
// Pointers: tensors [] and chunks [] as in tensors.cuh; gradient_scale [1] in f32.
// Launch: grid chunks, block 256.
// Numerics: f32.
#include "tensors.cuh"

KERNEL(256)
adamw(const Tensor* __restrict__ tensors, const uint32_t* __restrict__ chunks, const float* __restrict__ gradient_scale,
      float decay, float one_minus_beta1, float beta2, float one_minus_beta2, float sqrt_c2, float eps,
      float step_size) {
    const float scale = load_for_warp(gradient_scale);
    if (!is_finite(scale)) return;
    for_chunk(tensors, chunks, [&](auto width, const auto& part, int64_t i) {
        constexpr int N = decltype(width)::value;
        const auto grad = load<N>(part.grad + i);
        const Pack<float, N> p = load<N>(part.param + i), m = load<N>(part.m + i), v = load<N>(part.v + i);
        float new_p[N], new_m[N], new_v[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float g = scale * grad[j];
            new_m[j] = m[j] + one_minus_beta1 * (g - m[j]);
            new_v[j] = beta2 * v[j] + one_minus_beta2 * g * g;
            const float denominator = sqrtf(new_v[j]) / sqrt_c2 + eps;
            new_p[j] = decay * p[j] - step_size * new_m[j] / denominator;
        }
        store(part.param + i, rounded<float>(new_p));
        store(part.m + i, rounded<float>(new_m));
        store(part.v + i, rounded<float>(new_v));
    });
}
