// From Python's packed arguments to a grid of blocks.

#pragma once

#include <setjmp.h>
#include <signal.h>
#include <type_traits>
#include <utility>

#include "warp.hpp"

namespace emulator {

// As packed by runtime.py.
struct Launch {
    uint32_t grid[3], block[3];
    uint64_t shared_bytes, seed, flush_denormals;
    alignas(8) char arguments[];  // each in as many times eight bytes as it takes
};

static const Launch* request;

// The type of a parameter as Python's struct module names it: a struct is so many bytes.
struct Type {
    char code;
    size_t bytes = 0;
};

template <class T>
constexpr Type type_of(T*) {
    return {'P'};
}
template <class T>
constexpr Type type_of(T) {
    static_assert(std::is_class_v<T> && std::is_trivially_copyable_v<T> && alignof(T) <= 8, "not a parameter's type");
    return {'s', sizeof(T)};
}
constexpr Type type_of(float) { return {'f'}; }
constexpr Type type_of(double) { return {'d'}; }
constexpr Type type_of(int) { return {'i'}; }
constexpr Type type_of(unsigned) { return {'I'}; }
constexpr Type type_of(long long) { return {'q'}; }
constexpr Type type_of(unsigned long long) { return {'Q'}; }
constexpr Type type_of(unsigned char) { return {'B'}; }

template <auto function>
struct Kernel;

template <class... Parameters, void (*function)(Parameters...)>
struct Kernel<function> {
    static const char* types() {
        static char text[24 * sizeof...(Parameters) + 1];
        char* end = text;
        for (const Type type : {type_of(Parameters())...}) {
            if (type.bytes) end += sprintf(end, "%zu", type.bytes);
            *end++ = type.code;
        }
        *end = '\0';
        return text;
    }

    static void run() { call(std::index_sequence_for<Parameters...>()); }

    template <size_t... position>
    static void call(std::index_sequence<position...>) {
        function(*reinterpret_cast<const Parameters*>(request->arguments + offset(position))...);
    }

    static constexpr size_t offset(size_t position) {
        size_t sum = 0, number = 0;
        for (const size_t size : {sizeof(Parameters)...})
            if (number++ < position) sum += (size + 7) / 8 * 8;
        return sum;
    }
};

// --- shared memory ---

// Not memset: AddressSanitizer's red zones lie between the variables.
#ifdef __SANITIZE_ADDRESS__
__attribute__((no_sanitize("address", "undefined")))
#endif
static void poison(char* begin, char* end) {
#ifdef __SANITIZE_ADDRESS__
    for (volatile char* byte = begin; byte < end; ++byte) *byte = char(0xff);
#else
    if (begin != end) memset(begin, 0xff, size_t(end - begin));
#endif
}

// Dynamic shared memory ends at a page that cannot be touched.
static bool place_dynamic(size_t bytes) {
    constexpr size_t CAPACITY = (MAX_SHARED_BYTES + PAGE - 1) / PAGE * PAGE;
    static char* memory = nullptr;
    block.dynamic_begin = block.dynamic_end = nullptr;
    if (!bytes) return true;
    if (!memory) {
        void* const fresh = mmap(nullptr, CAPACITY + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (fresh == MAP_FAILED) return false;
        memory = static_cast<char*>(fresh);
        mprotect(memory + CAPACITY, PAGE, PROT_NONE);
    }
    block.dynamic_begin = memory + CAPACITY - (bytes + 127) / 128 * 128;
    block.dynamic_end = block.dynamic_begin + bytes;
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(memory, CAPACITY);
    __asan_unpoison_memory_region(block.dynamic_begin, bytes);
#endif
    return true;
}

static inline bool is_shared(const void* address) {
    return (address >= block.shared_begin && address < block.shared_end) ||
           (address >= block.dynamic_begin && address < block.dynamic_end);
}

// --- wild addresses ---

// A fault while a kernel runs is an error of its launch. The handlers stay in place, as a system call for each launch
// costs more than a small launch; other faults go on to the handler that was there before. AddressSanitizer has its
// own.
#ifndef __SANITIZE_ADDRESS__

constexpr int FAULTS[] = {SIGSEGV, SIGBUS, SIGFPE};
static struct sigaction earlier[sizeof FAULTS / sizeof *FAULTS];
static thread_local bool runs_kernel;
static sigjmp_buf after_fault;

static void on_fault(int number, siginfo_t* info, void* context) {
    if (runs_kernel) {
        const uint3 b = block.index, t = current ? current->index : uint3{0, 0, 0};
        const char* what = number == SIGFPE ? "integer division by zero" : "invalid address";
        if (block.running->guards(info->si_addr)) what = "stack overflow, local variables are too large";
        report("%s [address %p, block (%u, %u, %u), thread (%u, %u, %u)]", what, info->si_addr, b.x, b.y, b.z, t.x, t.y,
               t.z);
        siglongjmp(after_fault, 1);
    }
    for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; ++i) {
        if (number != FAULTS[i]) continue;
        if (earlier[i].sa_flags & SA_SIGINFO)
            earlier[i].sa_sigaction(number, info, context);
        else
            sigaction(number, &earlier[i], nullptr);  // the instruction faults again, under that handler
    }
}

static void catch_faults() {
    static thread_local bool has_stack = false;
    static bool installed = false;
    if (!has_stack) {
        static thread_local char memory[64 * 1024];  // the stack of a fiber may be what overflowed
        stack_t stack{};
        stack.ss_sp = memory;
        stack.ss_size = sizeof memory;
        has_stack = sigaltstack(&stack, nullptr) == 0;
    }
    if (!installed) {
        struct sigaction action{};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; ++i) sigaction(FAULTS[i], &action, &earlier[i]);
        installed = true;
    }
}

static void run_grid(const Launch& launch);

static void run_grid_catching_faults(const Launch& launch) {
    catch_faults();
    runs_kernel = true;
    if (sigsetjmp(after_fault, 0) == 0) run_grid(launch);
    runs_kernel = false;
}

#endif

// --- launching ---

static void check_launch(const Launch& launch, unsigned max_threads) {
    const uint32_t* const g = launch.grid;
    const uint32_t* const b = launch.block;
    const uint64_t threads = uint64_t(b[0]) * b[1] * b[2];
    if (!threads || threads > MAX_THREADS || b[0] > 1024 || b[1] > 1024 || b[2] > 64)
        return report("a block of (%u, %u, %u) threads: at most (1024, 1024, 64), and 1024 in all", b[0], b[1], b[2]);
    if (max_threads && threads > max_threads)
        return report("a block of %u threads, but the kernel declares __launch_bounds__(%u)", unsigned(threads),
                      max_threads);
    if (!g[0] || !g[1] || !g[2] || g[0] > 0x7fffffffu || g[1] > 65535 || g[2] > 65535)
        return report("a grid of (%u, %u, %u) blocks: at most (2147483647, 65535, 65535), and none is 0", g[0], g[1],
                      g[2]);
    const size_t shared = size_t(block.shared_end - block.shared_begin) + launch.shared_bytes;
    if (launch.shared_bytes > MAX_SHARED_BYTES || shared > MAX_SHARED_BYTES)
        return report("%zu bytes of shared memory: a block has at most %zu", shared, MAX_SHARED_BYTES);
    if (!place_dynamic(launch.shared_bytes)) report("out of memory for shared memory");
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b) { return b ? greatest_common_divisor(b, a % b) : a; }

static void run_grid(const Launch& launch) {
    const uint64_t blocks = uint64_t(block.grid.x) * block.grid.y * block.grid.z;
    // In steps of a stride that has no common factor with their number: an order from the seed, without a table.
    uint64_t stride = 1, number = 0;
    if (launch.seed) {
        stride = (launch.seed * 0x9E3779B97F4A7C15u >> 20) % blocks;
        while (greatest_common_divisor(stride, blocks) != 1) stride = (stride + 1) % blocks;
        number = launch.seed % blocks;
    }
    for (uint64_t done = 0; done < blocks && !block.failed; ++done) {
        const uint64_t row = number / block.grid.x;
        block.index = {unsigned(number % block.grid.x), unsigned(row % block.grid.y), unsigned(row / block.grid.y)};
        run_block(number);
        number = (number + stride) % blocks;
    }
}

// While this lives, denormal operands and results are zeros, as nvcc's -ftz=true has them; those of doubles too.
struct FlushDenormals {
#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
    const unsigned before = __builtin_ia32_stmxcsr();
    explicit FlushDenormals(bool flush) {
        if (flush) __builtin_ia32_ldmxcsr(before | 0x8040);  // FTZ, DAZ
    }
    ~FlushDenormals() { __builtin_ia32_ldmxcsr(before); }
#else
    explicit FlushDenormals(bool flush) {
        if (flush) report("denormals cannot be flushed on this machine");
    }
#endif
};

// Run a kernel; returns null, or what went wrong.
static const char* launch(const Launch& launch, void (*kernel)(), unsigned max_threads, char* shared,
                          char* shared_end) {
    block.failed = false;
    block.shared_begin = shared, block.shared_end = shared_end;
    check_launch(launch, max_threads);
    const FlushDenormals flush(launch.flush_denormals);
    if (block.failed) return block.error;
    block.grid = {launch.grid[0], launch.grid[1], launch.grid[2]};
    block.size = {launch.block[0], launch.block[1], launch.block[2]};
    block.threads = int(block.size.x * block.size.y * block.size.z);
    block.seed = launch.seed;
    block.kernel = kernel;
    request = &launch;
    for (int i = 0; i < block.threads; ++i) {
        const unsigned x = block.size.x, row = i / x;
        block.thread[i].index = {i % x, row % block.size.y, row / block.size.y};
        block.thread[i].number = i;
    }
    adopt_own_stack(block.main);
#ifdef __SANITIZE_ADDRESS__
    run_grid(launch);
#else
    run_grid_catching_faults(launch);
#endif
    current = nullptr;
    if (!block.failed) return nullptr;
    drop_fibers();
    return block.error;
}

}  // namespace emulator

#define DYNAMIC_SHARED(type, name) type* const name = reinterpret_cast<type*>(emulator::block.dynamic_begin)

// What build.py adds at the end of a source for each of its kernels.
#define EMULATOR_KERNEL(name, ...)                                                                               \
    extern "C" char __start_emulator_shared_##name[] __attribute__((weak, visibility("hidden")));                \
    extern "C" char __stop_emulator_shared_##name[] __attribute__((weak, visibility("hidden")));                 \
    extern "C" __attribute__((visibility("default"))) const char* emulator_launch_##name(                        \
        const emulator::Launch* launch) {                                                                        \
        constexpr unsigned bounds[] = {__VA_ARGS__};                                                             \
        return emulator::launch(*launch, emulator::Kernel<name>::run, bounds[0], __start_emulator_shared_##name, \
                                __stop_emulator_shared_##name);                                                  \
    }                                                                                                            \
    extern "C" __attribute__((visibility("default"))) const char* emulator_types_##name() {                      \
        return emulator::Kernel<name>::types();                                                                  \
    }
