// The only main loop of matrix multiplication: out = alpha * (a · b + a2 · b2) + addend.
//
// A block of four warps makes a tile of the result, each warp a quarter of it in registers. Tiles of the operands, 64
// bytes deep in K, go through STAGES stages of shared memory, filled by cp.async while an earlier one is computed on.
// The loop over K goes on from the first pair of operands to the second: a low-rank adapter rides in its base layer.
#pragma once

#include "common.cuh"

constexpr int GEMM_BLOCK = 128;
constexpr int GROUP = 8;  // rows of tiles that neighbouring blocks go down

// From one slice's n sums to the next's.
DEVICE int64_t slice_stride(int64_t n) { return (n + 3) / 4 * 4; }

// ---- operands

// A pair of operands and the K that they share. Each lies [rows, K] where K is its inner dimension, else [K, rows].
template <typename T> struct Term {
    const T *a, *b;
    int K;
};

// The part of one operand that a stage holds: ROWS of M or N by DEPTH of K, in chunks of 16 bytes, each placed so that
// chunks that are written or read at once, neighbours in either dimension, lie in different banks.
template <typename T, int ROWS, bool INNER> struct Tile {
    static constexpr int DEPTH = 64 / sizeof(T), BYTES = ROWS * 64;
    static constexpr int CHUNKS = (INNER ? DEPTH : ROWS) / PACK<T>;  // of a row of memory

    // The offset of chunk `c` of row `r` of memory.
    static DEVICE int chunk(int r, int c) { return (r * CHUNKS + (c ^ (INNER ? r / 2 % CHUNKS : r % 8))) * 16; }
    static DEVICE int element(int row, int k) {
        const int r = INNER ? row : k, c = INNER ? k : row;
        return chunk(r, c / PACK<T>) + c % PACK<T> * int(sizeof(T));
    }

    // Starts to fill `tile` from element (row0, k0) of an operand of `rows` and `K` on, with zeros beyond it.
    static DEVICE void fetch(char* tile, const T* operand, int row0, int k0, int rows, int K) {
        constexpr int STEP = GEMM_BLOCK / CHUNKS;
        const int height = INNER ? rows : K, width = INNER ? K : rows;
        const int c = threadIdx.x % CHUNKS, column = (INNER ? k0 : row0) + c * PACK<T>;
        const int first = threadIdx.x / CHUNKS, row = (INNER ? row0 : k0) + first;
        const T* from = operand + int64_t(row) * width + column;
        if (width % PACK<T> == 0) {
#pragma unroll
            for (int r = 0; r < BYTES / 16 / CHUNKS; r += STEP) {
                const bool inside = row + r < height && column < width;
                const T* source = inside ? from + int64_t(r) * width : operand;
                cp_async(shared_address(tile + chunk(first + r, c)), source, inside);
            }
        } else {  // rows of memory that start anywhere
#pragma unroll 1
            for (int r = 0; r < BYTES / 16 / CHUNKS; r += STEP) {
                T elements[PACK<T>];
#pragma unroll
                for (int i = 0; i < PACK<T>; ++i)
                    elements[i] = row + r < height && column + i < width ? from[int64_t(r) * width + i] : T{};
                store(reinterpret_cast<T*>(tile + chunk(first + r, c)), packed(elements));
            }
        }
    }
};

// ---- sums

// A warp's tile of the result. Lane i has rows i / 4 + 8 m, columns i % 4 * 2 + 8 n and the next: mma's own order.
template <int WM, int WN> struct Sums {
    float v[WM / 8][WN / 4];
};

// sums += a · b over one stage, from the warp's first row and column on: tensor cores.
template <typename A, typename B, bool A_INNER, bool B_INNER, int WM, int WN>
DEVICE void multiply(Sums<WM, WN>& sums, const char* a, const char* b, int row0, int column0, bf16) {
    const int low = lane_id() % 8, middle = lane_id() / 8 % 2 * 8, high = lane_id() / 16 * 8;
#pragma unroll
    for (int k = 0; k < A::DEPTH; k += 16) {
        uint32_t left[WM / 16][4], right[WN / 16][4];
#pragma unroll
        for (int i = 0; i < WM / 16; ++i)
            ldmatrix<!A_INNER>(left[i], shared_address(a + A::element(row0 + i * 16 + middle + (A_INNER ? low : 0),
                                                                      k + high + (A_INNER ? 0 : low))));
#pragma unroll
        for (int j = 0; j < WN / 16; ++j)
            ldmatrix<!B_INNER>(right[j], shared_address(b + B::element(column0 + j * 16 + high + (B_INNER ? low : 0),
                                                                       k + middle + (B_INNER ? 0 : low))));
#pragma unroll
        for (int i = 0; i < WM / 16; ++i)
#pragma unroll
            for (int j = 0; j < WN / 8; ++j)
                mma(sums.v[2 * i][2 * j], sums.v[2 * i][2 * j + 1], sums.v[2 * i + 1][2 * j],
                    sums.v[2 * i + 1][2 * j + 1], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
    }
}

// Four neighbours in K of one row of a tile.
template <typename Tile, bool INNER> DEVICE Pack<float, 4> four(const char* tile, int row, int k) {
    const auto at = [&](int k) { return reinterpret_cast<const float*>(tile + Tile::element(row, k)); };
    if constexpr (INNER) return load<4>(at(k));
    else return {*at(k), *at(k + 1), *at(k + 2), *at(k + 3)};
}

// The same in f32, by fused multiply-add.
template <typename A, typename B, bool A_INNER, bool B_INNER, int WM, int WN>
DEVICE void multiply(Sums<WM, WN>& sums, const char* a, const char* b, int row0, int column0, float) {
    row0 += lane_id() / 4, column0 += lane_id() % 4 * 2;
#pragma unroll 1
    for (int k = 0; k < A::DEPTH; k += 4) {
        Pack<float, 4> left[WM / 8];
#pragma unroll
        for (int i = 0; i < WM / 8; ++i) left[i] = four<A, A_INNER>(a, row0 + i * 8, k);
#pragma unroll
        for (int j = 0; j < WN / 4; ++j) {
            const Pack<float, 4> right = four<B, B_INNER>(b, column0 + j / 2 * 8 + j % 2, k);
#pragma unroll
            for (int i = 0; i < WM / 8; ++i)
#pragma unroll
                for (int l = 0; l < 4; ++l) sums.v[i][j] += left[i].v[l] * right.v[l];
        }
    }
}

// ---- result

// Where a result goes, in f32 or bf16, and what is added to it, in the same type, if anything: it may be out itself.
struct Result {
    void* out;
    const void* addend;
    float alpha;
    bool is_f32;
};

// Stores N neighbouring elements from `at` on, on a boundary of their size.
template <typename T, int N> DEVICE void store_result(const Result& result, int64_t at, const Pack<float, N>& sums) {
    Pack<T, N> more{};
    if (result.addend) more = load<N>(static_cast<const T*>(result.addend) + at);
    float v[N];
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = result.alpha * sums[i] + more[i];
    T* out = static_cast<T*>(result.out) + at;
    if constexpr (sizeof(T) == 4 && N == 4) store_global(out, v);
    else store(out, rounded<T>(v));
}
template <int N> DEVICE void store_result(const Result& result, int64_t at, const Pack<float, N>& sums) {
    if (result.is_f32) store_result<float>(result, at, sums);
    else store_result<bf16>(result, at, sums);
}

// Stores a warp's sums, 32 rows at a time by way of `shared`, its own, so that neighbouring lanes store neighbours.
template <int WM, int WN>
DEVICE void store_sums(const Result& result, const Sums<WM, WN>& sums, float* shared, int row0,
                       int column0, int M, int N) {
    constexpr int STRIDE = WN + 8;  // four rows, eight words of each, in 32 banks
    constexpr int LANES = WN / 4;   // of a row
#pragma unroll 1
    for (int first = 0; first < WM; first += 32) {
        warp_barrier();
#pragma unroll
        for (int i = 0; i < WM / 8; ++i)
            if (i / 4 * 32 == first)
#pragma unroll
                for (int j = 0; j < WN / 4; j += 2) {
                    float* to = shared + (i % 4 * 8 + lane_id() / 4) * STRIDE + j * 4 + lane_id() % 4 * 2;
                    store_shared(to, sums.v[i][j], sums.v[i][j + 1]);
                }
        warp_barrier();
        const int c = lane_id() % LANES * 4, width = least(4, N - column0 - c);
#pragma unroll 1
        for (int i = lane_id() / LANES; i < least(32, M - row0 - first); i += WARP / LANES) {
            const float* from = shared + i * STRIDE + c;
            const int64_t at = int64_t(row0 + first + i) * N + column0 + c;
            if (N % 4 == 0 && width == 4) store_result(result, at, load<4>(from));
            else
#pragma unroll 1
                for (int j = 0; j < width; ++j) store_result(result, at + j, load<1>(from + j));
        }
    }
}

// ---- main loop

template <typename T, int BM, int BN, bool A_INNER, bool B_INNER>
DEVICE void gemm(Result result, Term<T> base, Term<T> extension, int M, int N, int depth) {
    using A = Tile<T, BM, A_INNER>;
    using B = Tile<T, BN, B_INNER>;
    constexpr int STAGES = BM + BN > 128 ? 3 : 4, STAGE = A::BYTES + B::BYTES, WM = BM / 2, WN = BN / 2;
    __shared__ alignas(128) char stages[STAGES * STAGE];

    // Blocks that run at once share tiles: they go down a group of tile rows before they go on to the next column.
    const int tiles_m = (M + BM - 1) / BM, tiles_n = (N + BN - 1) / BN, group = blockIdx.x / (GROUP * tiles_n) * GROUP;
    const int height = least(GROUP, tiles_m - group), within = blockIdx.x - group * tiles_n;
    const int row0 = (group + within % height) * BM, column0 = within / height * BN;
    // A slice takes `depth` of the base's K, the last one the extension too.
    const int first = blockIdx.y * depth, base_depth = least(depth, base.K - first);
    const int base_steps = (base_depth + A::DEPTH - 1) / A::DEPTH;
    const int steps = base_steps + (blockIdx.y + 1 == gridDim.y ? (extension.K + A::DEPTH - 1) / A::DEPTH : 0);
    result.out = static_cast<float*>(result.out) + blockIdx.y * slice_stride(int64_t(M) * N);

    const auto fetch = [&](int step, int stage) {
        if (step < steps) {
            const bool extended = step >= base_steps;
            const Term<T> term = extended ? extension : base;
            const int k = extended ? (step - base_steps) * A::DEPTH : first + step * A::DEPTH;
            A::fetch(stages + stage * STAGE, term.a, row0, k, M, term.K);
            B::fetch(stages + stage * STAGE + A::BYTES, term.b, column0, k, N, term.K);
        }
        cp_async_commit();
    };

    Sums<WM, WN> sums{};
    const int warp_row = warp_id() / 2 * WM, warp_column = warp_id() % 2 * WN;
#pragma unroll 1
    for (int step = 0; step < STAGES - 1; ++step) fetch(step, step);
    int stage = 0;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        fetch(step + STAGES - 1, stage == 0 ? STAGES - 1 : stage - 1);
        const char* tiles = stages + stage * STAGE;
        multiply<A, B, A_INNER, B_INNER>(sums, tiles, tiles + A::BYTES, warp_row, warp_column, T{});
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    __syncthreads();  // no copies are in flight: those of steps beyond the last copy nothing
    float* shared = reinterpret_cast<float*>(stages) + warp_id() * 32 * (WN + 8);
    store_sums(result, sums, shared, row0 + warp_row, column0 + warp_column, M, N);
}
