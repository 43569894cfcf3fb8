// Rows that a block walks in spans of blockDim.x * HELD packs of N neighbours, of which each thread holds HELD.
#pragma once

#include "common.cuh"

template <int N, int HELD> struct Spans {
    static DEVICE int width() { return blockDim.x * HELD * N; }
    // Where the last span of a row begins.
    static DEVICE int last(int columns) { return (columns - 1) / width() * width(); }
    // The first column of the thread's i-th pack of a span.
    static DEVICE int column(int span, int i) { return span + (i * blockDim.x + threadIdx.x) * N; }

    // The thread's packs of a span; `beyond` the row what is given.
    template <typename T>
    static DEVICE void fetch(Pack<T, N> (&held)[HELD], const T* row, int span, int columns, const Pack<T, N>& beyond) {
#pragma unroll
        for (int i = 0; i < HELD; ++i) held[i] = column(span, i) < columns ? load<N>(row + column(span, i)) : beyond;
    }
};
