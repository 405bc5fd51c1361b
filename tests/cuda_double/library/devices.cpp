// As many devices as GPUNET_CUDA_DOUBLE_DEVICES says (1), alike: what matters of an H100.

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda_double.hpp"

namespace cuda_double {

static thread_local int current = 0;
static std::set<std::pair<int, int>> peers;  // (from, to)

int device_count() {
    static const int count = [] {
        const char* text = getenv("GPUNET_CUDA_DOUBLE_DEVICES");
        return text ? atoi(text) : 1;
    }();
    return count;
}

int current_device() { return current; }

void make_current(int device) { current = device; }

bool reaches(int device) {
    Lock lock(tables);
    return device == current || peers.count({current, device});
}

static bool exists(int device) { return device >= 0 && device < device_count(); }

static int attribute(cudaDeviceAttr which) {
    switch (which) {
        case cudaDevAttrComputeCapabilityMajor: return 9;
        case cudaDevAttrComputeCapabilityMinor: return 0;
        case cudaDevAttrMaxThreadsPerBlock: return MAX_THREADS;
        case cudaDevAttrMaxBlockDimX: return 1024;
        case cudaDevAttrMaxBlockDimY: return 1024;
        case cudaDevAttrMaxBlockDimZ: return 64;
        case cudaDevAttrMaxGridDimX: return 2147483647;
        case cudaDevAttrMaxGridDimY: return 65535;
        case cudaDevAttrMaxGridDimZ: return 65535;
        case cudaDevAttrWarpSize: return 32;
        case cudaDevAttrMultiProcessorCount: return MULTIPROCESSORS;
        case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
        case cudaDevAttrMaxSharedMemoryPerBlock: return STATIC_SHARED_BYTES;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: return SHARED_BYTES;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return 228 * 1024;
        case cudaDevAttrUnifiedAddressing: return 1;
        default: return 0;  // has no memory pools, no managed memory, no cooperative launches
    }
}

}  // namespace cuda_double

using namespace cuda_double;

EXPORTED cudaError_t cudaDriverGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaGetDevice(int* device) {
    *device = current_device();
    return cudaSuccess;
}

EXPORTED cudaError_t cudaGetDeviceCount(int* count) {
    *count = device_count();
    return cudaSuccess;
}

EXPORTED cudaError_t cudaSetDevice(int device) {
    if (!exists(device)) return fail(cudaErrorInvalidDevice);
    make_current(device);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
    if (!exists(device)) return fail(cudaErrorInvalidDevice);
    *value = attribute(which);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (!exists(device)) return fail(cudaErrorInvalidDevice);
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "CUDA double %d", device);
    properties->major = attribute(cudaDevAttrComputeCapabilityMajor);
    properties->minor = attribute(cudaDevAttrComputeCapabilityMinor);
    properties->warpSize = 32;
    properties->multiProcessorCount = MULTIPROCESSORS;
    properties->maxThreadsPerBlock = MAX_THREADS;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->sharedMemPerBlock = STATIC_SHARED_BYTES;
    properties->sharedMemPerBlockOptin = SHARED_BYTES;
    size_t free;
    return cudaMemGetInfo(&free, &properties->totalGlobalMem);
}

EXPORTED cudaError_t cudaDeviceSynchronize() { return forbid_in_capture("cudaDeviceSynchronize"); }

// Peers are out of reach until access is enabled; that can always be done.
EXPORTED cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
    if (!exists(device) || !exists(peer)) return fail(cudaErrorInvalidDevice);
    *can = 0;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
    if (!exists(peer) || peer == current_device()) return fail(cudaErrorInvalidDevice);
    Lock lock(tables);
    const bool added = peers.insert({current_device(), peer}).second;
    return added ? cudaSuccess : fail(cudaErrorPeerAccessAlreadyEnabled);
}

EXPORTED cudaError_t cudaDeviceDisablePeerAccess(int peer) {
    Lock lock(tables);
    return peers.erase({current_device(), peer}) ? cudaSuccess : fail(cudaErrorPeerAccessNotEnabled);
}

// --- contexts: one for each device, its number plus one ---

static CUcontext context_of(int device) { return reinterpret_cast<CUcontext>(size_t(device) + 1); }

EXPORTED CUresult cuCtxGetDevice(CUdevice* device) {
    *device = current_device();
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuCtxGetCurrent(CUcontext* context) {
    *context = context_of(current_device());
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuCtxSetCurrent(CUcontext context) {
    return static_cast<CUresult>(cudaSetDevice(int(reinterpret_cast<size_t>(context)) - 1));
}

EXPORTED CUresult cuStreamGetCtx(CUstream handle, CUcontext* context) {
    Stream* stream;
    if (const cudaError_t error = find_stream(handle, stream)) return static_cast<CUresult>(error);
    *context = context_of(stream ? stream->device : current_device());
    return CUDA_SUCCESS;
}
