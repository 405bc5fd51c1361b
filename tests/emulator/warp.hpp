// What the lanes of a warp do together: shuffles, votes, __syncwarp, and the meeting point that all of these share.

#pragma once

#include "block.hpp"

namespace emulator {

// The lanes of `mask` meet. The last one to come carries the operation out for all of them: it gets each lane's request
// (null for lanes that are not in the mask), reads what the lanes brought and writes what they get.
template <class Request>
static void meet(uint32_t mask, const char* operation, Site site, Request& request, void (*complete)(Request**)) {
    const int warp = current->number / WARP, lane = current->number % WARP;
    Thread* const lanes = &block.thread[warp * WARP];
    if (!(mask >> lane & 1))
        fail(site, "%s: lane %d calls with mask 0x%08x, which does not name it", operation, lane, mask);
    if (const uint32_t gone = mask & block.exited_lanes[warp]) {
        const int first = __builtin_ctz(gone);
        const bool existed = warp * WARP + first < block.threads;
        fail(site, "%s: mask 0x%08x names lane %d, which %s", operation, mask, first,
             existed ? "has exited" : "does not exist in a block of this size");
    }
    Thread* first = current;  // of the lanes that have come so far
    current->arrived = 0;
    for (uint32_t others = block.waiting_lanes[warp] & mask; others; others &= others - 1) {
        Thread& other = lanes[__builtin_ctz(others)];
        if (!(other.mask >> lane & 1)) continue;  // it is busy with a group of its own, and comes later
        if (other.mask != mask || other.operation != operation || !(other.site == site))
            fail(site, "%s with mask 0x%08x, but lane %d of the same warp waits in %s with mask 0x%08x at %s:%d",
                 operation, mask, __builtin_ctz(others), other.operation, other.mask, other.site.file, other.site.line);
        first = &lanes[other.first_lane];
        break;
    }
    first->arrived |= 1u << lane;
    current->first_lane = first->number % WARP;
    current->request = &request;
    current->operation = operation, current->site = site, current->mask = mask;
    if (first->arrived != mask) {
        current->state = State::IN_WARP;
        block.waiting_lanes[warp] |= 1u << lane;
        return wait();
    }
    Request* requests[WARP];
    for (int i = 0; i < WARP; ++i) requests[i] = mask >> i & 1 ? static_cast<Request*>(lanes[i].request) : nullptr;
    complete(requests);
    block.waiting_lanes[warp] &= ~mask;
    for (uint32_t others = mask & ~(1u << lane); others; others &= others - 1) wake(lanes[__builtin_ctz(others)]);
}

static void thread_exits(Thread& thread) {
    const int warp = thread.number / WARP, lane = thread.number % WARP;
    for (uint32_t others = block.waiting_lanes[warp]; others; others &= others - 1) {
        const Thread& waiting = block.thread[warp * WARP + __builtin_ctz(others)];
        if (waiting.mask >> lane & 1)
            fail(waiting.site, "%s: lane %d waits with mask 0x%08x, which names lane %d, and that exits",
                 waiting.operation, __builtin_ctz(others), waiting.mask, lane);
    }
    thread.state = State::EXITED;
    block.exited_lanes[warp] |= 1u << lane;
    --block.live;
}

struct Shuffle {
    uint64_t value, result;
    int source;

    static void complete(Shuffle** lanes) {
        for (int i = 0; i < WARP; ++i) {
            if (!lanes[i]) continue;
            const Shuffle* const source = lanes[lanes[i]->source];
            lanes[i]->result =
                source ? source->value : ~uint64_t(0);  // a lane outside of the mask: undefined, so poison
        }
    }
};

template <class T>
static T shuffle(uint32_t mask, const char* operation, Site site, T value, int source) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "shuffles move 4 or 8 bytes");
    Shuffle request{0, 0, source};
    memcpy(&request.value, &value, sizeof value);
    meet(mask, operation, site, request, Shuffle::complete);
    memcpy(&value, &request.result, sizeof value);
    return value;
}

struct Vote {
    uint32_t bits;
    bool predicate;

    static void complete(Vote** lanes) {
        uint32_t bits = 0;
        for (int i = 0; i < WARP; ++i)
            if (lanes[i]) bits |= uint32_t(lanes[i]->predicate) << i;
        for (int i = 0; i < WARP; ++i)
            if (lanes[i]) lanes[i]->bits = bits;
    }
};

static inline uint32_t vote(uint32_t mask, const char* operation, Site site, bool predicate) {
    Vote request{0, predicate};
    meet(mask, operation, site, request, Vote::complete);
    return request.bits;
}

static inline int lane() { return current->number % WARP; }

}  // namespace emulator

// Lanes outside of the segment of `width` lanes leave a lane its own value (CUDA C++ Programming Guide, warp shuffles).

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                            emulator::Site site = emulator::Site::here()) {
    const int first = emulator::lane() & ~(width - 1);
    return emulator::shuffle(mask, "__shfl_sync", site, value, first + (source & (width - 1)));
}

template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32,
                               emulator::Site site = emulator::Site::here()) {
    const int lane = emulator::lane(), first = lane & ~(width - 1);
    return emulator::shuffle(mask, "__shfl_up_sync", site, value,
                             lane - int(distance) < first ? lane : lane - int(distance));
}

template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32,
                                 emulator::Site site = emulator::Site::here()) {
    const int lane = emulator::lane(), end = (lane & ~(width - 1)) + width;
    return emulator::shuffle(mask, "__shfl_down_sync", site, value,
                             lane + int(distance) < end ? lane + int(distance) : lane);
}

template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                                emulator::Site site = emulator::Site::here()) {
    const int lane = emulator::lane(), end = (lane & ~(width - 1)) + width;
    return emulator::shuffle(mask, "__shfl_xor_sync", site, value, (lane ^ bits) < end ? lane ^ bits : lane);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::vote(mask, "__ballot_sync", site, predicate != 0);
}

static inline int __any_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::vote(mask, "__any_sync", site, predicate != 0) != 0;
}

static inline int __all_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::vote(mask, "__all_sync", site, predicate != 0) == mask;
}

static inline void __syncwarp(unsigned mask = 0xffffffffu, emulator::Site site = emulator::Site::here()) {
    emulator::vote(mask, "__syncwarp", site, false);
}
