// Products of int8 matrices, their sums made floats. Dettmers et al. 2022, https://arxiv.org/abs/2208.07339
//
//   int8_matmul_nt   out = b_scale * (a_scale * (a · bᵀ) + outliers(x) · bᵀ) + xa · b2ᵀ + addend    b [N, K]    a layer's
//                    product with its weight; a is x without its outliers
//   int8_matmul_nn   out = a_scale * (a · b) + addend    b [K, N]    the gradient of its input (dgrad)
//   int8_matmul_rows_*   as int8_matmul_nt, for M up to 16
//   int8_matmul_floats_nn   out = a · (b * b_scale) + addend    b_scale [K]    the same of a gradient that stays floats
//
// Pointers: a [M, K] and b int8, rows of memory lda ldb bytes apart, multiples of 16, zeros beyond K (nn: N); a_scale [M],
//   b_scale [N] f32; x [M, K] in the kernel's dtype, rows ldx apart; columns [K] those in which it has outliers, elements that
//   are not below `limit` in magnitude, and count how many columns, null for none; xa [M, K2], b2 [N, K2], K2, out and addend
//   as a2, b2, K2, out and addend of matmul_nt (matmul.cu). The columns of nn's a are in the order of quantize_gradient
//   (quantize.cu). Of floats_nn a is in the kernel's dtype, rows lda elements apart, b * b_scale rounded to that; but for `any`
//   lda and K are multiples of 8.
// Launch: as matmul_nt of the same tile (matmul.cu), `depth` a multiple of 64; rows as matmul_rows.
//   shared int8_matmul_nt_bf16_256 98304
//   shared int8_matmul_nn_256 98304
//   shared int8_matmul_nt_bf16_128 49152
//   shared int8_matmul_nn_128 49152
//   shared int8_matmul_nt_bf16_64 32768
//   shared int8_matmul_nt_f32_64 32768
//   shared int8_matmul_nn_64 32768
//   shared int8_matmul_floats_nn_bf16_256 98304
//   shared int8_matmul_floats_nn_bf16_128 49152
//   shared int8_matmul_floats_nn_bf16_64 32768
//   shared int8_matmul_floats_nn_bf16_any 32768
//   shared int8_matmul_floats_nn_f32_any 32768
// Numerics: sums of int8 in int32, exact, then times the scale of their row in f32; to them is added in f32 what the outliers
//   give in order of their columns, times the codes as floats; all of it times the scale of the column; then the adapter's
//   part; rounded once when stored. The last of several slices has the outliers and the adapter. rows: what is beside the
//   integers by fused multiply-add, in order of K.
#include "gemm_codes.cuh"
#include "gemm_rows.cuh"

// The copies of columns that a list names, ROWS by 32 bf16 or 16 f32 of K a stage: those of x that are not below a limit, or
// codes.
template <typename T, typename From, int ROWS, int THREADS> struct Gathered {
    using Source = From;
    using L = Layout<T, ROWS, true>;
    static constexpr int STRIDE = THREADS / L::CHUNKS, COUNT = L::BYTES / 16 / THREADS;

    const uint32_t* columns;
    float limit;
    const Source* from;
    int64_t ld;
    int to, left, rows;  // columns of the list from the chunk on; rows from the first chunk's on

    DEVICE void begin(const Source* operand, int leading, int row0, int k0, int rows_of_all, int K) {
        const int c = threadIdx.x % L::CHUNKS, first = threadIdx.x / L::CHUNKS;
        from = operand + int64_t(row0 + first) * leading;
        ld = leading;
        to = L::chunk(first, c);
        columns += k0 + c * PACK<T>;
        left = K - k0 - c * PACK<T>;
        rows = rows_of_all - row0 - first;
    }

    DEVICE T element(const Source* source) const {
        if constexpr (sizeof(From) == 1) return from_float<T>(*source);
        else return fabsf(to_float(*source)) < limit ? T{} : *source;
    }

    DEVICE void copy(uint32_t stage) {
        uint32_t at[PACK<T>];
#pragma unroll
        for (int j = 0; j < PACK<T>; ++j) at[j] = j < left ? columns[j] : 0;
#pragma unroll 1
        for (int i = 0; i < COUNT; ++i) {
            T elements[PACK<T>];
#pragma unroll
            for (int j = 0; j < PACK<T>; ++j)
                elements[j] = j < left && i * STRIDE < rows ? element(from + ld * (i * STRIDE) + at[j]) : T{};
            store(reinterpret_cast<T*>(gemm_shared + (stage - shared_address(gemm_shared)) + to + i * STRIDE * L::ROW_BYTES),
                  packed(elements));
        }
        columns += L::DEPTH, left -= L::DEPTH;
    }
};

// What is multiplied beside the integers.
template <typename T> struct Beside {
    const T* x;
    const uint32_t *columns, *count;
    int ldx;
    float limit;
    Term<T> adapter;
};

// A block's product: sums of integers first, of floats in their place then.
template <typename T, int BM, int BN, int WARPS_M, int WARPS_N, bool FORWARD> struct Int8Matmul {
    using Integers = Gemm<int8_t, BM, BN, WARPS_M, WARPS_N, true, FORWARD, true>;
    using Floats = Gemm<T, BM, BN, WARPS_M, WARPS_N, true, FORWARD, true>;
    static constexpr int THREADS = Integers::THREADS, WM = Integers::WM, WN = Integers::WN;

    int M, N, row0, column0;

    // In the order of quads the lane's sums of 16 columns are of four neighbours: two of the even columns, two of the odd.
    DEVICE void integers(Accumulators<WM, WN>& acc, const Term<int8_t>& term, const float* scale, int first, int depth) {
        Integers block{M, N};
        block.place();
        row0 = block.row0, column0 = block.column0;
        Accumulators<WM, WN, int> sums{};
        block.mainloop(sums, {term, first, (least(depth, term.K - first) + 63) / 64}, {term, 0, 0});
        const int row = row0 + warp_id() / WARPS_N * WM + lane_id() / 4;
#pragma unroll
        for (int i = 0; i < WM / 8; ++i) {
            const float scale_of_row = row + i * 8 < M ? scale[row + i * 8] : 0.0f;
#pragma unroll
            for (int j = 0; j < WN / 4; ++j) {
                const int quad = j / 4 * 4 + j % 2 * 2 + j / 2 % 2;
                acc.v[i][FORWARD ? j : quad] = float(sums.v[i][j]) * scale_of_row;
            }
        }
    }

    DEVICE void outliers(Accumulators<WM, WN>& acc, const Beside<T>& beside, const Term<int8_t>& term, int count) const {
        using A = Gathered<T, T, BM, THREADS>;
        using B = Gathered<T, int8_t, BN, THREADS>;
        Gemm<T, BM, BN, WARPS_M, WARPS_N, true, true, false, Dropped::NOTHING, A, B> block{M, N};
        block.row0 = row0, block.column0 = column0;
        block.a.columns = block.b.columns = beside.columns, block.a.limit = beside.limit;
        const Term<T, int8_t> gathered = {beside.x, term.b, beside.ldx, term.ldb, count};
        __syncthreads();
        block.mainloop(acc, {gathered, 0, (count + A::L::DEPTH - 1) / A::L::DEPTH}, {gathered, 0, 0});
    }

    DEVICE void scale_columns(Accumulators<WM, WN>& acc, const float* scale) const {
        const int column = column0 + warp_id() % WARPS_N * WN + lane_id() % 4 * 2;
#pragma unroll
        for (int j = 0; j < WN / 4; ++j) {
            const int c = column + j / 2 * 8 + j % 2;
            const float scale_of_column = c < N ? scale[c] : 0.0f;
#pragma unroll
            for (int i = 0; i < WM / 8; ++i) acc.v[i][j] *= scale_of_column;
        }
    }

    DEVICE void forward(const Result& result, const Term<int8_t>& term, const float* a_scale, const float* b_scale, int depth,
                        const Beside<T>& beside) {
        constexpr int DEPTH = Floats::A::DEPTH;
        const bool is_last = blockIdx.y + 1 == gridDim.y;
        Accumulators<WM, WN> acc;
        integers(acc, term, a_scale, blockIdx.y * depth, depth);
        const int count = is_last && beside.count ? load_for_warp(beside.count) : 0;
        if (count > 0) outliers(acc, beside, term, count);
        scale_columns(acc, b_scale);
        Floats block{M, N};
        block.row0 = row0, block.column0 = column0;
        if (is_last && beside.adapter.K > 0) {
            __syncthreads();
            block.mainloop(acc, {beside.adapter, 0, (beside.adapter.K + DEPTH - 1) / DEPTH}, {beside.adapter, 0, 0});
        }
        block.store(result.slice(M, N), acc);
    }

    DEVICE void backward(const Result& result, const Term<int8_t>& term, const float* a_scale, int depth) {
        Accumulators<WM, WN> acc;
        integers(acc, term, a_scale, blockIdx.y * depth, depth);
        Floats block{M, N};
        block.row0 = row0, block.column0 = column0;
        block.template store<true>(result.slice(M, N), acc);
    }
};

// Of up to 16 rows the integer sums of a block's 16 columns: as gemm_rows.cuh has them of floats. A lane takes 16 bytes of a
// row of each operand; its four words serve two mma.
DEVICE void accumulate(int (&sums)[2][4], const Term<int8_t>& term, int n0, int M, int N) {
    constexpr int UNROLL = 4, STRETCH = 64 * UNROLL;
    const int r = lane_id() / 4;
    const auto load_words = [&](const int8_t* matrix, int ld, int row, int rows, int k) {
        return row < rows && k < term.K ? *reinterpret_cast<const uint4*>(matrix + int64_t(row) * ld + k) : uint4{};
    };
#pragma unroll 1
    for (int k0 = warp_id() * STRETCH; k0 < term.K; k0 += ROWS_WARPS * STRETCH) {
        uint4 w[UNROLL][2], x[UNROLL][2];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int k = k0 + u * 64 + lane_id() % 4 * 16;
                w[u][half] = load_words(term.b, term.ldb, n0 + half * 8 + r, N, k);
                x[u][half] = load_words(term.a, term.lda, half * 8 + r, M, k);
            }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int(&c)[4] = sums[half];
                const uint4 low = w[u][0], high = w[u][1], of_x = x[u][half];
                mma(c[0], c[1], c[2], c[3], {low.x, high.x, low.y, high.y}, of_x.x, of_x.y);
                mma(c[0], c[1], c[2], c[3], {low.z, high.z, low.w, high.w}, of_x.z, of_x.w);
            }
    }
}

template <typename T>
DEVICE void int8_matmul_rows(const Result& result, const Term<int8_t>& term, const float* a_scale, const float* b_scale,
                             int M, int N, const Beside<T>& beside) {
    const int n0 = blockIdx.x * ROWS_TILE, m = threadIdx.x / ROWS_TILE, n = n0 + threadIdx.x % ROWS_TILE;
    int sums[2][4] = {};
    accumulate(sums, term, n0, M, N);
    float sum = float(sum_of_warps(sums));
    const int count = beside.count ? load_for_warp(beside.count) : 0;
    if (m < M && n < N) {
        sum *= a_scale[m];
#pragma unroll 1
        for (int i = 0; i < count; ++i) {
            const uint32_t c = beside.columns[i];
            const float x = to_float(beside.x[int64_t(m) * beside.ldx + c]);
            if (!(fabsf(x) < beside.limit)) sum += x * float(term.b[int64_t(n) * term.ldb + c]);
        }
        sum *= b_scale[n];
        const T *xa = beside.adapter.a + int64_t(m) * beside.adapter.lda, *b2 = beside.adapter.b + int64_t(n) * beside.adapter.ldb;
#pragma unroll 1
        for (int k = 0; k < beside.adapter.K; ++k) sum += to_float(xa[k]) * to_float(b2[k]);
    }
    store_sum(result, sum, n0, M, N);
}

#define NT(T, NAME, BM, BN, WARPS_M, WARPS_N)                                                                          \
    KERNEL(32 * WARPS_M * WARPS_N, 1)                                                                                  \
    int8_matmul_nt_##NAME(void* out, const void* addend, const int8_t* a, const int8_t* b, const float* a_scale,       \
                          const float* b_scale, const T* x, const uint32_t* columns, const uint32_t* count,            \
                          const T* xa, const T* b2, int M, int N, int K, int K2, int ldc, int lda, int ldb, int lda2,  \
                          int ldb2, int ldx, float limit, int out_f32, int depth) {                                    \
        const Beside<T> beside = {x, columns, count, ldx, limit, {xa, b2, lda2, ldb2, K2}};                            \
        Int8Matmul<T, BM, BN, WARPS_M, WARPS_N, true>{M, N}.forward(                                                   \
            {out, addend, ldc, 1.0f, out_f32 != 0}, {a, b, lda, ldb, K}, a_scale, b_scale, depth, beside);             \
    }

#define ROWS(T, NAME)                                                                                                  \
    KERNEL(256)                                                                                                        \
    int8_matmul_rows_##NAME(void* out, const void* addend, const int8_t* a, const int8_t* b, const float* a_scale,     \
                            const float* b_scale, const T* x, const uint32_t* columns, const uint32_t* count,          \
                            const T* xa, const T* b2, int M, int N, int K, int K2, int ldc, int lda, int ldb,          \
                            int lda2, int ldb2, int ldx, float limit, int out_f32) {                                   \
        const Beside<T> beside = {x, columns, count, ldx, limit, {xa, b2, lda2, ldb2, K2}};                            \
        int8_matmul_rows<T>({out, addend, ldc, 1.0f, out_f32 != 0}, {a, b, lda, ldb, K}, a_scale, b_scale, M, N,       \
                            beside);                                                                                   \
    }

#define NN(NAME, BM, BN, WARPS_M, WARPS_N)                                                                             \
    KERNEL(32 * WARPS_M * WARPS_N, 1)                                                                                  \
    int8_matmul_nn_##NAME(void* out, const void* addend, const int8_t* a, const int8_t* b, const float* a_scale, int M, \
                          int N, int K, int ldc, int lda, int ldb, int out_f32, int depth) {                           \
        Int8Matmul<bf16, BM, BN, WARPS_M, WARPS_N, false>{M, N}.backward({out, addend, ldc, 1.0f, out_f32 != 0},       \
                                                                         {a, b, lda, ldb, K}, a_scale, depth);         \
    }

#define FLOATS_NN(T, NAME, BM, BN, WARPS_M, WARPS_N, ALIGNED)                                                          \
    KERNEL(32 * WARPS_M * WARPS_N, 1)                                                                                  \
    int8_matmul_floats_nn_##NAME(void* out, const void* addend, const T* a, const int8_t* b, const float* b_scale,     \
                                 int M, int N, int K, int ldc, int lda, int ldb, int out_f32, int depth) {             \
        decoded_matmul<T, BM, BN, WARPS_M, WARPS_N, false, ALIGNED>({out, addend, ldc, 1.0f, out_f32 != 0},            \
                                                                    {a, b, lda, ldb, K}, EightBits{b_scale}, M, N,     \
                                                                    depth, {});                                        \
    }

NT(bf16, bf16_256, 128, 256, 2, 4)
NT(bf16, bf16_128, 128, 128, 2, 2)
NT(bf16, bf16_64, 64, 64, 2, 2)
NT(float, f32_64, 64, 64, 2, 2)
NN(256, 128, 256, 2, 4)
NN(128, 128, 128, 2, 2)
NN(64, 64, 64, 2, 2)
ROWS(bf16, bf16)
ROWS(float, f32)
FLOATS_NN(bf16, bf16_256, 128, 256, 2, 4, true)
FLOATS_NN(bf16, bf16_128, 128, 128, 2, 2, true)
FLOATS_NN(bf16, bf16_64, 64, 64, 2, 2, true)
FLOATS_NN(bf16, bf16_any, 64, 64, 2, 2, false)
FLOATS_NN(float, f32_any, 64, 64, 2, 2, false)
