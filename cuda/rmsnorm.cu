// Root-mean-square normalisation. Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467
//
//   rmsnorm_fwd             rstd = 1 / sqrt(mean(x²) + eps) over a row, y = x * rstd * weight
//   rmsnorm_residual_fwd    sum = x + residual, then the same of sum
//   rmsnorm_fwd_int8, rmsnorm_residual_fwd_int8    the same, and y as quantize_rows makes it (quantize.cu)
//   rmsnorm_bwd_x           dx = rstd * (dy * weight - x * rstd² * mean(dy * weight * x))
//   rmsnorm_residual_bwd_x  the same + dsum, where x is the saved sum: the gradient of both x and residual
//   rmsnorm_bwd_weight      partial = sum over a slice of rows of dy * x * rstd
//   rmsnorm_bwd_weight_sum  dweight = sum of partial over slices
//
// Pointers: x residual sum y dx dy dsum [rows, H] and weight dweight [H] in the kernel's dtype; rstd [rows] and
//   partial [slices, H] in f32.
// Launch: fwd, bwd_x: grid rows, block a multiple of 32 up to 1024; a row is read once where 16 * block >= H and H is
//   a multiple of 16 bytes; int8: it must be so; q, scale, flags and stride as quantize_rows takes them. bwd_weight:
//   grid (ceil(H / (32 N)), slices) with N = 8 (bf16) or 4 (f32) where H is a multiple of 16 bytes, else 1; slices =
//   ceil(rows / rows_per_slice); block 256. bwd_weight_sum: grid ceil(H / 256), block 256.
// Numerics: f32 throughout, sums as trees over lanes and warps; rounds when it stores. `sum` is rounded before it is
//   normalised and dx before dsum is added, so the fused kernels give the bits of the separate ones.
#include "quantize.cuh"

// The thread's packs of a span; zeros beyond the row.
template <int N, typename T> DEVICE void fetch(Pack<T, N> (&held)[HELD<N>], const T* row, int span, int H) {
    Row<N>::fetch(held, row, span, H, Pack<T, N>{});
}

// held = held + residual, rounded, and stored in sum.
template <int N, typename T>
DEVICE void add_residual(Pack<T, N> (&held)[HELD<N>], T* sum, const T* residual, int span, int H) {
#pragma unroll
    for (int i = 0; i < HELD<N>; ++i) {
        const int c = Row<N>::column(span, i);
        if (c >= H) break;
        const Pack<T, N> r = load<N>(residual + c);
        float v[N];
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = held[i][j] + r[j];
        held[i] = rounded<T>(v);
        store(sum + c, held[i]);
    }
}

// Holds the thread's packs of x, or of x + residual, of the row's last span; returns 1 / sqrt(mean of squares + eps).
template <int N, bool RESIDUAL, typename T>
DEVICE float fetch_and_scale(Pack<T, N> (&held)[HELD<N>], T* sum, float* rstd, const T* x, const T* residual, int H,
                             float eps) {
    float squares = 0.0f;
#pragma unroll 1
    for (int span = 0; span < H; span += Row<N>::width()) {
        fetch(held, x, span, H);
        if (RESIDUAL) add_residual(held, sum, residual, span, H);
#pragma unroll
        for (int i = 0; i < HELD<N>; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j) squares += held[i][j] * held[i][j];
    }
    const float scale = 1.0f / sqrtf(block_sum(squares) / H + eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = scale;
    return scale;
}

template <int N, bool RESIDUAL, typename T>
DEVICE void forward(T* y, T* sum, float* rstd, const T* x, const T* residual, const T* weight, int H, float eps) {
    const int64_t row = blockIdx.x;
    y += row * H, sum += row * H, x += row * H, residual += row * H;
    Pack<T, N> held[HELD<N>];
    const float scale = fetch_and_scale<N, RESIDUAL>(held, sum, rstd, x, residual, H, eps);
#pragma unroll 1
    for (int span = Row<N>::last(H); span >= 0; span -= Row<N>::width()) {
        if (span != Row<N>::last(H)) fetch(held, RESIDUAL ? sum : x, span, H);
#pragma unroll
        for (int i = 0; i < HELD<N>; ++i) {
            const int c = Row<N>::column(span, i);
            if (c >= H) break;
            const Pack<T, N> w = load<N>(weight + c);
            float v[N];
#pragma unroll
            for (int j = 0; j < N; ++j) v[j] = held[i][j] * scale * w[j];
            store(y + c, rounded<T>(v));
        }
    }
}

// The same of a row of one span, in packs, which is quantized too.
template <bool RESIDUAL, typename T>
DEVICE void forward_int8(T* y, T* sum, float* rstd, const Int8Rows& to, const T* x, const T* residual, const T* weight,
                         int H, float eps) {
    constexpr int N = PACK<T>;
    const int64_t row = blockIdx.x;
    y += row * H, sum += row * H, x += row * H, residual += row * H;
    Pack<T, N> held[HELD<N>];
    const float scale = fetch_and_scale<N, RESIDUAL>(held, sum, rstd, x, residual, H, eps);
    float v[HELD<N>][N];
#pragma unroll
    for (int i = 0; i < HELD<N>; ++i) {
        const int c = Row<N>::column(0, i);
        const Pack<T, N> w = c < H ? load<N>(weight + c) : Pack<T, N>{};
#pragma unroll
        for (int j = 0; j < N; ++j) v[i][j] = round_to<T>(held[i][j] * scale * w[j]);
        if (c < H) store(y + c, rounded<T>(v[i]));
    }
    to.store<N, false>(v, 0, to.begin(block_max(largest_inside<N>(v, to.limit))));
}

// Holds the thread's packs of x and of g = dy * weight; returns the thread's part of their dot product.
template <int N, typename T>
DEVICE float fetch_product(float (&g)[HELD<N>][N], Pack<T, N> (&held)[HELD<N>], const T* dy, const T* x,
                           const T* weight, int span, int H) {
    Pack<T, N> d[HELD<N>], w[HELD<N>];
    fetch(d, dy, span, H);
    fetch(held, x, span, H);
    fetch(w, weight, span, H);
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < HELD<N>; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) {
            g[i][j] = d[i][j] * w[i][j];
            dot += g[i][j] * held[i][j];
        }
    return dot;
}

template <int N, bool RESIDUAL, typename T>
DEVICE void backward_x(T* dx, const T* dy, const T* dsum, const T* x, const T* weight, const float* rstd, int H) {
    const int64_t row = blockIdx.x;
    dx += row * H, dy += row * H, dsum += row * H, x += row * H;
    float g[HELD<N>][N];
    Pack<T, N> held[HELD<N>];
    __shared__ float row_rstd;  // one thread reads it for all; the barrier is block_sum's
    if (threadIdx.x == 0) row_rstd = rstd[row];

    float dot = 0.0f;
#pragma unroll 1
    for (int span = 0; span < H; span += Row<N>::width()) dot += fetch_product(g, held, dy, x, weight, span, H);
    const float mean = block_sum(dot) / H;
    const float r = row_rstd, scale = r * r * mean;

#pragma unroll 1
    for (int span = Row<N>::last(H); span >= 0; span -= Row<N>::width()) {
        if (span != Row<N>::last(H)) fetch_product(g, held, dy, x, weight, span, H);
#pragma unroll
        for (int i = 0; i < HELD<N>; ++i) {
            const int c = Row<N>::column(span, i);
            if (c >= H) break;
            const Pack<T, N> d = RESIDUAL ? load<N>(dsum + c) : Pack<T, N>{};
            float v[N];
#pragma unroll
            for (int j = 0; j < N; ++j) {
                v[j] = __fmul_rn(r, g[i][j] - held[i][j] * scale);  // not one fma with the sum below
                if (RESIDUAL) v[j] = round_to<T>(v[j]) + d[j];
            }
            store(dx + c, rounded<T>(v));
        }
    }
}

// A slice of rows of 32 packs of columns: each of the 8 warps adds every 8th row, then the warps are added in order.
template <int N, typename T>
DEVICE void backward_weight(float* partial, const T* dy, const T* x, const float* rstd, int rows, int H,
                            int rows_per_slice) {
    constexpr int WARPS = 8, TILE = WARP * N;
    const int c = blockIdx.x * TILE + lane_id() * N;
    const int64_t first = int64_t(blockIdx.y) * rows_per_slice, end = least(int64_t(rows), first + rows_per_slice);
    float sums[N] = {};
#pragma unroll 1
    for (int64_t row = first + warp_id(); row < end; row += WARPS) {
        const float r = load_for_warp(rstd + row);
        if (c >= H) continue;
        const Pack<T, N> d = load<N>(dy + row * H + c), v = load<N>(x + row * H + c);
#pragma unroll
        for (int j = 0; j < N; ++j) sums[j] += d[j] * v[j] * r;
    }
    // Rows of 32 lanes, apart by so much that the threads of a warp read from 32 banks.
    constexpr int STRIDE = WARP + WARP / N;
    __shared__ float shared[WARPS][N * STRIDE];
#pragma unroll
    for (int j = 0; j < N; ++j) shared[warp_id()][j * STRIDE + lane_id()] = sums[j];
    __syncthreads();
    // Column lane * N + j of the tile is at j * STRIDE + lane.
    const int i = threadIdx.x, column = blockIdx.x * TILE + i;
    if (i >= TILE || column >= H) return;
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) sum += shared[warp][i % N * STRIDE + i / N];
    partial[int64_t(blockIdx.y) * H + column] = sum;
}

template <typename T> DEVICE void backward_weight_sum(T* dweight, const float* partial, int slices, int H) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= H) return;
    float sum = 0.0f;
    for (int64_t slice = 0; slice < slices; ++slice) sum += partial[slice * H + c];
    dweight[c] = from_float<T>(sum);
}

#define KERNELS(T, DTYPE)                                                                                              \
    KERNEL(1024)                                                                                                       \
    rmsnorm_fwd_##DTYPE(T* __restrict__ y, float* __restrict__ rstd, const T* __restrict__ x,                          \
                        const T* __restrict__ weight, int H, float eps) {                                              \
        if (H % PACK<T> == 0) forward<PACK<T>, false, T>(y, nullptr, rstd, x, nullptr, weight, H, eps);                \
        else forward<1, false, T>(y, nullptr, rstd, x, nullptr, weight, H, eps);                                       \
    }                                                                                                                  \
    KERNEL(1024)                                                                                                       \
    rmsnorm_residual_fwd_##DTYPE(T* __restrict__ y, T* __restrict__ sum, float* __restrict__ rstd,                     \
                                 const T* __restrict__ x, const T* __restrict__ residual,                              \
                                 const T* __restrict__ weight, int H, float eps) {                                     \
        if (H % PACK<T> == 0) forward<PACK<T>, true>(y, sum, rstd, x, residual, weight, H, eps);                       \
        else forward<1, true>(y, sum, rstd, x, residual, weight, H, eps);                                              \
    }                                                                                                                  \
    KERNEL(1024)                                                                                                       \
    rmsnorm_fwd_int8_##DTYPE(T* __restrict__ y, float* __restrict__ rstd, int8_t* __restrict__ q,                      \
                             float* __restrict__ scale, uint32_t* __restrict__ flags, const T* __restrict__ x,         \
                             const T* __restrict__ weight, int H, float eps, int stride, float limit) {                \
        forward_int8<false, T>(y, nullptr, rstd, {q, scale, flags, stride, limit}, x, nullptr, weight, H, eps);        \
    }                                                                                                                  \
    KERNEL(1024)                                                                                                       \
    rmsnorm_residual_fwd_int8_##DTYPE(T* __restrict__ y, T* __restrict__ sum, float* __restrict__ rstd,                \
                                      int8_t* __restrict__ q, float* __restrict__ scale, uint32_t* __restrict__ flags, \
                                      const T* __restrict__ x, const T* __restrict__ residual,                         \
                                      const T* __restrict__ weight, int H, float eps, int stride, float limit) {       \
        forward_int8<true>(y, sum, rstd, {q, scale, flags, stride, limit}, x, residual, weight, H, eps);               \
    }                                                                                                                  \
    KERNEL(1024)                                                                                                       \
    rmsnorm_bwd_x_##DTYPE(T* __restrict__ dx, const T* __restrict__ dy, const T* __restrict__ x,                       \
                          const T* __restrict__ weight, const float* __restrict__ rstd, int H) {                       \
        if (H % PACK<T> == 0) backward_x<PACK<T>, false, T>(dx, dy, nullptr, x, weight, rstd, H);                      \
        else backward_x<1, false, T>(dx, dy, nullptr, x, weight, rstd, H);                                             \
    }                                                                                                                  \
    KERNEL(1024)                                                                                                       \
    rmsnorm_residual_bwd_x_##DTYPE(T* __restrict__ dx, const T* __restrict__ dy, const T* __restrict__ dsum,           \
                                   const T* __restrict__ x, const T* __restrict__ weight,                              \
                                   const float* __restrict__ rstd, int H) {                                            \
        if (H % PACK<T> == 0) backward_x<PACK<T>, true>(dx, dy, dsum, x, weight, rstd, H);                             \
        else backward_x<1, true>(dx, dy, dsum, x, weight, rstd, H);                                                    \
    }                                                                                                                  \
    KERNEL(256)                                                                                                        \
    rmsnorm_bwd_weight_##DTYPE(float* __restrict__ partial, const T* __restrict__ dy, const T* __restrict__ x,         \
                               const float* __restrict__ rstd, int rows, int H, int rows_per_slice) {                  \
        if (H % PACK<T> == 0) backward_weight<PACK<T>>(partial, dy, x, rstd, rows, H, rows_per_slice);                 \
        else backward_weight<1>(partial, dy, x, rstd, rows, H, rows_per_slice);                                        \
    }                                                                                                                  \
    KERNEL(256)                                                                                                        \
    rmsnorm_bwd_weight_sum_##DTYPE(T* __restrict__ dweight, const float* __restrict__ partial, int slices, int H) {    \
        backward_weight_sum(dweight, partial, slices, H);                                                              \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
