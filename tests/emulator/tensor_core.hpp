// The wrappers of PTX instructions: matrix products of a warp, and copies to shared memory that land later.
//
// kernels/common.cuh has their twins for a GPU. Layouts of fragments: PTX ISA, "Matrix fragments for mma.m16n8k8",
// "mma.m16n8k16 with floating point type", "ldmatrix". A lane is group = lane / 4 and member = lane % 4.

#pragma once

#include "intrinsics.hpp"
#include "warp.hpp"

namespace emulator {

constexpr uint32_t ALL_LANES = 0xffffffffu;

static inline float tf32_value(unsigned bits) { return __uint_as_float(bits & 0xffffe000u); }  // the rest is ignored
static inline float bf16_value(unsigned pair, int which) {
    return __uint_as_float(which ? pair & 0xffff0000u : pair << 16);
}

// D (16 x 8) += A (16 x K) B (K x 8): sums in double and rounded once; a GPU's order and rounding are not documented.
template <int K>
struct MatrixProduct {
    float* d;
    const unsigned *a, *b;

    static float a_value(MatrixProduct** lanes, int row, int k) {
        const int half = row / 8, group = row % 8;
        if (K == 8) return tf32_value(lanes[group * 4 + k % 4]->a[half + k / 4 * 2]);
        return bf16_value(lanes[group * 4 + k % 8 / 2]->a[half + k / 8 * 2], k % 2);
    }

    static float b_value(MatrixProduct** lanes, int k, int column) {
        if (K == 8) return tf32_value(lanes[column * 4 + k % 4]->b[k / 4]);
        return bf16_value(lanes[column * 4 + k % 8 / 2]->b[k / 8], k % 2);
    }

    static void complete(MatrixProduct** lanes) {
        float a[16][K], b[8][K];
        for (int k = 0; k < K; ++k) {
            for (int row = 0; row < 16; ++row) a[row][k] = a_value(lanes, row, k);
            for (int column = 0; column < 8; ++column) b[column][k] = b_value(lanes, k, column);
        }
        for (int i = 0; i < WARP; ++i)
            for (int part = 0; part < 4; ++part) {
                const int row = i / 4 + part / 2 * 8, column = i % 4 * 2 + part % 2;
                double sum = lanes[i]->d[part];
                for (int k = 0; k < K; ++k) sum += double(a[row][k]) * b[column][k];
                lanes[i]->d[part] = float(sum);
            }
    }
};

// Four matrices of 8 x 8 halves: lane 8 m + r brings the address of row r of matrix m.
template <bool transposed>
struct MatrixLoad {
    unsigned* result;
    const char* row;

    static void complete(MatrixLoad** lanes) {
        for (int i = 0; i < WARP; ++i)
            for (int matrix = 0; matrix < 4; ++matrix) {
                MatrixLoad** const rows = lanes + matrix * 8;
                const int group = i / 4, member = i % 4;
                uint16_t pair[2];
                for (int which = 0; which < 2; ++which) {
                    const int row = transposed ? member * 2 + which : group,
                              column = transposed ? group : member * 2 + which;
                    pair[which] = reinterpret_cast<const uint16_t*>(rows[row]->row)[column];
                }
                lanes[i]->result[matrix] = pair[0] | unsigned(pair[1]) << 16;
            }
    }
};

template <bool transposed>
static void load_matrices(const char* operation, Site site, unsigned (&result)[4], const void* row) {
    if (!is_shared(row)) fail(site, "%s: a row is not in shared memory", operation);
    if (reinterpret_cast<uintptr_t>(row) % 16)
        fail(site, "%s: a row does not start at a multiple of 16 bytes", operation);
    MatrixLoad<transposed> request{result, static_cast<const char*>(row)};
    meet(ALL_LANES, operation, site, request, MatrixLoad<transposed>::complete);
}

// --- cp.async: a copy lands when its thread waits for it, and until then its target is poisoned ---

struct Copy {
    char* target;
    const char* source;  // null: zeros
    int bytes;
    int group;
};

struct Copies {
    static constexpr int CAPACITY = 256;
    Copy waiting[CAPACITY];
    int count, group;
    uint64_t owner;  // the block that they belong to
};

static Copies* copies_of_thread() {
    static Copies all[MAX_THREADS];
    Copies& own = all[current->number];
    if (own.owner != block.run) own.owner = block.run, own.count = own.group = 0;
    return &own;
}

static void start_copy(const char* operation, Site site, void* target, const void* source, int bytes) {
    Copies* const own = copies_of_thread();
    if (!is_shared(target)) fail(site, "%s: the target is not in shared memory", operation);
    if (reinterpret_cast<uintptr_t>(target) % bytes || reinterpret_cast<uintptr_t>(source) % bytes)
        fail(site, "%s: target or source is not at a multiple of %d bytes", operation, bytes);
    if (own->count == Copies::CAPACITY)
        fail(site, "%s: more than %d copies wait in a thread", operation, Copies::CAPACITY);
    own->waiting[own->count++] = {static_cast<char*>(target), static_cast<const char*>(source), bytes, own->group};
    memset(target, 0xff, size_t(bytes));
}

// Let all groups land but the last `pending` that were committed.
static void finish_copies(int pending) {
    Copies* const own = copies_of_thread();
    int kept = 0;
    for (int i = 0; i < own->count; ++i) {
        const Copy copy = own->waiting[i];
        if (copy.group >= own->group - pending)
            own->waiting[kept++] = copy;
        else if (copy.source)
            memcpy(copy.target, copy.source, size_t(copy.bytes));
        else
            memset(copy.target, 0, size_t(copy.bytes));
    }
    own->count = kept;
}

}  // namespace emulator

// A float as TF32, to the nearest, ties away from zero (cvt.rna.tf32.f32).
static inline unsigned to_tf32(float x) {
    const unsigned bits = __float_as_uint(x);
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

// Two floats as bfloat16, to the nearest even; `low` in the lower half (cvt.rn.bf16x2.f32).
static inline unsigned to_bf16x2(float low, float high) {
    const auto rounded = [](float x) -> unsigned {
        const unsigned bits = __float_as_uint(x);
        return isnan(x) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    };
    return rounded(low) | rounded(high) << 16;
}

static inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                    emulator::Site site = emulator::Site::here()) {
    emulator::MatrixProduct<8> request{d, a, b};
    emulator::meet(emulator::ALL_LANES, "mma_m16n8k8_tf32", site, request, emulator::MatrixProduct<8>::complete);
}

static inline void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                     emulator::Site site = emulator::Site::here()) {
    emulator::MatrixProduct<16> request{d, a, b};
    emulator::meet(emulator::ALL_LANES, "mma_m16n8k16_bf16", site, request, emulator::MatrixProduct<16>::complete);
}

static inline void ldmatrix_x4(unsigned (&r)[4], const void* shared_row, emulator::Site site = emulator::Site::here()) {
    emulator::load_matrices<false>("ldmatrix_x4", site, r, shared_row);
}

static inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* shared_row,
                                     emulator::Site site = emulator::Site::here()) {
    emulator::load_matrices<true>("ldmatrix_x4_trans", site, r, shared_row);
}

static inline void cp_async_16(void* shared_target, const void* source, bool valid,
                               emulator::Site site = emulator::Site::here()) {
    emulator::start_copy("cp_async_16", site, shared_target, valid ? source : nullptr, 16);
}

static inline void cp_async_4(void* shared_target, const void* source, bool valid,
                              emulator::Site site = emulator::Site::here()) {
    emulator::start_copy("cp_async_4", site, shared_target, valid ? source : nullptr, 4);
}

static inline void cp_async_commit() { ++emulator::copies_of_thread()->group; }

// As cp.async.wait_group: the last `pending` committed groups may still be under way.
template <int pending>
static inline void cp_async_wait() {
    emulator::finish_copies(pending);
}
