// Errors with CUDA's names and texts, and the report of what a GPU would have refused or silently got wrong.

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "cuda_double.hpp"

namespace cuda_double {

std::recursive_mutex tables;

static std::vector<std::string> problems;
static thread_local cudaError_t last_error = cudaSuccess;

static void add_problem(const char* format, va_list values) {
    char text[1024];
    vsnprintf(text, sizeof text, format, values);
    Lock lock(tables);
    problems.emplace_back(text);
    fprintf(stderr, "cuda double: %s\n", text);
}

void report(const char* format, ...) {
    va_list values;
    va_start(values, format);
    add_problem(format, values);
    va_end(values);
}

cudaError_t fail(cudaError_t error) { return last_error = error; }

cudaError_t refuse(cudaError_t error, const char* format, ...) {
    va_list values;
    va_start(values, format);
    add_problem(format, values);
    va_end(values);
    return fail(error);
}

// Numbers are the same in both APIs.
struct Text {
    cudaError_t error;
    const char *runtime, *driver, *text;
};
static const Text TEXTS[] = {
    {cudaSuccess, "cudaSuccess", "CUDA_SUCCESS", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {cudaErrorInvalidKernelImage, "cudaErrorInvalidKernelImage", "CUDA_ERROR_INVALID_IMAGE",
     "device kernel image is invalid"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "CUDA_ERROR_INVALID_HANDLE",
     "invalid resource handle"},
    {cudaErrorSymbolNotFound, "cudaErrorSymbolNotFound", "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "CUDA_ERROR_ILLEGAL_ADDRESS",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {cudaErrorPeerAccessAlreadyEnabled, "cudaErrorPeerAccessAlreadyEnabled", "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED",
     "peer access is already enabled"},
    {cudaErrorPeerAccessNotEnabled, "cudaErrorPeerAccessNotEnabled", "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED",
     "peer access has not been enabled"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit", "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent", "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded in a capturing stream"},
};

static const Text* find_text(int error) {
    for (const Text& text : TEXTS)
        if (text.error == error) return &text;
    return nullptr;
}

}  // namespace cuda_double

using namespace cuda_double;

EXPORTED const char* cudaGetErrorName(cudaError_t error) {
    const Text* text = find_text(error);
    return text ? text->runtime : "unrecognized error code";
}

EXPORTED const char* cudaGetErrorString(cudaError_t error) {
    const Text* text = find_text(error);
    return text ? text->text : "unrecognized error code";
}

EXPORTED cudaError_t cudaGetLastError() {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

EXPORTED CUresult cuGetErrorName(CUresult error, const char** name) {
    const Text* text = find_text(error);
    *name = text ? text->driver : nullptr;
    return text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EXPORTED CUresult cuGetErrorString(CUresult error, const char** string) {
    const Text* text = find_text(error);
    *string = text ? text->text : nullptr;
    return text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// --- for Python ---

EXPORTED void cuda_double_report(const char* text) { report("%s", text); }

EXPORTED size_t cuda_double_problem_count() {
    Lock lock(tables);
    return problems.size();
}

// The text stays where it is until the next report.
EXPORTED const char* cuda_double_problem(size_t number) {
    Lock lock(tables);
    return number < problems.size() ? problems[number].c_str() : nullptr;
}

EXPORTED void cuda_double_forget_problems() {
    Lock lock(tables);
    problems.clear();
}
