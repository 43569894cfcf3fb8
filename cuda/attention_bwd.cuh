// Flash attention backward on bf16 tensor cores. A block takes every n-th run of 64 keys of a sequence and a key/value
// head, and goes through the query rows that see them, of every head of the group. Four warps take 16 keys each, over
// all columns or, with SPLIT 2, eight over half of them; each holds its part of dk and dv in registers. Its part
// of dq the block adds to a slice of its own in global memory; a second kernel sums the slices.
#pragma once

#include "attention_tile.cuh"

constexpr int SLICE_KEYS = 64;

template <int W, int BM, int SPLIT> struct Backward {
    static constexpr int KEYS = SLICE_KEYS, WARPS = 4 * SPLIT, THREADS = WARPS * WARP, N = W / 8 / SPLIT;
    // dq of a step: warps beside and below each other, and what each has.
    static constexpr int DOWN = BM == 64 ? 2 : 1, ACROSS = WARPS / DOWN, DQ_M = BM / 16 / DOWN, DQ_N = W / 8 / ACROSS;

    const bf16 *q, *k, *v, *dout;
    const float *lse, *delta;
    Work work;
    int64_t rows;
    int NH, NKV, D, kv_head;
    float scale;

    const int strip = warp_id() % 4 * 16, chunk = warp_id() / 4 * N;
    const Tile<W> k_tile{shared_address(shared_tiles)}, v_tile{k_tile.address + KEYS * 2 * W},
        q_tile{v_tile.address + KEYS * 2 * W}, dout_tile{q_tile.address + BM * 2 * W};
    const Tile<BM> ds_tile{dout_tile.address + BM * 2 * W};
    const uint32_t row_sums = ds_tile.address + KEYS * 2 * BM;  // lse, then delta

    float dk[1][N][4], dv[1][N][4];

    // Query rows from `first` on: q, dout, lse and delta.
    DEVICE void fetch_queries(int head, int first) {
        const int left = work.queries - first, i = threadIdx.x;
        const int64_t row = work.first_query + first, at = (row * NH + head) * D;
        fetch<W, BM, THREADS>(q_tile, q + at, int64_t(NH) * D, left, D);
        fetch<W, BM, THREADS>(dout_tile, dout + at, int64_t(NH) * D, left, D);
        if (i < 2 * BM) cp_async4(row_sums + i * 4, (i < BM ? lse : delta) + head * rows + row + i % BM, i % BM < left);
    }
    DEVICE float2 row_sum(int which, int query) const {
        return load_pair(row_sums + (which * BM + query + lane_id() % 4 * 2) * 4);
    }

    // Scores become weights. The first query sees the warp's keys below `visible`, each query one more.
    DEVICE void weigh(float (&s)[BM / 8][4], int visible) const {
        const bool masked = visible < 16;
        const int key = lane_id() / 4 - lane_id() % 4 * 2;
#pragma unroll
        for (int n = 0; n < BM / 8; ++n) {
            const float2 sums = row_sum(0, n * 8);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                s[n][i] = ex2(s[n][i] * (scale * LOG2_E) - (i % 2 ? sums.y : sums.x) * LOG2_E);
                if (masked && key + i / 2 * 8 >= visible + n * 8 + i % 2) s[n][i] = 0.0f;
            }
        }
    }

    // Adds what the tile's queries have to say of dk and dv, and leaves the gradient of their scores in shared memory.
    DEVICE void add_dkv(int visible) {
        float p[1][BM / 8][4] = {}, ds[1][BM / 8][4] = {};
        uint32_t left[1][BM / 16][4];
        multiply_rows(p, k_tile, strip, q_tile, 0);
        weigh(p[0], visible);
        round_left(left, p);
        multiply_columns(dv, left, dout_tile, 0, chunk);
        multiply_rows(ds, v_tile, strip, dout_tile, 0);
#pragma unroll
        for (int n = 0; n < BM / 8; ++n) {
            const float2 sums = row_sum(1, n * 8);
#pragma unroll
            for (int i = 0; i < 4; ++i) ds[0][n][i] = p[0][n][i] * (ds[0][n][i] - (i % 2 ? sums.y : sums.x));
        }
        round_left(left, ds);
        if (chunk == 0)
#pragma unroll
            for (int n = 0; n < BM / 8; ++n)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    store_word(ds_tile.at(strip + half * 8 + lane_id() / 4, n) + lane_id() % 4 * 4,
                                 left[0][n / 2][n % 2 * 2 + half]);
        multiply_columns(dk, left, q_tile, 0, chunk);
    }

    // dq of `left` rows to a slice, which holds nothing before the block's first keys.
    DEVICE void add_dq(float* slice, int left, bool first) {
        float dq[DQ_M][DQ_N][4] = {};
        const int row = warp_id() / ACROSS * DQ_M * 16, column = warp_id() % ACROSS * DQ_N;
        multiply_transposed<KEYS / 16>(dq, ds_tile, row / 8, k_tile, column);
#pragma unroll
        for (int m = 0; m < DQ_M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int r = row + m * 16 + half * 8 + lane_id() / 4;
                float* to = slice + int64_t(r) * NH * D + lane_id() % 4 * 2;
#pragma unroll
                for (int n = 0; n < DQ_N; ++n) {
                    const int c = (column + n) * 8;
                    if (r >= left || c >= D) continue;
                    const Pack<float, 2> old = first ? Pack<float, 2>{} : load<2>(to + c);
                    store(to + c, Pack<float, 2>{old.v[0] + dq[m][n][half * 2], old.v[1] + dq[m][n][half * 2 + 1]});
                }
            }
    }

    DEVICE void run_keys(float* slice, bf16* dk_out, bf16* dv_out, int first_key, bool first) {
        const int group = NH / NKV, from = first_key < work.visible ? 0 : (first_key + 1 - work.visible) / BM * BM;
        const int64_t kv_stride = int64_t(NKV) * D, at = (work.first_key + first_key) * kv_stride + kv_head * D;
        const int left = work.keys() - first_key;
        fetch<W, KEYS, THREADS>(k_tile, k + at, kv_stride, left, D);
        fetch<W, KEYS, THREADS>(v_tile, v + at, kv_stride, left, D);
        fetch_queries(kv_head * group, from);
        cp_async_commit();
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) dk[0][n][i] = dv[0][n][i] = 0.0f;
#pragma unroll 1
        for (int head = kv_head * group, query = from; head < (kv_head + 1) * group;) {
            cp_async_wait<0>();
            __syncthreads();
            add_dkv(work.visible + query - first_key - strip);
            __syncthreads();
            const int done_head = head, done = query;
            query += BM;
            if (query >= work.queries) query = from, ++head;
            if (head < (kv_head + 1) * group) fetch_queries(head, query);
            cp_async_commit();
            add_dq(slice + ((work.first_query + done) * int64_t(NH) + done_head) * D, work.queries - done, first);
        }
        __syncthreads();
        const float scales[1][2] = {{scale, scale}}, ones[1][2] = {{1.0f, 1.0f}};
        store_rows(dk_out + at, kv_stride, left, D, dk, scales, k_tile, strip, chunk);
        store_rows(dv_out + at, kv_stride, left, D, dv, ones, v_tile, strip, chunk);
        __syncthreads();
    }

    // Rounds go through the blocks of keys to and fro, since the first are seen by most queries.
    DEVICE void run(float* slices, bf16* dk_out, bf16* dv_out) {
        const int keys = work.keys(), count = least((keys + KEYS - 1) / KEYS, int(gridDim.y)), slice = blockIdx.y;
        slices += slice * rows * NH * D;
#pragma unroll 1
        for (int round = 0;; ++round) {
            const int first_key = (round * count + (round % 2 ? count - 1 - slice : slice)) * KEYS;
            if (first_key >= keys) break;
            run_keys(slices, dk_out, dv_out, first_key, round == 0);
        }
    }
};

// Of 32 rows of a head; a warp takes four.
template <typename T>
DEVICE void row_products(float* delta, const T* dout, const T* out, int64_t rows, int NH, int D) {
    __shared__ float sums[32];
    const int head = blockIdx.x % NH;
    const int64_t first = blockIdx.x / NH * int64_t(32);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int64_t row = first + warp_id() * 4 + i;
        if (row >= rows) break;
        float sum = 0.0f;
#pragma unroll 1
        for (int c = lane_id() * PACK<T>; c < D; c += WARP * PACK<T>) {
            const Pack<T, PACK<T>> a = load<PACK<T>>(dout + (row * NH + head) * D + c),
                                   b = load<PACK<T>>(out + (row * NH + head) * D + c);
#pragma unroll
            for (int j = 0; j < PACK<T>; ++j) sum += a[j] * b[j];
        }
        sum = warp_sum(sum);
        if (lane_id() == 0) sums[warp_id() * 4 + i] = sum;
    }
    __syncthreads();
    const int64_t row = first + threadIdx.x;
    if (threadIdx.x < 32 && row < rows) delta[head * rows + row] = sums[threadIdx.x];
}

// dq of four columns a thread: the slices of the keys that a row sees, in their order.
DEVICE void sum_slices(bf16* dq, const float* slices, const int* list, int64_t rows, int columns, int most_slices,
                       float scale) {
    const Work work = load_work(list, blockIdx.x);
    const int c = (blockIdx.y * blockDim.x + threadIdx.x) * 4;
    if (c >= columns) return;
#pragma unroll 1
    for (int r = 0; r < work.queries; ++r) {
        const int64_t at = (work.first_query + r) * int64_t(columns) + c;
        const int count = least(most_slices, (work.visible + r + SLICE_KEYS - 1) / SLICE_KEYS);
        float sum[4] = {};
        for (int slice = 0; slice < count; ++slice) {
            const Pack<float, 4> part = load<4>(slices + slice * rows * columns + at);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[i] += part.v[i];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] *= scale;
        store(dq + at, rounded<bf16>(sum));
    }
}
