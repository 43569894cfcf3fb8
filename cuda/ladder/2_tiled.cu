// Second rung of the ladder: out = a · bᵀ, tiled through shared memory.
//
//   gemm_tiled    a [M, K], b [N, K] → out [M, N]
//
// Pointers: a b in bf16, out in f32, all row after row.
// Launch: grid (ceil(N / 32), ceil(M / 32)), block 1024.
// Numerics: sums in f32 in order of K.
//
// What it teaches: a block of 32 x 32 threads makes a tile of 32 x 32 elements, which needs 32 rows of each operand. The
// block loads them once, 32 elements deep in K, and every thread reads them from shared memory: global memory is asked for
// 32 times less, and neighbouring lanes load neighbours (coalesced access). The price is two barriers a step, and that
// shared memory is read twice for each multiplication: that is the limit now.
// A row of `b`'s tile has 33 words, not 32: in the dot products lane x reads row x, and 32 rows of 32 words would begin
// in the same bank (a bank conflict of 32 wavefronts).
#include "../common.cuh"

constexpr int TILE = 32;

KERNEL(1024) gemm_tiled(float* out, const bf16* a, const bf16* b, int M, int N, int K) {
    __shared__ float a_tile[TILE][TILE], b_tile[TILE][TILE + 1];
    const int y = threadIdx.x / TILE, x = threadIdx.x % TILE;
    const int row = blockIdx.y * TILE + y, column = blockIdx.x * TILE + x, b_row = blockIdx.x * TILE + y;
    float sum = 0;
    for (int k0 = 0; k0 < K; k0 += TILE) {
        const int k = k0 + x;
        a_tile[y][x] = row < M && k < K ? to_float(a[int64_t(row) * K + k]) : 0.0f;
        b_tile[y][x] = b_row < N && k < K ? to_float(b[int64_t(b_row) * K + k]) : 0.0f;
        __syncthreads();  // the tiles are complete
#pragma unroll
        for (int i = 0; i < TILE; ++i) sum += a_tile[y][i] * b_tile[x][i];
        __syncthreads();  // nobody reads them any more
    }
    if (row < M && column < N) out[int64_t(row) * N + column] = sum;
}
