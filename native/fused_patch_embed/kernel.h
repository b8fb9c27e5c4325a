// A raw log-mel window straight to transformer tokens, in one launch.
//
// tokens[b, r, d] = addend[r, d] + sum_k weight[d, k] * (pixel(b, r, k) - mean) / (2 * std)
//
// Row r is a patch, frequency-major, after `prefix` rows that are their addend alone. Pixel k of a
// patch lies at bin k / patch_frames and frame k % patch_frames of it. Knows no TensorRT type.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace ssast_edge {

struct PatchEmbedShape {
  int32_t batch;   // B
  int32_t frames;  // T, of the window
  int32_t bins;    // F
  int32_t patch_bins;
  int32_t patch_frames;
  int32_t stride_bins;
  int32_t stride_frames;
  int32_t dim;          // D
  int32_t prefix;       // rows before the patches
  int32_t ring_frames;  // frames that the buffer of each clip holds: T, or more for a ring
  int32_t ring_offset;  // where in the ring the window begins

  __host__ __device__ int32_t grid_bins() const { return (bins - patch_bins) / stride_bins + 1; }
  __host__ __device__ int32_t grid_frames() const {
    return (frames - patch_frames) / stride_frames + 1;
  }
  __host__ __device__ int32_t rows() const { return prefix + grid_bins() * grid_frames(); }
  __host__ __device__ int32_t pixels() const { return patch_bins * patch_frames; }
};

// Of weight, addend and tokens; the window is always float.
enum class TokenType : int32_t {
  kFloat = 0,
  kHalf = 1,  // products by tensor cores, sums in float
};

// What is wrong with a shape, in one line; nullptr: nothing.
char const* shape_error(PatchEmbedShape const& shape);

// window (B, ring_frames, F), weight (D, pixels), addend (rows, D), tokens (B, rows, D), all on the
// device and contiguous. cudaErrorInvalidValue for a shape that `shape_error` refuses.
cudaError_t fused_patch_embed(PatchEmbedShape const& shape, float const* window, void const* weight,
                              void const* addend, void* tokens, TokenType type, float mean,
                              float std, cudaStream_t stream);

}  // namespace ssast_edge
