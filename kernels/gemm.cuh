// The main loop and epilogue of a tiled GEMM, C (M x N) = A (M x K) B (K x N), for sources that name this file as
// needed. What A, B and C are in memory is up to the source: it supplies iterators that copy tiles of A and B.
//
// A thread block of 128 threads computes a TILE_M x TILE_N tile of C: 128 x 64 where there are enough of them, 128 x 32
// for narrow results, 64 x 64 for small ones. K tiles of 16 lie in shared memory in STAGES stages: while one is
// multiplied, cp.async copies the next ones, without registers in between. A tile keeps the order that its operand has
// in global memory, so copies are vectors of four: K-major tiles hold a row for each row of A or column of B, MN-major
// ones a row for each k. Rows are padded such that neither copies nor reads have bank conflicts (float).
//
// With FMA, a thread accumulates 8 x 8 elements (8 x 4 of the two smaller tiles): for every four k it reads vectors of
// four along k from a K-major tile, along rows or columns from an MN-major one: 16 for 256 fused multiply-adds.
//
// With TF32 (float only) a warp accumulates 64 x 32 elements (32 x 32) in 4 x 4 (2 x 4) fragments of mma.m16n8k8, which
// ldmatrix reads from K-major tiles; elements are rounded to TF32 in registers. GPUs before compute capability 8.0 have
// no such instruction: for them the FMA path is compiled.

#if defined(TF32) && (defined(GPUNET_EMULATOR) || __CUDA_ARCH__ >= 800)
#define TENSOR_CORES 1
#else
#define TENSOR_CORES 0
#endif

// Three stages where three thread blocks have room for them: not where a multiprocessor has 64 or 100 KB.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 800 && __CUDA_ARCH__ != 900 && __CUDA_ARCH__ != 1000
#define STAGES 2
#else
#define STAGES (sizeof(real) == 8 ? 2 : 3)
#endif

#define TILE_K 16
#define THREADS 128
#define PASS 32  // rows of A, or columns of B, that a vector of four of each thread covers

// ---- K tiles in shared memory ---------------------------------------------------------------------------------------

// A row for each row of A or column of B. Eight rows, at one k, are in all banks.
template <int MN>
struct KMajorTile {
    static constexpr int VECTORS = MN / PASS;
    real at[MN][TILE_K + 16 / sizeof(real)];
};

// A row for each k. Eight elements of four rows are in all banks.
template <int MN>
struct MNMajorTile {
    static constexpr int VECTORS = MN / PASS;
    real at[TILE_K][MN + 32 / sizeof(real)];
};

// A K tile of both operands.
template <typename TileA, typename TileB>
struct alignas(16) Stage {
    TileA a;
    TileB b;
};

// The K tiles of one slice of a split-K product.
struct SplitKSlice {
    int first_tile, tiles;

    __device__ __forceinline__ SplitKSlice(int k, int slice, int slices) {
        const int k_tiles = (k + TILE_K - 1) / TILE_K, each = k_tiles / slices, longer = k_tiles - each * slices;
        first_tile = slice * each + min(slice, longer);
        tiles = each + (slice < longer);
    }
};

// ---- copies from global memory --------------------------------------------------------------------------------------

// Whether vectors of four may be copied from any multiple of four in rows of `columns` elements.
__device__ __forceinline__ bool is_vectorizable(const real* array, int columns) {
    return columns % 4 == 0 && is_aligned(array);
}

// Asynchronous copies to shared memory; zeros, and nothing is read, if not `inside`.
__device__ __forceinline__ void copy_element(real* to, const real* from, bool inside) {
#pragma unroll
    for (int word = 0; word < (int)sizeof(real) / 4; ++word)
        cp_async_4(reinterpret_cast<float*>(to) + word, reinterpret_cast<const float*>(from) + word, inside);
}

__device__ __forceinline__ void copy_vec4(real* to, const real* from, bool inside) {
#pragma unroll
    for (int part = 0; part < (int)sizeof(real) / 4; ++part)
        cp_async_16(to + part * 16 / sizeof(real), from + part * 16 / sizeof(real), inside);
}

// Which elements of a K tile a thread copies: vectors of four, PASS rows (columns) apart, all at the same k.
struct KMajorThreadMap {
    int k, mn;

    __device__ __forceinline__ KMajorThreadMap()
        : k(threadIdx.x % 32 / 8 * 4), mn(threadIdx.x / 32 * 8 + threadIdx.x % 8) {}
};

struct MNMajorThreadMap {
    int k, mn;

    __device__ __forceinline__ MNMajorThreadMap() : k(threadIdx.x / 8), mn(threadIdx.x % 8 * 4) {}
};

// An element of global memory, if `inside`.
struct Source {
    int offset;
    bool inside;
};

// Copies this thread's part of a K-major tile; source(k, i) is the element of its vector i at k.
template <int MN, typename At>
__device__ __forceinline__ void copy_k_major(
    KMajorTile<MN>& tile, const real* array, bool vectorized, const Radix& radix, Digits k, const At& source
) {
    const KMajorThreadMap map;
    if (vectorized) {
#pragma unroll
        for (int i = 0; i < MN / PASS; ++i) {
            const Source from = source(k, i);
            copy_vec4(&tile.at[map.mn + i * PASS][map.k], array + from.offset, from.inside);
        }
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int i = 0; i < MN / PASS; ++i) {
            const Source from = source(k, i);
            copy_element(&tile.at[map.mn + i * PASS][map.k + e], array + from.offset, from.inside);
        }
        radix.next(k);
    }
}

// Copies this thread's part of an MN-major tile, of a row of `count` elements from array[offset] on; `vectorized` demands
// a multiple of four.
template <int MN>
__device__ __forceinline__ void copy_mn_major(
    MNMajorTile<MN>& tile, const real* array, int offset, int count, bool vectorized
) {
    const MNMajorThreadMap map;
    const real* const from = array + (offset + map.mn);
    real* const to = &tile.at[map.k][map.mn];
    const int left = count - map.mn;
    if (vectorized) {
#pragma unroll
        for (int at = 0; at < MN; at += PASS) copy_vec4(to + at, from + at, at < left);
        return;
    }
#pragma unroll
    for (int at = 0; at < MN; at += PASS) {
#pragma unroll
        for (int e = at; e < at + 4; ++e) copy_element(to + e, from + e, e < left);
    }
}

// ---- accumulators ---------------------------------------------------------------------------------------------------

__device__ __forceinline__ Vec4<real> load_vec4(const real* from) {
    return *reinterpret_cast<const Vec4<real>*>(from);
}

// The accumulators of a thread, as VECTORS of WIDTH contiguous columns; row() and column() say where in the tile.
#if TENSOR_CORES

template <typename TileA, typename TileB>
struct Accumulators {
    static constexpr int WARPS_N = TILE_N / 32, FRAGMENTS = TILE_M * WARPS_N * 32 / THREADS / 16;  // of a warp, along M
    static constexpr int WIDTH = 2, VECTORS = FRAGMENTS * 8;
    float at[FRAGMENTS][4][4];  // of 16 rows x 8 columns: two columns of rows `group` and `group` + 8
    int warp_row, warp_column, lane, group, thread_in_group;

    __device__ __forceinline__ Accumulators() : at{}, lane(threadIdx.x % 32) {
        const int warp = threadIdx.x / 32;
        warp_row = warp / WARPS_N * FRAGMENTS * 16, warp_column = warp % WARPS_N * 32;
        group = lane / 4, thread_in_group = lane % 4;
    }
    __device__ __forceinline__ int row(int v) const { return warp_row + v / 8 * 16 + v % 2 * 8 + group; }
    __device__ __forceinline__ int column(int v) const { return warp_column + v / 2 % 4 * 8 + thread_in_group * 2; }
    __device__ __forceinline__ real value(int v, int e) const { return at[v / 8][v / 2 % 4][v % 2 * 2 + e]; }

    __device__ __forceinline__ void multiply_add(const Stage<TileA, TileB>& stage) {
#pragma unroll
        for (int k = 0; k < TILE_K; k += 8) {
            unsigned a[FRAGMENTS][4], b[4][2];
            load_a(a, stage.a, k);
            load_b(b, stage.b, k);
#pragma unroll
            for (int i = 0; i < FRAGMENTS; ++i) round(a[i]);
#pragma unroll
            for (int j = 0; j < 4; ++j) round(b[j]);
#pragma unroll
            for (int i = 0; i < FRAGMENTS; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) mma_m16n8k8_tf32(at[i][j], a[i], b[j]);
            }
        }
    }

private:
    template <int COUNT>
    __device__ __forceinline__ static void round(unsigned (&fragment)[COUNT]) {
#pragma unroll
        for (int e = 0; e < COUNT; ++e) fragment[e] = to_tf32(__uint_as_float(fragment[e]));
    }
    // Four 8 x 4 matrices: the upper and the lower eight rows at k, then those at k + 4.
    __device__ __forceinline__ void load_a(
        unsigned (&a)[FRAGMENTS][4], const KMajorTile<TILE_M>& tile, int k
    ) const {
#pragma unroll
        for (int i = 0; i < FRAGMENTS; ++i)
            ldmatrix_x4(a[i], &tile.at[warp_row + i * 16 + lane % 16][k + lane / 16 * 4]);
    }
    __device__ __forceinline__ void load_a(
        unsigned (&a)[FRAGMENTS][4], const MNMajorTile<TILE_M>& tile, int k
    ) const {
#pragma unroll
        for (int i = 0; i < FRAGMENTS; ++i) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int row = warp_row + i * 16 + e % 2 * 8 + group;
                a[i][e] = __float_as_uint(tile.at[k + e / 2 * 4 + thread_in_group][row]);
            }
        }
    }
    // Four 4 x 8 matrices: eight columns at k and at k + 4, then the next eight.
    __device__ __forceinline__ void load_b(unsigned (&b)[4][2], const KMajorTile<TILE_N>& tile, int k) const {
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
            unsigned both[4];
            ldmatrix_x4(both, &tile.at[warp_column + j * 8 + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 4]);
#pragma unroll
            for (int e = 0; e < 4; ++e) b[j + e / 2][e % 2] = both[e];
        }
    }
    __device__ __forceinline__ void load_b(unsigned (&b)[4][2], const MNMajorTile<TILE_N>& tile, int k) const {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e)
                b[j][e] = __float_as_uint(tile.at[k + e * 4 + thread_in_group][warp_column + j * 8 + group]);
        }
    }
};

#else

// Which COUNT rows of A, or columns of B, are a thread's, of THREADS_MN threads along the dimension; in groups of WIDTH.
// Of a K-major tile, whose vectors lie along k, threads take turns; of an MN-major one each has groups of four.
template <typename Tile, int COUNT, int THREADS_MN>
struct Owned;

template <int MN, int COUNT, int THREADS_MN>
struct Owned<KMajorTile<MN>, COUNT, THREADS_MN> {
    static constexpr int WIDTH = 1;
    __device__ __forceinline__ static int index(int warp, int thread, int i) {
        return warp * COUNT * THREADS_MN + thread + i * THREADS_MN;
    }
    // Group i at four k from `k` on.
    __device__ __forceinline__ static void load(
        real (&values)[4][WIDTH], const KMajorTile<MN>& tile, int warp, int thread, int i, int k
    ) {
        const Vec4<real> vec = load_vec4(&tile.at[index(warp, thread, i)][k]);
#pragma unroll
        for (int e = 0; e < 4; ++e) values[e][0] = vec.at[e];
    }
};

template <int MN, int COUNT, int THREADS_MN>
struct Owned<MNMajorTile<MN>, COUNT, THREADS_MN> {
    static constexpr int WIDTH = 4;
    __device__ __forceinline__ static int index(int warp, int thread, int i) {
        return i / WIDTH * (MN * WIDTH / COUNT) + (warp * THREADS_MN + thread) * WIDTH + i % WIDTH;
    }
    __device__ __forceinline__ static void load(
        real (&values)[4][WIDTH], const MNMajorTile<MN>& tile, int warp, int thread, int i, int k
    ) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const Vec4<real> vec = load_vec4(&tile.at[k + e][index(warp, thread, i * WIDTH)]);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) values[e][j] = vec.at[j];
        }
    }
};

template <typename TileA, typename TileB>
struct Accumulators {
    static constexpr int ROWS = 8, COLUMNS = TILE_M * TILE_N / THREADS / ROWS;  // a warp's threads are 4 x 8
    static constexpr int WARPS_N = TILE_N / COLUMNS / 8;
    using Rows = Owned<TileA, ROWS, 4>;
    using Columns = Owned<TileB, COLUMNS, 8>;
    static constexpr int WIDTH = Columns::WIDTH, VECTORS = ROWS * COLUMNS / WIDTH;
    real at[ROWS][COLUMNS];
    int warp_m, warp_n, thread_m, thread_n;

    __device__ __forceinline__ Accumulators() : at{} {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        warp_m = warp / WARPS_N, warp_n = warp % WARPS_N, thread_m = lane / 8, thread_n = lane % 8;
    }
    __device__ __forceinline__ int row(int v) const { return Rows::index(warp_m, thread_m, v % ROWS); }
    __device__ __forceinline__ int column(int v) const { return Columns::index(warp_n, thread_n, v / ROWS * WIDTH); }
    __device__ __forceinline__ real value(int v, int e) const { return at[v % ROWS][v / ROWS * WIDTH + e]; }

    __device__ __forceinline__ void multiply_add(const Stage<TileA, TileB>& stage) {
#pragma unroll
        for (int k = 0; k < TILE_K; k += 4) {
            real a[ROWS / Rows::WIDTH][4][Rows::WIDTH];
#pragma unroll
            for (int i = 0; i < ROWS / Rows::WIDTH; ++i) Rows::load(a[i], stage.a, warp_m, thread_m, i, k);
#pragma unroll
            for (int j = 0; j < COLUMNS / WIDTH; ++j) {
                real b[4][WIDTH];
                Columns::load(b, stage.b, warp_n, thread_n, j, k);
#pragma unroll
                for (int e = 0; e < 4; ++e) {
#pragma unroll
                    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
                        for (int c = 0; c < WIDTH; ++c)
                            at[r][j * WIDTH + c] += a[r / Rows::WIDTH][e][r % Rows::WIDTH] * b[e][c];
                    }
                }
            }
        }
    }
};

#endif

// ---- main loop and epilogue -----------------------------------------------------------------------------------------

// Multiplies `tiles` K tiles. An Operands starts the copies of this thread's part of a K tile, and advances to the next.
template <typename TileA, typename TileB, typename Operands>
__device__ __forceinline__ void main_loop(
    Accumulators<TileA, TileB>& accumulators, Operands& operands, int tiles, Stage<TileA, TileB> (&stages)[STAGES]
) {
#pragma unroll
    for (int tile = 0; tile < STAGES - 1; ++tile) {
        if (tile < tiles) {
            operands.copy(stages[tile]);
            operands.advance();
        }
        cp_async_commit();
    }
    int multiplied = 0, copied = STAGES - 1;
    for (int tile = 0; tile < tiles; ++tile) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // all copies of this tile have landed, and all threads have read the stage to be filled
        if (tile + STAGES - 1 < tiles) {
            operands.copy(stages[copied]);
            operands.advance();
        }
        cp_async_commit();
        accumulators.multiply_add(stages[multiplied]);
        multiplied = multiplied + 1 == STAGES ? 0 : multiplied + 1;
        copied = copied + 1 == STAGES ? 0 : copied + 1;
    }
}

// Adds the bias, if any, and writes the tile: its row r to row output_rows[r * stride] of y, none if that is negative,
// and its columns from `column` on.
template <typename TileA, typename TileB>
__device__ __forceinline__ void epilogue(
    const Accumulators<TileA, TileB>& accumulators, const int* output_rows, int stride, const real* bias, real* y,
    int column, int columns
) {
    constexpr int WIDTH = Accumulators<TileA, TileB>::WIDTH;
    const bool vectorized = is_vectorizable(y, columns);
#pragma unroll
    for (int v = 0; v < accumulators.VECTORS; ++v) {
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
