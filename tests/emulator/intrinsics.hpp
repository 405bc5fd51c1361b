// The language and the library of CUDA C++ as far as g++ lacks them: keywords, vector types, arithmetic, atomics.
//
// No <math.h>: it declares names of CUDA's (__expf), and only double functions for some. Functions of float compute in
// float, as CUDA's overloads do. They are glibc's: their last bits differ from a GPU's.

#pragma once

#include <stdint.h>
#include <string.h>

#include "block.hpp"

#define __global__
#define __device__ __attribute__((unused))
#define __host__
#define __constant__ static __attribute__((unused))
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
// A section for each kernel (build.py defines its name), so that a block poisons only what is its own.
#define __shared__ static __attribute__((section(EMULATOR_SHARED_SECTION)))

// --- vector types ---

#define EMULATOR_VECTORS(T, name, align2, align4)                      \
    struct name##1 { T x; };                                           \
    struct __attribute__((aligned(align2))) name##2 { T x, y; };       \
    struct name##3 { T x, y, z; };                                     \
    struct __attribute__((aligned(align4))) name##4 { T x, y, z, w; }; \
    EMULATOR_MAKE(T, name)

#define EMULATOR_MAKE(T, name)                                                \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
EMULATOR_VECTORS(signed char, char, 2, 4)
EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
EMULATOR_VECTORS(long long, longlong, 16, 16)
EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
struct uint1 {
    unsigned x;
};
struct __attribute__((aligned(8))) uint2 {
    unsigned x, y;
};
struct __attribute__((aligned(16))) uint4 {
    unsigned x, y, z, w;
};
EMULATOR_MAKE(unsigned, uint)
#undef EMULATOR_VECTORS
#undef EMULATOR_MAKE

// --- bits ---

namespace emulator {
template <class To, class From>
static inline To bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "the same bits in another type");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
}  // namespace emulator

static inline unsigned __float_as_uint(float x) { return emulator::bits<unsigned>(x); }
static inline int __float_as_int(float x) { return emulator::bits<int>(x); }
static inline float __uint_as_float(unsigned x) { return emulator::bits<float>(x); }
static inline float __int_as_float(int x) { return emulator::bits<float>(x); }
static inline long long __double_as_longlong(double x) { return emulator::bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return emulator::bits<double>(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
    return reversed;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
static inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

// --- arithmetic ---

// Not contracted with what comes before or after, also where the compiler may contract (build.py).
namespace emulator {
template <class T>
static inline T alone(T x) {
#ifdef __x86_64__
    asm("" : "+x"(x));
#endif
    return x;
}
}  // namespace emulator

static inline float __fmul_rn(float a, float b) { return emulator::alone(a * b); }
static inline float __fadd_rn(float a, float b) { return emulator::alone(a) + emulator::alone(b); }
static inline float __fsub_rn(float a, float b) { return emulator::alone(a) - emulator::alone(b); }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double __dmul_rn(double a, double b) { return emulator::alone(a * b); }
static inline double __dadd_rn(double a, double b) { return emulator::alone(a) + emulator::alone(b); }
static inline double __dsub_rn(double a, double b) { return emulator::alone(a) - emulator::alone(b); }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double x) { return __builtin_sqrt(x); }
static inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }

#define EMULATOR_UNARY(name)                                             \
    static inline double name(double x) { return __builtin_##name(x); }  \
    static inline float name(float x) { return __builtin_##name##f(x); } \
    static inline float name##f(float x) { return __builtin_##name##f(x); }
EMULATOR_UNARY(exp)
EMULATOR_UNARY(exp2)
EMULATOR_UNARY(expm1)
EMULATOR_UNARY(log)
EMULATOR_UNARY(log2)
EMULATOR_UNARY(log10)
EMULATOR_UNARY(log1p)
EMULATOR_UNARY(sqrt)
EMULATOR_UNARY(cbrt)
EMULATOR_UNARY(sin)
EMULATOR_UNARY(cos)
EMULATOR_UNARY(tan)
EMULATOR_UNARY(tanh)
EMULATOR_UNARY(erf)
EMULATOR_UNARY(erfc)
EMULATOR_UNARY(fabs)
EMULATOR_UNARY(floor)
EMULATOR_UNARY(ceil)
EMULATOR_UNARY(trunc)
EMULATOR_UNARY(rint)
EMULATOR_UNARY(round)
#undef EMULATOR_UNARY

#define EMULATOR_BINARY(name)                                                        \
    static inline double name(double a, double b) { return __builtin_##name(a, b); } \
    static inline float name(float a, float b) { return __builtin_##name##f(a, b); } \
    static inline float name##f(float a, float b) { return __builtin_##name##f(a, b); }
EMULATOR_BINARY(pow)
EMULATOR_BINARY(fmin)
EMULATOR_BINARY(fmax)
EMULATOR_BINARY(fmod)
EMULATOR_BINARY(copysign)
EMULATOR_BINARY(atan2)
#undef EMULATOR_BINARY

static inline double pow(double a, int b) { return __builtin_pow(a, b); }
static inline float pow(float a, int b) { return __builtin_powf(a, float(b)); }
static inline double ldexp(double x, int exponent) { return __builtin_ldexp(x, exponent); }
static inline float ldexpf(float x, int exponent) { return __builtin_ldexpf(x, exponent); }
static inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
static inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }
static inline float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
static inline float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
static inline float __expf(float x) { return __builtin_expf(x); }
static inline float __logf(float x) { return __builtin_logf(x); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline int __float2int_rn(float x) { return int(__builtin_rintf(x)); }
static inline int __float2int_rd(float x) { return int(__builtin_floorf(x)); }

static inline bool isnan(float x) { return __builtin_isnan(x); }
static inline bool isnan(double x) { return __builtin_isnan(x); }
static inline bool isinf(float x) { return __builtin_isinf(x); }
static inline bool isinf(double x) { return __builtin_isinf(x); }
static inline bool isfinite(float x) { return __builtin_isfinite(x); }
static inline bool isfinite(double x) { return __builtin_isfinite(x); }
static inline bool signbit(float x) { return __builtin_signbit(x); }
static inline bool signbit(double x) { return __builtin_signbit(x); }

static inline int abs(int x) { return x < 0 ? -x : x; }
static inline long long abs(long long x) { return x < 0 ? -x : x; }
static inline float abs(float x) { return __builtin_fabsf(x); }
static inline double abs(double x) { return __builtin_fabs(x); }

#define EMULATOR_MIN_MAX(T)                                 \
    static inline T min(T a, T b) { return b < a ? b : a; } \
    static inline T max(T a, T b) { return a < b ? b : a; }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
#undef EMULATOR_MIN_MAX
static inline float min(float a, float b) { return __builtin_fminf(a, b); }  // of a number and NaN, the number
static inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
static inline double min(double a, double b) { return __builtin_fmin(a, b); }
static inline double max(double a, double b) { return __builtin_fmax(a, b); }

// --- memory ---

template <class T>
static inline T __ldg(const T* pointer) {
    return *pointer;
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __trap(emulator::Site site = emulator::Site::here()) { emulator::fail(site, "__trap"); }

namespace emulator {
template <class T>
struct same {
    typedef T type;
};  // takes no part in deducing T
template <class T, class Change>
static inline T exchange(T* pointer, Change change) {
    const T old = *pointer;
    *pointer = change(old);
    return old;
}
}  // namespace emulator

#define EMULATOR_ATOMIC(name, expression)                                           \
    template <class T>                                                              \
    static inline T name(T* pointer, typename emulator::same<T>::type value) {      \
        return emulator::exchange(pointer, [&](T old) -> T { return expression; }); \
    }
EMULATOR_ATOMIC(atomicAdd, old + value)
EMULATOR_ATOMIC(atomicSub, old - value)
EMULATOR_ATOMIC(atomicExch, ((void)old, value))
EMULATOR_ATOMIC(atomicMin, value < old ? value : old)
EMULATOR_ATOMIC(atomicMax, old < value ? value : old)
EMULATOR_ATOMIC(atomicAnd, old& value)
EMULATOR_ATOMIC(atomicOr, old | value)
EMULATOR_ATOMIC(atomicXor, old ^ value)
#undef EMULATOR_ATOMIC

template <class T>
static inline T atomicCAS(T* pointer, typename emulator::same<T>::type expected,
                          typename emulator::same<T>::type value) {
    return emulator::exchange(pointer, [&](T old) -> T { return old == expected ? value : old; });
}
