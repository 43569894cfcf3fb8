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

// Fragments of mma.m16n8k16 in lane 4 g + t. A register has two neighbours of a row of a, of a column of b, or one
// element of c:
//
//               a [16, 16]                            b [16, 8]                    c [16, 8]
//           2t 2t+1   2t+8 2t+9                          g                          2t 2t+1
//         +-----------+-----------+                 +---------+                  +-----------+
//       g |    a0     |    a2     |        2t, 2t+1 |   b0    |                g |  c0   c1  |
//         +-----------+-----------+                 +---------+                  +-----------+
//     g+8 |    a1     |    a3     |      2t+8, 2t+9 |   b1    |              g+8 |  c2   c3  |
//         +-----------+-----------+                 +---------+                  +-----------+
//
// So the c of two products side by side are laid out as an a: rounded, they are a factor of the next product. ldmatrix
// gives a lane two neighbours of row g of an 8x8 matrix, or with TRANSPOSED of column g.

// A tile of rows of W bf16 in shared memory. The chunks of 16 bytes of a row are swizzled: those of eight rows in one
// column lie in different banks. Rows of less than the 128 bytes that all banks have share them.
template <int W> struct SwizzledTile {
    static constexpr int CHUNKS = W / 8, ROW = 2 * W, ROWS_IN_BANKS = CHUNKS < 8 ? 8 / CHUNKS : 1;
    uint32_t address;

    DEVICE static uint32_t offset(int row, int chunk) {
        return row * ROW + (chunk ^ (row / ROWS_IN_BANKS % least(CHUNKS, 8))) * 16;
    }
    DEVICE uint32_t at(int row, int chunk) const { return address + offset(row, chunk); }
    // Where a lane's two of eight rows of c belong, rounded to bf16; `row` is a multiple of 8.
    DEVICE uint32_t c_address(int lane, int row, int chunk) const {
        return address + row * ROW + (offset(lane / 4, 0) ^ chunk * 16) + lane % 4 * 4;
    }
    // This lane's address for ldmatrix of the 16x16 block at (row, chunk), a multiple of 8 and of 2. In the order of a:
    // its a, or with TRANSPOSED two b as deep as it has rows. In the order of b: two b as deep as it has columns, or
    // with TRANSPOSED the a of its transpose.
    DEVICE uint32_t a_address(int row, int chunk) const {
        return (at(lane_id() % 16, lane_id() / 16) ^ chunk * 16) + row * ROW;
    }
    DEVICE uint32_t b_address(int row, int chunk) const {
        return (at(lane_id() / 16 * 8 + lane_id() % 8, lane_id() / 8 % 2) ^ chunk * 16) + row * ROW;
    }
};

// Begins to copy rows of D elements, `stride` apart, and zeros beyond their number and beyond D: the work of THREADS
// neighbouring threads.
template <int W, int ROWS, int THREADS>
DEVICE void fetch(SwizzledTile<W> tile, const bf16* from, int64_t stride, int rows, int D) {
    constexpr int STEP = THREADS / SwizzledTile<W>::CHUNKS;
    int row = (THREADS == WARP ? lane_id() : threadIdx.x) / SwizzledTile<W>::CHUNKS;
    const int chunk = threadIdx.x % SwizzledTile<W>::CHUNKS;
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
DEVICE void mma_nt(float (&acc)[M][N][4], SwizzledTile<W> a, int a_row, SwizzledTile<W> b, int b_row) {
#pragma unroll
    for (int k = 0; k < W / 16; ++k) {
        uint32_t a_fragments[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) ldmatrix<false>(a_fragments[m], a.a_address(a_row + m * 16, k * 2));
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t b_fragments[4];
            ldmatrix<false>(b_fragments, b.b_address(b_row + n * 8, k * 2));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                mma(acc[m][n], a_fragments[m], b_fragments[0], b_fragments[1]);
                mma(acc[m][n + 1], a_fragments[m], b_fragments[2], b_fragments[3]);
            }
        }
    }
}

// acc [M * 16, N * 8] += a b, a [M * 16, K * 16] in registers, b of a tile from (row, chunk) on.
template <int M, int N, int K, int W>
DEVICE void mma_nn(float (&acc)[M][N][4], const uint32_t (&a)[M][K][4], SwizzledTile<W> b, int row, int chunk) {
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t b_fragments[4];
            ldmatrix<true>(b_fragments, b.a_address(row + k * 16, chunk + n));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                mma(acc[m][n], a[m][k], b_fragments[0], b_fragments[1]);
                mma(acc[m][n + 1], a[m][k], b_fragments[2], b_fragments[3]);
            }
        }
}

// acc [M * 16, N * 8] += aᵀ b over K * 16 rows of two tiles, from a chunk of each on.
template <int K, int M, int N, int A, int B>
DEVICE void mma_tn(float (&acc)[M][N][4], SwizzledTile<A> a, int a_chunk, SwizzledTile<B> b, int b_chunk) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
        uint32_t a_fragments[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) ldmatrix<true>(a_fragments[m], a.b_address(k * 16, a_chunk + m * 2));
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t b_fragments[4];
            ldmatrix<true>(b_fragments, b.a_address(k * 16, b_chunk + n));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                mma(acc[m][n], a_fragments[m], b_fragments[0], b_fragments[1]);
                mma(acc[m][n + 1], a_fragments[m], b_fragments[2], b_fragments[3]);
            }
        }
    }
}

// Accumulators, rounded to bf16, as the a of the next product.
template <int M, int K> DEVICE void pack_a_fragments(uint32_t (&a)[M][K][4], const float (&acc)[M][2 * K][4]) {
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
                       const float (&scale)[M][2], SwizzledTile<W> tile, int row, int chunk) {
    const int lane = read_lane_id();
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float(&v)[4] = acc[m][n];
                store_word(tile.c_address(lane, row + m * 16 + half * 8, chunk + n),
                           cvt_bf16x2(v[half * 2] * scale[m][half], v[half * 2 + 1] * scale[m][half]));
            }
    warp_barrier();
#pragma unroll
    for (int i = 0; i < M * 16 * N; i += WARP) {
        const int r = row + i / N + lane / N, c = chunk + lane % N;
        if (r < rows && c * 8 < D) store_words(to + r * stride + c * 8, load_words(tile.at(r, c)));
    }
}
