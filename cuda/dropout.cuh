// The mask of dropout: a pure function of its key and an element's number.
// Philox 4x32-10. Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405
#pragma once

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

// Element e of a tensor is kept where word (first + e) % 4 of philox((first + e) / 4, step, site; seed) is at least
// `threshold`, and then multiplied by `scale`.
struct Dropout {
    uint64_t first, seed;
    uint32_t step, site, threshold;
    float scale;

    DEVICE Words words(uint64_t block) const { return philox(block, step, site, seed); }

    DEVICE bool keeps(int64_t element) const {
        const uint64_t e = first + element;
        const Words words = this->words(e / 4);
        return (e % 4 == 0 ? words.w[0] : e % 4 == 1 ? words.w[1] : e % 4 == 2 ? words.w[2] : words.w[3]) >= threshold;
    }

    // Masks neighbours from `element` on, where first + element is a multiple of 4.
    template <typename T, int N> DEVICE void apply(float (&v)[N], const Pack<T, N>& pack, int64_t element) const {
#pragma unroll
        for (int j = 0; j < N; j += 4) {
            const Words words = this->words((first + element + j) / 4);
#pragma unroll
            for (int i = 0; i < least(N, 4); ++i) v[j + i] = words.w[i] >= threshold ? pack[j + i] * scale : 0.0f;
        }
    }
};
