// Functions that CuPy's runtime module links with and gpunet does not use. None includes a header: names are all.

namespace cuda_double {
void report(const char* format, ...);
}

#define NOT_MODELLED(name)                                                \
    extern "C" __attribute__((visibility("default"))) int name() {        \
        cuda_double::report("%s is not modelled by the CUDA double", #name); \
        return 801; /* cudaErrorNotSupported */                           \
    }

#define NOTHING(name) \
    extern "C" __attribute__((visibility("default"))) int name() { return 0; }

NOTHING(cudaProfilerStart)
NOTHING(cudaProfilerStop)
NOT_MODELLED(cudaCreateSurfaceObject)
NOT_MODELLED(cudaCreateTextureObject)
NOT_MODELLED(cudaDestroySurfaceObject)
NOT_MODELLED(cudaDestroyTextureObject)
NOT_MODELLED(cudaDeviceGetByPCIBusId)
NOT_MODELLED(cudaDeviceGetDefaultMemPool)
NOT_MODELLED(cudaDeviceGetLimit)
NOT_MODELLED(cudaDeviceGetMemPool)
NOT_MODELLED(cudaDeviceGetPCIBusId)
NOT_MODELLED(cudaDeviceSetLimit)
NOT_MODELLED(cudaDeviceSetMemPool)
NOT_MODELLED(cudaFreeArray)
NOT_MODELLED(cudaFreeAsync)
NOT_MODELLED(cudaGetChannelDesc)
NOT_MODELLED(cudaGetTextureObjectResourceDesc)
NOT_MODELLED(cudaGetTextureObjectTextureDesc)
NOT_MODELLED(cudaGraphDebugDotPrint)
NOT_MODELLED(cudaHostRegister)
NOT_MODELLED(cudaHostUnregister)
NOT_MODELLED(cudaIpcCloseMemHandle)
NOT_MODELLED(cudaIpcGetEventHandle)
NOT_MODELLED(cudaIpcGetMemHandle)
NOT_MODELLED(cudaIpcOpenEventHandle)
NOT_MODELLED(cudaIpcOpenMemHandle)
NOT_MODELLED(cudaLaunchHostFunc)
NOT_MODELLED(cudaMalloc3DArray)
NOT_MODELLED(cudaMallocArray)
NOT_MODELLED(cudaMallocAsync)
NOT_MODELLED(cudaMallocFromPoolAsync)
NOT_MODELLED(cudaMallocManaged)
NOT_MODELLED(cudaMemAdvise)
NOT_MODELLED(cudaMemPoolCreate)
NOT_MODELLED(cudaMemPoolDestroy)
NOT_MODELLED(cudaMemPoolGetAttribute)
NOT_MODELLED(cudaMemPoolSetAttribute)
NOT_MODELLED(cudaMemPoolTrimTo)
NOT_MODELLED(cudaMemPrefetchAsync)
NOT_MODELLED(cudaMemcpy2D)
NOT_MODELLED(cudaMemcpy2DAsync)
NOT_MODELLED(cudaMemcpy2DFromArray)
NOT_MODELLED(cudaMemcpy2DFromArrayAsync)
NOT_MODELLED(cudaMemcpy2DToArray)
NOT_MODELLED(cudaMemcpy2DToArrayAsync)
NOT_MODELLED(cudaMemcpy3D)
NOT_MODELLED(cudaMemcpy3DAsync)
NOT_MODELLED(cudaStreamAddCallback)
NOT_MODELLED(cuCtxCreate_v2)
NOT_MODELLED(cuCtxDestroy_v2)
NOT_MODELLED(cuDevicePrimaryCtxRelease_v2)
NOT_MODELLED(cuLaunchCooperativeKernel)
NOT_MODELLED(cuLinkAddData_v2)
NOT_MODELLED(cuLinkAddFile_v2)
NOT_MODELLED(cuLinkComplete)
NOT_MODELLED(cuLinkCreate_v2)
NOT_MODELLED(cuLinkDestroy)
NOT_MODELLED(cuModuleGetGlobal_v2)
NOT_MODELLED(cuModuleLoad)
