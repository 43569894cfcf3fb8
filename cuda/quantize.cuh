// Rows of floats as integers: a block quantizes a row that its threads hold.
#pragma once

#include "span.cuh"

// Packs of a row that a thread holds, 16 elements; and such a row. Where one span is not the whole row, the way back reads
// again, from the end, what the cache still has.
template <int N> constexpr int HELD = N == 1 ? 1 : 16 / N;
template <int N> using Row = Spans<N, HELD<N>>;

constexpr float LEAST = 127.0f / 0x1.fffffep127f;
#define NO_LIMIT __uint_as_float(0x7f800000)

// Where the code of column c lies among those of its row.
template <bool TURNED> DEVICE int place(int c) {
    return TURNED ? c & ~14 | (c & 6) << 1 | (c & 8) >> 2 : c;
}

// A thread's codes of N neighbouring columns, four to a word; for TURNED it has, of those of 16 columns, the words in whose
// place they stand: two pairs of columns eight apart, which it gets from the threads that have them.
template <int N, bool TURNED> DEVICE Pack<uint32_t, N / 4> words_of(const int (&codes)[N]) {
    Pack<uint32_t, N / 4> words{};
#pragma unroll
    for (int j = 0; j < N; ++j) words.v[j / 4] |= (uint32_t(codes[j]) & 0xff) << j % 4 * 8;
    const int odd = lane_id() % 2;
    if constexpr (TURNED && N == 8) {
        const uint32_t other = shfl(odd ? words.v[0] : words.v[1], lane_id() ^ 1);
        const uint32_t low = odd ? other : words.v[0], high = odd ? words.v[1] : other;
        words.v[0] = permute_bytes(low, high, 0x5410), words.v[1] = permute_bytes(low, high, 0x7632);
    } else if constexpr (TURNED) {
        const int from = lane_id() & ~3 | lane_id() / 2 % 2;
        const uint32_t low = shfl(words.v[0], from), high = shfl(words.v[0], from + 2);
        words.v[0] = permute_bytes(low, high, odd ? 0x7632 : 0x5410);
    }
    return words;
}

// The codes of N neighbours from column c on, in a row of `stride`; all threads of a warp call it.
template <int N, bool TURNED> DEVICE void store_codes(int8_t* row, int c, int stride, const int (&codes)[N]) {
    if constexpr (N == 1) {
        if (c < stride) row[place<TURNED>(c)] = int8_t(codes[0]);
    } else {
        const Pack<uint32_t, N / 4> words = words_of<N, TURNED>(codes);
        if (c < stride) store(reinterpret_cast<uint32_t*>(row + c), words);
    }
}

// The largest magnitude below the limit; without a limit what is not finite, if anything is.
template <int N> DEVICE float largest_inside(const float (&v)[HELD<N>][N], float limit) {
    const float outside = is_finite(limit) ? 0.0f : limit;
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < HELD<N>; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float magnitude = fabsf(v[i][j]);
            most = fmaxf(most, magnitude < limit ? magnitude : outside);
        }
    return most;
}

// Where the integers of rows go, as quantize_rows says (quantize.cu).
struct Int8Rows {
    int8_t* q;
    float* scale;
    uint32_t* flags;
    int stride;
    float limit;

    // Stores the row's scale; what its elements are multiplied by.
    DEVICE float begin(float absmax) const {
        const bool is_number = is_finite(absmax), is_large = absmax >= LEAST;
        if (threadIdx.x == 0) scale[blockIdx.x] = !is_number ? NOT_A_NUMBER : is_large ? absmax / 127.0f : 0.0f;
        return is_number && is_large ? 127.0f / absmax : 0.0f;
    }

    // Stores the integers of a span, zeros beyond the row, and flags the columns of its outliers.
    template <int N, bool TURNED> DEVICE void store(const float (&v)[HELD<N>][N], int span, float factor) const {
        int8_t* row = q + int64_t(blockIdx.x) * stride;
#pragma unroll
        for (int i = 0; i < HELD<N>; ++i) {
            const int c = Row<N>::column(span, i);
            int codes[N];
            uint32_t outliers = 0;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const bool inside = fabsf(v[i][j]) < limit;  // zeros beyond the row are
                // At most 127 and a rounding, so never beyond 127.
                codes[j] = inside ? round_to_int(v[i][j] * factor) : 0;
                outliers |= uint32_t(!inside) << j;
            }
            if (is_finite(limit) && outliers) set_bits(flags + c / 32, outliers << c % 32);
            store_codes<N, TURNED>(row, c, stride, codes);
        }
    }
};
