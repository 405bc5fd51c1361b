// What the files of the library share: the state of a CUDA runtime whose devices are memory of this process.
//
// Work is done when it is asked for, before the call returns. What CUDA would refuse fails with CUDA's error and is
// reported; what CUDA would do without a word, to somebody's surprise, is reported too.

#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace cuda_double {

// Held while a function reads or writes the tables below, never while Python is called.
extern std::recursive_mutex tables;
using Lock = std::lock_guard<std::recursive_mutex>;

// --- errors.cpp ---

// Add a line to the report and to stderr.
void report(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Note `error` for cudaGetLastError, and return it.
cudaError_t fail(cudaError_t error);
// Report, then fail.
cudaError_t refuse(cudaError_t error, const char* format, ...) __attribute__((format(printf, 2, 3)));

// --- devices.cpp ---

constexpr int MAX_THREADS = 1024, MULTIPROCESSORS = 132, STATIC_SHARED_BYTES = 48 * 1024, SHARED_BYTES = 227 * 1024;

int device_count();
int current_device();
void make_current(int device);
// Whether the current device may touch memory of `device`.
bool reaches(int device);

// --- memory.cpp ---

// Whether `size` bytes at `address` are memory that the current device, or any, can touch; reports it if not. `what`
// says who touches them.
bool usable(const void* address, size_t size, const std::string& what, bool on_any_device = false);
bool is_device_memory(const void* address);
// Copy or fill at once; false, and a report, if memory is not usable.
bool copy(void* to, const void* from, size_t size, cudaMemcpyKind kind, const std::string& what);
bool fill(void* to, int value, size_t size, const std::string& what);

// --- modules.cpp ---

struct Function {
    std::string name;
    long id;     // Python's
    int device;  // on which its module was loaded
    std::vector<int> sizes;
    int static_shared, max_threads, max_dynamic_shared;
};

struct Launch {
    const Function* function;
    unsigned grid[3], block[3], shared;
};

enum When { AT_ONCE, CAPTURED, REPLAYED };
// Hand a kernel to Python, which only looks at the arguments if it is CAPTURED.
cudaError_t run(const Launch& launch, void** arguments, When when);

// --- graphs.cpp ---

struct Node {
    enum Kind { KERNEL, COPY, FILL } kind;
    Launch launch{};
    std::vector<std::vector<char>> arguments{};
    void* to = nullptr;
    const void* from = nullptr;
    cudaMemcpyKind direction = cudaMemcpyDefault;
    int value = 0;
    size_t size = 0;
};

struct Graph {
    std::vector<Node> nodes;
};

// --- streams.cpp ---

struct Stream {
    unsigned flags;
    int priority, device;
    bool capturing = false, invalid = false;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    std::unique_ptr<Graph> graph{};
};

// The stream of a handle, null for the legacy default stream. Fails if it was destroyed or never made.
cudaError_t find_stream(cudaStream_t handle, Stream*& stream);
// The stream that is captured, or null; with the flag, only one whose capture forbids calls that may be unsafe.
Stream* capturing_stream(bool unsafe_is_forbidden = false);
// Fails if `call` waits for all work of a device while some of it is captured.
cudaError_t forbid_in_capture(const char* call);
// Fails if `call` may be unsafe and a capture is in a mode that forbids such calls.
cudaError_t forbid_unsafe(const char* call);
// To be asked before work goes to the legacy default stream; synchronous calls do so too.
cudaError_t before_legacy_stream(const char* call);

}  // namespace cuda_double
