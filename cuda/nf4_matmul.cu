// Products with a weight of 4 bits, nf4 or fp4, that is never there as floats. Dettmers et al. 2023,
// https://arxiv.org/abs/2305.14314
//
//   nf4_matmul_nt   out = a · bᵀ + xa · b2ᵀ + addend    b [N, K]    a layer's product with its weight
//   nf4_matmul_nn   out = a · b + addend                b [K, N]    the gradient of its input (dgrad)
//   nf4_matmul_rows as nf4_matmul_nt, for M up to 16
//
// Pointers: a, xa [M, K2], b2 [N, K2], K2, out, addend and their rows as a, a2, b2, K2, out, addend of matmul_nt
//   (matmul.cu); b the codes of a weight, flattened, two a byte, that of the even element in the upper half; absmax a
//   scale for each block of 2^shift >= 32 elements. Where `nested` is not null that of block i is map[nested[i]] *
//   absmax[i / 256] + offset, map [256]. Codes are fp4's if is_fp4. But for `any`, rows of a are multiples of 8
//   elements, those of b of 32.
// Launch: as matmul_nt of the same tile; rows as matmul_rows.
//   shared nf4_matmul_nt_bf16_256 98304
//   shared nf4_matmul_nn_bf16_256 98304
//   shared nf4_matmul_nt_bf16_128 49152
//   shared nf4_matmul_nn_bf16_128 49152
//   shared nf4_matmul_nt_bf16_64 32768
//   shared nf4_matmul_nn_bf16_64 32768
//   shared nf4_matmul_nt_bf16_any 32768
//   shared nf4_matmul_nn_bf16_any 32768
//   shared nf4_matmul_nt_f32_any 32768
//   shared nf4_matmul_nn_f32_any 32768
// Numerics: an element is its code's value times its block's scale in f32, rounded to the kernel's dtype; the rest as matmul_nt.
#include "gemm_codes.cuh"
#include "gemm_rows.cuh"

// Puts what codes stand for into shared memory. The values lie in 16 banks: lanes that look up different ones do not wait
// for each other.
DEVICE FourBits with_tables(FourBits codes, bool is_fp4) {
    __shared__ float values[16], map[256];
    if (codes.nested)
        for (int i = threadIdx.x; i < 256; i += blockDim.x) map[i] = codes.map[i];
    const auto set = [&](int code, float nf4, float fp4) {
        if (threadIdx.x == code) values[code] = is_fp4 ? fp4 : nf4;
    };
    set(0, -1.0f, 0.0f);
    set(1, -0.6961928f, 0.0625f / 12);
    set(2, -0.52507305f, 8.0f / 12);
    set(3, -0.3949175f, 1.0f);
    set(4, -0.28444138f, 4.0f / 12);
    set(5, -0.18477343f, 0.5f);
    set(6, -0.091050036f, 2.0f / 12);
    set(7, 0.0f, 0.25f);
    set(8, 0.0795803f, 0.0f);
    set(9, 0.1609302f, -0.0625f / 12);
    set(10, 0.2461123f, -8.0f / 12);
    set(11, 0.33791524f, -1.0f);
    set(12, 0.44070983f, -4.0f / 12);
    set(13, 0.562617f, -0.5f);
    set(14, 0.72295684f, -2.0f / 12);
    set(15, 1.0f, -0.25f);
    __syncthreads();
    codes.values = values, codes.map = map;
    return codes;
}

#define NT(T, NAME, BM, BN, WARPS_M, WARPS_N, ALIGNED)                                                                 \
    KERNEL(32 * WARPS_M * WARPS_N, 1)                                                                                  \
    nf4_matmul_nt_##NAME(void* out, const void* addend, const T* a, const uint8_t* b, const float* absmax,             \
                         const uint8_t* nested, const float* map, const T* xa, const T* b2, int M, int N, int K,       \
                         int K2, int ldc, int lda, int ldb, int lda2, int ldb2, float offset, int shift, int is_fp4,   \
                         int out_f32, int depth) {                                                                     \
        const FourBits codes = with_tables({nullptr, map, absmax, nested, offset, shift}, is_fp4 != 0);                \
        decoded_matmul<T, BM, BN, WARPS_M, WARPS_N, true, ALIGNED>({out, addend, ldc, 1.0f, out_f32 != 0},             \
                                                                   {a, b, lda, ldb, K}, codes, M, N, depth,            \
                                                                   {xa, b2, lda2, ldb2, K2});                          \
    }

#define NN(T, NAME, BM, BN, WARPS_M, WARPS_N, ALIGNED)                                                                 \
    KERNEL(32 * WARPS_M * WARPS_N, 1)                                                                                  \
    nf4_matmul_nn_##NAME(void* out, const void* addend, const T* a, const uint8_t* b, const float* absmax,             \
                         const uint8_t* nested, const float* map, int M, int N, int K, int ldc, int lda, int ldb,      \
                         float offset, int shift, int is_fp4, int out_f32, int depth) {                                \
        const FourBits codes = with_tables({nullptr, map, absmax, nested, offset, shift}, is_fp4 != 0);                \
        decoded_matmul<T, BM, BN, WARPS_M, WARPS_N, false, ALIGNED>({out, addend, ldc, 1.0f, out_f32 != 0},            \
                                                                    {a, b, lda, ldb, K}, codes, M, N, depth, {});      \
    }

#define BOTH(T, NAME, BM, BN, WARPS_M, WARPS_N, ALIGNED)                                                               \
    NT(T, NAME, BM, BN, WARPS_M, WARPS_N, ALIGNED)                                                                     \
    NN(T, NAME, BM, BN, WARPS_M, WARPS_N, ALIGNED)

BOTH(bf16, bf16_256, 128, 256, 2, 4, true)
BOTH(bf16, bf16_128, 128, 128, 2, 2, true)
BOTH(bf16, bf16_64, 64, 64, 2, 2, true)
BOTH(bf16, bf16_any, 64, 64, 2, 2, false)
BOTH(float, f32_any, 64, 64, 2, 2, false)

KERNEL(256)
nf4_matmul_rows_bf16(void* out, const void* addend, const bf16* a, const uint8_t* b, const float* absmax,
                     const uint8_t* nested, const float* map, const bf16* xa, const bf16* b2, int M, int N, int K, int K2,
                     int ldc, int lda, int ldb, int lda2, int ldb2, float offset, int shift, int is_fp4, int out_f32) {
    const FourBits codes = with_tables({nullptr, map, absmax, nested, offset, shift}, is_fp4 != 0);
    const int n0 = blockIdx.x * ROWS_TILE;
    const Term<bf16, uint8_t> base = {a, b, lda, ldb, K};
    float sums[2][4] = {};
    if (K % 8 == 0 && lda % 8 == 0) {
        accumulate<2, true>(sums, base, n0, M, N, [=](const auto& term, int r, int N, int k) {
            return r < N && k < term.K ? codes.eight(term.b, int64_t(r) * term.ldb + k) : Pack<bf16, 8>{};
        });
    } else {
        accumulate<2, false>(sums, base, n0, M, N, [=](const auto& term, int r, int N, int k) {
            return r < N && k < term.K ? codes.elements<bf16, 8>(term.b, r, int64_t(r) * term.ldb + k, term.K - k)
                                       : Pack<bf16, 8>{};
        });
    }
    accumulate(sums, {xa, b2, lda2, ldb2, K2}, n0, M, N);
    store_sum({out, addend, ldc, 1.0f, out_f32 != 0}, sum_of_warps(sums), n0, M, N);
}
