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
#include "common.cuh"

struct Words {
    uint32_t w[4];
};

DEVICE Words philox(uint64_t block, uint32_t step, uint32_t site, uint64_t seed) {
    uint32_t c0 = uint32_t(block), c1 = uint32_t(block >> 32), c2 = step, c3 = site;
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t(0xd2511f53) * c0, p1 = uint64_t(0xcd9e8d57) * c2;
        c0 = uint32_t(p1 >> 32) ^ c1 ^ k0, c1 = uint32_t(p1);
        c2 = uint32_t(p0 >> 32) ^ c3 ^ k1, c3 = uint32_t(p0);
        k0 += 0x9e3779b9, k1 += 0xbb67ae85;
    }
    return {c0, c1, c2, c3};
}

template <int WIDTH, typename T>
DEVICE void dropout(T* y, const T* x, int64_t n, uint64_t first, uint64_t seed, uint32_t step, uint32_t site,
                    uint32_t threshold, float scale) {
    for_packs<WIDTH>(n, [&](auto width, int64_t i) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> p = load<N>(x + i);
        float v[N];
#pragma unroll
        for (int j = 0; j < N; j += 4) {
            const Words words = philox((first + i + j) / 4, step, site, seed);
#pragma unroll
            for (int e = 0; e < least(N, 4); ++e) {
                uint32_t word = words.w[e];
                if (N == 1) {
                    const int w = (first + i) % 4;
                    word = w == 0 ? words.w[0] : w == 1 ? words.w[1] : w == 2 ? words.w[2] : words.w[3];
                }
                v[j + e] = word >= threshold ? p[j + e] * scale : 0.0f;
            }
        }
        store(y + i, rounded<T>(v));
    });
}

#define KERNELS(T, DTYPE)                                                                                              \
    KERNEL(256)                                                                                                        \
    dropout_##DTYPE(T* y, const T* x, int64_t n, int64_t first_element, int64_t seed, int step, int site,              \
                    int threshold, float scale) {                                                                      \
        if (first_element % 4 == 0) dropout<PACK<T>>(y, x, n, first_element, seed, step, site, threshold, scale);      \
        else dropout<1>(y, x, n, first_element, seed, step, site, threshold, scale);                                   \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
