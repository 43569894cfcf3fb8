// One launch over many tensors: tables of tensors and of the chunks that they are cut into, one chunk a block.
#pragma once

#include "common.cuh"

constexpr int64_t CHUNK = 8192;  // elements of a tensor that one block handles

// All on 16-byte boundaries; null where a kernel does not use it.
struct Tensor {
    float* param;
    const void* grad;  // [n] in f32 or bf16
    float* m;
    float* v;
    int64_t n;
    uint32_t first;  // the number of its first chunk: the others follow it
    uint32_t is_bf16;
};

// A block's chunk, its gradient in T.
template <typename T> struct Part {
    float* param;
    const T* grad;
    float* m;
    float* v;
    int64_t n;
};

// Calls f(width, part, i) for each pack of 4 elements of a chunk, and for the elements that are left.
template <typename T, typename F> DEVICE void for_part(const Tensor& t, int64_t begin, int64_t n, F f) {
    const Part<T> part = {global(t.param) + begin, global(static_cast<const T*>(t.grad)) + begin, global(t.m) + begin,
                          global(t.v) + begin, n};
    for (int64_t i = threadIdx.x * 4; i + 4 <= part.n; i += blockDim.x * 4) f(Width<4>{}, part, i);
    if (threadIdx.x < part.n % 4) f(Width<1>{}, part, part.n - part.n % 4 + threadIdx.x);
}

// The same for the block's chunk, of the tensor that chunks[blockIdx.x] is the number of. One thread reads the tables
// for all.
template <typename F> DEVICE void for_chunk(const Tensor* tensors, const uint32_t* chunks, F f) {
    __shared__ Tensor shared;
    if (threadIdx.x == 0) shared = tensors[chunks[blockIdx.x]];
    __syncthreads();
    const int64_t begin = (blockIdx.x - shared.first) * CHUNK, n = least(CHUNK, shared.n - begin);
    if (shared.is_bf16) for_part<bf16>(shared, begin, n, f);
    else for_part<float>(shared, begin, n, f);
}
