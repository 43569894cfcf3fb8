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
#include "span.cuh"

template <int N> constexpr int HELD = N == 1 ? 1 : 16 / N;
template <int N> using Row = Spans<N, HELD<N>>;

constexpr float LEAST = 127.0f / 0x1.fffffep127f;

// Where the code of column c lies among those of its row.
template <bool TURNED> DEVICE int place(int c) {
    return TURNED ? c & ~14 | (c & 6) << 1 | (c & 8) >> 2 : c;
}

// The codes of N neighbours from column c on.
template <int N, bool TURNED> DEVICE void store_codes(int8_t* row, int c, const int (&codes)[N]) {
    int8_t* to = row + c;
    Pack<uint32_t, (N + 3) / 4> words{};
    if constexpr (N == 1) {
        row[place<TURNED>(c)] = int8_t(codes[0]);
    } else if constexpr (TURNED) {
#pragma unroll
        for (int j = 0; j < N; j += 2)
            *reinterpret_cast<uint16_t*>(row + place<TURNED>(c + j)) = codes[j] & 0xff | (codes[j + 1] & 0xff) << 8;
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j) words.v[j / 4] |= (uint32_t(codes[j]) & 0xff) << j % 4 * 8;
        store(reinterpret_cast<uint32_t*>(to), words);
    }
}

// The thread's packs of a span of x, times the factors of their columns.
template <int N, bool FACTORS, typename T>
DEVICE void fetch(float (&v)[HELD<N>][N], const T* x, const float* factor, int span, int K) {
    Pack<T, N> held[HELD<N>];
    Row<N>::fetch(held, x, span, K, Pack<T, N>{});
#pragma unroll
    for (int i = 0; i < HELD<N>; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const int c = Row<N>::column(span, i) + j;
            v[i][j] = FACTORS && c < K ? held[i][j] * factor[c] : held[i][j];
        }
}

template <int N, bool FACTORS, typename T>
DEVICE void quantize(int8_t* q, float* scale, uint32_t* flags, const T* x, const float* factor, int K, int stride,
                     float limit) {
    const int64_t row = blockIdx.x;
    q += row * stride, x += row * K;
    const bool has_limit = is_finite(limit);
    float v[HELD<N>][N];

    float most = 0.0f;
#pragma unroll 1
    for (int span = 0; span < K; span += Row<N>::width()) {
        fetch<N, FACTORS>(v, x, factor, span, K);
#pragma unroll
        for (int i = 0; i < HELD<N>; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float magnitude = fabsf(v[i][j]), outside = has_limit ? 0.0f : limit;
                most = fmaxf(most, magnitude < limit ? magnitude : outside);
            }
    }
    const float absmax = block_max(most);
    const bool is_number = is_finite(absmax);
    const float factor_of_row = is_number && absmax >= LEAST ? 127.0f / absmax : 0.0f;
    if (threadIdx.x == 0) scale[row] = !is_number ? NOT_A_NUMBER : absmax >= LEAST ? absmax / 127.0f : 0.0f;

#pragma unroll 1
    for (int span = Row<N>::last(K); span >= 0; span -= Row<N>::width()) {
        if (span != Row<N>::last(K)) fetch<N, FACTORS>(v, x, factor, span, K);
#pragma unroll
        for (int i = 0; i < HELD<N>; ++i) {
            const int c = Row<N>::column(span, i);
            if (c >= K) break;
            int codes[N];
            uint32_t outliers = 0;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const bool inside = fabsf(v[i][j]) < limit;
                // At most 127 and a rounding, so never beyond 127.
                codes[j] = inside ? round_to_int(v[i][j] * factor_of_row) : 0;
                outliers |= uint32_t(!inside) << j;
            }
            if (has_limit && outliers) set_bits(flags + c / 32, outliers << c % 32);
            store_codes<N, FACTORS>(q, c, codes);
        }
    }
    const int beyond = K + int(threadIdx.x);
    if (beyond < stride) q[place<FACTORS>(beyond)] = 0;
}

template <bool FACTORS, typename T>
DEVICE void quantize_any(int8_t* q, float* scale, uint32_t* flags, const T* x, const float* factor, int K, int stride,
                         float limit) {
    if (K % PACK<T> == 0) quantize<PACK<T>, FACTORS>(q, scale, flags, x, factor, K, stride, limit);
    else quantize<1, FACTORS>(q, scale, flags, x, factor, K, stride, limit);
}

#define KERNELS(T, DTYPE)                                                                                              \
    KERNEL(1024)                                                                                                       \
    quantize_rows_##DTYPE(int8_t* __restrict__ q, float* __restrict__ scale, uint32_t* __restrict__ flags,             \
                          const T* __restrict__ x, int K, int stride, float limit) {                                   \
        quantize_any<false>(q, scale, flags, x, nullptr, K, stride, limit);                                            \
    }                                                                                                                  \
    KERNEL(1024)                                                                                                       \
    quantize_gradient_##DTYPE(int8_t* __restrict__ q, float* __restrict__ scale, const T* __restrict__ x,              \
                              const float* __restrict__ factor, int K, int stride) {                                   \
        quantize_any<true>(q, scale, nullptr, x, factor, K, stride, __uint_as_float(0x7f800000));                      \
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
