// Rows of a table of vectors, and the gradient of that table without float atomics.
//
//   embedding_fwd   y[row] = weight[ids[row]]
//   embedding_sort  order = the rows sorted by id, equal ids by row; runs = how many equal ids begin at this place of
//                   order, 0 inside such a run
//   embedding_bwd   dweight[id] = sum of dy[row] over the rows with that id, in order; other rows are not written
//
// Pointers: y dy [rows, H] and weight dweight [V, H] in the kernel's dtype; ids order runs [rows] in u32, ids below V.
//   The caller clears dweight.
// Launch: fwd, bwd: grid rows, block a multiple of 32 up to 256. sort: grid ceil(rows / 256), block 256.
// Numerics: fwd copies; bwd adds in f32 and rounds once.
#include "common.cuh"

template <int N, typename T> DEVICE void forward(T* y, const uint32_t* ids, const T* weight, int H) {
    const int64_t row = blockIdx.x;
    const int64_t id = load_for_warp(ids + row);
    for (int c = threadIdx.x * N; c < H; c += blockDim.x * N) store(y + row * H + c, load<N>(weight + id * H + c));
}

// Each thread compares its row with all: rows² comparisons, but one launch and no scratch memory.
DEVICE void sort(uint32_t* order, uint32_t* runs, const uint32_t* ids, int rows) {
    __shared__ uint32_t tile[256];
    const int row = blockIdx.x * 256 + threadIdx.x;
    const uint32_t id = row < rows ? ids[row] : 0;
    int smaller = 0, earlier = 0, equal = 0;
    for (int first = 0; first < rows; first += 256) {
        __syncthreads();
        tile[threadIdx.x] = first + threadIdx.x < rows ? ids[first + threadIdx.x] : 0;
        __syncthreads();
        const int count = least(256, rows - first);
        for (int i = 0; i < count; ++i) {
            smaller += tile[i] < id;
            equal += tile[i] == id;
            earlier += tile[i] == id && first + i < row;
        }
    }
    if (row >= rows) return;
    order[smaller + earlier] = row;
    runs[smaller + earlier] = earlier == 0 ? equal : 0;
}

// The run of rows that begins at this block's place in `order`, if one does; the warps share the columns.
template <int N, typename T>
DEVICE void backward(T* dweight, const T* dy, const uint32_t* ids, const uint32_t* order, const uint32_t* runs, int H) {
    const int64_t place = blockIdx.x;
    const int run = load_for_warp(runs + place);
    if (run == 0) return;
    const int64_t id = load_for_warp(ids + load_for_warp(order + place));
    for (int tile = warp_id() * WARP * N; tile < H; tile += blockDim.x * N) {
        const int c = tile + lane_id() * N;
        float sums[N] = {};
        uint32_t rows = 0;
        for (int i = 0; i < run; ++i) {
            if (i % WARP == 0) rows = i + lane_id() < run ? order[place + i + lane_id()] : 0;
            const int64_t row = shfl(rows, i % WARP);
            if (c >= H) continue;
            const Pack<T, N> d = load<N>(dy + row * H + c);
#pragma unroll
            for (int j = 0; j < N; ++j) sums[j] += d[j];
        }
        if (c < H) store(dweight + id * H + c, rounded<T>(sums));
    }
}

KERNEL(256)
embedding_sort(uint32_t* __restrict__ order, uint32_t* __restrict__ runs, const uint32_t* __restrict__ ids, int rows) {
    sort(order, runs, ids, rows);
}

#define KERNELS(T, DTYPE)                                                                                              \
    KERNEL(256)                                                                                                        \
    embedding_fwd_##DTYPE(T* __restrict__ y, const uint32_t* __restrict__ ids, const T* __restrict__ weight, int H) {  \
        if (H % PACK<T> == 0) forward<PACK<T>>(y, ids, weight, H);                                                     \
        else forward<1>(y, ids, weight, H);                                                                            \
    }                                                                                                                  \
    KERNEL(256)                                                                                                        \
    embedding_bwd_##DTYPE(T* __restrict__ dweight, const T* __restrict__ dy, const uint32_t* __restrict__ ids,         \
                          const uint32_t* __restrict__ order, const uint32_t* __restrict__ runs, int H) {              \
        if (H % PACK<T> == 0) backward<PACK<T>>(dweight, dy, ids, order, runs, H);                                     \
        else backward<1>(dweight, dy, ids, order, runs, H);                                                            \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
