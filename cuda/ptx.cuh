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
