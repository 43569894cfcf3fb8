// Flash attention forward on bf16 tensor cores. Four warps take BM query rows of a head; each holds its rows of the
// output, of the running maximum and of the running sum in registers. While the tiles of some keys are multiplied,
// those of the next are on their way.
#pragma once

#include "attention_tile.cuh"

// Below every score; finite, so that what is less than it by nothing is known to be nothing.
constexpr float LOWEST = -1e30f;

template <int W, int BM, int KEYS> struct Forward {
    static constexpr int THREADS = 128, ROWS = BM / 4, M = ROWS / 16, STAGE = 2 * KEYS * Tile<W>::ROW;

    float out[M][W / 8][4] = {}, top[M][2], sum[M][2] = {};

    DEVICE Forward() {
#pragma unroll
        for (int i = 0; i < 2 * M; ++i) top[i / 2][i % 2] = LOWEST;
    }

    // Takes in the scores of a tile, which become weights relative to the new maximum. Where it is masked, row r of the
    // warp sees only the first `visible(r)` keys.
    template <typename F> DEVICE void softmax(float (&s)[M][KEYS / 8][4], bool masked, F visible, float scale) {
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int seen = visible(m * 16 + half * 8 + lane_id() / 4) - lane_id() % 4 * 2;
                float most = top[m][half];
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        float& v = s[m][n][half * 2 + i];
                        if (masked && n * 8 + i >= seen) v = -INFINITY;
                        most = fmaxf(most, v);
                    }
                most = fmaxf(most, shfl_xor(most, 1));
                most = fmaxf(most, shfl_xor(most, 2));
                const float shrink = ex2((top[m][half] - most) * scale), offset = most * scale;
                top[m][half] = most;
                sum[m][half] *= shrink;
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        float& v = s[m][n][half * 2 + i];
                        v = ex2(v * scale - offset);
                        sum[m][half] += v;
                    }
#pragma unroll
                for (int n = 0; n < W / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) out[m][n][half * 2 + i] *= shrink;
            }
    }

    // Divides by the sums, which each lane has of its columns alone, and stores.
    DEVICE void finish(bf16* y, float* lse, int64_t stride, int rows, int D, float scale, Tile<W> tile, int row) {
        float inverse[M][2];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float& v = sum[m][half];
                v += shfl_xor(v, 1);
                v += shfl_xor(v, 2);
                inverse[m][half] = 1.0f / v;
                const int r = row + m * 16 + half * 8 + lane_id() / 4;
                if (lane_id() % 4 == 0 && r < rows) lse[r] = top[m][half] * scale + logf(v);
            }
        store_rows(y, stride, rows, D, out, inverse, tile, row, 0);
    }

    DEVICE void run(bf16* y, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* list, int64_t rows,
                    int NH, int NKV, int D, float scale) {
        const Work work = load_work(list, blockIdx.x / NH);
        const int head = blockIdx.x % NH, row = warp_id() * ROWS, keys = work.keys();
        const int64_t stride = int64_t(NH) * D, kv_stride = int64_t(NKV) * D;
        q += work.first_query * stride + head * D;
        const Tile<W> q_tile{shared_address(shared_tiles)};
        const uint32_t stages = q_tile.address + BM * Tile<W>::ROW;

        auto fetch_keys = [&](int start) {
            const Tile<W> tile{stages + start / KEYS % 2 * STAGE};
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
            const Tile<W> k_tile{stages + start / KEYS % 2 * STAGE}, v_tile{k_tile.address + STAGE / 2};
            float s[M][KEYS / 8][4] = {};
            multiply_rows(s, q_tile, row, k_tile, 0);
            softmax(s, visible < KEYS, [&](int r) { return visible + r; }, scale * LOG2_E);
            uint32_t p[M][KEYS / 16][4];
            round_left(p, s);
            multiply_columns(out, p, v_tile, 0, 0);
        }
        y += work.first_query * stride + head * D, lse += head * rows + work.first_query;
        finish(y, lse, stride, work.queries, D, scale, q_tile, row);
    }
};
