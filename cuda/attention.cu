// Causal grouped-query attention over packed sequences. Dao 2023, https://arxiv.org/abs/2307.08691
//
//   attention_fwd        out = softmax(scale * q kᵀ, over the keys that a query sees) v, lse = ln(sum(exp(scale q kᵀ)))
//   attention_decode     the same of few queries, over a part of the keys a warp: part_out, part_lse
//   attention_decode_sum out and lse of the parts
//   attention_bwd_delta  delta = sum over a head of dout * out
//   attention_bwd        p = exp(scale * q kᵀ - lse), ds = p * (dout vᵀ - delta): dv = pᵀ dout, dk = scale * dsᵀ q,
//                        both over the heads of the group; slice += ds k
//   attention_bwd_q      dq = scale * ds k: the sum of the slices (bf16), or all of it (f32)
//   attention_bwd_kv     dk and dv (f32)
//
// Pointers: q out dq dout [rows, NH * D] and k v dk dv [key rows, NKV * D] in the kernel's dtype, D a multiple of 8 up
//   to 256; lse delta [NH, rows], slices [most_slices, rows, NH * D], part_out [parts, rows, NH * D] and part_lse
//   [parts, rows, NH] in f32; list [items, 4] of i32: the first query row of an item, how many there are, the first key
//   row, how many keys from there on the first query sees.
// Launch, D at most W of dW, `shared` the bytes of dynamic shared memory, at most:
//   fwd: grid items * NH, items of at most 128 query rows (d64, d128), 64 (d256), 32 (f32); block 128, f32 256.
//   decode: grid (items * NKV, ceil(parts / 4), d256 / 2), items of whole sequences of at most 16 / (NH / NKV) query
//   rows; block 128, d256 64. decode_sum: grid (items, ceil(NH * D / 1024)), block 256.
//   bwd_delta: grid ceil(rows / 32) * NH, block 256.
//   bwd: grid (items * NKV, most_slices), items of whole sequences, most_slices at most ceil(keys / KEYS) of the
//   longest, KEYS 128 (d64, d128), 64 (d256); block 256. bwd_q_bf16: grid (items, ceil(NH * D / 1024)), items of any
//   size, slice_keys the KEYS of bwd; block 256.
//   bwd_q_f32: grid items * NH, items of at most 16 query rows. bwd_kv_f32: grid items * NKV, an item for each 16 keys
//   of a sequence, of the queries that see any of them. Block 128.
//   shared attention_fwd_f32 99840
//   shared attention_fwd_d64_bf16 49152
//   shared attention_fwd_d128_bf16 65536
//   shared attention_fwd_d256_bf16 98304
//   shared attention_decode_d64_bf16 34816
//   shared attention_decode_d128_bf16 69632
//   shared attention_decode_d256_bf16 73728
//   shared attention_bwd_d64_bf16 66064
//   shared attention_bwd_d128_bf16 90384
//   shared attention_bwd_d256_bf16 84112
//   shared attention_bwd_q_f32 99840
//   shared attention_bwd_kv_f32 99840
// Numerics: sums in f32. On bf16 p and ds are rounded to bf16 before they are multiplied, the row sums of p are not;
//   results are rounded when they are stored. Every sum has a fixed order: dk and dv of a key over its queries, head by
//   head; dq over the keys of a slice, then over the slices.
#include "attention_bwd.cuh"
#include "attention_decode.cuh"
#include "attention_f32.cuh"
#include "attention_fwd.cuh"

#define FORWARD(T, NAME, THREADS, RUN)                                                                                 \
    KERNEL(THREADS, 1)                                                                                                 \
    attention_fwd_##NAME(T* __restrict__ out, float* __restrict__ lse, const T* __restrict__ q,                        \
                         const T* __restrict__ k, const T* __restrict__ v, const int* __restrict__ list, int64_t rows, \
                         int NH, int NKV, int D, float scale) {                                                        \
        RUN(out, lse, q, k, v, list, rows, NH, NKV, D, scale);                                                         \
    }

FORWARD(float, f32, 256, plain::forward)
FORWARD(bf16, d64_bf16, 128, (Forward<64, 128, 64>{}.run))
FORWARD(bf16, d128_bf16, 128, (Forward<128, 128, 32>{}.run))
FORWARD(bf16, d256_bf16, 128, (Forward<256, 64, 32>{}.run))

#define DECODE(W, WARPS)                                                                                               \
    KERNEL(WARPS * WARP, 1)                                                                                            \
    attention_decode_d##W##_bf16(float* __restrict__ part_out, float* __restrict__ part_lse,                           \
                                 const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,   \
                                 const int* __restrict__ list, int64_t rows, int NH, int NKV, int D, int parts,        \
                                 float scale) {                                                                        \
        const Decode<W, WARPS> block{load_work(list, blockIdx.x / NKV), rows, NH, D, NH / NKV, int(blockIdx.x % NKV)}; \
        block.run(part_out, part_lse, q, k, v, NKV, parts, scale);                                                     \
    }

DECODE(64, 4)
DECODE(128, 4)
DECODE(256, 2)

KERNEL(256)
attention_decode_sum_bf16(bf16* __restrict__ out, float* __restrict__ lse, const float* __restrict__ part_out,
                          const float* __restrict__ part_lse, const int* __restrict__ list, int64_t rows, int NH, int D,
                          int parts) {
    sum_parts(out, lse, part_out, part_lse, list, rows, NH, D, parts);
}

#define DELTA(T, DTYPE)                                                                                                \
    KERNEL(256)                                                                                                        \
    attention_bwd_delta_##DTYPE(float* __restrict__ delta, const T* __restrict__ dout, const T* __restrict__ out,      \
                                int64_t rows, int NH, int D) {                                                         \
        row_products(delta, dout, out, rows, NH, D);                                                                   \
    }

DELTA(float, f32)
DELTA(bf16, bf16)

#define BACKWARD(W, BM, KEYS, SPLIT)                                                                                   \
    KERNEL(KEYS * 2 * SPLIT, 1)                                                                                        \
    attention_bwd_d##W##_bf16(float* __restrict__ slices, bf16* __restrict__ dk, bf16* __restrict__ dv,                \
                              const bf16* __restrict__ dout, const bf16* __restrict__ q, const bf16* __restrict__ k,   \
                              const bf16* __restrict__ v, const float* __restrict__ lse,                               \
                              const float* __restrict__ delta, const int* __restrict__ list, int64_t rows, int NH,     \
                              int NKV, int D, float scale) {                                                           \
        const Work work = load_work(list, blockIdx.x / NKV);                                                           \
        Backward<W, BM, KEYS, SPLIT> block{q,    k,  v,   dout, lse, delta,                                            \
                                           rows, NH, NKV, D,    int(blockIdx.x % NKV), scale, work};                   \
        block.run(slices, dk, dv);                                                                                     \
    }

BACKWARD(64, 64, 128, 1)
BACKWARD(128, 32, 128, 1)
BACKWARD(256, 16, 64, 2)

KERNEL(256)
attention_bwd_q_bf16(bf16* __restrict__ dq, const float* __restrict__ slices, const int* __restrict__ list,
                     int64_t rows, int columns, int most_slices, int slice_keys, float scale) {
    sum_slices(dq, slices, list, rows, columns, most_slices, slice_keys, scale);
}

KERNEL(128, 1)
attention_bwd_q_f32(float* __restrict__ dq, const float* __restrict__ dout, const float* __restrict__ q,
                    const float* __restrict__ k, const float* __restrict__ v, const float* __restrict__ lse,
                    const float* __restrict__ delta, const int* __restrict__ list, int64_t rows, int NH, int NKV, int D,
                    float scale) {
    plain::backward<false>(dq, nullptr, dout, q, k, v, lse, delta, list, rows, NH, NKV, D, scale);
}

KERNEL(128, 1)
attention_bwd_kv_f32(float* __restrict__ dk, float* __restrict__ dv, const float* __restrict__ dout,
                     const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                     const float* __restrict__ lse, const float* __restrict__ delta, const int* __restrict__ list,
                     int64_t rows, int NH, int NKV, int D, float scale) {
    plain::backward<true>(dk, dv, dout, q, k, v, lse, delta, list, rows, NH, NKV, D, scale);
}
