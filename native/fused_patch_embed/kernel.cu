#include <cuda_fp16.h>
#include <mma.h>

#include "kernel.h"

namespace ssast_edge {
namespace {

constexpr int32_t kRows = 16;     // of a block's tile of tokens
constexpr int32_t kColumns = 64;  // channels of it
constexpr int32_t kThreads = 128;
constexpr int32_t kDepthFloat = 16;  // pixels at a time
constexpr int32_t kDepthHalf = 32;
constexpr int32_t kSkew = 8;  // halves between rows of shared tiles, against bank conflicts

// One normalised pixel of a token row; zero for prefix rows and beyond the end.
__device__ float pixel(PatchEmbedShape const& shape, float const* window, int32_t row, int32_t k,
                       float mean, float scale) {
  int32_t const rows = shape.rows();
  int32_t const patch = row % rows - shape.prefix;
  if (row >= shape.batch * rows || patch < 0 || k >= shape.pixels()) {
    return 0.0F;
  }
  int32_t const frame = patch % shape.grid_frames() * shape.stride_frames + k % shape.patch_frames;
  int32_t const bin = patch / shape.grid_frames() * shape.stride_bins + k / shape.patch_frames;
  int32_t slot = shape.ring_offset + frame;
  slot -= slot >= shape.ring_frames ? shape.ring_frames : 0;
  int64_t const clip = row / rows;
  return (window[(clip * shape.ring_frames + slot) * shape.bins + bin] - mean) * scale;
}

__global__ void __launch_bounds__(kThreads)
    embed_float(PatchEmbedShape shape, float const* __restrict__ window,
                float const* __restrict__ weight, float const* __restrict__ addend,
                float* __restrict__ tokens, float mean, float scale) {
  __shared__ float patches[kRows][kDepthFloat + 1];
  __shared__ float weights[kColumns][kDepthFloat + 1];
  int32_t const first_row = blockIdx.x * kRows;
  int32_t const first_column = blockIdx.y * kColumns;
  int32_t const row = threadIdx.x / 16 * 2;  // two rows and
  int32_t const column = threadIdx.x % 16;   // four columns, 16 apart, a thread
  float sums[2][4] = {};
  for (int32_t start = 0; start < shape.pixels(); start += kDepthFloat) {
    for (int32_t i = threadIdx.x; i < kRows * kDepthFloat; i += kThreads) {
      int32_t const r = i / kDepthFloat;
      int32_t const k = i % kDepthFloat;
      patches[r][k] = pixel(shape, window, first_row + r, start + k, mean, scale);
    }
    for (int32_t i = threadIdx.x; i < kColumns * kDepthFloat; i += kThreads) {
      int32_t const c = i / kDepthFloat;
      int32_t const k = i % kDepthFloat;
      bool const inside = first_column + c < shape.dim && start + k < shape.pixels();
      int64_t const place = static_cast<int64_t>(first_column + c) * shape.pixels() + start + k;
      weights[c][k] = inside ? weight[place] : 0.0F;
    }
    __syncthreads();
#pragma unroll
    for (int32_t k = 0; k < kDepthFloat; ++k) {
#pragma unroll
      for (int32_t c = 0; c < 4; ++c) {
        float const w = weights[column + 16 * c][k];
        sums[0][c] = fmaf(patches[row][k], w, sums[0][c]);
        sums[1][c] = fmaf(patches[row + 1][k], w, sums[1][c]);
      }
    }
    __syncthreads();
  }
  int32_t const rows = shape.rows();
  for (int32_t r = 0; r < 2; ++r) {
    int32_t const token = first_row + row + r;
    for (int32_t c = 0; c < 4; ++c) {
      int32_t const channel = first_column + column + 16 * c;
      if (token < shape.batch * rows && channel < shape.dim) {
        float const extra = addend[static_cast<int64_t>(token % rows) * shape.dim + channel];
        tokens[static_cast<int64_t>(token) * shape.dim + channel] = sums[r][c] + extra;
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    embed_half(PatchEmbedShape shape, float const* __restrict__ window,
               __half const* __restrict__ weight, __half const* __restrict__ addend,
               __half* __restrict__ tokens, float mean, float scale) {
  using namespace nvcuda;
  __shared__ __half patches[kRows][kDepthHalf + kSkew];
  __shared__ __half weights[kColumns][kDepthHalf + kSkew];
  __shared__ float sums[kRows][kColumns + 4];
  int32_t const first_row = blockIdx.x * kRows;
  int32_t const first_column = blockIdx.y * kColumns;
  int32_t const warp = threadIdx.x / 32;  // each has the tile's rows and 16 of its columns
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> total;
  wmma::fill_fragment(total, 0.0F);
  for (int32_t start = 0; start < shape.pixels(); start += kDepthHalf) {
    for (int32_t i = threadIdx.x; i < kRows * kDepthHalf; i += kThreads) {
      int32_t const r = i / kDepthHalf;
      int32_t const k = i % kDepthHalf;
      patches[r][k] = __float2half(pixel(shape, window, first_row + r, start + k, mean, scale));
    }
    for (int32_t i = threadIdx.x; i < kColumns * kDepthHalf; i += kThreads) {
      int32_t const c = i / kDepthHalf;
      int32_t const k = i % kDepthHalf;
      bool const inside = first_column + c < shape.dim && start + k < shape.pixels();
      int64_t const place = static_cast<int64_t>(first_column + c) * shape.pixels() + start + k;
      weights[c][k] = inside ? weight[place] : __float2half(0.0F);
    }
    __syncthreads();
#pragma unroll
    for (int32_t k = 0; k < kDepthHalf; k += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> left;
      wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> right;
      wmma::load_matrix_sync(left, &patches[0][k], kDepthHalf + kSkew);
      wmma::load_matrix_sync(right, &weights[16 * warp][k], kDepthHalf + kSkew);
      wmma::mma_sync(total, left, right, total);
    }
    __syncthreads();
  }
  wmma::store_matrix_sync(&sums[0][16 * warp], total, kColumns + 4, wmma::mem_row_major);
  __syncthreads();
  int32_t const rows = shape.rows();
  for (int32_t i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
    int32_t const token = first_row + i / kColumns;
    int32_t const channel = first_column + i % kColumns;
    if (token < shape.batch * rows && channel < shape.dim) {
      float const extra =
          __half2float(addend[static_cast<int64_t>(token % rows) * shape.dim + channel]);
      tokens[static_cast<int64_t>(token) * shape.dim + channel] =
          __float2half(sums[i / kColumns][i % kColumns] + extra);
    }
  }
}

}  // namespace

char const* shape_error(PatchEmbedShape const& shape) {
  if (shape.batch < 1 || shape.frames < 1 || shape.bins < 1 || shape.dim < 1 || shape.prefix < 0) {
    return "batch, frames, bins and channels must be at least 1";
  }
  if (shape.stride_bins < 1 || shape.stride_frames < 1) {
    return "strides must be at least 1";
  }
  if (shape.patch_bins < 1 || shape.patch_frames < 1 || shape.patch_bins > shape.bins ||
      shape.patch_frames > shape.frames) {
    return "the patch must fit into the window";
  }
  if (shape.ring_frames < shape.frames || shape.ring_offset < 0 ||
      shape.ring_offset >= shape.ring_frames) {
    return "the ring must hold the window, and its offset lie inside";
  }
  return nullptr;
}

cudaError_t fused_patch_embed(PatchEmbedShape const& shape, float const* window, void const* weight,
                              void const* addend, void* tokens, TokenType type, float mean,
                              float std, cudaStream_t stream) {
  if (shape_error(shape) != nullptr || !(std > 0.0F)) {
    return cudaErrorInvalidValue;
  }
  int32_t const rows = shape.batch * shape.rows();
  dim3 const grid((rows + kRows - 1) / kRows, (shape.dim + kColumns - 1) / kColumns);
  float const scale = 1.0F / (2.0F * std);
  if (type == TokenType::kFloat) {
    embed_float<<<grid, kThreads, 0, stream>>>(shape, window, static_cast<float const*>(weight),
                                               static_cast<float const*>(addend),
                                               static_cast<float*>(tokens), mean, scale);
  } else {
    embed_half<<<grid, kThreads, 0, stream>>>(shape, window, static_cast<__half const*>(weight),
                                              static_cast<__half const*>(addend),
                                              static_cast<__half*>(tokens), mean, scale);
  }
  return cudaGetLastError();
}

}  // namespace ssast_edge
