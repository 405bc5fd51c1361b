// CUDA C++ on a CPU: put in front of a CUDA source, which g++ then compiles. README.md says how it works.

#pragma once

#define GPUNET_EMULATOR

#include "fiber.hpp"
#include "block.hpp"
#include "warp.hpp"
#include "launch.hpp"
#include "intrinsics.hpp"
#include "tensor_core.hpp"
