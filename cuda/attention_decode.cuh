// Attention of a few new queries over a cache, bf16. A warp takes a part of the keys for all queries and heads of a
// group, together at most 16 rows, so that keys and values are read once; a second kernel brings the parts together.
#pragma once

#include "attention_fwd.cuh"

// Of the keys of a sequence, those of one part.
DEVICE int part_keys(int keys, int parts) { return ((keys + parts - 1) / parts + 15) / 16 * 16; }

template <int W, int WARPS> struct Decode {
    static constexpr int THREADS = WARPS * WARP, KEYS = 16, STAGE = 2 * KEYS * SwizzledTile<W>::ROW;

    Work work;
    int64_t rows;
    int NH, D, group, kv_head;

    const SwizzledTile<W> q_tile{shared_address(shared_tiles)};

    // Row r of a tile is a query and a head: where it is in a buffer like q, in heads.
    DEVICE int64_t head_row(int r) const {
        return (work.first_query + r / group) * int64_t(NH) + kv_head * group + r % group;
    }

    DEVICE void fetch_queries(const bf16* q) const {
#pragma unroll
        for (int i = threadIdx.x; i < 16 * SwizzledTile<W>::CHUNKS; i += THREADS) {
            const int row = i / SwizzledTile<W>::CHUNKS, chunk = i % SwizzledTile<W>::CHUNKS;
            const bool inside = row < work.queries * group && chunk * 8 < D;
            cp_async(q_tile.at(row, chunk), q + head_row(row) * D + chunk * 8, inside);
        }
    }

    DEVICE void run(float* out, float* lse, const bf16* q, const bf16* k, const bf16* v, int NKV, int parts,
                    float scale) const {
        const int part = blockIdx.y * WARPS + warp_id(), size = part_keys(work.keys(), parts);
        const int begin = part * size, end = least(work.keys(), begin + size);
        const int64_t stride = int64_t(NKV) * D, first = work.first_key * stride + kv_head * D;
        const uint32_t stages = q_tile.address + 16 * SwizzledTile<W>::ROW + warp_id() * 2 * STAGE;
        auto fetch_keys = [&](int start) {
            if (start < end) {
                const SwizzledTile<W> tile{stages + start / KEYS % 2 * STAGE};
                fetch<W, KEYS, WARP>(tile, k + first + start * stride, stride, end - start, D);
                fetch<W, KEYS, WARP>({tile.address + STAGE / 2}, v + first + start * stride, stride, end - start, D);
            }
            cp_async_commit();
        };
        fetch_queries(q);
        fetch_keys(begin);
        fetch_keys(begin + KEYS);
        cp_async_wait<1>();
        __syncthreads();
        Forward<W, 64, KEYS> sums;
#pragma unroll 1
        for (int start = begin; start < end; start += KEYS) {
            cp_async_wait<1>();
            warp_barrier();
            const SwizzledTile<W> k_tile{stages + start / KEYS % 2 * STAGE}, v_tile{k_tile.address + STAGE / 2};
            auto visible_to = [&](int r) { return work.visible - start + r / group; };
            sums.template add_keys<true>(q_tile, 0, k_tile, v_tile, visible_to, scale);
            warp_barrier();
            fetch_keys(start + 2 * KEYS);
        }
        if (begin < end) store_part(out + part * rows * NH * D, lse + part * rows * NH, sums, scale);
    }

    // Rows that see none of the part's keys are zeros, of lse -inf.
    DEVICE void store_part(float* out, float* lse, Forward<W, 64, KEYS>& sums, float scale) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int r = half * 8 + lane_id() / 4;
            float sum = sums.row_sum[0][half];
            sum += shfl_xor(sum, 1);
            sum += shfl_xor(sum, 2);
            if (r >= work.queries * group) continue;
            const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
            const int64_t row = head_row(r);
            if (lane_id() % 4 == 0) lse[row] = sums.row_max[0][half] * scale + logf(sum);
#pragma unroll
            for (int n = 0; n < W / 8; ++n) {
                const float(&o)[4] = sums.out[0][n];
                const Pack<float, 2> pair{o[half * 2] * inverse, o[half * 2 + 1] * inverse};
                if (n == 0 || n * 8 < D) store(out + row * D + n * 8 + lane_id() % 4 * 2, pair);
            }
        }
    }
};

// Four columns a thread of the rows of an item: the mean of the parts, each weighted by its part of the row's sum.
DEVICE void sum_parts(bf16* y, float* lse, const float* out, const float* part_lse, const int* list, int64_t rows,
                      int NH, int D, int max_parts) {
    const Work work = load_work(list, blockIdx.x);
    const int c = (blockIdx.y * blockDim.x + threadIdx.x) * 4, head = c / D;
    if (head >= NH) return;
    const int size = part_keys(work.keys(), max_parts), parts = (work.keys() + size - 1) / size;
#pragma unroll 1
    for (int64_t row = work.first_query; row < work.first_query + work.queries; ++row) {
        float max = -INFINITY, total = 0.0f, sum[4] = {};
        for (int part = 0; part < parts; ++part) max = fmaxf(max, part_lse[(part * rows + row) * NH + head]);
        for (int part = 0; part < parts; ++part) {
            const float weight = ex2((part_lse[(part * rows + row) * NH + head] - max) * LOG2_E);
            const Pack<float, 4> pack = load<4>(out + (part * rows + row) * NH * D + c);
            total += weight;
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[i] += weight * pack.v[i];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] /= total;
        store(y + row * NH * D + c, rounded<bf16>(sum));
        if (c % D == 0) lse[head * rows + row] = max + logf(total);
    }
}
