// Graphs: what a stream recorded, done again in order. Arguments are those of the capture; all memory that they point
// to must still be there at each replay.

#include "cuda_double.hpp"

namespace cuda_double {

struct Executable {
    std::vector<Node> nodes;
    int device;
};

static std::set<Executable*> executables;

static cudaError_t replay(Node& node) {
    switch (node.kind) {
        case Node::COPY:
            return copy(node.to, node.from, node.size, node.direction, "the replay of a copy") ? cudaSuccess
                                                                                               : cudaErrorIllegalAddress;
        case Node::FILL:
            return fill(node.to, node.value, node.size, "the replay of a memset") ? cudaSuccess
                                                                                  : cudaErrorIllegalAddress;
        default: break;
    }
    std::vector<void*> arguments;
    for (auto& argument : node.arguments) arguments.push_back(argument.data());
    return run(node.launch, arguments.data(), REPLAYED);
}

static cudaError_t find_executable(cudaGraphExec_t handle, Executable*& executable) {
    Lock lock(tables);
    executable = reinterpret_cast<Executable*>(handle);
    if (executables.count(executable)) return cudaSuccess;
    return refuse(cudaErrorInvalidResourceHandle, "%p is no graph to be launched, or one that was destroyed", handle);
}

}  // namespace cuda_double

using namespace cuda_double;

EXPORTED cudaError_t cudaGraphInstantiate(cudaGraphExec_t* handle, cudaGraph_t graph, unsigned long long) {
    if (!graph) return fail(cudaErrorInvalidValue);
    Lock lock(tables);
    auto* const executable = new Executable{reinterpret_cast<Graph*>(graph)->nodes, current_device()};
    executables.insert(executable);
    *handle = reinterpret_cast<cudaGraphExec_t>(executable);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }

EXPORTED cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
    Executable* executable;
    Stream* stream;
    if (const cudaError_t error = find_executable(handle, executable)) return error;
    if (const cudaError_t error = find_stream(stream_handle, stream)) return error;
    if (stream && stream->capturing) return refuse(cudaErrorNotSupported, "a graph within a capture is not modelled");
    if (!stream)
        if (const cudaError_t error = before_legacy_stream("cudaGraphLaunch")) return error;
    if (stream && stream->device != current_device())
        return refuse(cudaErrorInvalidResourceHandle,
                      "wrong stream: a graph is launched in a stream of device %d, the current device is %d",
                      stream->device, current_device());
    if (executable->device != current_device())
        return refuse(cudaErrorInvalidResourceHandle, "wrong device: a graph of device %d is launched on device %d",
                      executable->device, current_device());
    for (Node& node : executable->nodes)
        if (const cudaError_t error = replay(node)) return fail(error);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete reinterpret_cast<Graph*>(graph);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) {
    Executable* executable;
    if (const cudaError_t error = find_executable(handle, executable)) return error;
    Lock lock(tables);
    executables.erase(executable);
    delete executable;
    return cudaSuccess;
}
