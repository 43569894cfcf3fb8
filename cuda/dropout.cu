// Dropout. Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
// Philox 4x32-10. Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405
//
//   dropout  y = keep ? x * scale : 0; the backward pass is the same of dy
//
// Element e = first_element + i is kept where word e % 4 of philox(counter = e / 4 (two words), step, site; key = seed)
// is at least threshold. The host gives threshold = ceil(p * 2³²) and scale = 1 / (1 - p): the CPU's bits.
// Pointers: y x [n] in the kernel's dtype; y may be x.
// Launch: any grid, block 256; one 16-byte pack a thread where grid * 256 * 16 bytes reach n and first_element is a
//   multiple of 4, else one element.
// Numerics: one product in f32, rounded once.
#include "dropout.cuh"

template <int WIDTH, typename T> DEVICE void dropout(T* y, const T* x, int64_t n, const Dropout& mask) {
    for_packs<WIDTH>(n, [&](auto width, int64_t i) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> p = load<N>(x + i);
        float v[N];
        if constexpr (N == 1) v[0] = mask.keeps(i) ? p[0] * mask.scale : 0.0f;
        else mask.apply(v, p, i);
        store(y + i, rounded<T>(v));
    });
}

#define KERNELS(T, DTYPE)                                                                                              \
    KERNEL(256)                                                                                                        \
    dropout_##DTYPE(T* y, const T* x, int64_t n, uint64_t first_element, uint64_t seed, uint32_t step,                 \
                    uint32_t site, uint32_t threshold, float scale) {                                                  \
        const Dropout mask = {first_element, seed, step, site, threshold, scale};                                      \
        if (first_element % 4 == 0) dropout<PACK<T>>(y, x, n, mask);                                                   \
        else dropout<1>(y, x, n, mask);                                                                                \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
