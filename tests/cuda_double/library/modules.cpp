// Modules, functions and launches. Python reads the machine code and runs the kernels (kernels.py).

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cuda_double.hpp"

namespace cuda_double {

// Python's part: an id of what it is given, or 0.
struct Hooks {
    long (*load)(const void* image, size_t size);
    long (*find)(long module, const char* name);
    int (*run)(long function, const unsigned* grid_and_block_and_shared, void** arguments, int when);
};
static Hooks hooks;
static std::map<std::pair<long, int>, std::unique_ptr<Function>> functions;  // by id and device
static std::map<long, Function> descriptions;                                // by id

struct Module {
    long id;
    int device;
};

// The size of an ELF file, which ends with its section headers or its program headers.
static size_t image_size(const unsigned char* image) {
    const auto number = [image](size_t offset, size_t bytes) {
        uint64_t value = 0;
        memcpy(&value, image + offset, bytes);
        return size_t(value);
    };
    const size_t sections = number(0x28, 8) + number(0x3A, 2) * number(0x3C, 2);
    const size_t programs = number(0x20, 8) + number(0x36, 2) * number(0x38, 2);
    return std::max(sections, programs);
}

static cudaError_t check_shape(const Launch& launch) {
    const char* const name = launch.function->name.c_str();
    const unsigned* const g = launch.grid;
    const unsigned* const b = launch.block;
    if (!g[0] || !g[1] || !g[2] || g[0] > 0x7fffffffu || g[1] > 65535 || g[2] > 65535)
        return refuse(cudaErrorInvalidValue, "%s: illegal grid (%u, %u, %u)", name, g[0], g[1], g[2]);
    const uint64_t threads = uint64_t(b[0]) * b[1] * b[2];
    if (!threads || threads > MAX_THREADS || b[0] > 1024 || b[1] > 1024 || b[2] > 64)
        return refuse(cudaErrorInvalidValue, "%s: illegal block (%u, %u, %u)", name, b[0], b[1], b[2]);
    if (launch.function->max_threads && threads > uint64_t(launch.function->max_threads))
        return refuse(cudaErrorLaunchOutOfResources, "%s: a block of %u threads, compiled for at most %d", name,
                      unsigned(threads), launch.function->max_threads);
    const int limit = launch.function->max_dynamic_shared;
    if (launch.shared > unsigned(limit))
        return refuse(cudaErrorInvalidValue, "%s: %u bytes of dynamic shared memory, its limit is %d", name,
                      launch.shared, limit);
    return cudaSuccess;
}

static cudaError_t check_place(const Launch& launch, const Stream* stream) {
    const char* const name = launch.function->name.c_str();
    if (stream && stream->device != current_device())
        return refuse(cudaErrorInvalidResourceHandle,
                      "wrong stream: %s is launched in a stream of device %d, the current device is %d", name,
                      stream->device, current_device());
    if (launch.function->device != current_device())
        return refuse(cudaErrorInvalidResourceHandle, "wrong device: %s was loaded on device %d, the current one is %d",
                      name, launch.function->device, current_device());
    return stream ? cudaSuccess : before_legacy_stream(name);
}

cudaError_t run(const Launch& launch, void** arguments, When when) {
    const unsigned numbers[] = {launch.grid[0],  launch.grid[1],  launch.grid[2], launch.block[0],
                                launch.block[1], launch.block[2], launch.shared};
    return static_cast<cudaError_t>(hooks.run(launch.function->id, numbers, arguments, when));
}

static Function& function_of(CUfunction handle) { return *reinterpret_cast<Function*>(handle); }

}  // namespace cuda_double

using namespace cuda_double;

EXPORTED CUresult cuModuleLoadData(CUmodule* handle, const void* image) {
    if (memcmp(image, "\177ELF", 4)) return CUDA_ERROR_INVALID_IMAGE;
    if (forbid_unsafe("cuModuleLoadData")) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    const long id = hooks.load(image, image_size(static_cast<const unsigned char*>(image)));
    if (!id) return CUDA_ERROR_INVALID_IMAGE;
    *handle = reinterpret_cast<CUmodule>(new Module{id, current_device()});
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }

EXPORTED CUresult cuModuleGetFunction(CUfunction* handle, CUmodule module_handle, const char* name) {
    const Module& module = *reinterpret_cast<Module*>(module_handle);
    const long id = hooks.find(module.id, name);
    if (!id) return CUDA_ERROR_NOT_FOUND;
    Lock lock(tables);
    auto& function = functions[{id, module.device}];
    if (!function) {
        function = std::make_unique<Function>(descriptions[id]);
        function->device = module.device;
    }
    *handle = reinterpret_cast<CUfunction>(function.get());
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction handle) {
    const Function& function = function_of(handle);
    switch (which) {
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = function.max_dynamic_shared; break;
        case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = function.static_shared; break;
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
            *value = function.max_threads ? function.max_threads : MAX_THREADS;
            break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute which, int value) {
    Function& function = function_of(handle);
    if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
    if (value < 0 || value > SHARED_BYTES - function.static_shared) {
        report("%s: %d bytes of dynamic shared memory are asked for, a block has %d", function.name.c_str(), value,
               SHARED_BYTES - function.static_shared);
        return CUDA_ERROR_INVALID_VALUE;
    }
    function.max_dynamic_shared = value;
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int block, size_t) {
    *blocks = std::max(1, 2048 / std::max(block, 1));
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuOccupancyMaxPotentialBlockSize(int* grid, int* block, CUfunction, CUoccupancyB2DSize, size_t, int) {
    *block = 256;
    *grid = MULTIPROCESSORS * 2048 / *block;
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuLaunchKernel(CUfunction handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                 unsigned bz, unsigned shared, CUstream stream_handle, void** arguments, void**) {
    const Function& function = function_of(handle);
    const Launch launch{&function, {gx, gy, gz}, {bx, by, bz}, shared};
    Stream* stream;
    cudaError_t error = find_stream(stream_handle, stream);
    if (!error) error = check_shape(launch);
    if (!error) error = check_place(launch, stream);
    if (error) return static_cast<CUresult>(error);
    if (!stream || !stream->capturing) return static_cast<CUresult>(run(launch, arguments, AT_ONCE));
    Node node{Node::KERNEL};
    node.launch = launch;
    for (size_t i = 0; i < function.sizes.size(); ++i) {
        const char* const value = static_cast<const char*>(arguments[i]);
        node.arguments.emplace_back(value, value + function.sizes[i]);
    }
    stream->graph->nodes.push_back(std::move(node));
    return static_cast<CUresult>(run(launch, arguments, CAPTURED));
}

// --- for Python ---

EXPORTED void cuda_double_connect(Hooks given) { hooks = given; }

// What the machine code says of function `id`: the sizes of its parameters, its shared memory, and the most threads of
// a block, 0 if that is not said.
EXPORTED void cuda_double_describe(long id, const char* name, int count, const int* sizes, int static_shared,
                                   int max_threads) {
    Lock lock(tables);
    descriptions[id] = Function{name, id, 0, {sizes, sizes + count}, static_shared, max_threads,
                                std::max(0, STATIC_SHARED_BYTES - static_shared)};
}
