// What a warp does with a stage: fragments of both operands, multiplied into accumulators. On tensor cores in bf16:
//
//   mma.m16n8k16: c [16, 8] += a [16, 16] · b [16, 8], a and c row after row, b column after column. Lane l = 4 g + t
//   holds, two neighbours to a register (a0 b0) or a pair of registers (c):
//
//               a: k = 2t, +1    k = 2t + 8, +9         b: column g            c: columns 2t, 2t + 1
//       row g       a0               a2                 b0: k = 2t, +1         row g      c0 c1
//       row g + 8   a1               a3                 b1: k = 2t + 8, +9     row g + 8  c2 c3
//
//   An ldmatrix.x4 loads four 8x8 matrices, so all of an a, or the b of two neighbouring columns of fragments; lane l
//   gives it the address of row l % 8 of matrix l / 8. An operand whose K is not inner is transposed on the way.
#pragma once

#include "gemm_stage.cuh"

// A warp's tile of the result, sums of S. Lane l has rows l / 4 + 8 m, columns l % 4 * 2 + 8 n and the next: mma's own order.
template <int WM, int WN, typename S = float> struct Accumulators {
    S v[WM / 8][WN / 4];

    // Drops elements: v[0][0] is element (row, column) of a matrix with rows of N. Where its packs are ALIGNED, one draw
    // serves four neighbours: of two lanes, the even one draws for a row, the odd one for the row eight below.
    template <bool ALIGNED> DEVICE void mask(const Dropout& dropout, int row, int column, int N) {
        const int odd = lane_id() % 2;
#pragma unroll
        for (int i = 0; i < WM / 8; i += 2) {
            uint32_t kept = 0;  // two bits for each row of each pair of columns
#pragma unroll 1
            for (int n = WN / 8 - 1; n >= 0; --n) {
                const int64_t at = int64_t(row + i * 8) * N + column + n * 8;
                uint32_t bits = 0;
                if constexpr (ALIGNED) {
                    const Words words = dropout.words((dropout.first + at + odd * (8 * int64_t(N) - 2)) / 4);
#pragma unroll
                    for (int w = 0; w < 4; ++w) bits |= (words.w[w] >= dropout.threshold) << w;
                    const uint32_t own = bits >> 2 * odd & 3, other = shfl(bits, lane_id() ^ 1) >> 2 * odd & 3;
                    bits = odd ? own << 2 | other : other << 2 | own;
                } else {
#pragma unroll 1
                    for (int e = 3; e >= 0; --e) bits = bits << 1 | dropout.keeps(at + e / 2 * 8 * int64_t(N) + e % 2);
                }
                kept = kept << 4 | bits;
            }
#pragma unroll
            for (int n = 0; n < WN / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    v[i + e / 2][2 * n + e % 2] *= kept >> (4 * n + e) & 1 ? dropout.scale : 0.0f;
        }
    }
};

// Of a warp's fragments of one operand, ROWS of M (a) or N (b), the lane's addresses within a stage. The swizzle turns
// those of a few; the others lie at fixed distances from these.
template <typename L, int ROWS, bool INNER, bool IS_A> struct FragmentAddresses {
    static constexpr int SLICE = 32 / L::ELEMENT, COUNT = INNER ? L::DEPTH / SLICE : ROWS / 16;
    uint32_t at[COUNT];

    DEVICE explicit FragmentAddresses(int row0) {
        const int low = lane_id() % 8, middle = lane_id() / 8 % 2, high = lane_id() / 16;
        const int row = row0 + (IS_A ? middle : high) * 8 + (INNER ? low : 0);
        const int k = (IS_A ? high : middle) * (SLICE / 2) + (INNER ? 0 : low);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) at[i] = INNER ? L::element(row, k + i * SLICE) : L::element(row + i * 16, k);
    }
    // Of the i-th 16 rows, at the slice of K, 32 bytes deep.
    DEVICE uint32_t operator()(int i, int slice) const {
        return INNER ? at[slice] + i * 16 * L::ROW_BYTES : at[i] + slice * 16 * L::ROW_BYTES;
    }
};

// What products of T are summed in.
template <typename T> struct SumOfProducts {
    using type = float;
};
template <> struct SumOfProducts<int8_t> {
    using type = int;
};
template <typename T> using SumOf = typename SumOfProducts<T>::type;

// A warp's product of a stage in SLICES of K, on tensor cores.
template <typename T, typename A, typename B, bool A_INNER, bool B_INNER, int WM, int WN> struct Mma {
    using Sum = SumOf<T>;
    static constexpr int SLICES = 2;
    struct Fragments {
        uint32_t a[WM / 16][4], b[WN / 16][4];
    };
    FragmentAddresses<A, WM, A_INNER, true> a_at;
    FragmentAddresses<B, WN, B_INNER, false> b_at;

    DEVICE Mma(int row0, int column0) : a_at(row0), b_at(column0) {}

    DEVICE void load(Fragments& to, uint32_t a, uint32_t b, int slice) const {
#pragma unroll
        for (int i = 0; i < WM / 16; ++i) ldmatrix<!A_INNER>(to.a[i], a + a_at(i, slice));
#pragma unroll
        for (int j = 0; j < WN / 16; ++j) ldmatrix<!B_INNER>(to.b[j], b + b_at(j, slice));
    }
    DEVICE void multiply(Accumulators<WM, WN, Sum>& acc, const Fragments& of) const {
#pragma unroll
        for (int i = 0; i < WM / 16; ++i)
#pragma unroll
            for (int j = 0; j < WN / 8; ++j)
                mma(acc.v[2 * i][2 * j], acc.v[2 * i][2 * j + 1], acc.v[2 * i + 1][2 * j], acc.v[2 * i + 1][2 * j + 1],
                    of.a[i], of.b[j / 2][j % 2 * 2], of.b[j / 2][j % 2 * 2 + 1]);
    }
};

// Of int8 where b's K is not inner: no ldmatrix transposes bytes, but pairs of them. Lane l = 4 g + t gets, of 8 rows of K
// and 16 columns, both bytes of pair g of rows 2t and 2t + 1. Of two such registers, 8 rows apart, one byte permutation
// makes rows 2t, 2t + 1, 2t + 8, 2t + 9 of column 2g, another those of column 2g + 1: the fragments of two mma, of the even
// and of the odd columns, so that a lane's sums are of four neighbours. K is in that order in both operands: a is stored so.
template <typename A, typename B, int WM, int WN> struct Mma<int8_t, A, B, true, false, WM, WN> {
    static constexpr int SLICES = 2;
    struct Fragments {
        uint32_t a[WM / 16][4], b[WN / 16][4];
    };
    FragmentAddresses<A, WM, true, true> a_at;
    uint32_t b_at[WN / 16];

    DEVICE Mma(int row0, int column0) : a_at(row0) {
#pragma unroll
        for (int j = 0; j < WN / 16; ++j) b_at[j] = B::element(column0 + j * 16, lane_id());
    }

    DEVICE void load(Fragments& to, uint32_t a, uint32_t b, int slice) const {
#pragma unroll
        for (int i = 0; i < WM / 16; ++i) ldmatrix<false>(to.a[i], a + a_at(i, slice));
#pragma unroll
        for (int j = 0; j < WN / 16; ++j) ldmatrix<true>(to.b[j], b + b_at[j] + slice * 32 * B::ROW_BYTES);
    }
    DEVICE void multiply(Accumulators<WM, WN, int>& acc, const Fragments& of) const {
#pragma unroll
        for (int j = 0; j < WN / 8; ++j) {
            const uint32_t bytes = j % 2 ? 0x7531 : 0x6420;
            const uint32_t(&b)[4] = of.b[j / 2];
            const uint32_t b0 = permute_bytes(b[0], b[1], bytes), b1 = permute_bytes(b[2], b[3], bytes);
#pragma unroll
            for (int i = 0; i < WM / 16; ++i)
                mma(acc.v[2 * i][2 * j], acc.v[2 * i][2 * j + 1], acc.v[2 * i + 1][2 * j], acc.v[2 * i + 1][2 * j + 1],
                    of.a[i], b0, b1);
        }
    }
};

// The same in f32 by fused multiply-add, four of K at once, in the accumulators' order of lanes.
template <typename A, typename B, bool A_INNER, bool B_INNER, int WM, int WN>
struct Mma<float, A, B, A_INNER, B_INNER, WM, WN> {
    static constexpr int SLICES = A::DEPTH / 4;
    struct Fragments {
        Pack<float, 4> a[WM / 8], b[WN / 4];
    };
    int row0, column0;

    DEVICE Mma(int row0, int column0) : row0(row0 + lane_id() / 4), column0(column0 + lane_id() % 4 * 2) {}

    DEVICE void load(Fragments& to, uint32_t a, uint32_t b, int slice) const {
#pragma unroll
        for (int i = 0; i < WM / 8; ++i) to.a[i] = four<A, A_INNER>(a, row0 + i * 8, slice * 4);
#pragma unroll
        for (int j = 0; j < WN / 4; ++j) to.b[j] = four<B, B_INNER>(b, column0 + j / 2 * 8 + j % 2, slice * 4);
    }
    DEVICE void multiply(Accumulators<WM, WN>& acc, const Fragments& of) const {
#pragma unroll
        for (int j = 0; j < WN / 4; ++j)
#pragma unroll
            for (int i = 0; i < WM / 8; ++i)
#pragma unroll
                for (int l = 0; l < 4; ++l) acc.v[i][j] += of.a[i].v[l] * of.b[j].v[l];
    }

  private:
    // Four neighbours in K of one row of a stage.
    template <typename L, bool INNER> DEVICE static Pack<float, 4> four(uint32_t stage, int row, int k) {
        const char* from = gemm_shared + (stage - shared_address(gemm_shared));
        const auto at = [&](int k) { return reinterpret_cast<const float*>(from + L::element(row, k)); };
        if constexpr (INNER) return ::load<4>(at(k));
        else return {*at(k), *at(k + 1), *at(k + 2), *at(k + 3)};
    }
};
