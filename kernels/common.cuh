// What all kernels share; the loader puts this text in front of every .cu file. No #include: NVRTC finds no headers.
//
// The same sources run on a CPU under tests/emulator, which defines GPUNET_EMULATOR and what stands behind it below.

typedef REAL real;  // float or double: -DREAL

#ifndef GPUNET_EMULATOR
// Dynamic shared memory `name`, an array of `type`; its size is an argument of the launch.
#define DYNAMIC_SHARED(type, name)                           \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type* const name = reinterpret_cast<type*>(name##_bytes)
#endif

#define FULL_WARP 0xffffffffu

// Number of this thread in the whole grid, along x.
__device__ __forceinline__ long long global_index() {
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

// A number that is given by value, or that lies on the device where a captured step can change it.
template <typename T>
__device__ __forceinline__ T value_or(const T* pointer, T value) {
    return pointer ? *pointer : value;
}

// ---- vectorized loads and stores ------------------------------------------------------------------------------------

// WIDTH contiguous elements, loaded and stored as vectors of up to 16 bytes.
template <typename T, int WIDTH>
struct alignas(WIDTH * sizeof(T) < 16 ? WIDTH * sizeof(T) : 16) Vec {
    T at[WIDTH];
};
template <typename T>
using Vec4 = Vec<T, 4>;

// Whether an array is aligned to its Vec4; also true of a null pointer.
template <typename T>
__device__ __forceinline__ bool is_aligned(const T* array) {
    return reinterpret_cast<unsigned long long>(array) % alignof(Vec4<T>) == 0;
}

// The first `count` (up to 4) elements at `from`, zeros for the others: predicated scalar loads, or one vector load if
// `vectorized`, which demands a count of 4 or more and alignment.
template <typename T>
__device__ __forceinline__ Vec4<T> load_vec4(const T* from, int count, bool vectorized) {
    if (vectorized) return *reinterpret_cast<const Vec4<T>*>(from);
    Vec4<T> vec = {};
#pragma unroll
    for (int k = 0; k < 4; ++k)
        if (k < count) vec.at[k] = from[k];
    return vec;
}

template <typename T>
__device__ __forceinline__ void store_vec4(T* to, const Vec4<T>& vec, int count, bool vectorized) {
    if (vectorized) {
        *reinterpret_cast<Vec4<T>*>(to) = vec;
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k)
        if (k < count) to[k] = vec.at[k];
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

// Products and sums that the compiler must not contract into a fused multiply-add, where the bits have to be the CPU's.
__device__ __forceinline__ float mul_rn(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double mul_rn(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ float add_rn(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ double add_rn(double a, double b) { return __dadd_rn(a, b); }

// Sum over a block of up to 1024 threads, in the same order always: lanes in a tree, then the warps in a tree. Every
// thread of the block must call it; the result is thread 0's. `scratch` is shared memory for 32 values.
template <typename T>
__device__ __forceinline__ T block_sum(T value, T* scratch) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    for (int distance = 16; distance > 0; distance >>= 1) value += __shfl_down_sync(FULL_WARP, value, distance);
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    if (warp == 0) {
        value = lane < warps ? scratch[lane] : T(0);
        for (int distance = 16; distance > 0; distance >>= 1) value += __shfl_down_sync(FULL_WARP, value, distance);
    }
    __syncthreads();  // `scratch` may be used again
    return value;
}

// ---- random numbers -------------------------------------------------------------------------------------------------

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011, section 3.3): the four words of a 128-bit counter under a 64-bit
// key, bit for bit those of gpunet/ops/random. Twenty 32 x 32 -> 64 bit products; no state, so any thread can draw any
// counter.
__device__ __forceinline__ void philox4x32(
    unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1, unsigned words[4]
) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned low0 = 0xD2511F53u * c0, high0 = __umulhi(0xD2511F53u, c0);
        const unsigned low1 = 0xCD9E8D57u * c2, high1 = __umulhi(0xCD9E8D57u, c2);
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;  // the golden ratio and sqrt(3) - 1, as 32-bit fractions
        k1 += 0xBB67AE85u;
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

// The four words of counter number `index` of (seed, stream, step).
__device__ __forceinline__ void counter_words(
    unsigned long long seed, unsigned stream, unsigned step, unsigned long long index, unsigned words[4]
) {
    philox4x32((unsigned)index, (unsigned)(index >> 32), step, stream, (unsigned)seed, (unsigned)(seed >> 32), words);
}
