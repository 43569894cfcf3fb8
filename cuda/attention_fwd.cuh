// Flash attention forward on bf16 tensor cores, by online softmax. Four warps take BM query rows of a head; each holds
// its rows of the output, their maxima and their sums so far in registers. While the tiles of some keys are multiplied,
// those of the next are on their way.
#pragma once

#include "attention_tile.cuh"

// Where the maximum of a row begins. Below every score, and finite: the exponential of a masked score, -inf, is then 0
// also where a row has seen no key yet.
constexpr float ROW_MAX_START = -1e30f;

template <int W, int BM, int KEYS> struct Forward {
    static constexpr int THREADS = 128, ROWS = BM / 4, M = ROWS / 16, STAGE = 2 * KEYS * SwizzledTile<W>::ROW;

    float out[M][W / 8][4] = {}, row_max[M][2], row_sum[M][2] = {};

    DEVICE Forward() {
#pragma unroll
        for (int i = 0; i < 2 * M; ++i) row_max[i / 2][i % 2] = ROW_MAX_START;
    }

    // Brings what rows have so far to their new maxima. Eight rows share a vote: most tiles hold no new maximum for any
    // of them, and are not multiplied by 1.
    DEVICE void rescale(const float (&factor)[M][2]) {
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (!warp_any(factor[m][half] != 1.0f)) continue;
                row_sum[m][half] *= factor[m][half];
#pragma unroll
                for (int n = 0; n < W / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) out[m][n][half * 2 + i] *= factor[m][half];
            }
    }

    // Takes in a tile of scores, which become p relative to the new maximum. Where the tile is masked, row r of the
    // warp sees only the first `visible(r)` keys.
    template <bool MASKED, typename F>
    DEVICE void online_softmax(float (&s)[M][KEYS / 8][4], F visible, float scale) {
        float factor[M][2];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int limit = visible(m * 16 + half * 8 + lane_id() / 4) - lane_id() % 4 * 2;
                float max = row_max[m][half];
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        float& v = s[m][n][half * 2 + i];
                        if (MASKED && n * 8 + i >= limit) v = -INFINITY;
                        max = fmaxf(max, v);
                    }
                max = fmaxf(max, shfl_xor(max, 1));
                max = fmaxf(max, shfl_xor(max, 2));
                factor[m][half] = ex2((row_max[m][half] - max) * scale);
                row_max[m][half] = max;
            }
        rescale(factor);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        float& v = s[m][n][half * 2 + i];
                        v = ex2(v * scale - row_max[m][half] * scale);
                        row_sum[m][half] += v;
                    }
    }

    // out += softmax(q kᵀ) v over a tile of keys: the warp's rows of q from `row` on.
    template <bool MASKED, typename F>
    DEVICE void add_keys(SwizzledTile<W> q, int row, SwizzledTile<W> k, SwizzledTile<W> v, F visible, float scale) {
        float s[M][KEYS / 8][4] = {};
        uint32_t p[M][KEYS / 16][4];
        mma_nt(s, q, row, k, 0);
        online_softmax<MASKED>(s, visible, scale * LOG2_E);
        pack_a_fragments(p, s);
        mma_nn(out, p, v, 0, 0);
    }

    // Divides by the sums, which each lane has of its columns alone, and stores.
    DEVICE void epilogue(bf16* y, float* lse, int64_t stride, int rows, int D, float scale, SwizzledTile<W> tile,
                         int row) {
        float inverse[M][2];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float& v = row_sum[m][half];
                v += shfl_xor(v, 1);
                v += shfl_xor(v, 2);
                inverse[m][half] = 1.0f / v;
                const int r = row + m * 16 + half * 8 + lane_id() / 4;
                if (lane_id() % 4 == 0 && r < rows) lse[r] = row_max[m][half] * scale + logf(v);
            }
        store_rows(y, stride, rows, D, out, inverse, tile, row, 0);
    }

    DEVICE void run(bf16* y, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* list, int64_t rows,
                    int NH, int NKV, int D, float scale) {
        const Work work = load_work(list, blockIdx.x / NH);
        const int head = blockIdx.x % NH, row = warp_id() * ROWS, keys = work.keys();
        const int64_t stride = int64_t(NH) * D, kv_stride = int64_t(NKV) * D;
        q += work.first_query * stride + head * D;
        const SwizzledTile<W> q_tile{shared_address(shared_tiles)};
        const uint32_t stages = q_tile.address + BM * SwizzledTile<W>::ROW;

        auto fetch_keys = [&](int start) {
            const SwizzledTile<W> tile{stages + start / KEYS % 2 * STAGE};
            const int64_t first = (work.first_key + start) * kv_stride + head / (NH / NKV) * D;
            fetch<W, KEYS, THREADS>(tile, k + first, kv_stride, keys - start, D);
            fetch<W, KEYS, THREADS>({tile.address + STAGE / 2}, v + first, kv_stride, keys - start, D);
            cp_async_commit();
        };
        fetch<W, BM, THREADS>(q_tile, q, stride, work.queries, D);
        fetch_keys(0);
#pragma unroll 1
        for (int start = 0; start < keys; start += KEYS) {
            cp_async_wait<0>();
            __syncthreads();
            if (start + KEYS < keys) fetch_keys(start + KEYS);
            // Keys of the tile that the warp's first row sees; each row after it sees one more.
            const int visible = work.visible + row - start;
            if (row >= work.queries || visible + ROWS <= 1) continue;
            const SwizzledTile<W> k_tile{stages + start / KEYS % 2 * STAGE}, v_tile{k_tile.address + STAGE / 2};
            auto visible_to = [&](int r) { return visible + r; };
            if (visible < KEYS)
                add_keys<true>(q_tile, row, k_tile, v_tile, visible_to, scale);
            else
                add_keys<false>(q_tile, row, k_tile, v_tile, visible_to, scale);
        }
        y += work.first_query * stride + head * D, lse += head * rows + work.first_query;
        epilogue(y, lse, stride, work.queries, D, scale, q_tile, row);
    }
};
