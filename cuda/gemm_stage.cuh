// How operands of a matrix product come to shared memory (cp.async), and from there to the fragments of mma.
#pragma once

#include "dropout.cuh"

extern __shared__ __align__(128) char gemm_shared[];  // the stages, then the results on their way out

// A pair of operands and the K that they share. Each lies [rows, K] where K is its inner dimension, else [K, rows], its
// rows of memory `lda` and `ldb` elements apart (the leading dimensions of BLAS).
template <typename A, typename B = A> struct Term {
    const A* a;
    const B* b;
    int lda, ldb, K;
};

// One operand's part of a stage: ROWS of M or N by DEPTH of K, 64 bytes of it, in chunks of 16 bytes.
//
// Shared memory has 32 banks of 4 bytes: 8 chunks that are written or read at once, a phase, must differ in their place
// modulo 128 bytes. The swizzle is an exclusive or of a chunk's number with its row:
//
//   K inner: a row is 64 bytes, so two rows fill the banks once, and r / 2 turns       K not inner: a row of 128 bytes
//   the chunks of four pairs of rows; ldmatrix reads a column c of 8 rows:             or more, r turns its chunks:
//       row 0:  c0 c1 c2 c3    row 1:  c0 c1 c2 c3    <- one line of banks                 row 0:  c0 c1 c2 c3 c4 ..
//       row 2:  c1 c0 c3 c2    row 3:  c1 c0 c3 c2                                         row 1:  c1 c0 c3 c2 c5 ..
//       row 4:  c2 c3 c0 c1    row 5:  c2 c3 c0 c1                                         row 2:  c2 c3 c0 c1 c6 ..
//       row 6:  c3 c2 c1 c0    row 7:  c3 c2 c1 c0                                         ..
template <typename T, int ROWS, bool INNER> struct Layout {
    static constexpr int ELEMENT = sizeof(T), DEPTH = 64 / ELEMENT, BYTES = ROWS * 64;
    static constexpr int CHUNKS = (INNER ? DEPTH : ROWS) / PACK<T>, ROW_BYTES = CHUNKS * 16;

    // The offset of chunk `c` of row `r` of memory, and of an element.
    static DEVICE int chunk(int r, int c) { return r * ROW_BYTES + (c ^ (CHUNKS == 4 ? r / 2 % 4 : r % 8)) * 16; }
    static DEVICE int element(int row, int k) {
        const int r = INNER ? row : k, c = INNER ? k : row;
        return chunk(r, c / PACK<T>) + c % PACK<T> * int(sizeof(T));
    }
};

// A thread's share of the copies of one operand: COUNT chunks a stage, STRIDE rows of memory apart, which all lie at one
// distance from each other in shared memory too. What does not change from stage to stage is computed once.
template <typename T, int ROWS, bool INNER, int THREADS, bool ALIGNED> struct Copies {
    using Source = T;
    using L = Layout<T, ROWS, INNER>;
    static constexpr int STRIDE = THREADS / L::CHUNKS, COUNT = L::BYTES / 16 / THREADS;
    static_assert(STRIDE % 8 == 0 && COUNT * STRIDE == L::BYTES / L::ROW_BYTES, "chunks at one distance");

    const T* from;
    int ld;
    int to;          // the first chunk's offset in a stage
    int left;        // K inner: elements of K from the chunk on; else rows of K from the first chunk's on
    int inside;      // K inner: a bit for each chunk whose row is within the operand
    int columns;     // of the operand, from the chunk on
    int64_t masked;  // the number of the chunk's first element in the stage that is masked next

    // From element (row0, k0) of an operand of `rows` and `K` on.
    DEVICE void begin(const T* operand, int leading, int row0, int k0, int rows, int K) {
        const int c = threadIdx.x % L::CHUNKS, first = threadIdx.x / L::CHUNKS;
        const int row = (INNER ? row0 : k0) + first, column = (INNER ? k0 : row0) + c * PACK<T>;
        from = operand + int64_t(row) * leading + column;
        ld = leading;
        to = L::chunk(first, c);
        masked = int64_t(row) * leading + column;
        columns = INNER ? K - column : rows - column;
        left = INNER ? K - column : columns > 0 ? K - row : 0;
        inside = 0;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) inside |= (row0 + first + i * STRIDE < rows) << i;
    }

    DEVICE bool is_inside(int i) const { return INNER ? left > 0 && (inside >> i & 1) : left > i * STRIDE; }

    // Starts to fill the stage at a shared address, with zeros beyond the operand, and goes on to the next.
    DEVICE void copy(uint32_t stage) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const T* source = from + int64_t(ld) * (i * STRIDE);
            const uint32_t target = stage + to + i * STRIDE * L::ROW_BYTES;
            if constexpr (ALIGNED) cp_async(target, source, is_inside(i));
            else store_elements(target, source, is_inside(i));
        }
        from += INNER ? L::DEPTH : int64_t(ld) * L::DEPTH;
        left -= L::DEPTH;
        if (INNER) columns -= L::DEPTH;
    }

    // A chunk of a row of memory that starts anywhere.
    DEVICE void store_elements(uint32_t target, const T* source, bool is_inside) const {
        T elements[PACK<T>];
#pragma unroll
        for (int j = 0; j < PACK<T>; ++j) elements[j] = is_inside && j < columns ? source[j] : T{};
        store(element_at(target), packed(elements));
    }

    // Drops elements of a stage: the thread's own chunks, whose copies it has waited for.
    DEVICE void mask(uint32_t stage, const Dropout& dropout) {
#pragma unroll 1
        for (int i = 0; i < COUNT; ++i) {
            T* chunk = element_at(stage + to + i * STRIDE * L::ROW_BYTES);
            const int64_t element = masked + int64_t(ld) * (i * STRIDE);
            if constexpr (ALIGNED) {
                float v[PACK<T>];
                dropout.apply(v, load<PACK<T>>(chunk), element);
                store(chunk, rounded<T>(v));
            } else {
#pragma unroll 1
                for (int j = 0; j < PACK<T>; ++j)
                    chunk[j] = from_float<T>(dropout.keeps(element + j) ? to_float(chunk[j]) * dropout.scale : 0.0f);
            }
        }
        masked += INNER ? L::DEPTH : int64_t(ld) * L::DEPTH;
    }

    static DEVICE T* element_at(uint32_t address) {
        return reinterpret_cast<T*>(gemm_shared + (address - shared_address(gemm_shared)));
    }
};
