// One launch over many tensors: tables of tensors and of the chunks that they are cut into, one chunk a block.
#pragma once

#include "common.cuh"

constexpr int64_t CHUNK = 8192;  // elements of a tensor that one block handles

// All on 16-byte boundaries; null where a kernel does not use it.
struct Tensor {
    float* param;
    const void* grad;  // [n] in the kernel's dtype
    float* m;
    float* v;
    int64_t n;
};

// Elements index * CHUNK and on of a tensor.
struct Chunk {
    uint32_t tensor, index;
};

// A block's chunk.
template <typename T> struct Part {
    float* param;
    const T* grad;
    float* m;
    float* v;
    int64_t n;
};

// Calls f(width, part, i) for each pack of 4 elements of the block's chunk, and for the elements that are left. One
// thread reads the tables for all.
template <typename T, typename F> DEVICE void for_chunk(const Tensor* tensors, const Chunk* chunks, F f) {
    __shared__ Part<T> shared;
    if (threadIdx.x == 0) {
        const Chunk chunk = chunks[blockIdx.x];
        const Tensor t = tensors[chunk.tensor];
        const int64_t first = chunk.index * CHUNK;
        shared = {t.param + first, static_cast<const T*>(t.grad) + first, t.m + first, t.v + first,
                  least(CHUNK, t.n - first)};
    }
    __syncthreads();
    const Part<T> part = {global(shared.param), global(shared.grad), global(shared.m), global(shared.v), shared.n};
    for (int64_t i = threadIdx.x * 4; i + 4 <= part.n; i += blockDim.x * 4) f(Width<4>{}, part, i);
    if (threadIdx.x < part.n % 4) f(Width<1>{}, part, part.n - part.n % 4 + threadIdx.x);
}
