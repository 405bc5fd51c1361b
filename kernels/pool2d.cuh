// Positions of NHWC maps and windows of 2 x 2 side by side, for sources that name this file as needed.

#define NO_TAP 4  // the argmax, of a window of 2 x 2, where ReLU lets nothing pass

// What a thread works on: up to four channels of one pixel of a map.
struct WorkItem {
    int n, row, column, channel, count;
};

// Work item number `index` of maps of rows x columns.
__device__ __forceinline__ WorkItem work_item(unsigned index, int rows, int columns, int channels) {
    const unsigned vectors = (channels + 3u) / 4, position = index / vectors, line = position / columns;
    const int channel = 4 * (index - position * vectors);
    return {int(line / rows), int(line % rows), int(position - line * columns), channel, min(4, channels - channel)};
}

__device__ __forceinline__ int work_items(int batch, int rows, int columns, int channels) {
    return batch * rows * columns * ((channels + 3) / 4);
}

// The running maximum of four channels: NaN wins, and of equal values the one that came first.
struct Best {
    Vec4<real> value;
    Vec4<int> tap;

    __device__ __forceinline__ void meet(const Vec4<real>& other, int other_tap) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
            if (other.at[k] > value.at[k] || other.at[k] != other.at[k]) {
                value.at[k] = other.at[k];
                tap.at[k] = other_tap;
            }
    }
};

// The taps of the window of 2 x 2 that a thread works on: four independent loads.
__device__ __forceinline__ void load_window(
    Vec4<real> (&taps)[4], const real* x, const WorkItem& at, int height, int width, int channels, bool vectorized) {
    const int corner = ((at.n * height + 2 * at.row) * width + 2 * at.column) * channels + at.channel;
#pragma unroll
    for (int tap = 0; tap < 4; ++tap)
        taps[tap] = load_vec4(x + (corner + (tap / 2 * width + tap % 2) * channels), at.count, vectorized);
}

// Writes the largest of four taps and which one it is. With `relu`, a maximum that is not positive becomes zero, and
// its argmax NO_TAP, so that no gradient passes.
__device__ __forceinline__ void store_maximum(
    const Vec4<real> (&taps)[4], bool relu, real* y, unsigned char* argmax, int count, bool vectorized) {
    Best best = {taps[0], {}};
#pragma unroll
    for (int tap = 1; tap < 4; ++tap) best.meet(taps[tap], tap);
    Vec4<unsigned char> narrow;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const bool cut = relu && best.value.at[k] <= real(0);
        if (cut) best.value.at[k] = real(0);
        narrow.at[k] = (unsigned char)(cut ? NO_TAP : best.tap.at[k]);
    }
    store_vec4(y, best.value, count, vectorized);
    store_vec4(argmax, narrow, count, vectorized);
}

// The gradient of a window's maximum and its argmax; at an odd edge there is no window, and no gradient.
__device__ __forceinline__ void load_window_gradient(
    Vec4<real>& d, Vec4<unsigned char>& won, const real* dy, const unsigned char* argmax, const WorkItem& at,
    int out_height, int out_width, int channels, bool vectorized) {
    d = {};
    won = {};
    if (at.row >= out_height || at.column >= out_width) return;
    const int from = ((at.n * out_height + at.row) * out_width + at.column) * channels + at.channel;
    d = load_vec4(dy + from, at.count, vectorized);
    won = load_vec4(argmax + from, at.count, vectorized);
}

// What of that gradient a tap gets.
__device__ __forceinline__ Vec4<real> share_of(int tap, const Vec4<real>& d, const Vec4<unsigned char>& won) {
    Vec4<real> share;
#pragma unroll
    for (int k = 0; k < 4; ++k) share.at[k] = won.at[k] == tap ? d.at[k] : real(0);
    return share;
}
