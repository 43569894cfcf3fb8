// The epilogue: accumulators times alpha, plus an addend, rounded and stored.
#pragma once

#include "gemm_mma.cuh"

// Where a result goes, in f32 or bf16, its rows `ld` elements apart, and what is added to it, in the same type and
// place, if anything: it may be out itself.
struct Result {
    void* out;
    const void* addend;
    int ld;
    float alpha;
    bool is_f32;

    // Where the block's slice of K stores its sums of the [M, N].
    DEVICE Result slice(int M, int N) const {
        const int64_t stride = (int64_t(M) * N + 3) / 4 * 4;
        return {static_cast<float*>(out) + blockIdx.y * stride, addend, ld, alpha, is_f32};
    }
};

// Stores N neighbouring elements from `at` on, on a boundary of their size.
template <typename T, int N>
DEVICE void store_result(const Result& result, int64_t at, const Pack<float, N>& sums, const Pack<T, N>& addend) {
    float v[N];
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = result.alpha * sums[i] + addend[i];
    T* out = static_cast<T*>(result.out) + at;
    if constexpr (sizeof(T) == 4 && N == 4) store_global(out, v);
    else store(out, rounded<T>(v));
}
template <typename T, int N> DEVICE Pack<T, N> load_addend(const Result& result, int64_t at) {
    return result.addend ? load<N>(static_cast<const T*>(result.addend) + at) : Pack<T, N>{};
}
template <int N> DEVICE void store_result(const Result& result, int64_t at, const Pack<float, N>& sums) {
    if (result.is_f32) store_result<float>(result, at, sums, load_addend<float, N>(result, at));
    else store_result<bf16>(result, at, sums, load_addend<bf16, N>(result, at));
}

// A warp's part of the result, BATCH rows at a time by way of its own part of shared memory, so that neighbouring lanes
// store neighbours. With QUADS lane l has columns l % 4 * 4 + 16 n and the three behind.
template <int WM, int WN, bool QUADS = false> struct Epilogue {
    static constexpr int BATCH = 16;
    static constexpr int LANES = WN / 4, ROWS = WARP / LANES;  // that store a row; rows that a warp stores at once
    // Four rows, eight words of each, in 32 banks; of QUADS two rows, sixteen words of each.
    static constexpr int STRIDE = WN + (QUADS ? 16 : 8);
    static constexpr int BYTES = BATCH * STRIDE * 4;           // of shared memory

    const Result& result;
    float* shared;
    int row0, column0, M, N;

    // The accumulators of a batch; the compiler knows their registers, `first` it does not.
    DEVICE void stage(const Accumulators<WM, WN>& acc, int first) const {
#pragma unroll
        for (int i = 0; i < WM / 8; ++i)
            if (i / 2 * BATCH == first)
#pragma unroll
                for (int j = 0; j < WN / 4; j += QUADS ? 4 : 2) {
                    float* to = shared + (i % 2 * 8 + lane_id() / 4) * STRIDE + j * 4 + lane_id() % 4 * (QUADS ? 4 : 2);
                    if constexpr (QUADS)
                        store_shared(to, acc.v[i][j], acc.v[i][j + 1], acc.v[i][j + 2], acc.v[i][j + 3]);
                    else store_shared(to, acc.v[i][j], acc.v[i][j + 1]);
                }
    }

    // Rows that begin on 16 bytes. All addends are asked for before the first is used, while the accumulators are staged.
    template <typename T> DEVICE void store_packs(const Accumulators<WM, WN>& acc, int first) const {
        const int c = lane_id() % LANES * 4, row = row0 + first + lane_id() / LANES;
        const int64_t at = int64_t(row) * result.ld + column0 + c;
        const int rows = column0 + c < N ? M - row : 0;
        Pack<T, 4> addends[BATCH / ROWS];
#pragma unroll
        for (int i = 0; i < BATCH / ROWS; ++i)
            addends[i] = i * ROWS < rows ? load_addend<T, 4>(result, at + int64_t(i * ROWS) * result.ld) : Pack<T, 4>{};
        stage(acc, first);
        warp_barrier();
#pragma unroll
        for (int i = 0; i < BATCH / ROWS; ++i)
            if (i * ROWS < rows)
                store_result<T>(result, at + int64_t(i * ROWS) * result.ld,
                                load<4>(shared + (lane_id() / LANES + i * ROWS) * STRIDE + c), addends[i]);
    }

    // Rows that begin anywhere.
    DEVICE void store_elements(const Accumulators<WM, WN>& acc, int first) const {
        stage(acc, first);
        warp_barrier();
        const int c = lane_id() % LANES * 4, width = least(4, N - column0 - c);
#pragma unroll 1
        for (int i = lane_id() / LANES; i < least(BATCH, M - row0 - first); i += ROWS)
#pragma unroll 1
            for (int j = 0; j < width; ++j)
                store_result(result, int64_t(row0 + first + i) * result.ld + column0 + c + j,
                             load<1>(shared + i * STRIDE + c + j));
    }

    DEVICE void run(const Accumulators<WM, WN>& acc) const {
#pragma unroll 1
        for (int first = 0; first < WM; first += BATCH) {
            if (N % 4 != 0 || result.ld % 4 != 0) store_elements(acc, first);
            else if (result.is_f32) store_packs<float>(acc, first);
            else store_packs<bf16>(acc, first);
            warp_barrier();
        }
    }
};
