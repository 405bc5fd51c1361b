// A matrix product in tiles, for sources that name this file as needed: what a block does, whatever its factors are.
//
// A block of 128 threads computes a tile of 64 rows x 64 columns of the result, over slabs of 16 terms that lie in
// shared memory, double buffered: while one slab is multiplied, the next one is on its way into registers.
//
// A thread holds 8 x 4 sums: of each term it reads 2 + 1 quads from shared memory, which a warp does in 3 wavefronts
// for 32 fused multiply-adds a thread. Rows of a slab are 68 apart, and where a store transposes, a warp takes 16 rows
// x 2 quads: no bank conflicts either way (float). 8 x 8 sums for 64 threads would halve the reads but also the warps,
// of which small maps give a multiprocessor few.
//
// With TF32 (float only) factors are rounded to TF32 as they enter the slab and a warp takes 32 x 32 sums in 2 x 4
// fragments of mma.m16n8k8, which read rows 72 apart without conflicts (transposing stores have 2-way ones). GPUs
// before compute capability 8.0 have no such instruction: for them the same source is compiled without.

#if defined(TF32) && (defined(GPUNET_EMULATOR) || __CUDA_ARCH__ >= 800)
#define TENSOR_CORES 1
#else
#define TENSOR_CORES 0
#endif

#define TILE 64
#define SLAB 16
#define PITCH (TILE + (TENSOR_CORES ? 8 : 4))  // a multiple of four keeps quads aligned
#define THREADS 128

// ---- neighbours in memory -------------------------------------------------------------------------------------------

// Whether four elements from any multiple of four on, in an array with rows of `columns`, may be moved as vectors.
__device__ __forceinline__ bool vectors(const real* array, int columns) {
    return columns % 4 == 0 && is_aligned(array);
}

__device__ __forceinline__ Quad<real> quad(const real* from) { return *reinterpret_cast<const Quad<real>*>(from); }

// ---- numbers in mixed radix -----------------------------------------------------------------------------------------

// (tap row, tap column, channel) or (image, row, column): counted on by addition with carries, so that the divisions
// are made once.
struct Digits {
    int high, middle, low;
};

struct Radix {
    int middles, lows;

    __device__ __forceinline__ Digits digits(int number) const {
        const int rest = number / lows, high = rest / middles;
        return {high, rest - high * middles, number - rest * lows};
    }
    __device__ __forceinline__ void add(Digits& at, const Digits& step) const {
        at.low += step.low;
        at.middle += step.middle;
        at.high += step.high;
        if (at.low >= lows) at.low -= lows, ++at.middle;
        if (at.middle >= middles) at.middle -= middles, ++at.high;
    }
    __device__ __forceinline__ void next(Digits& at) const { add(at, {0, 0, 1}); }
};

// ---- slabs ----------------------------------------------------------------------------------------------------------

typedef real Slab[SLAB][PITCH];  // 16 terms of 64 rows or columns

// Both factors, two slabs of each: one in use, one being filled.
struct Slabs {
    Slab left[2], right[2];
};

// An element as it enters a slab.
__device__ __forceinline__ real factor(real value) {
#if TENSOR_CORES
    return __uint_as_float(to_tf32(value));
#else
    return value;
#endif
}

__device__ __forceinline__ Quad<real> factors(const Quad<real>& quad) {
    return {{factor(quad.at[0]), factor(quad.at[1]), factor(quad.at[2]), factor(quad.at[3])}};
}

// The slabs of this block's piece of the terms, of `pieces`.
struct Piece {
    int first, count;

    __device__ __forceinline__ Piece(int terms, int piece, int pieces) {
        const long long slabs = (terms + SLAB - 1) / SLAB;
        first = int(slabs * piece / pieces);
        count = int(slabs * (piece + 1) / pieces) - first;
    }
};

// A factor whose terms are neighbours in memory is read as 16 rows x 2 quads a warp and transposed on its way into the
// slab ...
struct Along {
    int term, line;

    __device__ __forceinline__ Along() {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        term = 4 * (warp % 2 * 2 + lane % 2);
        line = warp / 2 * 16 + lane / 2;
    }
    __device__ __forceinline__ void store(const Quad<real> (&quads)[2], Slab& slab) const {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int k = 0; k < 4; ++k) slab[term + k][line + i * TILE / 2] = factor(quads[i].at[k]);
        }
    }
};

// ... and one whose rows or columns are, as it lies: a thread takes two quads of one term.
struct Across {
    int term, line;

    __device__ __forceinline__ Across() : term(threadIdx.x / 8), line(threadIdx.x % 8 * 4) {}
    __device__ __forceinline__ void store(const Quad<real> (&quads)[2], Slab& slab) const {
#pragma unroll
        for (int i = 0; i < 2; ++i)
            *reinterpret_cast<Quad<real>*>(&slab[term][line + i * TILE / 2]) = factors(quads[i]);
    }
};

// Two quads of a factor whose terms are neighbours in memory; offset(term, i) is negative where there is none.
template <typename Offset>
__device__ __forceinline__ void load_along(
    Quad<real> (&quads)[2], const real* array, bool vector, const Radix& radix, Digits term, const Offset& offset
) {
    if (vector) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int from = offset(term, i);
            quads[i] = from >= 0 ? quad(array + from) : Quad<real>{};
        }
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int from = offset(term, i);
            quads[i].at[k] = from >= 0 ? array[from] : real(0);
        }
        radix.next(term);
    }
}

// ---- sums -----------------------------------------------------------------------------------------------------------

// The 32 sums of a thread: runs of WIDTH neighbouring columns, and the place of each run in the tile.
#if TENSOR_CORES

struct Sums {
    static constexpr int WIDTH = 2;
    float at[2][4][4];  // fragments of 16 rows x 8 columns: two columns of rows `group` and `group` + 8
    int corner_row, corner_column, group, member;

    __device__ __forceinline__ Sums() : at{} {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        corner_row = warp / 2 * 32, corner_column = warp % 2 * 32;
        group = lane / 4, member = lane % 4;
    }
    __device__ __forceinline__ int row(int run) const { return corner_row + run / 8 * 16 + run % 2 * 8 + group; }
    __device__ __forceinline__ int column(int run) const { return corner_column + run / 2 % 4 * 8 + member * 2; }
    __device__ __forceinline__ real value(int run, int k) const { return at[run / 8][run / 2 % 4][run % 2 * 2 + k]; }

    __device__ __forceinline__ void add_product(const Slab& left, const Slab& right) {
#pragma unroll
        for (int term = 0; term < SLAB; term += 8) {
            unsigned a[2][4], b[4][2];
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const int from = term + 4 * k + member;
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int row = corner_row + i * 16 + group;
                    a[i][2 * k] = __float_as_uint(left[from][row]);
                    a[i][2 * k + 1] = __float_as_uint(left[from][row + 8]);
                }
#pragma unroll
                for (int j = 0; j < 4; ++j) b[j][k] = __float_as_uint(right[from][corner_column + j * 8 + group]);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) mma_m16n8k8_tf32(at[i][j], a[i], b[j]);
            }
        }
    }
};

#else

struct Sums {
    static constexpr int WIDTH = 4;
    real at[8][4];  // of four neighbouring rows, and of those 32 further on; a warp's threads are 4 x 8
    int corner_row, corner_column;

    __device__ __forceinline__ Sums() : at{} {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        corner_row = 4 * (warp / 2 * 4 + lane / 8), corner_column = 4 * (warp % 2 * 8 + lane % 8);
    }
    __device__ __forceinline__ int row(int run) const { return corner_row + run % 4 + run / 4 * (TILE / 2); }
    __device__ __forceinline__ int column(int run) const { return corner_column; }
    __device__ __forceinline__ real value(int run, int k) const { return at[run][k]; }

    __device__ __forceinline__ void add_product(const Slab& left, const Slab& right) {
#pragma unroll
        for (int k = 0; k < SLAB; ++k) {
            const Quad<real> upper = quad(&left[k][corner_row]), lower = quad(&left[k][corner_row + TILE / 2]);
            const Quad<real> across = quad(&right[k][corner_column]);
#pragma unroll
            for (int r = 0; r < 4; ++r) {
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    at[r][c] += upper.at[r] * across.at[c];
                    at[r + 4][c] += lower.at[r] * across.at[c];
                }
            }
        }
    }
};

#endif

// Adds up `count` slabs. Terms loads two quads of either factor a thread, stores them into a slab, and goes on to the
// next.
template <typename Terms>
__device__ __forceinline__ void add_slabs(Sums& sums, Terms& terms, int count, Slabs& slabs) {
    Quad<real> left[2], right[2];
    if (count > 0) {
        terms.load(left, right);
        terms.store(left, right, slabs.left[0], slabs.right[0]);
    }
    __syncthreads();
    for (int slab = 0; slab < count; ++slab) {
        const int now = slab % 2;
        if (slab + 1 < count) {
            terms.advance();
            terms.load(left, right);
        }
        sums.add_product(slabs.left[now], slabs.right[now]);
        if (slab + 1 < count) terms.store(left, right, slabs.left[1 - now], slabs.right[1 - now]);
        __syncthreads();
    }
}

// Writes the tile: its row r to results[r * stride] of y's rows, none if that is negative, and its columns from
// `column` on.
__device__ __forceinline__ void write(
    const Sums& sums, const int* results, int stride, const real* bias, real* y, int column, int columns
) {
    constexpr int WIDTH = Sums::WIDTH;
    const bool vector = vectors(y, columns);
#pragma unroll
    for (int run = 0; run < 32 / WIDTH; ++run) {
        const int result = results[sums.row(run) * stride], first = column + sums.column(run);
        if (result < 0 || first >= columns) continue;
        real* const to = y + result * columns + first;
        Lanes<real, WIDTH> found;
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) {
            found.at[k] = sums.value(run, k);
            if (bias && first + k < columns) found.at[k] += bias[first + k];
        }
        if (vector) *reinterpret_cast<Lanes<real, WIDTH>*>(to) = found;
        else {
#pragma unroll
            for (int k = 0; k < WIDTH; ++k)
                if (first + k < columns) to[k] = found.at[k];
        }
    }
}
