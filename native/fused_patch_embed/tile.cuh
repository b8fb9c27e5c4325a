// Sizes of a block's tile of tokens, and the sums of one of its warps, in half and in float.
//
// Included by kernel.cu alone.
#pragma once

#include <cuda_fp16.h>

#include "tensor_core.h"

namespace ssast_edge {
namespace {

constexpr int32_t kWarps = 8;
constexpr int32_t kThreads = 32 * kWarps;
constexpr int32_t kWarpRows = 16;
constexpr int32_t kWarpColumns = 32;
constexpr int32_t kSumPitch = kWarpColumns + 8;  // 8: rows of a tile of sums on different banks
constexpr int32_t kGroup = 8;                    // depths that are loaded together

template <typename T, int32_t kRowWarps, int32_t kColumnWarps, bool kIsVector>
struct Tile {
  static constexpr bool kIsHalf = sizeof(T) == 2;
  static constexpr int32_t kDepthWarps = kWarps / (kRowWarps * kColumnWarps);
  static constexpr int32_t kRows = kWarpRows * kRowWarps;
  static constexpr int32_t kColumns = kWarpColumns * kColumnWarps;
  static constexpr int32_t kDepth = (kIsHalf ? 1024 : 512) / kRowWarps;  // of a piece, at most
  // 64 bytes: pairs of rows on different banks when 4 threads read 16 bytes each of a row; 16
  // bytes: 4 rows so, when each thread reads 16 bytes of its own.
  static constexpr int32_t kPitch = kDepth + (kIsHalf ? 32 : 4);
  static constexpr int32_t kStep = kIsHalf ? 32 : kGroup;  // depths of one warp at a time
  // Steps whose weights are asked for at once: what fits into registers.
  static constexpr int32_t kAhead = !kIsVector || kDepthWarps == 1 ? 1 : kIsHalf ? 4 : 2;
  static constexpr int32_t kOutputs = kRows * kColumns / kThreads;  // of a thread
  static constexpr size_t kPatchBytes = sizeof(T) * kRows * kPitch;
  static constexpr size_t kSumBytes = sizeof(float) * kWarps * kWarpRows * kSumPitch;
  static constexpr size_t kBytes = kPatchBytes > kSumBytes ? kPatchBytes : kSumBytes;
};

template <typename T, int32_t kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
template <typename T>
__device__ inline T from_float(float x) {
  if constexpr (sizeof(T) == 2) {
    return __float2half(x);
  } else {
    return x;
  }
}

// A warp's 16x32 tile. Half: thread t multiplies rows g and g + 8 by column g of each 8, with
// g = t / 4, and depths 8 (t % 4) to 8 (t % 4) + 7 of 32. The depths of a product are in another
// order than in memory, the same one left and right: a thread loads 16 bytes at a time.
struct HalfSums {
  float sums[kWarpColumns / 8][4] = {};

  static __device__ int32_t depth(int32_t lane) { return lane % 4 * kGroup; }

  __device__ void add(__half const* patches, int32_t pitch, int32_t lane, bool is_inside,
                      Pack<__half, kGroup> const (&weights)[kWarpColumns / 8]) {
    uint4 const zero{0, 0, 0, 0};
    __half const* const row = patches + lane / 4 * pitch + depth(lane);
    uint4 const upper = is_inside ? *reinterpret_cast<uint4 const*>(row) : zero;
    uint4 const lower = is_inside ? *reinterpret_cast<uint4 const*>(row + 8 * pitch) : zero;
    uint32_t const first[4] = {upper.x, lower.x, upper.y, lower.y};
    uint32_t const second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
    for (int32_t part = 0; part < kWarpColumns / 8; ++part) {
      uint4 const right = *reinterpret_cast<uint4 const*>(&weights[part]);
      multiply_16x16x8(sums[part], first, {right.x, right.y});
      multiply_16x16x8(sums[part], second, {right.z, right.w});
    }
  }

  __device__ void store(float* tile, int32_t lane) const {
    float* const place = tile + lane / 4 * kSumPitch + lane % 4 * 2;
#pragma unroll
    for (int32_t part = 0; part < kWarpColumns / 8; ++part) {
      *reinterpret_cast<Pack<float, 2>*>(place + 8 * part) = {sums[part][0], sums[part][1]};
      *reinterpret_cast<Pack<float, 2>*>(place + 8 * kSumPitch + 8 * part) = {sums[part][2],
                                                                              sums[part][3]};
    }
  }
};

// Float: thread t sums rows t % 4 + 4 i and columns t / 4 + 8 j, over all depths.
struct FloatSums {
  float sums[4][kWarpColumns / 8] = {};

  static __device__ int32_t depth(int32_t /*lane*/) { return 0; }

  __device__ void add(float const* patches, int32_t pitch, int32_t lane, bool is_inside,
                      Pack<float, kGroup> const (&weights)[kWarpColumns / 8]) {
    if (!is_inside) {
      return;
    }
#pragma unroll
    for (int32_t k = 0; k < kGroup; k += 4) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        auto const left = *reinterpret_cast<Pack<float, 4> const*>(
            patches + (lane % 4 + 4 * i) * pitch + k);
#pragma unroll
        for (int32_t j = 0; j < kWarpColumns / 8; ++j) {
#pragma unroll
          for (int32_t part = 0; part < 4; ++part) {
            sums[i][j] = fmaf(left.values[part], weights[j].values[k + part], sums[i][j]);
          }
        }
      }
    }
  }

  __device__ void store(float* tile, int32_t lane) const {
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) {
#pragma unroll
      for (int32_t j = 0; j < kWarpColumns / 8; ++j) {
        tile[(lane % 4 + 4 * i) * kSumPitch + lane / 4 + 8 * j] = sums[i][j];
      }
    }
  }
};

}  // namespace
}  // namespace ssast_edge
