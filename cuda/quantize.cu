// Rows of floats as int8: LLM.int8(), a row at a time. Dettmers et al. 2022, https://arxiv.org/abs/2208.07339
//
//   quantize_rows      scale = absmax / 127 and q = x * (127 / absmax), half to even, where absmax is the largest magnitude
//                      of a row below `limit`; q = 0 for the others, the outliers, and their columns are flagged
//   quantize_gradient  the same of x * factor, factor by column, without a limit; of 16 columns the q lie in the order 0, 1,
//                      8, 9, 2, 3, 10, 11, .. in which int8_matmul_nn takes them (gemm_mma.cuh)
//   outlier_columns    columns = those that are flagged, in order, and count = how many
//
// Pointers: q [rows, stride] int8, zeros from column K on; scale [rows] and factor [K] in f32; x [rows, K] in the kernel's
//   dtype; flags [ceil(K / 32)] a bit a column, zeros before; columns [K], count [1]. q starts on 16 bytes.
// Launch: quantize_rows, quantize_gradient: grid rows, block a multiple of 32 up to 1024; a row is read once where
//   16 * block >= K and K is a multiple of 16 bytes; stride a multiple of 16, less than 16 above K. outlier_columns: grid 1,
//   block 32.
// Numerics: f32, in this order. A row whose absmax is below 127 / the largest f32 counts as one of zeros. What is not a
//   number is an outlier. Where `limit` is infinite, the scale of a row that is not finite is not a number, its q zeros.
#include "quantize.cuh"

// The thread's packs of a span of x, times the factors of their columns.
template <int N, bool FACTORS, typename T>
DEVICE void fetch(float (&v)[HELD<N>][N], const T* x, const float* factor, int span, int K) {
    Pack<T, N> held[HELD<N>];
    Row<N>::fetch(held, x, span, K, Pack<T, N>{});
#pragma unroll
    for (int i = 0; i < HELD<N>; ++i) {
        const int c = Row<N>::column(span, i);
        constexpr int WIDTH = N == 1 ? 1 : 4;
#pragma unroll
        for (int j = 0; j < N; j += WIDTH) {
            Pack<float, WIDTH> factors{};  // zeros beyond K
            if (FACTORS && c < K) factors = load<WIDTH>(factor + c + j);
#pragma unroll
            for (int l = 0; l < WIDTH; ++l) v[i][j + l] = FACTORS ? held[i][j + l] * factors[l] : held[i][j + l];
        }
    }
}

template <int N, bool FACTORS, typename T>
DEVICE void quantize(const Int8Rows& to, const T* x, const float* factor, int K) {
    x += int64_t(blockIdx.x) * K;
    float v[HELD<N>][N];
    float most = 0.0f;
#pragma unroll 1
    for (int span = 0; span < K; span += Row<N>::width()) {
        fetch<N, FACTORS>(v, x, factor, span, K);
        most = fmaxf(most, largest_inside<N>(v, to.limit));
    }
    const float factor_of_row = to.begin(block_max(most));
#pragma unroll 1
    for (int span = Row<N>::last(K); span >= 0; span -= Row<N>::width()) {
        if (span != Row<N>::last(K)) fetch<N, FACTORS>(v, x, factor, span, K);
        to.store<N, FACTORS>(v, span, factor_of_row);
    }
}

template <bool FACTORS, typename T>
DEVICE void quantize_any(const Int8Rows& to, const T* x, const float* factor, int K) {
    if (K % PACK<T> == 0) quantize<PACK<T>, FACTORS>(to, x, factor, K);
    else quantize<1, FACTORS>(to, x, factor, K);
}

#define KERNELS(T, DTYPE)                                                                                              \
    KERNEL(1024)                                                                                                       \
    quantize_rows_##DTYPE(int8_t* __restrict__ q, float* __restrict__ scale, uint32_t* __restrict__ flags,             \
                          const T* __restrict__ x, int K, int stride, float limit) {                                   \
        quantize_any<false>({q, scale, flags, stride, limit}, x, nullptr, K);                                          \
    }                                                                                                                  \
    KERNEL(1024)                                                                                                       \
    quantize_gradient_##DTYPE(int8_t* __restrict__ q, float* __restrict__ scale, const T* __restrict__ x,              \
                              const float* __restrict__ factor, int K, int stride) {                                   \
        quantize_any<true>({q, scale, nullptr, stride, NO_LIMIT}, x, factor, K);                                       \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)

KERNEL(32)
outlier_columns(uint32_t* __restrict__ columns, uint32_t* __restrict__ count, const uint32_t* __restrict__ flags,
                int K) {
    const int words = (K + 31) / 32;
    uint32_t found = 0;
#pragma unroll 1
    for (int first = 0; first < words; first += WARP) {
        uint32_t bits = first + lane_id() < words ? flags[first + lane_id()] : 0;
        const uint32_t own = __popc(bits);
        uint32_t until = own;  // those of this lane and of the lanes before
#pragma unroll
        for (int distance = 1; distance < WARP; distance *= 2) {
            const uint32_t before = shfl(until, lane_id() - distance & 31);
            if (lane_id() >= distance) until += before;
        }
        uint32_t* to = columns + found + until - own;
#pragma unroll 1
        for (; bits; bits &= bits - 1) *to++ = (first + lane_id()) * 32 + __ffs(bits) - 1;
        found += shfl(until, WARP - 1);
    }
    if (threadIdx.x == 0) *count = found;
}
