#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_fp16.h"
#include "cuda_runtime_api.h"
#include "tensor_core.h"

namespace {

constexpr size_t kStackBytes = 32 << 10;
constexpr size_t kSharedBytes = 96 << 10;
constexpr uint32_t kWarp = 32;

struct Product {
  float* sums;
  uint32_t left[4];
  uint32_t right[2];
};

struct Fibre {
  ucontext_t context{};
  std::vector<char> stack = std::vector<char>(kStackBytes);
  std::vector<Product> products;  // asked for since the last barrier
  bool is_done = false;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

std::vector<Fibre> fibres;
ucontext_t scheduler;
void* scheduler_fake_stack = nullptr;
void const* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;
uint32_t current = 0;
std::function<void()> const* body = nullptr;

[[noreturn]] void fail(char const* reason) {
  std::fprintf(stderr, "block (%u, %u), thread %u: %s\n", blockIdx.x, blockIdx.y, current, reason);
  std::exit(1);
}

void to_scheduler(bool is_last) {
  Fibre& fibre = fibres[current];
  __sanitizer_start_switch_fiber(is_last ? nullptr : &fibre.fake_stack, scheduler_stack,
                                 scheduler_stack_bytes);
  swapcontext(&fibre.context, &scheduler);
  __sanitizer_finish_switch_fiber(fibres[current].fake_stack, nullptr, nullptr);
}

void enter() {
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
  (*body)();
  fibres[current].is_done = true;
  to_scheduler(true);
}

void prepare(Fibre& fibre) {
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack.data();
  fibre.context.uc_stack.ss_size = fibre.stack.size();
  fibre.context.uc_link = nullptr;
  fibre.is_done = false;
  fibre.fake_stack = nullptr;
  makecontext(&fibre.context, enter, 0);
}

void resume(uint32_t thread) {
  current = thread;
  threadIdx = dim3(thread, 0, 0);
  Fibre& fibre = fibres[thread];
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fibre.stack.data(), fibre.stack.size());
  swapcontext(&scheduler, &fibre.context);
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
}

float half_of(uint32_t pair, uint32_t which) {
  static std::vector<float> const values = [] {
    std::vector<float> all(1 << 16);
    for (uint32_t bits = 0; bits < all.size(); ++bits) {
      all[bits] = __half2float({static_cast<uint16_t>(bits)});
    }
    return all;
  }();
  return values[pair >> (16 * which) & 0xFFFFU];
}

// The products of a warp, once all its threads have asked for them.
void multiply(uint32_t first) {
  size_t const count = fibres[first].products.size();
  for (uint32_t lane = 0; lane < kWarp; ++lane) {
    if (fibres[first + lane].products.size() != count) {
      fail("the threads of a warp multiply unequally often");
    }
  }
  for (size_t number = 0; number < count; ++number) {
    float left[16][16];
    float right[16][8];
    for (uint32_t lane = 0; lane < kWarp; ++lane) {
      Product const& product = fibres[first + lane].products[number];
      uint32_t const group = lane / 4;
      for (uint32_t half = 0; half < 2; ++half) {
        uint32_t const depth = lane % 4 * 2 + half;
        left[group][depth] = half_of(product.left[0], half);
        left[group + 8][depth] = half_of(product.left[1], half);
        left[group][depth + 8] = half_of(product.left[2], half);
        left[group + 8][depth + 8] = half_of(product.left[3], half);
        right[depth][group] = half_of(product.right[0], half);
        right[depth + 8][group] = half_of(product.right[1], half);
      }
    }
    float sums[16][8] = {};
    for (uint32_t row = 0; row < 16; ++row) {
      for (uint32_t depth = 0; depth < 16; ++depth) {
        for (uint32_t column = 0; column < 8; ++column) {
          sums[row][column] += left[row][depth] * right[depth][column];
        }
      }
    }
    for (uint32_t lane = 0; lane < kWarp; ++lane) {
      float* const place = fibres[first + lane].products[number].sums;
      for (uint32_t i = 0; i < 4; ++i) {
        place[i] += sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
      }
    }
  }
  for (uint32_t lane = 0; lane < kWarp; ++lane) {
    fibres[first + lane].products.clear();
  }
}

}  // namespace

dim3 threadIdx;
dim3 blockIdx;
uint4 ssast_edge_shared[kSharedBytes / sizeof(uint4)];

namespace cuda_on_cpu {

int processors = 8;
Order order = Order::kUp;
size_t most_shared = 48 << 10;

cudaError_t run(cudaLaunchConfig_t const& config, std::function<void()> const& kernel) {
  static std::mt19937 random(0);
  uint32_t const threads = config.blockDim.x;
  if (config.dynamicSmemBytes > most_shared || config.dynamicSmemBytes > kSharedBytes ||
      config.gridDim.y > 65535 || threads > 1024) {
    return cudaErrorInvalidValue;
  }
  if (fibres.size() < threads) {
    fibres = std::vector<Fibre>(threads);
  }
  body = &kernel;
  std::vector<uint32_t> turn(threads);
  std::iota(turn.begin(), turn.end(), 0U);
  if (order == Order::kDown) {
    std::reverse(turn.begin(), turn.end());
  }
  char* const shared = reinterpret_cast<char*>(ssast_edge_shared);
  for (uint32_t y = 0; y < config.gridDim.y; ++y) {
    for (uint32_t x = 0; x < config.gridDim.x; ++x) {
      blockIdx = dim3(x, y, 0);
      std::memset(shared, 0xFF, config.dynamicSmemBytes);
      __asan_poison_memory_region(shared + config.dynamicSmemBytes,
                                  kSharedBytes - config.dynamicSmemBytes);
      for (uint32_t thread = 0; thread < threads; ++thread) {
        prepare(fibres[thread]);
      }
      for (bool is_done = false; !is_done;) {
        if (order == Order::kShuffled) {
          std::shuffle(turn.begin(), turn.end(), random);
        }
        for (uint32_t const thread : turn) {
          resume(thread);
        }
        for (uint32_t first = 0; first < threads; first += kWarp) {
          multiply(first);
        }
        is_done = fibres[0].is_done;
        for (uint32_t thread = 0; thread < threads; ++thread) {
          if (fibres[thread].is_done != is_done) {
            fail("some threads wait at a barrier that others do not reach");
          }
        }
      }
      __asan_unpoison_memory_region(shared, kSharedBytes);
    }
  }
  return cudaSuccess;
}

}  // namespace cuda_on_cpu

void __syncthreads() { to_scheduler(false); }

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr /*attribute*/, int /*device*/) {
  *value = cuda_on_cpu::processors;
  return cudaSuccess;
}

// Sums are there after the next barrier, not before: later than on a GPU.
void ssast_edge::multiply_16x16x8(float (&sums)[4], uint32_t const (&left)[4],
                                  uint32_t const (&right)[2]) {
  Product product{sums, {}, {}};
  std::copy(left, left + 4, product.left);
  std::copy(right, right + 2, product.right);
  fibres[current].products.push_back(product);
}
