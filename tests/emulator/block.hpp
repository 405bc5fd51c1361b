// One block at a time: its threads, the order in which they run, __syncthreads, and what is reported about them.
//
// Threads run in rounds. In each, every thread that can go on runs until it waits or ends; the order is drawn anew from
// the launch's seed (0: by number). A thread that never waits needs no stack of its own: one fiber runs such threads in
// a row.

#pragma once

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "fiber.hpp"

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

constexpr int MAX_THREADS = 1024, WARP = 32;
constexpr size_t MAX_SHARED_BYTES = 227 * 1024;  // a block's, compute capability 9.0

// Where a kernel calls something: as a default argument, `here()` is the line of that call.
struct Site {
    const char* file;
    int line;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
    bool operator==(const Site& other) const {
        return line == other.line && (file == other.file || !strcmp(file, other.file));
    }
};

enum class State : uint8_t { READY, AT_BARRIER, IN_WARP, EXITED };

struct Thread {
    uint3 index;
    int number;  // x fastest
    State state;
    Fiber* fiber;  // null before the thread starts
    // What it waits for:
    const char* operation;
    Site site;
    int predicate;     // of a barrier
    uint32_t mask;     // of a warp operation
    int first_lane;    // of a warp operation: who came first,
    uint32_t arrived;  // and kept there: who has come
    void* request;     // of a warp operation: what this lane brings and gets
};

struct Block {
    dim3 grid, size;
    uint3 index;
    int threads, live, at_barrier, barrier_count;
    uint64_t random, seed;
    uint64_t run;      // counts the blocks that were ever started
    void (*kernel)();  // runs the kernel as the thread `current`

    char *shared_begin, *shared_end;    // __shared__ variables of this kernel
    char *dynamic_begin, *dynamic_end;  // DYNAMIC_SHARED

    Fiber main;
    Fiber* running;
    bool failed;
    char error[2048];

    Thread thread[MAX_THREADS];
    Fiber fiber[MAX_THREADS];
    Fiber* idle[MAX_THREADS];
    int idle_count, fiber_count;
    uint32_t waiting_lanes[MAX_THREADS / WARP];       // of each warp, a bit a lane
    uint32_t exited_lanes[MAX_THREADS / WARP];        // and those that never existed
    uint16_t ready[MAX_THREADS], woken[MAX_THREADS];  // of this round and of the next
    int ready_count, woken_count, position;
};

static Block block;
static Thread* current;

// --- errors: the launch stops where it is, its fibers are dropped, and Python gets the text ---

static void report(const char* format, ...) __attribute__((format(printf, 1, 2)));

static void report(const char* format, ...) {
    if (block.failed) return;
    block.failed = true;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(block.error, sizeof block.error, format, arguments);
    va_end(arguments);
}

// Report with the place, and give the launch up. Does not return: the fiber that calls it is never resumed. (Not
// declared noreturn, because AddressSanitizer then clears its marks of what it believes to be the whole stack.)
static void fail(Site site, const char* format, ...) __attribute__((format(printf, 2, 3), noinline));

static void fail(Site site, const char* format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const uint3 b = block.index, t = current->index;
    report("%s [%s:%d, block (%u, %u, %u), thread (%u, %u, %u)]", text, site.file, site.line, b.x, b.y, b.z, t.x, t.y,
           t.z);
    switch_fiber(*block.running, block.main);
}

// Append a line for each place where threads wait: "  threads 0-31: __syncthreads, pool2d.cu:12".
static void append_waiting(char* text, size_t size) {
    size_t used = strlen(text);
    bool listed[MAX_THREADS] = {};
    for (int first = 0; first < block.threads; ++first) {
        const Thread& one = block.thread[first];
        if (listed[first] || one.state == State::EXITED) continue;
        used += snprintf(text + used, size - used, "\n  threads");
        int ranges = 0;
        for (int i = first; i < block.threads; ++i) {
            const auto same = [&](int j) {
                const Thread& other = block.thread[j];
                return other.state == one.state && other.site == one.site && other.mask == one.mask;
            };
            if (!same(i)) continue;
            int last = i;
            while (last + 1 < block.threads && same(last + 1)) ++last;
            for (int j = i; j <= last; ++j) listed[j] = true;
            if (used + 200 > size) return;
            if (ranges < 8) used += snprintf(text + used, size - used, i < last ? " %d-%d" : " %d", i, last);
            if (ranges == 8) used += snprintf(text + used, size - used, " ...");
            ++ranges;
            i = last;
        }
        used += snprintf(text + used, size - used, ": %s, %s:%d", one.operation, one.site.file, one.site.line);
        if (one.state == State::IN_WARP) used += snprintf(text + used, size - used, ", mask 0x%08x", one.mask);
    }
}

static void report_waiting(const char* what) {
    char text[1500];
    const uint3 b = block.index;
    snprintf(text, sizeof text, "%s [block (%u, %u, %u)]", what, b.x, b.y, b.z);
    append_waiting(text, sizeof text);
    report("%s", text);
}

// --- the order of the threads ---

static inline uint32_t random_below(uint32_t limit) {
    block.random ^= block.random << 13, block.random ^= block.random >> 7, block.random ^= block.random << 17;
    return uint32_t((block.random >> 32) * limit >> 32);
}

static inline void wake(Thread& thread) {
    thread.state = State::READY;
    block.woken[block.woken_count++] = uint16_t(thread.number);
}

static void open_barrier() {
    const Thread* first = nullptr;
    int count = 0;
    for (int i = 0; i < block.threads; ++i) {
        Thread& thread = block.thread[i];
        if (thread.state != State::AT_BARRIER) continue;
        if (!first) first = &thread;
        if (!(thread.site == first->site))
            return report_waiting("divergent barrier: threads of a block wait at different lines");
        count += thread.predicate;
    }
    for (int i = 0; i < block.threads; ++i)
        if (block.thread[i].state == State::AT_BARRIER) wake(block.thread[i]);
    block.at_barrier = 0;
    block.barrier_count = count;
}

// False when all threads have ended, or none can go on.
static bool start_round() {
    if (block.woken_count == 0) {
        if (block.live == 0) return false;
        if (block.at_barrier == block.live)
            open_barrier();
        else
            report_waiting("deadlock: no thread can go on");
        if (block.failed) return false;
    }
    memcpy(block.ready, block.woken, sizeof block.ready[0] * block.woken_count);
    block.ready_count = block.woken_count;
    block.woken_count = block.position = 0;
    if (block.seed)
        for (int i = block.ready_count - 1; i > 0; --i) {
            const uint32_t j = random_below(i + 1);
            const uint16_t swapped = block.ready[i];
            block.ready[i] = block.ready[j], block.ready[j] = swapped;
        }
    return true;
}

static inline Thread* next_thread() {
    if (block.position == block.ready_count && !start_round()) return nullptr;
    return &block.thread[block.ready[block.position++]];
}

// --- running ---

static inline void run_fiber(Fiber& from, Fiber& to) {
    block.running = &to;
    switch_fiber(from, to);
}

static void fiber_body();

// The fiber on which `thread` goes on or starts; null if there is no memory for its stack.
static Fiber* fiber_of(Thread* thread) {
    if (!thread) return &block.main;
    if (thread->fiber) return thread->fiber;
    if (block.idle_count) return block.idle[--block.idle_count];
    Fiber& fresh = block.fiber[block.fiber_count];
    if (!prepare_fiber(fresh, fiber_body, block.fiber_count)) {
        report("out of memory for the stacks of a block");
        return &block.main;
    }
    ++block.fiber_count;
    return &fresh;
}

// The running thread waits; returns when something has woken it.
static void wait() {
    Thread* const self = current;
    Fiber& own = *block.running;
    self->fiber = &own;
    Thread* const next = next_thread();
    if (next == self) return;
    Fiber* const to = fiber_of(next);
    current = next;
    run_fiber(own, *to);
}

static void thread_exits(Thread& thread);  // warp.hpp: other lanes may count on it

static void fiber_body() {
    fiber_started();
    for (;;) {
        Fiber& own = *block.running;
        block.kernel();
        thread_exits(*current);
        Thread* const next = next_thread();
        current = next;
        if (next && !next->fiber) continue;  // a thread that has not started runs on this stack
        Fiber* const to = fiber_of(next);
        block.idle[block.idle_count++] = &own;
        run_fiber(own, *to);
    }
}

// After an error: fibers stand in the middle of a kernel. They start anew when they are next needed.
static void drop_fibers() {
    block.idle_count = 0;
    for (int i = 0; i < block.fiber_count; ++i) {
        prepare_fiber(block.fiber[i], fiber_body, i);
        block.idle[block.idle_count++] = &block.fiber[i];
    }
}

static void poison(char* begin, char* end);  // launch.hpp

static void run_block(uint64_t number) {
    ++block.run;
    block.live = block.woken_count = block.threads;
    block.at_barrier = block.ready_count = block.position = 0;
    block.random = (block.seed + number * 0x9E3779B97F4A7C15u) * 0xD1342543DE82EF95u | 1;
    for (int i = 0; i < block.threads; ++i) {
        block.thread[i].state = State::READY;
        block.thread[i].fiber = nullptr;
        block.woken[i] = uint16_t(i);
    }
    for (int warp = 0; warp * WARP < block.threads; ++warp) {
        const int lanes = block.threads - warp * WARP;
        block.waiting_lanes[warp] = 0;
        block.exited_lanes[warp] = lanes < WARP ? ~0u << lanes : 0;
    }
    poison(block.shared_begin, block.shared_end);
    poison(block.dynamic_begin, block.dynamic_end);
    current = next_thread();
    run_fiber(block.main, *fiber_of(current));
}

static int barrier(const char* operation, Site site, int predicate) {
    current->state = State::AT_BARRIER;
    current->operation = operation, current->site = site, current->mask = 0, current->predicate = predicate;
    ++block.at_barrier;
    wait();
    return block.barrier_count;
}

}  // namespace emulator

#define threadIdx (emulator::current->index)
#define blockIdx (emulator::block.index)
#define blockDim (emulator::block.size)
#define gridDim (emulator::block.grid)
#define warpSize 32

static inline void __syncthreads(emulator::Site site = emulator::Site::here()) {
    emulator::barrier("__syncthreads", site, 0);
}

static inline int __syncthreads_count(int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::barrier("__syncthreads_count", site, predicate != 0);
}

static inline int __syncthreads_or(int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::barrier("__syncthreads_or", site, predicate != 0) > 0;
}

static inline int __syncthreads_and(int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::barrier("__syncthreads_and", site, predicate == 0) == 0;
}
