// The product of up to 16 rows with a weight, a · bᵀ, on tensor cores without shared memory: the weight is read once.
//
// mma's 16 rows are 16 rows of the weight, its 8 columns rows of a. Which k an mma calls its first does not matter to
// the sum, so lane i takes 16 bytes, 8 neighbours in K, of one row of each, and its four words serve two mma.
#pragma once

#include "gemm.cuh"

constexpr int ROWS_WARPS = 8, ROWS_TILE = 16;

// Elements k to k + 7 of row r of a matrix [rows, K], zeros beyond it.
template <bool ALIGNED> DEVICE Pack<bf16, 8> load_eight(const bf16* matrix, int ld, int r, int rows, int k, int K) {
    const bf16* from = matrix + int64_t(r) * ld + k;
    if constexpr (ALIGNED) {
        return r < rows && k < K ? load<8>(from) : Pack<bf16, 8>{};
    } else {
        bf16 v[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = r < rows && k + i < K ? from[i] : bf16{};
        return packed(v);
    }
}

// sums += the warp's share of K: every ROWS_WARPS-th stretch. HALVES of a: 8 rows each. `weight` gives eight elements of a
// row of b.
template <int HALVES, bool ALIGNED, typename T, typename WEIGHT>
DEVICE void accumulate(float (&sums)[2][4], const Term<bf16, T>& term, int n0, int M, int N,
                       WEIGHT weight) {
    constexpr int UNROLL = ALIGNED ? 4 : 1, STRETCH = 32 * UNROLL;
    const int r = lane_id() / 4;
#pragma unroll 1
    for (int k0 = warp_id() * STRETCH; k0 < term.K; k0 += ROWS_WARPS * STRETCH) {
        Pack<bf16, 8> w[UNROLL][2], x[UNROLL][HALVES];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            const int k = k0 + u * 32 + lane_id() % 4 * 8;
#pragma unroll
            for (int half = 0; half < 2; ++half) w[u][half] = weight(term, n0 + half * 8 + r, N, k);
#pragma unroll
            for (int half = 0; half < HALVES; ++half)
                x[u][half] = load_eight<ALIGNED>(term.a, term.lda, half * 8 + r, M, k, term.K);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
#pragma unroll
            for (int half = 0; half < HALVES; ++half)
#pragma unroll
                for (int i = 0; i < 4; i += 2) {
                    const uint32_t left[4] = {w[u][0].pairs[i], w[u][1].pairs[i], w[u][0].pairs[i + 1],
                                              w[u][1].pairs[i + 1]};
                    float(&c)[4] = sums[half];
                    mma(c[0], c[1], c[2], c[3], left, x[u][half].pairs[i], x[u][half].pairs[i + 1]);
                }
    }
}

// Eight elements of a row of a weight of floats.
template <bool ALIGNED> struct Floats {
    DEVICE Pack<bf16, 8> operator()(const Term<bf16>& term, int r, int N, int k) const {
        return load_eight<ALIGNED>(term.b, term.ldb, r, N, k, term.K);
    }
};
DEVICE void accumulate(float (&sums)[2][4], const Term<bf16>& term, int n0, int M, int N) {
    if ((term.K | term.lda | term.ldb) % 8 != 0) accumulate<2, false>(sums, term, n0, M, N, Floats<false>{});
    else if (M > 8) accumulate<2, true>(sums, term, n0, M, N, Floats<true>{});
    else accumulate<1, true>(sums, term, n0, M, N, Floats<true>{});
}

// The sum over the warps of element (m, n) that the thread stores, m = threadIdx.x / ROWS_TILE, n the rest.
template <typename S> DEVICE S sum_of_warps(const S (&sums)[2][4]) {
    // Element (m, n) of a warp's sums, so that neither writing pairs of m nor reading rows of n meets a bank twice.
    const auto at = [](int warp, int half, int n, int m) {
        return ((warp * 2 + half) * ROWS_TILE + n) * 8 + (m ^ n / 4 * 2);
    };
    __shared__ alignas(16) S shared[ROWS_WARPS * 2 * ROWS_TILE * 8];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            S* to = shared + at(warp_id(), half, i * 8 + lane_id() / 4, lane_id() % 4 * 2);
            store_shared(to, sums[half][2 * i], sums[half][2 * i + 1]);
        }
    __syncthreads();
    const int m = threadIdx.x / ROWS_TILE, n = threadIdx.x % ROWS_TILE;
    S sum{};
#pragma unroll
    for (int warp = 0; warp < ROWS_WARPS; ++warp) sum += shared[at(warp, m / 8, n, m % 8)];
    return sum;
}

// Stores the thread's sum, in the block's 16 columns from n0 on.
DEVICE void store_sum(const Result& result, float sum, int n0, int M, int N) {
    const int m = threadIdx.x / ROWS_TILE, n = n0 + threadIdx.x % ROWS_TILE;
    if (m < M && n < N) store_result(result, int64_t(m) * result.ld + n, Pack<float, 1>{sum});
}

DEVICE void gemm_rows(const Result& result, const Term<bf16>& base, const Term<bf16>& extension, int M, int N) {
    const int n0 = blockIdx.x * ROWS_TILE;
    float sums[2][4] = {};
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
        const Term<bf16> term = i == 0 ? base : extension;
        accumulate(sums, term, n0, M, N);
    }
    store_sum(result, sum_of_warps(sums), n0, M, N);
}
