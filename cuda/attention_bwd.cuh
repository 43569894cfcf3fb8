// Flash attention backward on bf16 tensor cores. A block takes every n-th run of KEYS keys of a sequence and a
// key/value head, and goes through the query rows that see them, of every head of the group. A warp takes 16 keys, all
// columns of them or, with SPLIT 2, half; it holds its part of dk and dv in registers. dq is accumulated in a slice of
// the block's own in global memory; a second kernel sums the slices.
#pragma once

#include "attention_tile.cuh"

template <int W, int BM, int KEYS, int SPLIT> struct Backward {
    static constexpr int STRIPS = KEYS / 16, WARPS = STRIPS * SPLIT, THREADS = WARPS * WARP, N = W / 8 / SPLIT;
    // dq of a step: a warp has 16 of its rows and DQ_N * 8 of its columns.
    static constexpr int DQ_WARPS = WARPS / (BM / 16), DQ_N = W / 8 / DQ_WARPS;

    const bf16 *q, *k, *v, *dout;
    const float *lse, *delta;
    int64_t rows;
    int NH, NKV, D, kv_head;
    float scale;
    Work work;

    const int strip = warp_id() % STRIPS * 16, chunk = warp_id() / STRIPS * N;
    const SwizzledTile<W> k_tile{shared_address(shared_tiles)}, v_tile{k_tile.address + KEYS * 2 * W},
        q_tile{v_tile.address + KEYS * 2 * W}, dout_tile{q_tile.address + BM * 2 * W};
    const SwizzledTile<BM> ds_tile{dout_tile.address + BM * 2 * W};
    const uint32_t row_sums = ds_tile.address + KEYS * 2 * BM;  // lse, then delta
    const uint32_t kept_work = row_sums + BM * 8;

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

    // Scores, laid out as c, become p. The first query sees the warp's keys below `visible`, each query one more.
    DEVICE void exponentiate(float (&s)[BM / 8][4], int visible) const {
#pragma unroll
        for (int n = 0; n < BM / 8; ++n) {
            const float2 sums = row_sum(0, n * 8);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                s[n][i] = ex2(s[n][i] * (scale * LOG2_E) - (i % 2 ? sums.y : sums.x) * LOG2_E);
        }
        if (visible >= 16) return;
        const int key = lane_id() / 4 - lane_id() % 4 * 2;
#pragma unroll
        for (int n = 0; n < BM / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (key + i / 2 * 8 >= visible + n * 8 + i % 2) s[n][i] = 0.0f;
    }

    // dv of a step's queries, and their ds: as A fragments and, for the other warps, in shared memory.
    DEVICE void accumulate_dv(uint32_t (&ds)[1][BM / 16][4], int visible) {
        float p[1][BM / 8][4] = {}, dp[1][BM / 8][4] = {};
        mma_nt(p, k_tile, strip, q_tile, 0);
        exponentiate(p[0], visible);
        pack_a_fragments(ds, p);
        mma_nn(dv, ds, dout_tile, 0, chunk);
        mma_nt(dp, v_tile, strip, dout_tile, 0);
#pragma unroll
        for (int n = 0; n < BM / 8; ++n) {
            const float2 sums = row_sum(1, n * 8);
#pragma unroll
            for (int i = 0; i < 4; ++i) dp[0][n][i] = p[0][n][i] * (dp[0][n][i] - (i % 2 ? sums.y : sums.x));
        }
        pack_a_fragments(ds, dp);
        if (chunk == 0)
#pragma unroll
            for (int n = 0; n < BM / 8; ++n)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    store_word(ds_tile.c_address(lane_id(), strip + half * 8, n), ds[0][n / 2][n % 2 * 2 + half]);
    }

    // Calls f(accumulator's pair, offset) for each pair of neighbours of dq that this lane has among the first `rows`.
    template <typename F> DEVICE void for_dq(float (&dq)[1][DQ_N][4], int rows, F f) const {
        const int row = warp_id() / DQ_WARPS * 16 + lane_id() / 4, column = warp_id() % DQ_WARPS * DQ_N * 8;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int r = row + half * 8, columns = r < rows ? D - column : 0;
            const int at = r * NH * D + column + lane_id() % 4 * 2;
#pragma unroll
            for (int n = 0; n < DQ_N; ++n) f(dq[0][n] + half * 2, at + n * 8, n * 8 < columns);
        }
    }

    // dq's accumulators start from the slice, as far as the block has filled it. All loads are on their way before
    // anything waits for one.
    DEVICE void load_dq(float (&dq)[1][DQ_N][4], const float* slice, int rows) const {
        for_dq(dq, rows, [&](float* pair, int at, bool inside) {
            const Pack<float, 2> sum = inside ? load<2>(slice + at) : Pack<float, 2>{};
            pair[0] = sum.v[0], pair[1] = sum.v[1];
        });
    }
    DEVICE void store_dq(float* slice, float (&dq)[1][DQ_N][4], int rows) const {
        for_dq(dq, rows, [&](float* pair, int at, bool inside) {
            if (inside) store(slice + at, Pack<float, 2>{pair[0], pair[1]});
        });
    }

    // The first of the block's keys in a round, which go through the blocks of keys to and fro: the first are seen by
    // most queries.
    DEVICE int first_key(int round, int keys) const {
        const int count = least((keys + KEYS - 1) / KEYS, int(gridDim.y)), slice = blockIdx.y;
        return (round * count + (round % 2 ? count - 1 - slice : slice)) * KEYS;
    }
    DEVICE int64_t key_offset(int key) const {
        return (work.first_key + key) * int64_t(NKV) * D + kv_head * D;
    }

    DEVICE void mainloop(float* slice, int key, bool first) {
        const int group = NH / NKV;
        const int from = key < work.visible ? 0 : (key + 1 - work.visible) / BM * BM;
        const int64_t kv_stride = int64_t(NKV) * D, at = key_offset(key);
        fetch<W, KEYS, THREADS>(k_tile, k + at, kv_stride, work.keys() - key, D);
        fetch<W, KEYS, THREADS>(v_tile, v + at, kv_stride, work.keys() - key, D);
        fetch_queries(kv_head * group, from);
        cp_async_commit();
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) dk[0][n][i] = dv[0][n][i] = 0.0f;
#pragma unroll 1
        for (int head = kv_head * group, query = from; head < (kv_head + 1) * group;) {
            uint32_t ds[1][BM / 16][4];
            float dq[1][DQ_N][4];
            cp_async_wait<0>();
            __syncthreads();
            accumulate_dv(ds, work.visible + query - key - strip);
            float* slice_rows = slice + ((work.first_query + query) * int64_t(NH) + head) * D;
            const int left = work.queries - query;
            load_dq(dq, slice_rows, first ? 0 : left);
            mma_nn(dk, ds, q_tile, 0, chunk);
            __syncthreads();
            query += BM;
            if (query >= work.queries) query = from, ++head;
            if (head < (kv_head + 1) * group) fetch_queries(head, query);
            cp_async_commit();
            mma_tn<STRIPS>(dq, ds_tile, warp_id() / DQ_WARPS * 2, k_tile, warp_id() % DQ_WARPS * DQ_N);
            store_dq(slice_rows, dq, left);
        }
        __syncthreads();
    }

    DEVICE void epilogue(bf16* dk_out, bf16* dv_out, int key) {
        const int64_t kv_stride = int64_t(NKV) * D, at = key_offset(key);
        const float scales[1][2] = {{scale, scale}}, ones[1][2] = {{1.0f, 1.0f}};
        store_rows(dk_out + at, kv_stride, work.keys() - key, D, dk, scales, k_tile, strip, chunk);
        store_rows(dv_out + at, kv_stride, work.keys() - key, D, dv, ones, v_tile, strip, chunk);
        __syncthreads();
    }

    // `work` is kept in shared memory, and so out of the mainloop's registers where that has no use for it.
    DEVICE void keep_work() {
        if (threadIdx.x == 0)
            store_words(kept_work, {uint32_t(work.first_query), uint32_t(work.queries), uint32_t(work.first_key),
                                    uint32_t(work.visible)});
        __syncthreads();
    }
    DEVICE void recall_work() {
        const uint4 words = load_words(kept_work);
        work = {int(words.x), int(words.y), int(words.z), int(words.w)};
    }

    DEVICE void run(float* slices, bf16* dk_out, bf16* dv_out) {
        keep_work();
#pragma unroll 1
        for (int round = 0;; ++round) {
            recall_work();
            const int key = first_key(round, work.keys());
            if (key >= work.keys()) break;
            mainloop(slices + blockIdx.y * rows * NH * D, key, round == 0);
            recall_work();
            epilogue(dk_out, dv_out, first_key(round, work.keys()));
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
                       int slice_keys, float scale) {
    const Work work = load_work(list, blockIdx.x);
    const int c = (blockIdx.y * blockDim.x + threadIdx.x) * 4;
    if (c >= columns) return;
#pragma unroll 1
    for (int r = 0; r < work.queries; ++r) {
        const int64_t at = (work.first_query + r) * int64_t(columns) + c;
        const int count = least(most_slices, (work.visible + r + slice_keys - 1) / slice_keys);
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
