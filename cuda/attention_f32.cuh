// Attention in f32, by plain multiplications: made to be right, not fast. A block takes some rows, four a warp, and
// goes through the other side's rows by tiles of 32, one a lane. Rows in shared memory are D + 4 long, so that eight
// lanes that read 16 bytes of as many rows meet different banks.
#pragma once

#include "attention_tile.cuh"

namespace plain {

constexpr int TILE = 32, OWN = 4;

DEVICE float shuffle(float v, int lane) { return __uint_as_float(shfl(__float_as_uint(v), lane)); }

// Copies `tile_rows` rows of D, zeros beyond `rows`.
DEVICE void fetch_rows(float* tile, int tile_rows, const float* from, int64_t stride, int rows, int D) {
    for (int i = threadIdx.x; i < tile_rows * (D / 4); i += blockDim.x) {
        const int row = i / (D / 4), c = i % (D / 4) * 4;
        store(tile + row * (D + 4) + c, row < rows ? load<4>(from + row * stride + c) : Pack<float, 4>{});
    }
}

// Of the lane's row of `tile` with the warp's own rows.
DEVICE void dot_products(float (&s)[OWN], const float* own, const float* tile, int D) {
#pragma unroll
    for (int r = 0; r < OWN; ++r) s[r] = 0.0f;
#pragma unroll 1
    for (int c = 0; c < D; c += 4) {
        const Pack<float, 4> b = load<4>(tile + lane_id() * (D + 4) + c);
#pragma unroll
        for (int r = 0; r < OWN; ++r) {
            const Pack<float, 4> a = load<4>(own + r * (D + 4) + c);
#pragma unroll
            for (int i = 0; i < 4; ++i) s[r] += a.v[i] * b.v[i];
        }
    }
}

// Four columns from 4 * lane and from 128 + 4 * lane on, of each of the warp's own rows.
struct Sums {
    float v[OWN][2][4];

    DEVICE void scale(int r, float factor) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[r][i / 4][i % 4] *= factor;
    }
    // Adds the rows of `tile`, each times the p that its lane has for the own row.
    DEVICE void add(const float (&p)[OWN], const float* tile, int D) {
#pragma unroll 1
        for (int j = 0; j < TILE; ++j) {
            float w[OWN];
#pragma unroll
            for (int r = 0; r < OWN; ++r) w[r] = shuffle(p[r], j);
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                const int c = part * 128 + lane_id() * 4;
                if (c >= D) continue;
                const Pack<float, 4> b = load<4>(tile + j * (D + 4) + c);
#pragma unroll
                for (int r = 0; r < OWN; ++r)
#pragma unroll
                    for (int i = 0; i < 4; ++i) v[r][part][i] += w[r] * b.v[i];
            }
        }
    }
    DEVICE void store_row(int r, float* to, int D, float factor) const {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const int c = part * 128 + lane_id() * 4;
            if (c >= D) continue;
            const float(&o)[4] = v[r][part];
            store_words(to + c, {__float_as_uint(o[0] * factor), __float_as_uint(o[1] * factor),
                                 __float_as_uint(o[2] * factor), __float_as_uint(o[3] * factor)});
        }
    }
};

constexpr int FWD_ROWS = 32, BWD_ROWS = 16;

DEVICE void forward(float* y, float* lse, const float* q, const float* k, const float* v, const int* list, int64_t rows,
                    int NH, int NKV, int D, float scale) {
    const Work work = load_work(list, blockIdx.x / NH);
    const int head = blockIdx.x % NH, own = warp_id() * OWN, keys = work.keys();
    const int64_t stride = int64_t(NH) * D, kv_stride = int64_t(NKV) * D;
    const int64_t first = work.first_query * stride + int64_t(head) * D;
    const int64_t kv_first = work.first_key * kv_stride + int64_t(head / (NH / NKV)) * D;
    q += first, y += first, k += kv_first, v += kv_first, lse += head * rows + work.first_query;
    float* q_tile = reinterpret_cast<float*>(shared_tiles);
    float *k_tile = q_tile + FWD_ROWS * (D + 4), *v_tile = k_tile + TILE * (D + 4);

    Sums out = {};
    float row_max[OWN], row_sum[OWN];
#pragma unroll
    for (int r = 0; r < OWN; ++r) row_max[r] = -INFINITY, row_sum[r] = 0.0f;
    fetch_rows(q_tile, FWD_ROWS, q, stride, work.queries, D);
#pragma unroll 1
    for (int start = 0; start < keys; start += TILE) {
        __syncthreads();
        fetch_rows(k_tile, TILE, k + start * kv_stride, kv_stride, keys - start, D);
        fetch_rows(v_tile, TILE, v + start * kv_stride, kv_stride, keys - start, D);
        __syncthreads();
        float s[OWN];
        dot_products(s, q_tile + own * (D + 4), k_tile, D);
#pragma unroll
        for (int r = 0; r < OWN; ++r) {
            if (start + lane_id() >= work.visible + own + r) s[r] = -INFINITY;
            const float new_max = fmaxf(row_max[r], warp_max(s[r]));
            const float factor = ex2((row_max[r] - new_max) * (scale * LOG2_E));
            s[r] = ex2((s[r] - new_max) * (scale * LOG2_E));
            row_sum[r] = row_sum[r] * factor + warp_sum(s[r]);
            row_max[r] = new_max;
            out.scale(r, factor);
        }
        out.add(s, v_tile, D);
    }
#pragma unroll
    for (int r = 0; r < OWN; ++r) {
        if (own + r >= work.queries) continue;
        out.store_row(r, y + (own + r) * stride, D, 1.0f / row_sum[r]);
        if (lane_id() == 0) lse[own + r] = row_max[r] * scale + logf(row_sum[r]);
    }
}

// dq where a block owns query rows; dk and dv, over all heads of the group, where it owns KEYS.
template <bool KEYS>
DEVICE void backward(float* dx, float* dv, const float* dout, const float* q, const float* k, const float* v,
                     const float* lse, const float* delta, const int* list, int64_t rows, int NH, int NKV, int D,
                     float scale) {
    const int heads = KEYS ? NKV : NH, group = NH / NKV, own = warp_id() * OWN;
    const Work work = load_work(list, blockIdx.x / heads);
    const int own_head = blockIdx.x % heads, kv_head = KEYS ? own_head : own_head / group;
    const int64_t stride = int64_t(NH) * D, kv_stride = int64_t(NKV) * D;
    const int64_t kv_first = work.first_key * kv_stride + kv_head * D;
    k += kv_first, v += kv_first;

    float *own_x = reinterpret_cast<float*>(shared_tiles), *own_y = own_x + BWD_ROWS * (D + 4);
    float *x = own_y + BWD_ROWS * (D + 4), *y = x + TILE * (D + 4);
    const int own_rows = KEYS ? work.keys() : work.queries, other_rows = KEYS ? work.queries : work.keys();
    Sums sum_x = {}, sum_v = {};
    if (KEYS) {
        fetch_rows(own_x, BWD_ROWS, k, kv_stride, own_rows, D);
        fetch_rows(own_y, BWD_ROWS, v, kv_stride, own_rows, D);
    }
#pragma unroll 1
    for (int head = KEYS ? kv_head * group : own_head; head < (KEYS ? (kv_head + 1) * group : own_head + 1); ++head) {
        const int64_t first = work.first_query * stride + head * D, first_sum = head * rows + work.first_query;
        if (!KEYS) {
            fetch_rows(own_x, BWD_ROWS, q + first, stride, own_rows, D);
            fetch_rows(own_y, BWD_ROWS, dout + first, stride, own_rows, D);
        }
#pragma unroll 1
        for (int start = 0; start < other_rows; start += TILE) {
            __syncthreads();
            const int64_t other_stride = KEYS ? stride : kv_stride, skipped = start * other_stride;
            fetch_rows(x, TILE, (KEYS ? q + first : k) + skipped, other_stride, other_rows - start, D);
            fetch_rows(y, TILE, (KEYS ? dout + first : v) + skipped, other_stride, other_rows - start, D);
            __syncthreads();
            float s[OWN], ds[OWN];
            dot_products(s, own_x + own * (D + 4), x, D);
            dot_products(ds, own_y + own * (D + 4), y, D);
#pragma unroll
            for (int r = 0; r < OWN; ++r) {
                const int query = KEYS ? start + lane_id() : own + r, key = KEYS ? own + r : start + lane_id();
                const bool masked = query >= work.queries || key >= work.visible + query;
                const float row_lse = masked ? 0.0f : lse[first_sum + query];
                const float row_delta = masked ? 0.0f : delta[first_sum + query];
                s[r] = masked ? 0.0f : ex2((s[r] * scale - row_lse) * LOG2_E);
                ds[r] = s[r] * (ds[r] - row_delta);
            }
            sum_x.add(ds, x, D);
            if (KEYS) sum_v.add(s, y, D);
        }
    }
    dx += KEYS ? kv_first : work.first_query * stride + own_head * D;
#pragma unroll
    for (int r = 0; r < OWN; ++r) {
        if (own + r >= own_rows) continue;
        sum_x.store_row(r, dx + (own + r) * (KEYS ? kv_stride : stride), D, scale);
        if (KEYS) sum_v.store_row(r, dv + kv_first + (own + r) * kv_stride, D, 1.0f);
    }
}

}  // namespace plain
