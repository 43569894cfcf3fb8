// What the attention kernels on bf16 tensor cores share: the list of work, tiles in shared memory, their products.
#pragma once

#include "common.cuh"

constexpr float LOG2_E = 1.44269504f;

// Some query rows of a sequence, one after another: the first sees `visible` keys, each one more than the one before.
struct Work {
    int first_query, queries, first_key, visible;
    DEVICE int keys() const { return visible + queries - 1; }
};

// One word of the list a lane.
DEVICE Work load_work(const int* list, int64_t item) {
    const uint32_t word = lane_id() < 4 ? list[item * 4 + lane_id()] : 0;
    return {int(shfl(word, 0)), int(shfl(word, 1)), int(shfl(word, 2)), int(shfl(word, 3))};
}

extern __shared__ __align__(1024) char shared_tiles[];

// A tile of rows of W bf16. Its chunks of 16 bytes are swizzled: those of eight rows in one column lie in different
// banks.
template <int W> struct Tile {
    static constexpr int CHUNKS = W / 8, ROW = 2 * W, TURN = CHUNKS < 8 ? 8 / CHUNKS : 1;
    uint32_t address;

    DEVICE static uint32_t offset(int row, int chunk) {
        return row * ROW + (chunk ^ (row / TURN % least(CHUNKS, 8))) * 16;
    }
    DEVICE uint32_t at(int row, int chunk) const { return address + offset(row, chunk); }
    // Where this lane's row of four 8x8 matrices begins: those of the 16x16 block at (row, chunk), a multiple of 8 and
    // of 2, first down, then across (an a of mma, or transposed a b), or first across, then down (a b, or transposed
    // an a).
    DEVICE uint32_t down(int row, int chunk) const {
        return (at(lane_id() % 16, lane_id() / 16) ^ chunk * 16) + row * ROW;
    }
    DEVICE uint32_t across(int row, int chunk) const {
        return (at(lane_id() / 16 * 8 + lane_id() % 8, lane_id() / 8 % 2) ^ chunk * 16) + row * ROW;
    }
};

// Begins to copy rows of D elements, `stride` apart, and zeros beyond their number and beyond D: the work of THREADS
// neighbouring threads.
template <int W, int ROWS, int THREADS>
DEVICE void fetch(Tile<W> tile, const bf16* from, int64_t stride, int rows, int D) {
    constexpr int STEP = THREADS / Tile<W>::CHUNKS;
    int row = (THREADS == WARP ? lane_id() : threadIdx.x) / Tile<W>::CHUNKS;
    const int chunk = threadIdx.x % Tile<W>::CHUNKS;
    from += row * stride + chunk * 8;
    if (chunk * 8 >= D) rows = 0;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; ++i, row += STEP, from += STEP * stride)
        cp_async(tile.at(row, chunk), from, row < rows);
}

DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma(c[0], c[1], c[2], c[3], a, b0, b1);
}

// acc [M * 16, N * 8] += a bᵀ over W columns: a of the tile `a` from `a_row` on, b of `b` from `b_row` on.
template <int M, int N, int W>
DEVICE void multiply_rows(float (&acc)[M][N][4], Tile<W> a, int a_row, Tile<W> b, int b_row) {
#pragma unroll
    for (int k = 0; k < W / 16; ++k) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) ldmatrix<false>(left[m], a.down(a_row + m * 16, k * 2));
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            ldmatrix<false>(right, b.across(b_row + n * 8, k * 2));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                mma(acc[m][n], left[m], right[0], right[1]);
                mma(acc[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

// acc [M * 16, N * 8] += a b, a [M * 16, K * 16] in registers, b of a tile from (row, chunk) on.
template <int M, int N, int K, int W>
DEVICE void multiply_columns(float (&acc)[M][N][4], const uint32_t (&a)[M][K][4], Tile<W> b, int row, int chunk) {
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            ldmatrix<true>(right, b.down(row + k * 16, chunk + n));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                mma(acc[m][n], a[m][k], right[0], right[1]);
                mma(acc[m][n + 1], a[m][k], right[2], right[3]);
            }
        }
}

// acc [M * 16, N * 8] += aᵀ b over K * 16 rows of two tiles, from a chunk of each on.
template <int K, int M, int N, int A, int B>
DEVICE void multiply_transposed(float (&acc)[M][N][4], Tile<A> a, int a_chunk, Tile<B> b, int b_chunk) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) ldmatrix<true>(left[m], a.across(k * 16, a_chunk + m * 2));
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            ldmatrix<true>(right, b.down(k * 16, b_chunk + n));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                mma(acc[m][n], left[m], right[0], right[1]);
                mma(acc[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

// An accumulator as the left factor of the next product.
template <int M, int K> DEVICE void round_left(uint32_t (&a)[M][K][4], const float (&acc)[M][2 * K][4]) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float(&from)[4] = acc[m][2 * k + i / 2];
                a[m][k][i] = cvt_bf16x2(from[i % 2 * 2], from[i % 2 * 2 + 1]);
            }
}

// Rows of an accumulator times `scale`, to global memory by way of the warp's part of a tile: its rows from `row` on,
// N * 8 columns from `chunk` on. Rows from `rows` on and columns from D on are not stored.
template <int M, int N, int W>
DEVICE void store_rows(bf16* to, int64_t stride, int rows, int D, const float (&acc)[M][N][4],
                       const float (&scale)[M][2], Tile<W> tile, int row, int chunk) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float(&v)[4] = acc[m][n];
                const uint32_t place = tile.at(row + m * 16 + half * 8 + lane_id() / 4, chunk + n);
                store_word(place + lane_id() % 4 * 4,
                             cvt_bf16x2(v[half * 2] * scale[m][half], v[half * 2 + 1] * scale[m][half]));
            }
    warp_barrier();
#pragma unroll
    for (int i = lane_id(); i < M * 16 * N; i += WARP) {
        const int r = row + i / N, c = chunk + i % N;
        if (r < rows && c * 8 < D) store_words(to + r * stride + c * 8, load_words(tile.at(r, c)));
    }
}
