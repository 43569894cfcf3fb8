// All inline PTX, one function an instruction. PTX ISA: https://docs.nvidia.com/cuda/parallel-thread-execution/
#pragma once

#include <stdint.h>

#define DEVICE __device__ __forceinline__

// Two floats rounded to nearest even bfloat16: `low` in the lower half of the word.
DEVICE uint32_t cvt_bf16x2(float low, float high) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

// From the lane whose number differs in the bits of `mask`; from lane `lane`. All 32 lanes take part.
DEVICE float shfl_xor(float v, int mask) {
    float other;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;" : "=f"(other) : "f"(v), "r"(mask));
    return other;
}
DEVICE uint32_t shfl(uint32_t v, int lane) {
    uint32_t other;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;" : "=r"(other) : "r"(v), "r"(lane));
    return other;
}

// The lane's number, read again: nothing that follows from it is computed before and kept in registers.
DEVICE uint32_t read_lane_id() {
    uint32_t lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}

// Whether any lane's `v` is true. All 32 lanes take part.
DEVICE bool warp_any(bool v) {
    uint32_t any;
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; vote.sync.any.pred p, p, 0xffffffff; selp.u32 %0, 1, 0, p; }"
                 : "=r"(any)
                 : "r"(uint32_t(v)));
    return any;
}

// The nearest integer, half to even.
DEVICE int round_to_int(float v) {
    int nearest;
    asm("cvt.rni.s32.f32 %0, %1;" : "=r"(nearest) : "f"(v));
    return nearest;
}

// Four of the eight bytes of `low` and `high`, each picked by four bits.
DEVICE uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t picks) {
    uint32_t word;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(word) : "r"(low), "r"(high), "r"(picks));
    return word;
}

// Sets bits of a word in global memory, atomically.
DEVICE void set_bits(uint32_t* word, uint32_t bits) {
    asm volatile("red.global.or.b32 [%0], %1;" ::"l"(word), "r"(bits) : "memory");
}

// a * b and a + b, each rounded: the compiler makes no fused multiply-add of them.
DEVICE float multiply_rounded(float a, float b) {
    float product;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(product) : "f"(a), "f"(b));
    return product;
}
DEVICE float add_rounded(float a, float b) {
    float sum;
    asm("add.rn.f32 %0, %1, %2;" : "=f"(sum) : "f"(a), "f"(b));
    return sum;
}

// 2^v, 0 for subnormals and -inf.
DEVICE float ex2(float v) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v));
    return power;
}

// What a lane of the warp wrote to shared memory before, the others read after.
DEVICE void warp_barrier() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

// The address within its block's shared memory of what `p` points to.
DEVICE uint32_t shared_address(const void* p) { return uint32_t(__nv_cvta_generic_to_shared_impl(p)); }

// Of shared memory at such an address.
DEVICE void store_word(uint32_t to, uint32_t word) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(word) : "memory");
}
DEVICE void store_words(uint32_t to, uint4 v) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}
DEVICE float2 load_pair(uint32_t from) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(from) : "memory");
    return v;
}
DEVICE uint4 load_words(uint32_t from) {
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(from)
                 : "memory");
    return v;
}
// Neighbours at once, where the compiler might store them one by one.
DEVICE void store_shared(float* p, float first, float second) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(shared_address(p)), "f"(first), "f"(second) : "memory");
}

DEVICE void store_shared(int* p, int first, int second) {
    asm volatile("st.shared.v2.s32 [%0], {%1, %2};" ::"r"(shared_address(p)), "r"(first), "r"(second) : "memory");
}
DEVICE void store_shared(float* p, float first, float second, float third, float fourth) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(p)), "f"(first), "f"(second), "f"(third),
                 "f"(fourth)
                 : "memory");
}

DEVICE void store_global(float* p, const float (&v)[4]) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
                 : "memory");
}

// To global memory at once, where the compiler might store them one by one.
DEVICE void store_words(void* to, uint4 v) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

// Copies 16 bytes from global to shared memory asynchronously, or writes 16 zeros and reads nothing.
DEVICE void cp_async(uint32_t to, const void* from, bool copied) {
    const int bytes = copied ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// The same of 4 bytes.
DEVICE void cp_async4(uint32_t to, const void* from, bool copied) {
    const int bytes = copied ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// Closes a group of copies; waits until at most N groups are in flight.
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four 8x8 matrices of 16-bit elements. Lane i gives the address of row i % 8 of matrix i / 8 and gets elements
// 2 (i % 4) and the next of row i / 4 of each matrix, or with TRANSPOSED of each matrix's transpose.
template <bool TRANSPOSED> DEVICE void ldmatrix(uint32_t (&m)[4], uint32_t address) {
    if constexpr (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                     : "r"(address)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                     : "r"(address)
                     : "memory");
    }
}

// c += a · b over int8 a [16, 32] and b [32, 8], int32 c [16, 8], lanes as below.
DEVICE void mma(int& c0, int& c1, int& c2, int& c3, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(c0), "+r"(c1), "+r"(c2), "+r"(c3)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// c += a · b over bf16 a [16, 16] and b [16, 8], f32 c [16, 8]: lane i has elements 2 (i % 4) and the next of row i / 4
// of c in c0 and c1, of row i / 4 + 8 in c2 and c3.
DEVICE void mma(float& c0, float& c1, float& c2, float& c3, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
