// Convolution as a matrix product whose left matrix, the patches, is never written ("implicit GEMM"); groups = 1.
// compile: REAL=float | REAL=double | REAL=float TF32=1
// needs: conv_shape.cuh
// needs: ptx.cuh
// needs: gemm.cuh
//
// Thread mapping: 128 threads for a tile of 64 x 64 of the result, see gemm.cuh.
//   gemm_forward          rows: output positions    columns: C_out    terms: tap, input channel
//   gemm_backward_x       rows: input positions     columns: C_in     terms: tap, output channel
//   gemm_backward_weight  rows: tap, input channel  columns: C_out    terms: output positions
// With strides, the input positions fall into stride_h * stride_w phases, each of which meets a fixed subset of the
// taps: a phase is a convolution of its own, with stride 1. Terms may be cut into pieces, one a block along z, where
// the tiles alone would not fill a GPU; column_sums adds the pieces in order. Global loads are quads where channels and
// addresses allow, else single and masked. Positions and taps are divided out once; from slab to slab they are counted
// on.
//
// Flops: 2 * rows * columns * terms, less the taps that no row of a tile meets: with rows ordered position by position,
// the images innermost, that is every tap on the padding. Bytes (float): 8 KB for a slab of 131 kflop, from the caches;
// from memory each map once where it fits the second-level cache. One input channel would leave most of a tile empty
// (3x3: 9 of 16 terms, 9 of 64 rows), so its forward pass and its weight gradient are in conv2d.cu.
// Considered: im2col in memory (kernel_h * kernel_w times the bytes); Winograd (2.25 times fewer products for 3x3,
// worse rounding, a kernel of its own); cp.async in three stages (no registers in between, but no rounding to TF32 and
// no transposition on the way either). Not yet timed on a GPU.

#define OUTSIDE (-(1 << 30))
#define BLOCKS (sizeof(real) == 4 ? 4 : 2)  // a multiprocessor: leaves registers enough that none spill

// ---- positions and taps ---------------------------------------------------------------------------------------------

// A row of the tile: the row of the result it is written to, and where on the map it reads at the first tap.
struct alignas(16) Row {
    int result, offset, h, w;
};

struct Span {
    int first, count;
};

// One axis of a gather: result i reads the map at start + i * step + shift + tap * spread, if that is in [0, size).
struct Axis {
    int size, results, taps, start, step, spread;
    int first_result, result_step;  // result i is element first_result + i * result_step of the array it is written to
    int first_tap, tap_step;        // likewise for the taps and the array of the weights
    int shift;                      // of the taps that are left after trimming

    __device__ __forceinline__ int at(int place, int tap) const { return place + shift + tap * spread; }

    // Cuts off the taps that no result meets whose place (at tap 0) is in [low, high]; those left are neighbours.
    __device__ __forceinline__ void trim(int low, int high) {
        int skipped = 0;
        while (skipped < taps && !meets(low, high, skipped)) ++skipped;
        while (taps > skipped && !meets(low, high, taps - 1)) --taps;
        taps -= skipped;
        first_tap += skipped * tap_step;
        shift = skipped * spread;
    }
    __device__ __forceinline__ bool meets(int low, int high, int tap) const {
        return high + tap * spread >= 0 && low + tap * spread < size;
    }

    // The results that one of the taps from `low` to `high` leads to the map (spread > 0).
    __device__ __forceinline__ Span span(int low, int high) const {
        const int below = -(start + high * spread), reach = size - 1 - (start + low * spread);
        const int first = below > 0 ? (below + step - 1) / step : 0;
        const int last = reach < 0 ? -1 : min(results - 1, reach / step);
        return {first, max(0, last - first + 1)};
    }
};

__device__ __forceinline__ Axis forward_axis(int size, int out, int kernel, int stride, int before, int dilation) {
    return {size, out, kernel, -before, stride, dilation, 0, 1, 0, 1, 0};
}

// The gradient of the inputs phase, phase + stride ...: the taps that lead from them to an output are `tap_step` apart.
__device__ __forceinline__ Axis backward_axis(
    int size, int out, int kernel, int stride, int before, int dilation, int phase
) {
    int first_tap = 0, tap_step = 1;
    while (first_tap < kernel && (phase + before - first_tap * dilation) % stride != 0) ++first_tap;
    while (tap_step * dilation % stride != 0) ++tap_step;
    const int taps = (kernel - first_tap + tap_step - 1) / tap_step;
    const int start = (phase + before - first_tap * dilation) / stride, spread = -(tap_step * dilation / stride);
    return {out, (size - phase + stride - 1) / stride, taps, start, 1, spread, phase, stride, first_tap, tap_step, 0};
}

// Fills the table of the tile's rows and trims the axes to the taps that any of them meets.
__device__ __forceinline__ void make_rows(
    Row (&rows)[TILE], Axis& h, Axis& w, int batch, int channels, int result_h, int result_w, int positions_first
) {
    const int first = blockIdx.x * TILE, count = min(TILE, batch * h.results * w.results - first);
    if (threadIdx.x < TILE) {
        Row row = {-1, 0, OUTSIDE, OUTSIDE};
        if ((int)threadIdx.x < count) {
            const Radix radix = positions_first ? Radix{w.results, batch} : Radix{h.results, w.results};
            const Digits at = radix.digits(first + threadIdx.x);  // (row, column, image) or (image, row, column)
            const int n = positions_first ? at.low : at.high;
            const int i = positions_first ? at.high : at.middle, j = positions_first ? at.middle : at.low;
            row.h = h.start + i * h.step;
            row.w = w.start + j * w.step;
            row.offset = ((n * h.size + row.h) * w.size + row.w) * channels;
            const int line = n * result_h + h.first_result + i * h.result_step;
            row.result = line * result_w + w.first_result + j * w.result_step;
        }
        rows[threadIdx.x] = row;
    }
    __syncthreads();
    int h_low = h.start, h_high = h.start + (h.results - 1) * h.step;
    int w_low = w.start, w_high = w.start + (w.results - 1) * w.step;
    if (positions_first && count > 0) {
        h_low = rows[0].h, h_high = rows[count - 1].h;
        if (h_low == h_high) w_low = rows[0].w, w_high = rows[count - 1].w;
    }
    h.trim(h_low, h_high);
    w.trim(w_low, w_high);
}

// Offset of weight[tap, 0, 0], of which `size` elements belong to one tap.
__device__ __forceinline__ int tap_offset(const Axis& h, const Axis& w, int kernel_w, const Digits& term, int size) {
    const int row = h.first_tap + term.high * h.tap_step, column = w.first_tap + term.middle * w.tap_step;
    return (row * kernel_w + column) * size;
}

// Left factor of the forward pass and of the input gradient: elements of a map; terms (tap row, tap column, channel).
struct Gather {
    const real* map;
    const Row* rows;
    Axis h, w;
    int channels;
    bool vector;
    Along mine;
    Radix radix;
    Digits term, step;

    __device__ __forceinline__ Gather(
        const real* map, const Row* rows, const Axis& h, const Axis& w, int channels, int first_slab
    ) : map(map), rows(rows), h(h), w(w), channels(channels), vector(vectors(map, channels)),
        radix{max(1, w.taps), channels}, term(radix.digits(first_slab * SLAB + mine.term)), step(radix.digits(SLAB)) {}

    __device__ __forceinline__ void load(Quad<real> (&quads)[2]) const {
        load_along(quads, map, vector, radix, term, [&](const Digits& at, int i) {
            const Row& row = rows[mine.line + i * TILE / 2];
            const int y = h.at(row.h, at.high), x = w.at(row.w, at.middle);
            const bool inside = at.high < h.taps && (unsigned)y < (unsigned)h.size && (unsigned)x < (unsigned)w.size;
            return inside ? row.offset + (h.at(0, at.high) * w.size + w.at(0, at.middle)) * channels + at.low : -1;
        });
    }
};

// Right factor of the forward pass: weight[tap, input channel, column].
struct ForwardTerms {
    Gather patches;
    const real* weight;
    int kernel_w, column, columns;
    bool vector;
    Across mine;
    Digits term;

    __device__ __forceinline__ ForwardTerms(
        const Gather& patches, const real* weight, int kernel_w, int column, int columns, int first_slab
    ) : patches(patches), weight(weight), kernel_w(kernel_w), column(column), columns(columns),
        vector(vectors(weight, columns)), term(patches.radix.digits(first_slab * SLAB + mine.term)) {}

    __device__ __forceinline__ void load(Quad<real> (&left)[2], Quad<real> (&right)[2]) const {
        patches.load(left);
        const int tap = tap_offset(patches.h, patches.w, kernel_w, term, patches.channels * columns);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int at = column + mine.line + i * TILE / 2;
            const int count = term.high < patches.h.taps ? columns - at : 0;
            right[i] = load_quad(weight + tap + term.low * columns + at, count, vector && count > 0);
        }
    }
    __device__ __forceinline__ void store(
        const Quad<real> (&left)[2], const Quad<real> (&right)[2], Slab& left_slab, Slab& right_slab
    ) const {
        patches.mine.store(left, left_slab);
        mine.store(right, right_slab);
    }
    __device__ __forceinline__ void advance() {
        patches.radix.add(patches.term, patches.step);
        patches.radix.add(term, patches.step);
    }
};

// Right factor of the input gradient: weight[tap, column, output channel].
struct BackwardTerms {
    Gather patches;
    const real* weight;
    int kernel_w, column, columns;
    bool vector;

    __device__ __forceinline__ void load(Quad<real> (&left)[2], Quad<real> (&right)[2]) const {
        patches.load(left);
        load_along(right, weight, vector, patches.radix, patches.term, [&](const Digits& at, int i) {
            const int line = column + patches.mine.line + i * TILE / 2, channels = patches.channels;
            const int tap = tap_offset(patches.h, patches.w, kernel_w, at, channels * columns);
            return at.high < patches.h.taps && line < columns ? tap + line * channels + at.low : -1;
        });
    }
    __device__ __forceinline__ void store(
        const Quad<real> (&left)[2], const Quad<real> (&right)[2], Slab& left_slab, Slab& right_slab
    ) const {
        patches.mine.store(left, left_slab);
        patches.mine.store(right, right_slab);
    }
    __device__ __forceinline__ void advance() { patches.radix.add(patches.term, patches.step); }
};

// Both factors of the weight gradient: x at (position, tap, input channel), dy at (position, column).
struct WeightTerms {
    const real *x, *dy;
    Axis h, w;
    Digits first, position, step;  // (image, row, column) where the sum begins; this thread's, counted from there
    Radix radix;
    Digits row[2];  // (tap row, tap column, channel) of this thread's quads
    Radix taps;
    int batch, column, columns;
    bool x_vector, dy_vector;
    Across mine;

    __device__ __forceinline__ void load(Quad<real> (&left)[2], Quad<real> (&right)[2]) const {
        const int n = position.high, i = first.middle + position.middle, j = first.low + position.low;
        const int y0 = h.start + i * h.step, x0 = w.start + j * w.step;
        const bool inside = n < batch;
        const auto offset = [&](const Digits& at) {
            const int at_y = h.at(y0, at.high), at_x = w.at(x0, at.middle);
            const bool on_map = (unsigned)at_y < (unsigned)h.size && (unsigned)at_x < (unsigned)w.size;
            if (!inside || at.high >= h.taps || !on_map) return -1;
            return ((n * h.size + at_y) * w.size + at_x) * taps.lows + at.low;
        };
#pragma unroll
        for (int q = 0; q < 2; ++q) {
            if (x_vector) {
                const int from = offset(row[q]);
                left[q] = from >= 0 ? quad(x + from) : Quad<real>{};
            } else {
                Digits at = row[q];
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const int from = offset(at);
                    left[q].at[k] = from >= 0 ? x[from] : real(0);
                    taps.next(at);
                }
            }
            const int at = column + mine.line + q * TILE / 2;
            const int row = (n * h.results + i) * w.results + j;
            const int count = inside ? columns - at : 0;
            right[q] = load_quad(dy + row * columns + at, count, dy_vector && count > 0);
        }
    }
    __device__ __forceinline__ void store(
        const Quad<real> (&left)[2], const Quad<real> (&right)[2], Slab& left_slab, Slab& right_slab
    ) const {
        mine.store(left, left_slab);
        mine.store(right, right_slab);
    }
    __device__ __forceinline__ void advance() { radix.add(position, step); }
};

// ---- kernels; x, y and so on as in gpunet/ops/conv2d, the geometry in the same order everywhere ---------------------

// Grid: tiles of rows, tiles of columns, pieces. With one piece, y is the result; else piece p is written to y[p],
// without bias.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemm_forward(
    const real* __restrict__ x, const real* __restrict__ weight, const real* __restrict__ bias, real* __restrict__ y,
    int positions_first, const __grid_constant__ ConvShape s
) {
    __shared__ Slabs slabs;
    __shared__ Row rows[TILE];
    Axis h = forward_axis(s.height, s.out_height, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h);
    Axis w = forward_axis(s.width, s.out_width, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w);
    make_rows(rows, h, w, s.batch, s.in_channels, s.out_height, s.out_width, positions_first);
    const Piece piece(h.taps * w.taps * s.in_channels, blockIdx.z, gridDim.z);
    const int column = blockIdx.y * TILE;
    const Gather patches(x, rows, h, w, s.in_channels, piece.first);
    ForwardTerms terms(patches, weight, s.kernel_w, column, s.out_channels, piece.first);
    Sums sums;
    add_slabs(sums, terms, piece.count, slabs);
    real* const to = y + (long long)blockIdx.z * s.batch * s.out_height * s.out_width * s.out_channels;
    write(sums, &rows[0].result, 4, gridDim.z == 1 ? bias : nullptr, to, column, s.out_channels);
}

// Grid: tiles of rows of the largest phase, tiles of columns, phases times pieces. Pieces as above.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemm_backward_x(
    const real* __restrict__ dy, const real* __restrict__ weight, real* __restrict__ dx, int positions_first,
    const __grid_constant__ ConvShape s
) {
    __shared__ Slabs slabs;
    __shared__ Row rows[TILE];
    const int phases = s.stride_h * s.stride_w, phase = blockIdx.z % phases, part = blockIdx.z / phases;
    Axis h = backward_axis(s.height, s.out_height, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h, phase / s.stride_w);
    Axis w = backward_axis(s.width, s.out_width, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w, phase % s.stride_w);
    make_rows(rows, h, w, s.batch, s.out_channels, s.height, s.width, positions_first);
    const Piece piece(h.taps * w.taps * s.out_channels, part, gridDim.z / phases);
    const int column = blockIdx.y * TILE;
    const Gather patches(dy, rows, h, w, s.out_channels, piece.first);
    BackwardTerms terms = {patches, weight, s.kernel_w, column, s.in_channels, vectors(weight, s.out_channels)};
    Sums sums;
    add_slabs(sums, terms, piece.count, slabs);
    real* const to = dx + (long long)part * s.batch * s.height * s.width * s.in_channels;
    write(sums, &rows[0].result, 4, nullptr, to, column, s.in_channels);
}

// Grid: tiles of rows, tiles of columns, pieces. The positions are those whose taps of this tile meet the map.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemm_backward_weight(
    const real* __restrict__ dy, const real* __restrict__ x, real* __restrict__ dweight,
    const __grid_constant__ ConvShape s
) {
    __shared__ Slabs slabs;
    __shared__ int results[TILE];
    const Axis h = forward_axis(s.height, s.out_height, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h);
    const Axis w = forward_axis(s.width, s.out_width, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w);
    const int all_rows = s.kernel_h * s.kernel_w * s.in_channels, first_row = blockIdx.x * TILE;
    const int last_row = min(all_rows, first_row + TILE) - 1, column = blockIdx.y * TILE;
    if (threadIdx.x < TILE) {
        const int row = first_row + threadIdx.x;
        results[threadIdx.x] = row <= last_row ? row : -1;
    }
    const Radix taps = {s.kernel_w, s.in_channels};
    const Digits low = taps.digits(first_row), high = taps.digits(last_row);
    const Span lines = h.span(low.high, high.high);
    const Span places = low.high == high.high ? w.span(low.middle, high.middle) : w.span(0, s.kernel_w - 1);
    const Piece piece(s.batch * lines.count * places.count, blockIdx.z, gridDim.z);

    WeightTerms terms;
    terms.x = x, terms.dy = dy, terms.h = h, terms.w = w, terms.batch = s.batch, terms.taps = taps;
    terms.column = column, terms.columns = s.out_channels;
    terms.x_vector = vectors(x, s.in_channels), terms.dy_vector = vectors(dy, s.out_channels);
    terms.radix = {max(1, lines.count), max(1, places.count)};
    terms.first = {0, lines.first, places.first};
    terms.position = terms.radix.digits(piece.first * SLAB + terms.mine.term);
    terms.step = terms.radix.digits(SLAB);
#pragma unroll
    for (int i = 0; i < 2; ++i) terms.row[i] = taps.digits(first_row + terms.mine.line + i * TILE / 2);

    Sums sums;
    add_slabs(sums, terms, piece.count, slabs);
    real* const to = dweight + (long long)blockIdx.z * all_rows * s.out_channels;
    write(sums, results, 1, nullptr, to, column, s.out_channels);
}
