// Third rung of the ladder: out = a · bᵀ, on tensor cores.
//
//   gemm_tensor_cores    a [M, K], b [N, K] → out [M, N]
//
// Pointers: a b in bf16, out in f32, all row after row; a and b start on 16 bytes, and K is a multiple of 8, so that
//   every row does.
// Launch: grid (ceil(N / 64), ceil(M / 64)), block 128.
// Numerics: products on tensor cores, sums in f32 in order of K by 16.
//
// What it teaches: one mma.sync multiplies 16 x 16 by 16 x 8, for the whole warp: 2048 multiplications and additions
// where a fused multiply-add does 32. Its operands are fragments, spread over the registers of the 32 lanes, and ldmatrix
// loads four 8 x 8 matrices of them from shared memory at once. Each of four warps keeps a quarter of the tile, 32 x 32, as
// accumulators in registers, and uses every fragment two or four times.
//
//   lane 4 r + c has, of the accumulator of 16 x 8 (C):    of one 8 x 8 matrix of ldmatrix:
//     row r      columns 2 c, 2 c + 1                        row r, elements 2 c, 2 c + 1
//     row r + 8  columns 2 c, 2 c + 1
//
// What is left to do: a row of a tile is 64 bytes, so every second row begins in the same bank, and ldmatrix, which reads
// eight rows at once, takes 4 wavefronts for each matrix where 1 would do. And nothing overlaps: while the tiles are loaded
// the tensor cores wait, and the other way round. The fourth rung, cuda/gemm.cuh, swizzles its tiles and keeps copies in
// flight (a software pipeline of cp.async), on tiles of 128 x 128.
#include "../common.cuh"

constexpr int TILE = 64, DEPTH = 32, CHUNKS = DEPTH / 8;  // of 16 bytes in a row of a tile

// Copies rows from `row0` and elements from `k0` on of an operand of [rows, K]; zeros beyond it.
DEVICE void stage(bf16 (&tile)[TILE][DEPTH], const bf16* operand, int row0, int k0, int rows, int K) {
#pragma unroll
    for (int i = threadIdx.x; i < TILE * CHUNKS; i += 128) {
        const int row = row0 + i / CHUNKS, k = k0 + i % CHUNKS * 8;
        Pack<bf16, 8> chunk{};
        if (row < rows && k < K) chunk = load<8>(operand + int64_t(row) * K + k);
        store(&tile[i / CHUNKS][i % CHUNKS * 8], chunk);
    }
}

KERNEL(128) gemm_tensor_cores(float* out, const bf16* a, const bf16* b, int M, int N, int K) {
    __shared__ alignas(16) bf16 a_tile[TILE][DEPTH], b_tile[TILE][DEPTH];
    const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    const int warp_row = warp_id() / 2 * 32, warp_column = warp_id() % 2 * 32;
    // The row of ldmatrix that this lane points to: of matrix lane / 8, which lies 8 further in one dimension or the other.
    const int low = lane_id() % 8, middle = lane_id() / 8 % 2 * 8, high = lane_id() / 16 * 8;
    float sums[2][4][4] = {};
#pragma unroll 1
    for (int k0 = 0; k0 < K; k0 += DEPTH) {
        stage(a_tile, a, row0, k0, M, K);
        stage(b_tile, b, column0, k0, N, K);
        __syncthreads();  // the tiles are complete
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            uint32_t left[2][4], right[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                ldmatrix<false>(left[i], shared_address(&a_tile[warp_row + i * 16 + middle + low][k + high]));
                ldmatrix<false>(right[i], shared_address(&b_tile[warp_column + i * 16 + high + low][k + middle]));
            }
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    mma(sums[i][j][0], sums[i][j][1], sums[i][j][2], sums[i][j][3], left[i], right[j / 2][j % 2 * 2],
                        right[j / 2][j % 2 * 2 + 1]);
        }
        __syncthreads();  // nobody reads them any more
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        const int row = row0 + warp_row + i / 16 * 16 + i / 2 % 2 * 8 + lane_id() / 4;
        const int column = column0 + warp_column + i / 4 % 4 * 8 + lane_id() % 4 * 2 + i % 2;
        if (row < M && column < N) out[int64_t(row) * N + column] = sums[i / 16][i / 4 % 4][i % 4];
    }
}
