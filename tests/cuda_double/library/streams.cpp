// Streams, events and the rules of a capture (CUDA C++ Programming Guide, "Prohibited and Unhandled Operations").

#include <chrono>

#include "cuda_double.hpp"

namespace cuda_double {

struct Event {
    unsigned flags;
    int device;
    bool recorded = false;
    const Stream* captured_in = nullptr;
    std::chrono::steady_clock::time_point time{};
};

static std::set<Stream*> streams;
static std::set<Event*> events;

cudaError_t find_stream(cudaStream_t handle, Stream*& stream) {
    Lock lock(tables);
    stream = handle == cudaStreamLegacy ? nullptr : reinterpret_cast<Stream*>(handle);
    if (!stream || streams.count(stream)) return cudaSuccess;
    return refuse(cudaErrorInvalidResourceHandle, "%p is no stream, or one that was destroyed", handle);
}

Stream* capturing_stream(bool unsafe_is_forbidden) {
    Lock lock(tables);
    for (Stream* stream : streams)
        if (stream->capturing && !(unsafe_is_forbidden && stream->mode == cudaStreamCaptureModeRelaxed)) return stream;
    return nullptr;
}

cudaError_t forbid_in_capture(const char* call) {
    Stream* const stream = capturing_stream();
    if (!stream) return cudaSuccess;
    stream->invalid = true;
    return refuse(cudaErrorStreamCaptureUnsupported, "%s during a capture", call);
}

cudaError_t forbid_unsafe(const char* call) {
    Stream* const stream = capturing_stream(true);
    if (!stream) return cudaSuccess;
    stream->invalid = true;
    return refuse(cudaErrorStreamCaptureUnsupported, "%s during a capture that is not relaxed", call);
}

cudaError_t before_legacy_stream(const char* call) {
    Stream* const stream = capturing_stream();
    if (!stream) return cudaSuccess;
    if (stream->flags & cudaStreamNonBlocking) {  // allowed, but done now and not at a replay
        report("%s in the default stream while another is captured: it is no part of the graph", call);
        return cudaSuccess;
    }
    stream->invalid = true;
    return refuse(cudaErrorStreamCaptureImplicit, "%s in the default stream while a blocking stream is captured", call);
}

static cudaError_t find_event(cudaEvent_t handle, Event*& event) {
    Lock lock(tables);
    event = reinterpret_cast<Event*>(handle);
    if (events.count(event)) return cudaSuccess;
    return refuse(cudaErrorInvalidResourceHandle, "%p is no event, or one that was destroyed", handle);
}

// For what waits for an event, or asks after it.
static cudaError_t forbid_captured(const Event& event, const char* call) {
    if (!event.captured_in) return cudaSuccess;
    return refuse(cudaErrorCapturedEvent, "%s of an event that was recorded in a capture", call);
}

// For what waits for a stream, or asks after it.
static cudaError_t forbid_wait(cudaStream_t handle, const char* call) {
    Stream* stream;
    if (const cudaError_t error = find_stream(handle, stream)) return error;
    if (!stream) return before_legacy_stream(call);
    if (!stream->capturing) return cudaSuccess;
    stream->invalid = true;
    return refuse(cudaErrorStreamCaptureUnsupported, "%s of a stream that is captured", call);
}

}  // namespace cuda_double

using namespace cuda_double;

EXPORTED cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned flags, int priority) {
    Lock lock(tables);
    auto* const stream = new Stream{flags, priority, current_device()};
    streams.insert(stream);
    *handle = reinterpret_cast<cudaStream_t>(stream);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
    return cudaStreamCreateWithPriority(handle, flags, 0);
}

EXPORTED cudaError_t cudaStreamCreate(cudaStream_t* handle) { return cudaStreamCreateWithPriority(handle, 0, 0); }

EXPORTED cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    Stream* stream;
    if (const cudaError_t error = find_stream(handle, stream)) return error;
    if (!stream) return fail(cudaErrorInvalidResourceHandle);
    Lock lock(tables);
    if (stream->capturing) report("cudaStreamDestroy of a stream that is captured");
    streams.erase(stream);  // not deleted: its address is not given out again
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return forbid_wait(stream, "cudaStreamSynchronize"); }

EXPORTED cudaError_t cudaStreamQuery(cudaStream_t stream) { return forbid_wait(stream, "cudaStreamQuery"); }

EXPORTED cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
    Stream* stream;
    if (const cudaError_t error = find_stream(handle, stream)) return error;
    *flags = stream ? stream->flags : 0;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
    Stream* stream;
    if (const cudaError_t error = find_stream(handle, stream)) return error;
    *priority = stream ? stream->priority : 0;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned) {
    Stream* stream;
    Event* event;
    if (const cudaError_t error = find_stream(handle, stream)) return error;
    if (const cudaError_t error = find_event(event_handle, event)) return error;
    if (event->captured_in && event->captured_in != stream)
        return refuse(cudaErrorNotSupported, "a capture of several streams is not modelled");
    return cudaSuccess;
}

// --- captures ---

EXPORTED cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    Stream* stream;
    if (const cudaError_t error = find_stream(handle, stream)) return error;
    if (!stream) return refuse(cudaErrorStreamCaptureUnsupported, "a capture of the default stream");
    if (stream->capturing) return refuse(cudaErrorInvalidValue, "a capture is begun within a capture");
    stream->capturing = true, stream->invalid = false, stream->mode = mode;
    stream->graph = std::make_unique<Graph>();
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
    *graph = nullptr;
    Stream* stream;
    if (const cudaError_t error = find_stream(handle, stream)) return error;
    if (!stream || !stream->capturing) return refuse(cudaErrorInvalidValue, "no capture to be ended");
    Lock lock(tables);
    stream->capturing = false;
    for (Event* event : events)
        if (event->captured_in == stream) event->captured_in = nullptr, event->recorded = false;
    if (stream->invalid) {
        stream->graph.reset();
        return fail(cudaErrorStreamCaptureInvalidated);  // what made it so is reported already
    }
    *graph = reinterpret_cast<cudaGraph_t>(stream->graph.release());
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
    *status = cudaStreamCaptureStatusNone;
    Stream* stream;
    if (const cudaError_t error = find_stream(handle, stream)) return error;
    if (!stream) {
        const Stream* const other = capturing_stream();
        return other && !(other->flags & cudaStreamNonBlocking) ? fail(cudaErrorStreamCaptureImplicit) : cudaSuccess;
    }
    if (stream->capturing)
        *status = stream->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

// --- events ---

EXPORTED cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned flags) {
    Lock lock(tables);
    auto* const event = new Event{flags, current_device()};
    events.insert(event);
    *handle = reinterpret_cast<cudaEvent_t>(event);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaEventCreate(cudaEvent_t* handle) { return cudaEventCreateWithFlags(handle, 0); }

EXPORTED cudaError_t cudaEventDestroy(cudaEvent_t handle) {
    Event* event;
    if (const cudaError_t error = find_event(handle, event)) return error;
    Lock lock(tables);
    events.erase(event);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
    Event* event;
    Stream* stream;
    if (const cudaError_t error = find_event(handle, event)) return error;
    if (const cudaError_t error = find_stream(stream_handle, stream)) return error;
    if (!stream)
        if (const cudaError_t error = before_legacy_stream("cudaEventRecord")) return error;
    const int device = stream ? stream->device : current_device();
    if (event->device != device)
        return refuse(cudaErrorInvalidResourceHandle,
                      "wrong device: an event of device %d is recorded in a stream of device %d", event->device, device);
    event->captured_in = stream && stream->capturing ? stream : nullptr;
    event->recorded = !event->captured_in;
    event->time = std::chrono::steady_clock::now();
    return cudaSuccess;
}

EXPORTED cudaError_t cudaEventQuery(cudaEvent_t handle) {
    Event* event;
    if (const cudaError_t error = find_event(handle, event)) return error;
    if (const cudaError_t error = forbid_unsafe("cudaEventQuery")) return error;
    return forbid_captured(*event, "cudaEventQuery");
}

EXPORTED cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    Event* event;
    if (const cudaError_t error = find_event(handle, event)) return error;
    if (const cudaError_t error = forbid_unsafe("cudaEventSynchronize")) return error;
    return forbid_captured(*event, "cudaEventSynchronize");
}

EXPORTED cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from_handle, cudaEvent_t to_handle) {
    Event *from, *to;
    if (const cudaError_t error = find_event(from_handle, from)) return error;
    if (const cudaError_t error = find_event(to_handle, to)) return error;
    for (const Event* event : {from, to})
        if (!event->recorded || event->flags & cudaEventDisableTiming)
            return refuse(cudaErrorInvalidResourceHandle, "cudaEventElapsedTime of an event without a time");
    *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
    return cudaSuccess;
}
