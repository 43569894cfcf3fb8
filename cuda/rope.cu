// Rotary position embedding. Su et al. 2021, https://arxiv.org/abs/2104.09864; Llama pairs element i with i + D/2.
//
//   rope  (a, b) = (x[i], x[i + D/2]), c = cos of the position's angle i, s = direction * its sin:
//         x[i] = a * c - b * s, x[i + D/2] = b * c + a * s; direction = 1 forward, -1 backward
//
// Pointers: q [rows, NH, D] and k [rows, NKV, D] in the kernel's dtype, changed in place, NH or NKV may be 0; cos_sin
//   [table length, D] in f32: a position's D/2 cosines, then its sines; positions [rows] in u32, below table length.
// Launch: grid rows, block a multiple of 32 up to 256; D even, at most 512.
// Numerics: f32, rounded once when stored.
#include "common.cuh"

constexpr int MAX_HALF = 256;

// Where angle i of a row lies in shared memory: in such an order that neighbouring lanes, which want N neighbours each,
// read neighbouring runs of 4, without bank conflicts.
template <int N> DEVICE int angle(int i, int half) { return N == 8 ? i / 4 % 2 * (half / 2) + i / 8 * 4 + i % 4 : i; }

template <int N> DEVICE void load_angles(float (&v)[N], const float* table, int i, int half) {
#pragma unroll
    for (int j = 0; j < N; j += 4) {
        const Pack<float, (N < 4 ? N : 4)> run = load<(N < 4 ? N : 4)>(table + angle<N>(i + j, half));
#pragma unroll
        for (int e = 0; e < least(N, 4); ++e) v[j + e] = run[e];
    }
}

template <int N, typename T>
DEVICE void rotate(T* q, T* k, const float* cos_sin, const uint32_t* positions, int NH, int NKV, int D,
                   float direction) {
    __shared__ alignas(16) float cosines[MAX_HALF], sines[MAX_HALF];
    const int64_t row = blockIdx.x;
    const int half = D / 2, packs = half / N;
    const float* angles = cos_sin + int64_t(load_for_warp(positions + row)) * D;
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        cosines[angle<N>(i, half)] = angles[i];
        sines[angle<N>(i, half)] = direction * angles[half + i];
    }
    __syncthreads();
    for (int item = threadIdx.x; item < (NH + NKV) * packs; item += blockDim.x) {
        const int head = item / packs, i = item % packs * N;
        T* x = (head < NH ? q + (row * NH + head) * D : k + (row * NKV + head - NH) * D) + i;
        const Pack<T, N> a = load<N>(x), b = load<N>(x + half);
        float c[N], s[N], first[N], second[N];
        load_angles(c, cosines, i, half);
        load_angles(s, sines, i, half);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            first[j] = a[j] * c[j] - b[j] * s[j];
            second[j] = b[j] * c[j] + a[j] * s[j];
        }
        store(x, rounded<T>(first));
        store(x + half, rounded<T>(second));
    }
}

#define KERNELS(T, DTYPE)                                                                                              \
    KERNEL(256)                                                                                                        \
    rope_##DTYPE(T* __restrict__ q, T* __restrict__ k, const float* __restrict__ cos_sin,                              \
                 const uint32_t* __restrict__ positions, int NH, int NKV, int D, float direction) {                    \
        if (D % (2 * PACK<T>) == 0) rotate<PACK<T>>(q, k, cos_sin, positions, NH, NKV, D, direction);                  \
        else rotate<1>(q, k, cos_sin, positions, NH, NKV, D, direction);                                               \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
