// The only main loop of matrix multiplication: out = alpha * (a · b + a2 · b2) + addend.
//
// A block makes a tile of the result, each warp a part of it in accumulators. The operands, 64 bytes deep in K, go
// through STAGES stages of shared memory, filled by cp.async STAGES - 1 steps ahead of their use. A step computes one
// stage while it asks for another: the fragments of its next slice of K are loaded while those of this one are
// multiplied, the first of the next stage behind the step's only barrier. Addresses advance by constants. The loop over K
// goes on from the first pair of operands to the second: a low-rank adapter rides in its base layer.
#pragma once

#include "gemm_epilogue.cuh"

constexpr int GROUP = 8;  // rows of tiles that neighbouring blocks go down

// Where elements are dropped: a or b on their way to the fragments, or the product of the extension, which comes first.
enum class Dropped { NOTHING, A, B, EXTENSION };

// The product of a block: BM x BN of the result, WARPS_M x WARPS_N warps.
template <typename T, int BM, int BN, int WARPS_M, int WARPS_N, bool A_INNER, bool B_INNER, bool ALIGNED,
          Dropped DROPPED = Dropped::NOTHING,
          typename COPIES_A = Copies<T, BM, A_INNER, WARPS_M * WARPS_N * WARP, ALIGNED>,
          typename COPIES_B = Copies<T, BN, B_INNER, WARPS_M * WARPS_N * WARP, ALIGNED>>
struct Gemm {
    static constexpr int THREADS = WARPS_M * WARPS_N * WARP, WM = BM / WARPS_M, WN = BN / WARPS_N;
    static constexpr int STAGES = BM * BN == 128 * 128 ? 3 : 4, STAGE = (BM + BN) * 64;
    using A = Layout<T, BM, A_INNER>;
    using B = Layout<T, BN, B_INNER>;
    using Warp = Mma<T, A, B, A_INNER, B_INNER, WM, WN>;
    static constexpr int SLICES = Warp::SLICES;

    using Terms = Term<typename COPIES_A::Source, typename COPIES_B::Source>;

    // The steps of a term, from `k` on.
    struct Part {
        const Terms& term;
        int k, steps;
    };

    int M, N;
    Dropout dropout;
    int row0, column0;
    COPIES_A a;
    COPIES_B b;
    int copies;  // left of the term that is copied

    DEVICE void begin(const Part& part) {
        a.begin(part.term.a, part.term.lda, row0, part.k, M, part.term.K);
        b.begin(part.term.b, part.term.ldb, column0, part.k, N, part.term.K);
        copies = part.steps;
    }
    DEVICE void copy(uint32_t stage) {
        a.copy(stage);
        b.copy(stage + A::BYTES);
    }

    // Waits for the oldest stage that is on its way and shows it to all warps.
    DEVICE void arrive(uint32_t stage, bool is_there) {
        if (ALIGNED) cp_async_wait<STAGES - 2>();
        if constexpr (DROPPED == Dropped::A)
            if (is_there) a.mask(stage, dropout);
        if constexpr (DROPPED == Dropped::B)
            if (is_there) b.mask(stage + A::BYTES, dropout);
        __syncthreads();
    }

    // The first part, then the second.
    DEVICE void mainloop(Accumulators<WM, WN, SumOf<T>>& acc, const Part& first, Part second) {
        const uint32_t stages = shared_address(gemm_shared), end = stages + STAGES * STAGE;
        const int steps = first.steps + second.steps;
        const int warp_row = warp_id() / WARPS_N * WM, warp_column = warp_id() % WARPS_N * WN;
        begin(first);
        const auto next_term = [&] {
            if (copies == 0 && second.steps > 0) begin(second), second.steps = 0;
        };
#pragma unroll 1
        for (int stage = 0; stage < STAGES - 1; ++stage) {  // prologue
            next_term();
            if (copies > 0) copy(stages + stage * STAGE), --copies;
            if (ALIGNED) cp_async_commit();
        }
        if (steps == 0) return;
        const Warp warp(warp_row, warp_column);
        typename Warp::Fragments fragments[2];
        arrive(stages, true);
        warp.load(fragments[0], stages, stages + A::BYTES, 0);

        uint32_t stage = stages, free_stage = end - STAGE;
#pragma unroll 1
        for (int step = 0; step < steps;) {
            next_term();
            const bool is_copying = copies > 0;
            int until = is_copying ? step + copies : steps;
            if (DROPPED == Dropped::EXTENSION && step < first.steps) until = least(until, first.steps);
            if (is_copying) copies -= until - step;
#pragma unroll 1
            for (; step < until; ++step) {
#pragma unroll
                for (int slice = 0; slice < SLICES; ++slice) {
                    if (slice + 1 == SLICES) {
                        free_stage = stage;
                        // Behind the last step there is no stage: its own is read again, for nothing.
                        if (step + 1 < steps) stage = stage + STAGE == end ? stages : stage + STAGE;
                        arrive(stage, step + 1 < steps);
                    }
                    warp.load(fragments[(slice + 1) % 2], stage, stage + A::BYTES, (slice + 1) % SLICES);
                    if (slice == 0) {
                        if (is_copying) copy(free_stage);
                        if (ALIGNED) cp_async_commit();
                    }
                    warp.multiply(acc, fragments[slice % 2]);
                }
            }
            if constexpr (DROPPED == Dropped::EXTENSION) {
                if (step == first.steps) {
                    acc.template mask<ALIGNED>(dropout, row0 + warp_row + lane_id() / 4,
                                               column0 + warp_column + lane_id() % 4 * 2, N);
                    warp.load(fragments[0], stage, stage + A::BYTES, 0);  // again, not held meanwhile
                }
            }
        }
    }

    // Finds the block's tile. Blocks that run at once share tiles: they go down a group of tile rows before they go on to
    // the next column.
    DEVICE void place() {
        const int tiles_m = (M + BM - 1) / BM, tiles_n = (N + BN - 1) / BN;
        const int group = blockIdx.x / (GROUP * tiles_n) * GROUP, height = least(GROUP, tiles_m - group);
        const int within = blockIdx.x - group * tiles_n;
        row0 = (group + within % height) * BM, column0 = within / height * BN;
    }

    // Stores the accumulators, whose stages nothing reads or writes any more.
    template <bool QUADS = false> DEVICE void store(const Result& result, const Accumulators<WM, WN>& acc) const {
        __syncthreads();  // no copies are in flight: those of steps beyond the last copy nothing
        using E = Epilogue<WM, WN, QUADS>;
        static_assert(E::BYTES * WARPS_M * WARPS_N <= STAGES * STAGE, "the epilogue's rows lie where the stages were");
        float* shared = reinterpret_cast<float*>(gemm_shared + warp_id() * E::BYTES);
        E{result, shared, row0 + warp_id() / WARPS_N * WM, column0 + warp_id() % WARPS_N * WN, M, N}.run(acc);
    }

    DEVICE void run(const Result& result, const Term<T>& base, const Term<T>& extension, int depth) {
        place();
        // A slice takes `depth` of the base's K, the last one the extension too.
        const int first = blockIdx.y * depth, base_depth = least(depth, base.K - first);
        const bool is_last = blockIdx.y + 1 == gridDim.y;

        Accumulators<WM, WN> acc{};
        const Part of_base = {base, first, (base_depth + A::DEPTH - 1) / A::DEPTH};
        const Part of_extension = {extension, 0, is_last ? (extension.K + A::DEPTH - 1) / A::DEPTH : 0};
        if (DROPPED == Dropped::EXTENSION) mainloop(acc, of_extension, of_base);
        else mainloop(acc, of_base, of_extension);
        store(result.slice(M, N), acc);
    }
};
