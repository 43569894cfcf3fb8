// Operands in fewer bits, made floats on their way to shared memory: the thread itself stores what others copy.
#pragma once

#include "gemm.cuh"

// A weight in 4 bits, flattened: two codes a byte, that of an even element in its upper half. A scale for each block of
// 2^shift elements; nested: in 8 bits, map[nested[i]] * absmax[i / 256] + offset.
struct FourBits {
    using Source = uint8_t;
    const float *values, *absmax, *map;
    const uint8_t* nested;
    float offset;
    int shift;

    DEVICE float scale(int64_t element) const {
        const int64_t block = element >> shift;
        return nested ? add_rounded(multiply_rounded(map[nested[block]], absmax[block / 256]), offset) : absmax[block];
    }
    // N elements from one on, those from `count` on zeros; N are within one block if the first is a multiple of N.
    template <typename T, int N>
    DEVICE Pack<T, N> elements(const uint8_t* codes, int, int64_t first, int count) const {
        float v[N];
        if (first % N == 0 && count >= N) {
            const float s = scale(first);
            uint32_t word;
            if constexpr (N == 8) word = *reinterpret_cast<const uint32_t*>(codes + first / 2);
            else word = *reinterpret_cast<const uint16_t*>(codes + first / 2);
#pragma unroll
            for (int j = 0; j < N; ++j) v[j] = values[word >> (j / 2 * 8 + (j % 2 ? 0 : 4)) & 15] * s;
        } else {
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const int64_t i = first + j;
                v[j] = j < count ? values[codes[i / 2] >> (i % 2 ? 0 : 4) & 15] * scale(i) : 0.0f;
            }
        }
        return rounded<T>(v);
    }
};

// A weight in int8, with a scale for each row of memory; rows of whole 16 bytes.
struct EightBits {
    using Source = int8_t;
    const float* scales;

    template <typename T, int N> DEVICE Pack<T, N> elements(const int8_t* codes, int row, int64_t first, int) const {
        const Pack<uint32_t, N / 4> words = ::load<N / 4>(reinterpret_cast<const uint32_t*>(codes + first));
        float v[N];
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = float(int8_t(words.v[j / 4] >> j % 4 * 8)) * scales[row];
        return rounded<T>(v);
    }
};

// A thread's share of an operand made of CODES: chunks of a stage as Copies has them.
template <typename T, typename CODES, int ROWS, bool INNER, int THREADS> struct Decoded {
    using Source = typename CODES::Source;
    using L = Layout<T, ROWS, INNER>;
    static constexpr int STRIDE = THREADS / L::CHUNKS, COUNT = L::BYTES / 16 / THREADS;

    CODES codes;
    const Source* from;
    int ld, to, row, column;  // of the next stage's first chunk, in memory
    int rows, columns;        // of memory

    DEVICE void begin(const Source* operand, int leading, int row0, int k0, int rows_of_all, int K) {
        const int c = threadIdx.x % L::CHUNKS, first = threadIdx.x / L::CHUNKS;
        from = operand, ld = leading;
        to = L::chunk(first, c);
        row = (INNER ? row0 : k0) + first, column = (INNER ? k0 : row0) + c * PACK<T>;
        rows = INNER ? rows_of_all : K, columns = INNER ? K : rows_of_all;
    }

    DEVICE void copy(uint32_t stage) {
        T* target = reinterpret_cast<T*>(gemm_shared + (stage - shared_address(gemm_shared)) + to);
#pragma unroll 1
        for (int i = 0; i < COUNT; ++i) {
            const int r = row + i * STRIDE;
            Pack<T, PACK<T>> chunk{};
            if (r < rows && column < columns)
                chunk = codes.template elements<T, PACK<T>>(from, r, int64_t(r) * ld + column, columns - column);
            store(target + i * STRIDE * (L::ROW_BYTES / int(sizeof(T))), chunk);
        }
        (INNER ? column : row) += L::DEPTH;
    }
};

// out = a · b + adapter + addend of a block, b [N, K] (FORWARD) or [K, N] of codes; the last of several slices has the adapter.
template <typename T, int BM, int BN, int WARPS_M, int WARPS_N, bool FORWARD, bool ALIGNED, typename CODES>
DEVICE void decoded_matmul(const Result& result, const Term<T, typename CODES::Source>& base, const CODES& codes, int M,
                           int N, int depth, const Term<T>& adapter) {
    constexpr int THREADS = WARPS_M * WARPS_N * WARP;
    using Base = Gemm<T, BM, BN, WARPS_M, WARPS_N, true, FORWARD, ALIGNED, Dropped::NOTHING,
                      Copies<T, BM, true, THREADS, ALIGNED>, Decoded<T, CODES, BN, FORWARD, THREADS>>;
    constexpr int DEPTH = Base::A::DEPTH;
    const int first = blockIdx.y * depth;
    Accumulators<Base::WM, Base::WN> acc{};
    Base block{M, N};
    block.place();
    block.b.codes = codes;
    block.mainloop(acc, {base, first, (least(depth, base.K - first) + DEPTH - 1) / DEPTH}, {base, 0, 0});
    Gemm<T, BM, BN, WARPS_M, WARPS_N, true, FORWARD, ALIGNED> beside{M, N};
    beside.row0 = block.row0, beside.column0 = block.column0;
    if (FORWARD && adapter.K > 0 && blockIdx.y + 1 == gridDim.y) {
        __syncthreads();
        beside.mainloop(acc, {adapter, 0, (adapter.K + DEPTH - 1) / DEPTH}, {adapter, 0, 0});
    }
    beside.store(result.slice(M, N), acc);
}
