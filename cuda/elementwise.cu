// Sums, multiples and changes of dtype.
//
//   add_<dtype>           y = a + b; y may be a or b (accumulation in place)
//   scale_<dtype>         y = x * factor; y may be x
//   cast_f32_bf16         y = x rounded to nearest even; cast_bf16_f32 is exact
//
// Pointers: all [n]; add and scale in the kernel's dtype, cast from the first to the second.
// Launch: any grid, block 256; one pack a thread where grid * 256 packs reach n: 16 bytes, in casts 4 elements.
// Numerics: f32, rounded once when stored.
#include "common.cuh"

template <typename T> DEVICE void add(T* y, const T* a, const T* b, int64_t n) {
    for_packs<PACK<T>>(n, [&](auto width, int64_t i) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> p = load<N>(a + i), q = load<N>(b + i);
        float v[N];
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = p[j] + q[j];
        store(y + i, rounded<T>(v));
    });
}

template <typename To, int WIDTH, typename From> DEVICE void scale(To* y, const From* x, int64_t n, float factor) {
    for_packs<WIDTH>(n, [&](auto width, int64_t i) {
        constexpr int N = decltype(width)::value;
        const Pack<From, N> p = load<N>(x + i);
        float v[N];
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = p[j] * factor;
        store(y + i, rounded<To>(v));
    });
}

KERNEL(256) add_f32(float* y, const float* a, const float* b, int64_t n) { add(y, a, b, n); }
KERNEL(256) add_bf16(bf16* y, const bf16* a, const bf16* b, int64_t n) { add(y, a, b, n); }
KERNEL(256) scale_f32(float* y, const float* x, int64_t n, float factor) { scale<float, 4>(y, x, n, factor); }
KERNEL(256) scale_bf16(bf16* y, const bf16* x, int64_t n, float factor) { scale<bf16, 8>(y, x, n, factor); }
KERNEL(256) cast_f32_bf16(bf16* __restrict__ y, const float* __restrict__ x, int64_t n) {
    scale<bf16, 4>(y, x, n, 1.0f);
}
KERNEL(256) cast_bf16_f32(float* __restrict__ y, const bf16* __restrict__ x, int64_t n) {
    scale<float, 4>(y, x, n, 1.0f);
}
