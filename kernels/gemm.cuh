// The main loop and epilogue of a tiled GEMM, C (M x N) = A (M x K) B (K x N), for sources that name this file as
// needed. What A, B and C are in memory is up to the source: it supplies iterators that load tiles of A and B.
//
// A thread block of 128 threads computes a TILE_M x TILE_N tile of C: 128 x 64 where there are enough of them, 128 x 32
// for narrow results, 64 x 64 for small ones. K tiles of 16 are double buffered in shared memory: while one is
// multiplied, the next is loaded from global memory into registers.
//
// With FMA, a thread accumulates 8 x 8 elements (8 x 4 of the two smaller tiles): for each k it reads 2 + 2 vectors of
// four from shared memory for 64 fused multiply-adds. Rows of a tile in shared memory are padded by 4 elements, and a
// transposing store takes 16 rows x 2 vectors a warp: neither has bank conflicts (float).
//
// With TF32 (float only) elements are rounded to TF32 on their way into shared memory, and a warp accumulates 64 x 32
// elements (32 x 32) in 4 x 4 (2 x 4) fragments of mma.m16n8k8, which read rows padded by 8 elements without bank
// conflicts (transposing stores have 2-way ones). GPUs before compute capability 8.0 have no such instruction: for them
// the FMA path is compiled.

#if defined(TF32) && (defined(GPUNET_EMULATOR) || __CUDA_ARCH__ >= 800)
#define TENSOR_CORES 1
#else
#define TENSOR_CORES 0
#endif

#define TILE_K 16
#define PADDING (TENSOR_CORES ? 8 : 4)  // of rows in shared memory: a multiple of four keeps vectors aligned
#define THREADS 128
#define PASS 32  // rows of A, or columns of B, that a vector of four of each thread covers

// ---- vectorized loads -----------------------------------------------------------------------------------------------

// Whether vectors of four may be loaded from any multiple of four in rows of `columns` elements.
__device__ __forceinline__ bool is_vectorizable(const real* array, int columns) {
    return columns % 4 == 0 && is_aligned(array);
}

__device__ __forceinline__ Vec4<real> load_vec4(const real* from) {
    return *reinterpret_cast<const Vec4<real>*>(from);
}

// ---- K tiles in shared memory ---------------------------------------------------------------------------------------

// MN-major: the rows of A, or columns of B, are contiguous for each k.
template <int MN>
using OperandTile = real[TILE_K][MN + PADDING];

// Both operands, double buffered. They are read as vectors of four, wherever the compiler puts them.
struct alignas(16) SharedStorage {
    OperandTile<TILE_M> a[2];
    OperandTile<TILE_N> b[2];
};

// A thread's part of a K tile: vectors of four, PASS rows (columns) apart.
template <int MN>
using Fragment = Vec4<real>[MN / PASS];

// An element of A or B as the multiplication takes it.
__device__ __forceinline__ real rounded(real value) {
#if TENSOR_CORES
    return __uint_as_float(to_tf32(value));
#else
    return value;
#endif
}

__device__ __forceinline__ Vec4<real> rounded(const Vec4<real>& vec) {
    return {{rounded(vec.at[0]), rounded(vec.at[1]), rounded(vec.at[2]), rounded(vec.at[3])}};
}

// The K tiles of one slice of a split-K product.
struct SplitKSlice {
    int first_tile, tiles;

    __device__ __forceinline__ SplitKSlice(int k, int slice, int slices) {
        const int k_tiles = (k + TILE_K - 1) / TILE_K, each = k_tiles / slices, longer = k_tiles - each * slices;
        first_tile = slice * each + min(slice, longer);
        tiles = each + (slice < longer);
    }
};

// Which elements of a K tile a thread moves.
//
// A K-major operand, contiguous along K in global memory: 16 rows x 2 vectors a warp, transposed by the store.
template <int MN>
struct KMajorThreadMap {
    int k, mn;

    __device__ __forceinline__ KMajorThreadMap() {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        k = 4 * (warp % 2 * 2 + lane % 2);
        mn = warp / 2 * 16 + lane / 2;
    }
    __device__ __forceinline__ void store(const Fragment<MN>& fragment, OperandTile<MN>& tile) const {
#pragma unroll
        for (int i = 0; i < MN / PASS; ++i) {
#pragma unroll
            for (int e = 0; e < 4; ++e) tile[k + e][mn + i * PASS] = rounded(fragment[i].at[e]);
        }
    }
};

// An MN-major operand, contiguous along its rows or columns: all vectors have the same k, stored as they are.
template <int MN>
struct MNMajorThreadMap {
    int k, mn;

    __device__ __forceinline__ MNMajorThreadMap() : k(threadIdx.x / 8), mn(threadIdx.x % 8 * 4) {}
    __device__ __forceinline__ void store(const Fragment<MN>& fragment, OperandTile<MN>& tile) const {
#pragma unroll
        for (int i = 0; i < MN / PASS; ++i)
            *reinterpret_cast<Vec4<real>*>(&tile[k][mn + i * PASS]) = rounded(fragment[i]);
    }
};

// A thread's vectors of a K-major operand; offset(k, i) is negative where there is no element (predicated off: zero).
template <int VECTORS, typename Offset>
__device__ __forceinline__ void load_k_major(
    Vec4<real> (&fragment)[VECTORS], const real* array, bool vectorized, const Radix& radix, Digits k, const Offset& offset
) {
    if (vectorized) {
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int from = offset(k, i);
            fragment[i] = from >= 0 ? load_vec4(array + from) : Vec4<real>{};
        }
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int from = offset(k, i);
            fragment[i].at[e] = from >= 0 ? array[from] : real(0);
        }
        radix.next(k);
    }
}

// ---- accumulators ---------------------------------------------------------------------------------------------------

// The accumulators of a thread, as VECTORS of WIDTH contiguous columns; row() and column() say where in the tile.
#if TENSOR_CORES

struct Accumulators {
    static constexpr int WARPS_N = TILE_N / 32, FRAGMENTS = TILE_M * WARPS_N * 32 / THREADS / 16;  // of a warp, along M
    static constexpr int WIDTH = 2, VECTORS = FRAGMENTS * 8;
    float at[FRAGMENTS][4][4];  // of 16 rows x 8 columns: two columns of rows `group` and `group` + 8
    int warp_row, warp_column, group, thread_in_group;

    __device__ __forceinline__ Accumulators() : at{} {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        warp_row = warp / WARPS_N * FRAGMENTS * 16, warp_column = warp % WARPS_N * 32;
        group = lane / 4, thread_in_group = lane % 4;
    }
    __device__ __forceinline__ int row(int v) const { return warp_row + v / 8 * 16 + v % 2 * 8 + group; }
    __device__ __forceinline__ int column(int v) const { return warp_column + v / 2 % 4 * 8 + thread_in_group * 2; }
    __device__ __forceinline__ real value(int v, int e) const { return at[v / 8][v / 2 % 4][v % 2 * 2 + e]; }

    __device__ __forceinline__ void multiply_add(
        const OperandTile<TILE_M>& tile_a, const OperandTile<TILE_N>& tile_b
    ) {
#pragma unroll
        for (int k0 = 0; k0 < TILE_K; k0 += 8) {
            unsigned a[FRAGMENTS][4], b[4][2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int k = k0 + 4 * half + thread_in_group;
#pragma unroll
                for (int i = 0; i < FRAGMENTS; ++i) {
                    const int row = warp_row + i * 16 + group;
                    a[i][2 * half] = __float_as_uint(tile_a[k][row]);
                    a[i][2 * half + 1] = __float_as_uint(tile_a[k][row + 8]);
                }
#pragma unroll
                for (int j = 0; j < 4; ++j) b[j][half] = __float_as_uint(tile_b[k][warp_column + j * 8 + group]);
            }
#pragma unroll
            for (int i = 0; i < FRAGMENTS; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) mma_m16n8k8_tf32(at[i][j], a[i], b[j]);
            }
        }
    }
};

#else

struct Accumulators {
    static constexpr int GROUPS = TILE_M * TILE_N / THREADS / 32;  // of four contiguous columns, TILE_N / 2 apart
    static constexpr int WARPS_N = TILE_N / 32 / GROUPS;
    static constexpr int WIDTH = 4, VECTORS = GROUPS * 8;
    real at[8][GROUPS][4];  // of four contiguous rows, and of those TILE_M / 2 further on; a warp's threads are 4 x 8
    int first_row, first_column;

    __device__ __forceinline__ Accumulators() : at{} {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        first_row = 4 * (warp / WARPS_N * 4 + lane / 8), first_column = 4 * (warp % WARPS_N * 8 + lane % 8);
    }
    __device__ __forceinline__ int row(int v) const { return first_row + v % 4 + v / 4 % 2 * (TILE_M / 2); }
    __device__ __forceinline__ int column(int v) const { return first_column + v / 8 * (TILE_N / 2); }
    __device__ __forceinline__ real value(int v, int e) const { return at[v % 8][v / 8][e]; }

    __device__ __forceinline__ void multiply_add(
        const OperandTile<TILE_M>& tile_a, const OperandTile<TILE_N>& tile_b
    ) {
#pragma unroll
        for (int k = 0; k < TILE_K; ++k) {
            const Vec4<real> upper = load_vec4(&tile_a[k][first_row]);
            const Vec4<real> lower = load_vec4(&tile_a[k][first_row + TILE_M / 2]);
            Vec4<real> b[GROUPS];
#pragma unroll
            for (int g = 0; g < GROUPS; ++g) b[g] = load_vec4(&tile_b[k][first_column + g * (TILE_N / 2)]);
#pragma unroll
            for (int r = 0; r < 4; ++r) {
#pragma unroll
                for (int g = 0; g < GROUPS; ++g) {
#pragma unroll
                    for (int c = 0; c < 4; ++c) {
                        at[r][g][c] += upper.at[r] * b[g].at[c];
                        at[r + 4][g][c] += lower.at[r] * b[g].at[c];
                    }
                }
            }
        }
    }
};

#endif

// ---- main loop and epilogue -----------------------------------------------------------------------------------------

// Multiplies `tiles` K tiles. An Operands loads the thread's vectors of A and B, stores them to shared memory, and
// advances to the next K tile.
template <typename Operands>
__device__ __forceinline__ void main_loop(
    Accumulators& accumulators, Operands& operands, int tiles, SharedStorage& shared
) {
    Fragment<TILE_M> a;
    Fragment<TILE_N> b;
    if (tiles > 0) {
        operands.load(a, b);
        operands.store(a, b, shared.a[0], shared.b[0]);
    }
    __syncthreads();
    for (int tile = 0; tile < tiles; ++tile) {
        const int stage = tile % 2;
        if (tile + 1 < tiles) {
            operands.advance();
            operands.load(a, b);
        }
        accumulators.multiply_add(shared.a[stage], shared.b[stage]);
        if (tile + 1 < tiles) operands.store(a, b, shared.a[1 - stage], shared.b[1 - stage]);
        __syncthreads();
    }
}

// Adds the bias, if any, and writes the tile: its row r to row output_rows[r * stride] of y, none if that is negative,
// and its columns from `column` on.
__device__ __forceinline__ void epilogue(
    const Accumulators& accumulators, const int* output_rows, int stride, const real* bias, real* y, int column,
    int columns
) {
    constexpr int WIDTH = Accumulators::WIDTH;
    const bool vectorized = is_vectorizable(y, columns);
#pragma unroll
    for (int v = 0; v < Accumulators::VECTORS; ++v) {
        const int row = output_rows[accumulators.row(v) * stride], first = column + accumulators.column(v);
        if (row < 0 || first >= columns) continue;
        real* const to = y + row * columns + first;
        Vec<real, WIDTH> vec;
#pragma unroll
        for (int e = 0; e < WIDTH; ++e) {
            vec.at[e] = accumulators.value(v, e);
            if (bias && first + e < columns) vec.at[e] += bias[first + e];
        }
        if (vectorized) *reinterpret_cast<Vec<real, WIDTH>*>(to) = vec;
        else {
#pragma unroll
            for (int e = 0; e < WIDTH; ++e)
                if (first + e < columns) to[e] = vec.at[e];
        }
    }
}
