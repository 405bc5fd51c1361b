// Wrappers of PTX instructions, for sources that name this file as needed; tests/emulator has a twin of each.
//
// Layouts of fragments: PTX ISA, "Matrix fragments for mma.m16n8k8", "mma.m16n8k16 with floating point type" and
// "ldmatrix". The tensor cores' types and cp.async need compute capability 8.0: before it, copies are ordinary ones,
// and the products do not exist.
#ifndef GPUNET_EMULATOR

// A float as TF32, to the nearest, ties away from zero.
__device__ __forceinline__ unsigned to_tf32(float x) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
#else
    const unsigned bits = __float_as_uint(x);
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
#endif
}

// Four 8 x 8 matrices of 16-bit values from shared memory: lane 8 m + r brings the address of row r (16 bytes, aligned)
// of matrix m; r[m] gets two contiguous elements of a row (of a column for _trans). All lanes of the warp must call it.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* shared_row) {
    const unsigned address = (unsigned)__cvta_generic_to_shared(shared_row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* shared_row) {
    const unsigned address = (unsigned)__cvta_generic_to_shared(shared_row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// Two floats as bfloat16, to the nearest even; `low` in the lower half.
__device__ __forceinline__ unsigned to_bf16x2(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// D (16 x 8, float32) += A (16 x 8, TF32) B (8 x 8, TF32) by a whole warp: with g = lane / 4 (the group) and t =
// lane % 4 (the thread in the group), a holds A[g][t], A[g + 8][t], A[g][t + 4], A[g + 8][t + 4], b holds B[t][g],
// B[t + 4][g], and d holds D[g][2 t], D[g][2 t + 1], D[g + 8][2 t], D[g + 8][2 t + 1].
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// D (16 x 8, float32) += A (16 x 16, bfloat16) B (16 x 8, bfloat16) by a whole warp.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Asynchronous copies of 16 or 4 bytes from global to shared memory, both aligned to that, without staging registers.
// They have landed once the calling thread has waited for their group; other threads see them after a barrier that
// follows the wait. `valid` is a predicate: if it is false, zeros are written and `source` is not read.
__device__ __forceinline__ void cp_async_16(void* shared_target, const void* source, bool valid) {
    const unsigned address = (unsigned)__cvta_generic_to_shared(shared_target);
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(__cvta_generic_to_global(source)),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void cp_async_4(void* shared_target, const void* source, bool valid) {
    const unsigned address = (unsigned)__cvta_generic_to_shared(shared_target);
    const int bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(__cvta_generic_to_global(source)),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until at most the last `pending` committed groups are still under way.
template <int pending>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#else

__device__ __forceinline__ void cp_async_16(void* shared_target, const void* source, bool valid) {
    *static_cast<uint4*>(shared_target) = valid ? *static_cast<const uint4*>(source) : make_uint4(0, 0, 0, 0);
}

__device__ __forceinline__ void cp_async_4(void* shared_target, const void* source, bool valid) {
    *static_cast<unsigned*>(shared_target) = valid ? *static_cast<const unsigned*>(source) : 0u;
}

__device__ __forceinline__ void cp_async_commit() {}

template <int pending>
__device__ __forceinline__ void cp_async_wait() {}

#endif
#endif  // GPUNET_EMULATOR
