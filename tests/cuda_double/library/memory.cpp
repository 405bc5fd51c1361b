// Memory of the devices: pages of this process, so that addresses are unique as in CUDA.
//
// Fresh memory is poisoned (0xFF: NaN). What lies behind an allocation, and what has been freed, cannot be touched:
// addresses are never given out again, so that every use after a free is seen.

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "cuda_double.hpp"

namespace cuda_double {

struct Allocation {
    size_t size, pages;
    char* mapped;
    int device;
    bool freed;
};

constexpr size_t PAGE = 4096, ALIGNMENT = 512;
static std::map<const char*, Allocation> allocations;  // by first byte; freed ones stay
static std::map<const char*, size_t> pinned;
static std::map<int, size_t> used;  // bytes, by device

// GPUNET_CUDA_DOUBLE_MEMORY, bytes of a device.
static size_t& capacity() {
    static size_t bytes = [] {
        const char* text = getenv("GPUNET_CUDA_DOUBLE_MEMORY");
        return text ? strtoull(text, nullptr, 10) : size_t(4) << 30;
    }();
    return bytes;
}

static Allocation* find(const void* address) {
    auto next = allocations.upper_bound(static_cast<const char*>(address));
    if (next == allocations.begin()) return nullptr;
    auto& [begin, allocation] = *--next;
    return static_cast<const char*>(address) < begin + allocation.size ? &allocation : nullptr;
}

static const char* begin_of(const Allocation& allocation) {
    return allocation.mapped + allocation.pages - (allocation.size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

bool is_device_memory(const void* address) {
    Lock lock(tables);
    return find(address) != nullptr;
}

bool usable(const void* address, size_t size, const std::string& what, bool on_any_device) {
    if (!size) return true;
    Lock lock(tables);
    const Allocation* found = find(address);
    if (!found) {
        report("%s: %p is no memory of a device", what.c_str(), address);
    } else if (found->freed) {
        report("use after free: %s: %p lies in %zu bytes of device %d that were freed", what.c_str(), address,
               found->size, found->device);
    } else if (size > size_t(begin_of(*found) + found->size - static_cast<const char*>(address))) {
        report("out of bounds: %s: %zu bytes at %p, but its allocation of %zu bytes ends %zu bytes after it",
               what.c_str(), size, address, found->size,
               size_t(begin_of(*found) + found->size - static_cast<const char*>(address)));
    } else if (!on_any_device && !reaches(found->device)) {
        report("wrong device: %s: %p is memory of device %d, the current device is %d", what.c_str(), address,
               found->device, current_device());
    } else {
        return true;
    }
    return false;
}

// Copies may go from any device to any other.
static bool copyable(const void* address, size_t size, bool on_device, const std::string& what) {
    return (!on_device && !is_device_memory(address)) || usable(address, size, what, true);
}

bool copy(void* to, const void* from, size_t size, cudaMemcpyKind kind, const std::string& what) {
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (!copyable(to, size, to_device, what + " writes")) return false;
    if (!copyable(from, size, from_device, what + " reads")) return false;
    memcpy(to, from, size);
    return true;
}

bool fill(void* to, int value, size_t size, const std::string& what) {
    if (!usable(to, size, what)) return false;
    memset(to, value, size);
    return true;
}

// --- copies and fills by the stream they go to ---

static cudaError_t copy_at_once(void* to, const void* from, size_t size, cudaMemcpyKind kind, const char* call) {
    if (const cudaError_t error = before_legacy_stream(call)) return error;
    return copy(to, from, size, kind, call) ? cudaSuccess : fail(cudaErrorInvalidValue);
}

static cudaError_t copy_in_stream(void* to, const void* from, size_t size, cudaMemcpyKind kind, cudaStream_t handle,
                                  const char* call) {
    Stream* stream;
    if (const cudaError_t error = find_stream(handle, stream)) return error;
    if (!stream) return copy_at_once(to, from, size, kind, call);
    if (!stream->capturing) return copy(to, from, size, kind, call) ? cudaSuccess : fail(cudaErrorInvalidValue);
    if (!is_device_memory(to) || !is_device_memory(from))
        report("%s of %zu bytes between host and device is captured: a replay copies what the host holds by then", call,
               size);
    Node node{Node::COPY};
    node.to = to, node.from = from, node.size = size, node.direction = kind;
    stream->graph->nodes.push_back(std::move(node));
    return cudaSuccess;
}

static cudaError_t fill_at_once(void* to, int value, size_t size, const char* call) {
    if (const cudaError_t error = before_legacy_stream(call)) return error;
    return fill(to, value, size, call) ? cudaSuccess : fail(cudaErrorInvalidValue);
}

}  // namespace cuda_double

using namespace cuda_double;

EXPORTED cudaError_t cudaMalloc(void** address, size_t size) {
    if (const cudaError_t error = forbid_unsafe("cudaMalloc")) return error;
    *address = nullptr;
    if (!size) return cudaSuccess;
    Lock lock(tables);
    const int device = current_device();
    if (size > capacity() || used[device] > capacity() - size) return fail(cudaErrorMemoryAllocation);
    const size_t pages = (size + PAGE - 1) / PAGE * PAGE;
    void* const mapped =
        mmap(nullptr, pages + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
    mprotect(static_cast<char*>(mapped) + pages, PAGE, PROT_NONE);
    memset(mapped, 0xFF, pages);
    const Allocation made{size, pages, static_cast<char*>(mapped), device, false};
    allocations[begin_of(made)] = made;
    used[device] += size;
    *address = const_cast<char*>(begin_of(made));
    return cudaSuccess;
}

EXPORTED cudaError_t cudaFree(void* address) {
    if (!address) return cudaSuccess;
    if (const cudaError_t error = forbid_unsafe("cudaFree")) return error;
    Lock lock(tables);
    const auto found = allocations.find(static_cast<const char*>(address));
    if (found == allocations.end())
        return refuse(cudaErrorInvalidValue, "cudaFree: %p is not the start of an allocation", address);
    Allocation& allocation = found->second;
    if (allocation.freed) return refuse(cudaErrorInvalidValue, "cudaFree: %p is freed twice", address);
    allocation.freed = true;
    used[allocation.device] -= allocation.size;
    // The address stays taken, its pages do not.
    mmap(allocation.mapped, allocation.pages, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
         0);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    Lock lock(tables);
    const size_t taken = used[current_device()];
    *total = capacity();
    *free = taken < *total ? *total - taken : 0;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaHostAlloc(void** address, size_t size, unsigned) {
    if (const cudaError_t error = forbid_unsafe("cudaHostAlloc")) return error;
    Lock lock(tables);
    *address = malloc(size ? size : 1);
    if (!*address) return fail(cudaErrorMemoryAllocation);
    pinned[static_cast<const char*>(*address)] = size;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaFreeHost(void* address) {
    if (!address) return cudaSuccess;
    Lock lock(tables);
    if (!pinned.erase(static_cast<const char*>(address)))
        return refuse(cudaErrorInvalidValue, "cudaFreeHost: %p is no pinned memory", address);
    free(address);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
    Lock lock(tables);
    memset(attributes, 0, sizeof *attributes);
    const Allocation* found = find(address);
    if (found && !found->freed) {
        attributes->type = cudaMemoryTypeDevice;
        attributes->device = found->device;
        attributes->devicePointer = const_cast<void*>(address);
        return cudaSuccess;
    }
    auto next = pinned.upper_bound(static_cast<const char*>(address));
    const bool is_pinned = next != pinned.begin() && address < (--next)->first + next->second;
    attributes->type = is_pinned ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    attributes->hostPointer = is_pinned ? const_cast<void*>(address) : nullptr;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
    return copy_at_once(to, from, size, kind, "cudaMemcpy");
}

EXPORTED cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind,
                                     cudaStream_t stream) {
    return copy_in_stream(to, from, size, kind, stream, "cudaMemcpyAsync");
}

EXPORTED cudaError_t cudaMemcpyPeer(void* to, int, const void* from, int, size_t size) {
    return copy_at_once(to, from, size, cudaMemcpyDeviceToDevice, "cudaMemcpyPeer");
}

EXPORTED cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, cudaStream_t stream) {
    return copy_in_stream(to, from, size, cudaMemcpyDeviceToDevice, stream, "cudaMemcpyPeerAsync");
}

EXPORTED cudaError_t cudaMemset(void* to, int value, size_t size) {
    return fill_at_once(to, value, size, "cudaMemset");
}

EXPORTED cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t handle) {
    Stream* stream;
    if (const cudaError_t error = find_stream(handle, stream)) return error;
    if (!stream) return fill_at_once(to, value, size, "cudaMemsetAsync");
    if (!usable(to, size, "cudaMemsetAsync")) return fail(cudaErrorInvalidValue);
    if (!stream->capturing) return fill(to, value, size, "cudaMemsetAsync") ? cudaSuccess : cudaErrorInvalidValue;
    Node node{Node::FILL};
    node.to = to, node.value = value, node.size = size;
    stream->graph->nodes.push_back(std::move(node));
    return cudaSuccess;
}

// --- for Python ---

// Whether a kernel may touch `size` bytes at `address`; reports it if not.
EXPORTED int cuda_double_usable(const void* address, size_t size, const char* what) {
    return usable(address, size, what);
}

EXPORTED void cuda_double_limit_memory(size_t bytes) {
    Lock lock(tables);
    capacity() = bytes;
}

// Bytes of a device that are not freed; also in how many allocations.
EXPORTED size_t cuda_double_used(int device, size_t* count) {
    Lock lock(tables);
    *count = 0;
    for (const auto& [begin, allocation] : allocations) *count += !allocation.freed && allocation.device == device;
    return used[device];
}
