// Fibers: stacks that one operating-system thread switches between. Each CUDA thread that waits has one of its own.
//
// On x86-64 a switch is a dozen instructions of our own (EMULATOR_UCONTEXT defined or another machine: swapcontext,
// which asks the kernel to change the signal mask each time and is some ten times slower).

#pragma once

#if !defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_UCONTEXT
#endif

#ifdef EMULATOR_UCONTEXT
#include <ucontext.h>
#endif
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

constexpr size_t PAGE = 4096;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t STACK_BYTES = 512 * 1024;  // red zones and unmerged variables make frames large
#else
constexpr size_t STACK_BYTES = 128 * 1024;  // address space: only the pages that are touched take memory
#endif

struct Fiber {
    char* memory = nullptr;  // a guard page, then the stack
#ifdef EMULATOR_UCONTEXT
    ucontext_t context;
#else
    void* stack_pointer = nullptr;
#endif
#ifdef __SANITIZE_ADDRESS__
    const void* stack_bottom = nullptr;
    size_t stack_size = 0;
#endif

    char* stack() const { return memory + PAGE; }
    bool guards(const void* address) const { return memory && address >= memory && address < stack(); }
};

#ifndef EMULATOR_UCONTEXT
// void emulator_switch(void** save, void* load): keep what the System V ABI says a callee keeps, change the stack,
// return.
extern "C" void emulator_switch(void** save, void* load) __attribute__((visibility("hidden")));
asm(R"(
.text
.p2align 4
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, .-emulator_switch
)");
#endif

// Continue `to`, until something switches back to `from`.
static void switch_fiber(Fiber& from, Fiber& to) {
#ifdef __SANITIZE_ADDRESS__
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, to.stack_bottom, to.stack_size);
#endif
#ifdef EMULATOR_UCONTEXT
    swapcontext(&from.context, &to.context);
#else
    emulator_switch(&from.stack_pointer, to.stack_pointer);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

// To be called first thing in a fiber that runs for the first time.
static inline void fiber_started() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

// Let `fiber` stand for the stack that this operating-system thread has anyway.
static inline void adopt_own_stack(Fiber& fiber) {
#ifdef __SANITIZE_ADDRESS__
    static thread_local void* bottom = nullptr;  // looked up once: for the first thread, libc reads /proc/self/maps
    static thread_local size_t size = 0;
    if (!bottom) {
        pthread_attr_t attributes;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstack(&attributes, &bottom, &size);
        pthread_attr_destroy(&attributes);
    }
    fiber.stack_size = size;
    fiber.stack_bottom = bottom;
#else
    (void)fiber;
#endif
}

// Make `fiber` start `body` (which never returns) when it is next switched to; frames that it still holds are dropped.
// Stacks start at different cache sets (`number`): at one and the same they would evict each other.
static bool prepare_fiber(Fiber& fiber, void (*body)(), unsigned number) {
    if (!fiber.memory) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* memory = mmap(nullptr, PAGE + STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (memory == MAP_FAILED) return false;
        mprotect(memory, PAGE, PROT_NONE);
        fiber.memory = static_cast<char*>(memory);
    }
    const size_t bytes = STACK_BYTES - number % 16 * 192;
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(fiber.stack(), STACK_BYTES);
    fiber.stack_bottom = fiber.stack(), fiber.stack_size = bytes;
#endif
#ifdef EMULATOR_UCONTEXT
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack();
    fiber.context.uc_stack.ss_size = bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, body, 0);
#else
    void** top = reinterpret_cast<void**>(fiber.stack() + bytes);
    *--top = nullptr;  // the return address of `body`; a call leaves the stack 8 below a multiple of 16
    *--top = reinterpret_cast<void*>(body);
    for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
    fiber.stack_pointer = top;
#endif
    return true;
}

}  // namespace emulator
