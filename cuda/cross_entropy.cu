// Cross entropy of rows of logits, and what else the fused language-model head does around its matrix products.
//
//   cross_entropy_fwd      losses[first + row] = log(sum of exp(logits - max)) - (logits[target] - max)
//   cross_entropy_fwd_bwd  the same, and dlogits = factor * (softmax(logits) - onehot(target))
//   cross_entropy_sum      loss = sum of losses / normalizer
//   cross_entropy_scatter  dhidden[first + row] = drows[places[row]], zeros where that place is NONE
//   cross_entropy_bwd      gradient = dy * gradient, in place; NaN where loss is not finite
//
// Pointers: logits [rows, V], losses, loss [1], dy [1] in f32; dlogits [rows, V], dhidden drows [.., H], gradient [n] in
//   the kernel's dtype; dlogits may be logits; targets [rows], below V, and places [rows] in u32.
// Launch: fwd, fwd_bwd: grid rows, block a multiple of 32 up to 512; a row is read once, not twice, where it has no more
//   than 16 * block logits (4 * block if V is no multiple of 4). sum: grid 1, block 1024. scatter: grid rows, block a
//   multiple of 32 up to 256. bwd: any grid, block 256; one 16-byte pack a thread where grid * 256 * 16 bytes reach n.
// Numerics: f32, sums as trees over lanes and warps; the running sum of a thread is scaled anew where its maximum grows
//   (Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867). A row whose logits are not finite has a loss that is
//   not.
#include "span.cuh"

constexpr uint32_t NONE = 0xffffffff;
constexpr float LEAST_LOGIT = -0x1.fffffep127f;  // finite: -infinity less itself is not a number

// A thread takes HELD packs of a span of its row.
constexpr int HELD = 4;
template <int N> using Row = Spans<N, HELD>;

// The thread's logits of a span; as small as can be beyond the row.
template <int N> DEVICE void fetch(Pack<float, N> (&held)[HELD], const float* row, int span, int V) {
    Pack<float, N> beyond;
#pragma unroll
    for (int j = 0; j < N; ++j) beyond.v[j] = -INFINITY;
    Row<N>::fetch(held, row, span, V, beyond);
}

// The online softmax: takes the held logits into max and sum = sum of exp(logit - max), which is rescaled where max grows.
template <int N> DEVICE void online_softmax(float& max, float& sum, const Pack<float, N> (&held)[HELD]) {
    float larger = max;
#pragma unroll
    for (int i = 0; i < HELD; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) larger = fmaxf(larger, held[i][j]);
    sum *= expf(max - larger);
    max = larger;
#pragma unroll
    for (int i = 0; i < HELD; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) sum += expf(held[i][j] - max);
}

template <int N, bool BACKWARD, typename T>
DEVICE void forward(float* losses, T* dlogits, const float* logits, const uint32_t* targets, int first, int V,
                    float factor) {
    const int64_t row = blockIdx.x;
    logits += row * V, dlogits += row * V;
    __shared__ int target;  // one thread reads both for all, before the barriers of the sums
    __shared__ float logit;
    if (threadIdx.x == 0) target = targets[row], logit = logits[target];

    Pack<float, N> held[HELD];
    float max = LEAST_LOGIT, sum = 0.0f;
#pragma unroll 1
    for (int span = 0; span < V; span += Row<N>::width()) {
        fetch(held, logits, span, V);
        online_softmax(max, sum, held);
    }
    const float largest = block_max(max), total = block_sum(sum * expf(max - largest));
    if (threadIdx.x == 0) losses[first + row] = logf(total) - (logit - largest);
    if (!BACKWARD) return;

    const float scale = factor / total;
#pragma unroll 1
    for (int span = Row<N>::last(V); span >= 0; span -= Row<N>::width()) {
        if (span != Row<N>::last(V)) fetch(held, logits, span, V);
#pragma unroll
        for (int i = 0; i < HELD; ++i) {
            const int c = Row<N>::column(span, i);
            if (c >= V) break;
            float v[N];
#pragma unroll
            for (int j = 0; j < N; ++j) v[j] = expf(held[i][j] - largest) * scale - (c + j == target ? factor : 0.0f);
            store(dlogits + c, rounded<T>(v));
        }
    }
}

template <int N, typename T> DEVICE void scatter(T* dhidden, const T* drows, const uint32_t* places, int first, int H) {
    const uint32_t place = load_for_warp(places + blockIdx.x);
    dhidden += (int64_t(first) + blockIdx.x) * H, drows += int64_t(place) * H;
    for (int c = threadIdx.x * N; c < H; c += blockDim.x * N)
        store(dhidden + c, place == NONE ? Pack<T, N>{} : load<N>(drows + c));
}

template <typename T> DEVICE void backward(T* gradient, const float* dy, const float* loss, int64_t n) {
    const float factor = is_finite(load_for_warp(loss)) ? load_for_warp(dy) : NOT_A_NUMBER;
    if (factor == 1.0f) return;
    for_packs<PACK<T>>(n, [&](auto width, int64_t i) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> g = load<N>(gradient + i);
        float v[N];
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = g[j] * factor;
        store(gradient + i, rounded<T>(v));
    });
}

KERNEL(512)
cross_entropy_fwd(float* __restrict__ losses, const float* __restrict__ logits, const uint32_t* __restrict__ targets,
                  int first, int V) {
    if (V % PACK<float> == 0) forward<PACK<float>, false, float>(losses, nullptr, logits, targets, first, V, 0.0f);
    else forward<1, false, float>(losses, nullptr, logits, targets, first, V, 0.0f);
}

KERNEL(1024) cross_entropy_sum(float* __restrict__ loss, const float* __restrict__ losses, int n, float normalizer) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += losses[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *loss = sum / normalizer;
}

#define KERNELS(T, DTYPE)                                                                                              \
    KERNEL(512)                                                                                                        \
    cross_entropy_fwd_bwd_##DTYPE(float* __restrict__ losses, T* dlogits, const float* logits,                         \
                                  const uint32_t* __restrict__ targets, int first, int V, float factor) {              \
        if (V % PACK<float> == 0) forward<PACK<float>, true>(losses, dlogits, logits, targets, first, V, factor);      \
        else forward<1, true>(losses, dlogits, logits, targets, first, V, factor);                                     \
    }                                                                                                                  \
    KERNEL(256)                                                                                                        \
    cross_entropy_scatter_##DTYPE(T* __restrict__ dhidden, const T* __restrict__ drows,                                \
                                  const uint32_t* __restrict__ places, int first, int H) {                             \
        if (H % PACK<T> == 0) scatter<PACK<T>>(dhidden, drows, places, first, H);                                      \
        else scatter<1>(dhidden, drows, places, first, H);                                                             \
    }                                                                                                                  \
    KERNEL(256)                                                                                                        \
    cross_entropy_bwd_##DTYPE(T* gradient, const float* __restrict__ dy, const float* __restrict__ loss, int64_t n) {  \
        backward(gradient, dy, loss, n);                                                                               \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
