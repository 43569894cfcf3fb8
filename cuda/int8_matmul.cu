// Products of int8 matrices, their sums made floats. Dettmers et al. 2022, https://arxiv.org/abs/2208.07339
//
//   int8_matmul_nt   out = a_scale * b_scale * (a · bᵀ) + addend    b [N, K]    a layer's product with its weight
//   int8_matmul_nn   out = a_scale * (a · b) + addend               b [K, N]    the gradient of its input (dgrad)
//
// Pointers: a [M, K] and b int8, rows of memory lda ldb bytes apart, multiples of 16, K likewise; a_scale [M], b_scale [N] f32,
//   not read by nn; out and addend [M, N], rows ldc apart, in f32 if out_f32, else in bf16; addend may be out, or null for
//   nothing. Of nn the columns of a are in the order of quantize_gradient (quantize.cu).
// Launch: as matmul_nt of the same tile (matmul.cu), in one slice.
//   shared int8_matmul_nt_128 49152
//   shared int8_matmul_nt_64 32768
//   shared int8_matmul_nn_128 49152
//   shared int8_matmul_nn_64 32768
// Numerics: sums in int32, exact; then f32, rounded once when stored.
#include "gemm.cuh"

// A warp's sums times the scales of their rows and columns; of QUADS in the order of the epilogue's.
template <bool QUADS, int WM, int WN>
DEVICE void scale(Accumulators<WM, WN>& to, const Accumulators<WM, WN, int>& sums, const float* rows, int row, int M,
                  const float* columns, int column, int N) {
    row += lane_id() / 4, column += lane_id() % 4 * 2;
    float of_row[WM / 8];
#pragma unroll
    for (int i = 0; i < WM / 8; ++i) of_row[i] = row + i * 8 < M ? rows[row + i * 8] : 0.0f;
#pragma unroll
    for (int j = 0; j < WN / 4; ++j) {
        const int c = column + j / 2 * 8 + j % 2;
        const float of_column = QUADS ? 1.0f : c < N ? columns[c] : 0.0f;
#pragma unroll
        for (int i = 0; i < WM / 8; ++i)
            to.v[i][QUADS ? j / 4 * 4 + j % 2 * 2 + j / 2 % 2 : j] = float(sums.v[i][j]) * of_row[i] * of_column;
    }
}

#define TILED(NAME, BM, BN, WARPS_M, WARPS_N, LAYOUT, B_INNER)                                                         \
    KERNEL(32 * WARPS_M * WARPS_N, 1)                                                                                  \
    int8_matmul_##LAYOUT##_##NAME(void* out, const void* addend, const int8_t* a, const int8_t* b,                     \
                                  const float* a_scale, const float* b_scale, int M, int N, int K, int ldc, int lda,   \
                                  int ldb, int out_f32) {                                                              \
        using Block = Gemm<int8_t, BM, BN, WARPS_M, WARPS_N, true, B_INNER, true>;                                     \
        Block block{M, N};                                                                                             \
        block.place();                                                                                                 \
        Accumulators<Block::WM, Block::WN, int> sums{};                                                                \
        const Term<int8_t> term = {a, b, lda, ldb, K}, none{};                                                         \
        block.mainloop(sums, {term, 0, (K + 63) / 64}, {none, 0, 0});                                                  \
        Accumulators<Block::WM, Block::WN> acc;                                                                        \
        scale<!B_INNER>(acc, sums, a_scale, block.row0 + warp_id() / WARPS_N * Block::WM, M, b_scale,                  \
                        block.column0 + warp_id() % WARPS_N * Block::WN, N);                                           \
        block.store<!B_INNER>({out, addend, ldc, 1.0f, out_f32 != 0}, acc);                                            \
    }

#define LAYOUTS(NAME, BM, BN, WARPS_M, WARPS_N)                                                                        \
    TILED(NAME, BM, BN, WARPS_M, WARPS_N, nt, true)                                                                    \
    TILED(NAME, BM, BN, WARPS_M, WARPS_N, nn, false)

LAYOUTS(128, 128, 128, 2, 2)
LAYOUTS(64, 64, 64, 2, 2)
