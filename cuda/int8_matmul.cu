// Products of int8 matrices, their sums made floats. Dettmers et al. 2022, https://arxiv.org/abs/2208.07339
//
//   int8_matmul_nt   out = b_scale * (a_scale * (a · bᵀ) + outliers(x) · bᵀ) + xa · b2ᵀ + addend    b [N, K]    a layer's product
//                    with its weight; a is x without its outliers
//   int8_matmul_nn   out = a_scale * (a · b) + xa · b2 + addend    b [K, N], b2 [K2, N]    the gradient of its input (dgrad)
//
// Pointers: a [M, K] and b int8, rows of memory lda ldb bytes apart, multiples of 16, K likewise; a_scale [M], b_scale [N] f32;
//   x [M, >= K] in the kernel's dtype, rows ldx apart; columns [K] those in which it has outliers, elements that are not below
//   `limit` in magnitude, and count how many columns; xa, b2, K2, out, addend as a2, b2, K2, out, addend of matmul_nt and
//   matmul_nn (matmul.cu). nn takes no outliers; the columns of its a are in the order of quantize_gradient
//   (quantize.cu), and of 16 columns of b2 the even ones lie before the odd ones.
// Launch: as matmul_nt of the same tile (matmul.cu), in one slice.
//   shared int8_matmul_nt_bf16_256 98304
//   shared int8_matmul_nn_bf16_256 98304
//   shared int8_matmul_nt_bf16_128 49152
//   shared int8_matmul_nt_bf16_64 32768
//   shared int8_matmul_nn_bf16_128 49152
//   shared int8_matmul_nn_bf16_64 32768
// Numerics: sums of int8 in int32, exact, then times the scale of their row in f32; to them is added in f32 what the outliers
//   give in order of their columns, times the codes as floats; all of it times the scale of the column; then the adapter's
//   part; rounded once when stored.
#include "gemm.cuh"

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

// The scales of a warp's rows and columns, in the accumulators' order.
template <int WM> DEVICE void load_rows(float (&to)[WM / 8], const float* scales, int row, int M) {
#pragma unroll
    for (int i = 0; i < WM / 8; ++i) to[i] = row + i * 8 < M ? scales[row + i * 8] : 0.0f;
}

template <typename T, int BM, int BN, int WARPS_M, int WARPS_N, bool FORWARD>
DEVICE void int8_matmul(const Result& result, const Term<int8_t>& term, const float* a_scale, const float* b_scale, int M,
                        int N, const Beside<T>& beside) {
    constexpr int THREADS = WARPS_M * WARPS_N * WARP, WM = BM / WARPS_M, WN = BN / WARPS_N;
    constexpr int DEPTH = Layout<T, BM, true>::DEPTH;
    Accumulators<WM, WN> acc;
    const auto in_warp = [&](int row0, int column0, auto f) {
        const int row = row0 + warp_id() / WARPS_N * WM + lane_id() / 4;
        const int column = column0 + warp_id() % WARPS_N * WN + lane_id() % 4 * 2;
        f(row, column);
    };
    int row0, column0;
    {
        Gemm<int8_t, BM, BN, WARPS_M, WARPS_N, true, FORWARD, true> block{M, N};
        block.place();
        row0 = block.row0, column0 = block.column0;
        Accumulators<WM, WN, int> sums{};
        block.mainloop(sums, {term, 0, (term.K + 63) / 64}, {term, 0, 0});
        in_warp(row0, column0, [&](int row, int) {
            float scale[WM / 8];
            load_rows<WM>(scale, a_scale, row, M);
#pragma unroll
            for (int i = 0; i < WM / 8; ++i)
#pragma unroll
                for (int j = 0; j < WN / 4; ++j)
                    acc.v[i][j] = float(sums.v[i][j]) * scale[i];
        });
    }
    if constexpr (FORWARD) {
        const int count = load_for_warp(beside.count);
        if (count > 0) {
            __syncthreads();
            using A = Gathered<T, T, BM, THREADS>;
            using B = Gathered<T, int8_t, BN, THREADS>;
            Gemm<T, BM, BN, WARPS_M, WARPS_N, true, true, false, Dropped::NOTHING, A, B> block{M, N};
            block.row0 = row0, block.column0 = column0;
            block.a.columns = block.b.columns = beside.columns, block.a.limit = beside.limit;
            const Term<T, int8_t> outliers = {beside.x, term.b, beside.ldx, term.ldb, count};
            block.mainloop(acc, {outliers, 0, (count + A::L::DEPTH - 1) / A::L::DEPTH}, {outliers, 0, 0});
        }
        in_warp(row0, column0, [&](int, int column) {
#pragma unroll
            for (int j = 0; j < WN / 4; ++j) {
                const int c = column + j / 2 * 8 + j % 2;
                const float scale = c < N ? b_scale[c] : 0.0f;
#pragma unroll
                for (int i = 0; i < WM / 8; ++i) acc.v[i][j] *= scale;
            }
        });
    }
    Gemm<T, BM, BN, WARPS_M, WARPS_N, true, FORWARD, true> block{M, N};
    block.row0 = row0, block.column0 = column0;
    if (beside.adapter.K > 0) {
        __syncthreads();
        block.mainloop(acc, {beside.adapter, 0, (beside.adapter.K + DEPTH - 1) / DEPTH}, {beside.adapter, 0, 0});
    }
    if constexpr (FORWARD) {
        block.store(result, acc);
    } else {
        Accumulators<WM, WN> quads;  // a lane's four neighbours: two of the even columns, two of the odd ones
#pragma unroll
        for (int i = 0; i < WM / 8; ++i)
#pragma unroll
            for (int j = 0; j < WN / 4; ++j) quads.v[i][j / 4 * 4 + j % 2 * 2 + j / 2 % 2] = acc.v[i][j];
        block.template store<true>(result, quads);
    }
}

#define TILED(T, NAME, BM, BN, WARPS_M, WARPS_N, LAYOUT, FORWARD)                                                      \
    KERNEL(32 * WARPS_M * WARPS_N, 1)                                                                                  \
    int8_matmul_##LAYOUT##_##NAME(void* out, const void* addend, const int8_t* a, const int8_t* b,                     \
                                  const float* a_scale, const float* b_scale, const T* x, const uint32_t* columns,     \
                                  const uint32_t* count, const T* xa, const T* b2, int M, int N, int K, int K2,        \
                                  int ldc, int lda, int ldb, int ldx, int lda2, int ldb2, float limit, int out_f32) {  \
        const Beside<T> beside = {x, columns, count, ldx, limit, {xa, b2, lda2, ldb2, K2}};                            \
        int8_matmul<T, BM, BN, WARPS_M, WARPS_N, FORWARD>({out, addend, ldc, 1.0f, out_f32 != 0},                      \
                                                          {a, b, lda, ldb, K}, a_scale, b_scale, M, N, beside);        \
    }

#define LAYOUTS(T, NAME, BM, BN, WARPS_M, WARPS_N)                                                                     \
    TILED(T, NAME, BM, BN, WARPS_M, WARPS_N, nt, true)                                                                 \
    TILED(T, NAME, BM, BN, WARPS_M, WARPS_N, nn, false)

LAYOUTS(bf16, bf16_256, 128, 256, 2, 4)
LAYOUTS(bf16, bf16_128, 128, 128, 2, 2)
LAYOUTS(bf16, bf16_64, 64, 64, 2, 2)
