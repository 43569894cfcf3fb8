// What every kernel shares: storage types, packs of elements moved by one access, and sums in a fixed order.
//
// Kernels are written over packs of N neighbours: N = PACK<T> (16 bytes) where every row of the data starts on a
// 16-byte boundary, else N = 1. Lane i takes the i-th pack, so either way a warp's access is one contiguous run.
#pragma once

#include "ptx.cuh"

#define KERNEL(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)

constexpr int WARP = 32;

template <typename T> DEVICE constexpr T least(T a, T b) { return a < b ? a : b; }

DEVICE int lane_id() { return threadIdx.x % WARP; }
DEVICE int warp_id() { return threadIdx.x / WARP; }

// ---- storage types: computed on as float, rounded to nearest even when stored

struct bf16 {
    uint16_t bits;
};

DEVICE float to_float(float v) { return v; }
DEVICE float to_float(bf16 v) { return __uint_as_float(uint32_t(v.bits) << 16); }

template <typename T> DEVICE T from_float(float v);
template <> DEVICE float from_float<float>(float v) { return v; }
template <> DEVICE bf16 from_float<bf16>(float v) { return {uint16_t(cvt_bf16x2(v, 0.0f))}; }

DEVICE bool is_finite(float v) { return fabsf(v) <= 0x1.fffffep127f; }
#define NOT_A_NUMBER __uint_as_float(0x7fc00000)

// The nearest value that T can store.
template <typename T> DEVICE float round_to(float v) { return to_float(from_float<T>(v)); }

// A pointer that was read from memory, known to the compiler as one to global memory.
template <typename T> DEVICE T* global(T* p) {
    __builtin_assume(__isGlobal(p));
    return p;
}

// One element for the whole warp: one lane asks for it.
DEVICE uint32_t load_for_warp(const uint32_t* p) { return shfl(lane_id() == 0 ? *p : 0, 0); }
DEVICE float load_for_warp(const float* p) {
    return __uint_as_float(shfl(lane_id() == 0 ? __float_as_uint(*p) : 0, 0));
}

// ---- packs

template <typename T> constexpr int PACK = 16 / sizeof(T);

// N elements in registers, as they are stored.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
    T v[N];
    DEVICE float operator[](int i) const { return to_float(v[i]); }
};

template <int N> struct alignas(2 * N) PackedPairs {
    uint32_t pairs[N / 2];
    DEVICE float operator[](int i) const {
        return __uint_as_float(i % 2 ? pairs[i / 2] & 0xffff0000 : pairs[i / 2] << 16);
    }
};
template <> struct Pack<bf16, 4> : PackedPairs<4> {};
template <> struct Pack<bf16, 8> : PackedPairs<8> {};

template <int N, typename T> DEVICE Pack<T, N> load(const T* p) { return *reinterpret_cast<const Pack<T, N>*>(p); }
template <int N, typename T> DEVICE void store(T* p, const Pack<T, N>& pack) {
    *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

template <typename T, int N> DEVICE Pack<T, N> packed(const T (&v)[N]) {
    Pack<T, N> pack;
    if constexpr (sizeof(T) == 2 && N > 2) {
#pragma unroll
        for (int i = 0; i < N; i += 2) pack.pairs[i / 2] = v[i].bits | uint32_t(v[i + 1].bits) << 16;
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) pack.v[i] = v[i];
    }
    return pack;
}

template <typename T, int N> DEVICE Pack<T, N> rounded(const float (&v)[N]) {
    Pack<T, N> pack;
    if constexpr (sizeof(T) == 2 && N > 1) {
#pragma unroll
        for (int i = 0; i < N; i += 2) pack.pairs[i / 2] = cvt_bf16x2(v[i], v[i + 1]);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) pack.v[i] = from_float<T>(v[i]);
    }
    return pack;
}

// Calls f(integer_constant N, offset) for every pack of a flat array of n elements, grid-wide, then for each of the
// n % N elements at its end as a pack of one.
template <int N> struct Width {
    static constexpr int value = N;
};
template <int N, typename F> DEVICE void for_packs(int64_t n, F f) {
    const int64_t thread = blockIdx.x * int64_t(blockDim.x) + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = thread * N; i + N <= n; i += threads * N) f(Width<N>{}, i);
    if (thread < n % N) f(Width<1>{}, n - n % N + thread);
}

// ---- the largest, and sums

DEVICE float warp_max(float v) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) v = fmaxf(v, shfl_xor(v, distance));
    return v;
}

// Over the block, in every thread. One call a kernel.
DEVICE float block_max(float v) {
    __shared__ float warps[32];
    v = warp_max(v);
    if (lane_id() == 0) warps[warp_id()] = v;
    __syncthreads();
    return warp_max(lane_id() < blockDim.x / WARP ? warps[lane_id()] : v);
}

// Over the warp, the same bits in every lane.
DEVICE float warp_sum(float v) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) v += shfl_xor(v, distance);
    return v;
}

// Over the block, the same bits in every thread. One call a kernel.
template <int N> DEVICE void block_sums(float (&v)[N]) {
    __shared__ float warps[N][32];
#pragma unroll
    for (int i = 0; i < N; ++i) {
        v[i] = warp_sum(v[i]);
        if (lane_id() == 0) warps[i][warp_id()] = v[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = warp_sum(lane_id() < blockDim.x / WARP ? warps[i][lane_id()] : 0.0f);
}
DEVICE float block_sum(float v) {
    float sums[1] = {v};
    block_sums(sums);
    return sums[0];
}
