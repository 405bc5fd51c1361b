// Indices as mixed-radix numbers, for sources that name this file as needed.

// A linear index as (tap row, tap column, channel) or (image, row, column). It is divided up once and from then on
// advanced by addition with carries.
struct Digits {
    int high, middle, low;
};

struct Radix {
    int middles, lows;

    __device__ __forceinline__ Digits digits(int index) const {
        const int rest = index / lows, high = rest / middles;
        return {high, rest - high * middles, index - rest * lows};
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
