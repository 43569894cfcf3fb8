// Gated activation. Shazeer 2020, https://arxiv.org/abs/2002.05202
//
//   swiglu_fwd  y = gate * s * up, s = 1 / (1 + exp(-gate))
//   swiglu_fwd_int8  the same of rows [rows, K], and y as quantize_rows makes it (quantize.cu)
//   swiglu_bwd  dgate = dy * up * s * (1 + gate * (1 - s)), dup = dy * gate * s
//
// Pointers: all [n] in the kernel's dtype; dgate and dup may each take the place of dy, gate or up.
// Launch: any grid, block 256; one 16-byte pack a thread where grid * 256 * 16 bytes reach n. int8: grid rows, block a
//   multiple of 32 up to 1024, 16 * block >= K, K a multiple of 16 bytes.
// Numerics: f32, rounded once when stored.
#include "quantize.cuh"

DEVICE float sigmoid(float v) { return 1.0f / (1.0f + expf(-v)); }

template <typename T> DEVICE void forward(T* y, const T* gate, const T* up, int64_t n) {
    for_packs<PACK<T>>(n, [&](auto width, int64_t i) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> g = load<N>(gate + i), u = load<N>(up + i);
        float v[N];
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = g[j] * sigmoid(g[j]) * u[j];
        store(y + i, rounded<T>(v));
    });
}

template <typename T> DEVICE void forward_int8(T* y, const Int8Rows& to, const T* gate, const T* up, int K) {
    constexpr int N = PACK<T>;
    const int64_t row = int64_t(blockIdx.x) * K;
    Pack<T, N> g[HELD<N>], u[HELD<N>];
    Row<N>::fetch(g, gate + row, 0, K, Pack<T, N>{});
    Row<N>::fetch(u, up + row, 0, K, Pack<T, N>{});
    float v[HELD<N>][N];
#pragma unroll
    for (int i = 0; i < HELD<N>; ++i) {
        const int c = Row<N>::column(0, i);
#pragma unroll
        for (int j = 0; j < N; ++j) v[i][j] = round_to<T>(g[i][j] * sigmoid(g[i][j]) * u[i][j]);
        if (c < K) store(y + row + c, rounded<T>(v[i]));
    }
    to.store<N, false>(v, 0, to.begin(block_max(largest_inside<N>(v, to.limit))));
}

template <typename T> DEVICE void backward(T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t n) {
    for_packs<PACK<T>>(n, [&](auto width, int64_t i) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> d = load<N>(dy + i), g = load<N>(gate + i), u = load<N>(up + i);
        float dg[N], du[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float s = sigmoid(g[j]);
            dg[j] = d[j] * u[j] * s * (1.0f + g[j] * (1.0f - s));
            du[j] = d[j] * g[j] * s;
        }
        store(dgate + i, rounded<T>(dg));
        store(dup + i, rounded<T>(du));
    });
}

#define KERNELS(T, DTYPE)                                                                                              \
    KERNEL(256)                                                                                                        \
    swiglu_fwd_##DTYPE(T* __restrict__ y, const T* __restrict__ gate, const T* __restrict__ up, int64_t n) {           \
        forward(y, gate, up, n);                                                                                       \
    }                                                                                                                  \
    KERNEL(1024)                                                                                                       \
    swiglu_fwd_int8_##DTYPE(T* __restrict__ y, int8_t* __restrict__ q, float* __restrict__ scale,                      \
                            uint32_t* __restrict__ flags, const T* __restrict__ gate, const T* __restrict__ up, int K, \
                            int stride, float limit) {                                                                 \
        forward_int8(y, {q, scale, flags, stride, limit}, gate, up, K);                                                \
    }                                                                                                                  \
    KERNEL(256) swiglu_bwd_##DTYPE(T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t n) {             \
        backward(dgate, dup, dy, gate, up, n);                                                                         \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
