// In place of CUDA's header, which wants its compiler: the API of the runtime, without kernels in C++.

#pragma once

#include <cuda_runtime_api.h>
#include <driver_functions.h>
