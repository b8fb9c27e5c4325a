// As much of CUDA as the kernel uses, for a host compiler: the kernel's own source runs on a CPU.
//
// The threads of a block are fibres; each runs until a barrier, in an order that the test chooses,
// so that a missing barrier shows as values that are not there yet. Shared memory is poisoned
// before each block, and what lies behind the size that a launch asked for may not be touched
// (AddressSanitizer). Blocks run one after another.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(...)

struct dim3 {
  uint32_t x, y, z;
  dim3(uint32_t x_ = 1, uint32_t y_ = 1, uint32_t z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
using cudaStream_t = void*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline int min(int a, int b) { return a < b ? a : b; }
using std::fmaf;

extern dim3 threadIdx, blockIdx;
void __syncthreads();

cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

namespace cuda_on_cpu {

enum class Order { kUp, kDown, kShuffled };  // of the threads between barriers

extern int processors;  // that the device claims to have
extern Order order;
extern size_t most_shared;  // bytes of a block that the device claims to have

cudaError_t run(cudaLaunchConfig_t const& config, std::function<void()> const& kernel);

}  // namespace cuda_on_cpu

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(cudaLaunchConfig_t const* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  return cuda_on_cpu::run(*config, [=] { kernel(arguments...); });
}
