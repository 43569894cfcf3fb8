// Operands in fewer bits, made floats on their way to shared memory: the thread itself stores what others copy.
#pragma once

#include "gemm.cuh"

// A weight in 4 bits, flattened: two codes a byte, that of an even element in its upper half. A scale for each block of
// 2^shift elements; nested: in 8 bits, map[nested[i]] * absmax[i / 256] + offset. Values and map lie in shared memory.
struct FourBits {
    using Source = uint8_t;
    const float *values, *map, *absmax;
    const uint8_t* nested;
    float offset;
    int shift;

    // What a scale is made of.
    struct Scale {
        float absmax;
        uint32_t code;
    };
    DEVICE Scale fetch_scale(int64_t element) const {
        const int64_t block = element >> shift;
        return {absmax[nested ? block / 256 : block], nested ? nested[block] : 0u};
    }
    DEVICE float scale(const Scale& of) const {
        return nested ? add_rounded(multiply_rounded(map[of.code], of.absmax), offset) : of.absmax;
    }
    // The elements of a word of codes.
    DEVICE Pack<bf16, 8> eight(uint32_t word, float scale) const {
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = values[word >> (i / 2 * 8 + (i % 2 ? 0 : 4)) & 15] * scale;
        return rounded<bf16>(v);
    }
    // Eight elements from a multiple of 8 on, which have one scale.
    DEVICE Pack<bf16, 8> eight(const uint8_t* codes, int64_t first) const {
        return eight(*reinterpret_cast<const uint32_t*>(codes + first / 2), scale(fetch_scale(first)));
    }
    // N elements from one on, those from `count` on zeros.
    template <typename T, int N>
    DEVICE Pack<T, N> elements(const uint8_t* codes, int, int64_t first, int count) const {
        float v[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const int64_t i = first + j;
            v[j] = j < count ? values[codes[i / 2] >> (i % 2 ? 0 : 4) & 15] * scale(fetch_scale(i)) : 0.0f;
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

// A thread's share of a stage of 4 bits that become bf16, of a weight whose rows are multiples of 32 elements: 32 neighbours,
// which have one scale. Their 16 bytes are asked for a stage ahead, and wait in registers.
//
// K not inner: neighbouring threads have neighbouring chunks of a row of the stage, four each, and store them in different
// orders, so that 8 threads at once meet no bank twice.
template <int ROWS, bool INNER, int THREADS> struct DecodedRuns {
    using Source = uint8_t;
    using L = Layout<bf16, ROWS, INNER>;
    static constexpr int RUN = 32, RUNS = INNER ? 1 : ROWS / RUN;  // of a row
    static_assert(L::DEPTH == RUN && ROWS <= THREADS, "a run for a thread");

    FourBits codes;
    const uint8_t* from;
    int64_t element;  // the first that is asked for next
    int ld, to, chunk, turn;  // its row in the stage, its first chunk there, the number of the chunk that it stores first
    int left;  // of K, from that element on; none for what lies beyond the operand's rows
    uint4 words;
    FourBits::Scale scale;

    DEVICE void begin(const uint8_t* operand, int leading, int row0, int k0, int rows, int K) {
        const int r = threadIdx.x / RUNS, run = threadIdx.x % RUNS;
        const int row = INNER ? row0 + r : row0 + run * RUN, k = INNER ? k0 : k0 + r;
        from = operand, ld = leading;
        element = INNER ? int64_t(row) * ld + k : int64_t(k) * ld + row;
        to = r * L::ROW_BYTES, chunk = INNER ? r / 2 % 4 : run * 4 ^ r % 8, turn = run / 2 * (8 / RUNS);
        left = row < rows && (ROWS == THREADS || threadIdx.x < ROWS) ? K - k : 0;
        words = {}, scale = {};
        fetch();
    }
    DEVICE void fetch() {
        if (left <= 0) return;
        words = *reinterpret_cast<const uint4*>(from + element / 2);
        scale = codes.fetch_scale(element);
    }
    DEVICE void copy(uint32_t stage) {
        const float s = codes.scale(scale);
        bf16* target = reinterpret_cast<bf16*>(gemm_shared + (stage - shared_address(gemm_shared)) + to);
        if (ROWS == THREADS || threadIdx.x < ROWS) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int c = INNER ? j : j ^ turn;
                const uint32_t word = c & 2 ? c & 1 ? words.w : words.z : c & 1 ? words.y : words.x;
                store(target + (chunk ^ c) * 8, codes.eight(word, s));
            }
        }
        left -= RUN;
        element += INNER ? RUN : int64_t(ld) * RUN;
        fetch();
    }
};

// How an operand of CODES is copied.
template <typename T, typename CODES, int ROWS, bool INNER, int THREADS, bool ALIGNED> struct DecodedCopies {
    using type = Decoded<T, CODES, ROWS, INNER, THREADS>;
};
template <int ROWS, bool INNER, int THREADS> struct DecodedCopies<bf16, FourBits, ROWS, INNER, THREADS, true> {
    using type = DecodedRuns<ROWS, INNER, THREADS>;
};

// out = a · b + adapter + addend of a block, b [N, K] (FORWARD) or [K, N] of codes; the last of several slices has the adapter.
template <typename T, int BM, int BN, int WARPS_M, int WARPS_N, bool FORWARD, bool ALIGNED, typename CODES>
DEVICE void decoded_matmul(const Result& result, const Term<T, typename CODES::Source>& base, const CODES& codes, int M,
                           int N, int depth, const Term<T>& adapter) {
    constexpr int THREADS = WARPS_M * WARPS_N * WARP;
    using Base = Gemm<T, BM, BN, WARPS_M, WARPS_N, true, FORWARD, ALIGNED, Dropped::NOTHING,
                      Copies<T, BM, true, THREADS, ALIGNED>,
                      typename DecodedCopies<T, CODES, BN, FORWARD, THREADS, ALIGNED>::type>;
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
