// A block of 8 warps makes a tile of tokens. Its patches are cut, normalised and laid into shared
// memory, a piece of their depth (pixels) at a time; weights go from memory straight to registers,
// asked for before the patches, since each is used by one warp alone. On small grids (a window of
// one clip) the warps share out the depth of a 16x32 tile, so that many blocks with many loads in
// flight cover the latency of memory; on grids that fill the GPU they share out a 64x64 tile.

#include "kernel.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <limits>
#include <type_traits>

#include "tile.cuh"

// Of the size that a launch asks for: patches of a tile, later sums of its warps; origins of rows.
extern __shared__ uint4 ssast_edge_shared[];

namespace ssast_edge {
namespace {

// What a launch works out once for all threads.
struct Plan {
  PatchEmbedShape shape;
  int32_t rows;         // of a clip
  int32_t patches;      // of a clip
  int32_t grid_frames;  // patches side by side
  int32_t pixels;       // of a patch
  int32_t tiles;        // of patches; the blocks behind them copy prefix rows
  int32_t piece_bins;   // of a patch, at a time
  int32_t piece_frames;
  int32_t lane_bits;  // 2^lane_bits threads of a warp read bins of one row
  bool is_vector;     // weights in groups of 8 that never cross the end of a piece
  float mean;
  float scale;
};

// Where a row of a tile comes from and goes to.
struct Origin {
  int64_t pixel;  // its first bin in frame 0 of its clip's ring
  int32_t frame;  // its first frame, counted from the ring's beginning; -1: no such row
  int32_t row;    // of the addend
  int64_t token;
};

// Part of the depth of all patches: bins x frames, contiguous in the weights.
struct Piece {
  int32_t bin;
  int32_t bins;
  int32_t frame;
  int32_t frames;
  int32_t start;   // in the weights
  int32_t length;  // bins * frames
};

// Cuts and normalises a piece of a tile's patches. Threads side by side read bins side by side;
// each gathers kPack frames, which lie side by side in the tile.
template <typename Tile, typename T, int32_t kPack>
__device__ inline void cut(Plan const& plan, Piece const& piece, Origin const* origins,
                           float const* __restrict__ window, T* patches) {
  int32_t const lanes = 1 << plan.lane_bits;
  int32_t const lane = static_cast<int32_t>(threadIdx.x) & (lanes - 1);
  int32_t const first = static_cast<int32_t>(threadIdx.x) >> plan.lane_bits;
  int32_t const ring = plan.shape.ring_frames;
#pragma unroll 1
  for (int32_t row = first; row < Tile::kRows; row += kThreads >> plan.lane_bits) {
    Origin const origin = origins[row];
    T* const target = patches + row * Tile::kPitch;
    float const* const source = window + origin.pixel + piece.bin;
#pragma unroll kPack > 2 ? 2 : 4
    for (int32_t bin = lane; bin < piece.bins; bin += lanes) {
#pragma unroll 1
      for (int32_t frame = 0; frame < piece.frames; frame += kPack) {
        Pack<T, kPack> pack;
#pragma unroll
        for (int32_t i = 0; i < kPack; ++i) {
          int32_t slot = origin.frame + piece.frame + frame + i;
          slot -= slot >= ring ? ring : 0;
          float value = 0.0F;
          if (origin.frame >= 0) {
            value = (source[static_cast<int64_t>(slot) * plan.shape.bins + bin] - plan.mean) *
                    plan.scale;
          }
          pack.values[i] = from_float<T>(value);
        }
        *reinterpret_cast<Pack<T, kPack>*>(target + bin * piece.frames + frame) = pack;
      }
    }
    // The rest of the last group: read, and multiplied by zeros.
    for (int32_t k = piece.length + lane; k < (piece.length + kGroup - 1) / kGroup * kGroup;
         k += lanes) {
      target[k] = from_float<T>(0.0F);
    }
  }
}

// kGroup weights of a channel, of which `left` belong to the piece; zeros for the others.
template <typename T, bool kIsVector>
__device__ inline Pack<T, kGroup> weights_of(T const* __restrict__ source, int32_t left) {
  Pack<T, kGroup> group;
  if constexpr (kIsVector) {
    constexpr int32_t kParts = sizeof(group) / sizeof(uint4);
    uint4* const parts = reinterpret_cast<uint4*>(&group);
#pragma unroll
    for (int32_t i = 0; i < kParts; ++i) {
      parts[i] = left > 0 ? reinterpret_cast<uint4 const*>(source)[i] : uint4{0, 0, 0, 0};
    }
  } else {
#pragma unroll
    for (int32_t i = 0; i < kGroup; ++i) {
      group.values[i] = i < left ? source[i] : from_float<T>(0.0F);
    }
  }
  return group;
}

template <typename T, int32_t kRowWarps, int32_t kColumnWarps, bool kIsVector>
__global__ void __launch_bounds__(kThreads, 2)
    embed(Plan const plan, float const* __restrict__ window, T const* __restrict__ weight,
          T const* __restrict__ addend, T* __restrict__ tokens) {
  using Tile = Tile<T, kRowWarps, kColumnWarps, kIsVector>;
  using Sums = std::conditional_t<Tile::kIsHalf, HalfSums, FloatSums>;
  int32_t const thread = static_cast<int32_t>(threadIdx.x);
  int32_t const block = static_cast<int32_t>(blockIdx.x);
  int32_t const first_column = static_cast<int32_t>(blockIdx.y) * Tile::kColumns;
  int32_t const dim = plan.shape.dim;
  if (block >= plan.tiles) {
    for (int32_t i = thread; i < Tile::kRows * Tile::kColumns; i += kThreads) {
      int32_t const copy = (block - plan.tiles) * Tile::kRows + i / Tile::kColumns;
      int32_t const column = first_column + i % Tile::kColumns;
      if (copy < plan.shape.batch * plan.shape.prefix && column < dim) {
        int64_t const row = copy % plan.shape.prefix;
        int64_t const token = copy / plan.shape.prefix * static_cast<int64_t>(plan.rows) + row;
        tokens[token * dim + column] = addend[row * dim + column];
      }
    }
    return;
  }

  T* const patches = reinterpret_cast<T*>(ssast_edge_shared);
  float* const tiles = reinterpret_cast<float*>(ssast_edge_shared);
  Origin* const origins = reinterpret_cast<Origin*>(ssast_edge_shared + Tile::kBytes / 16);
  int32_t const lane = thread % 32;
  int32_t const warp = thread / 32;
  int32_t const depth_warp = warp % Tile::kDepthWarps;
  int32_t const warp_row = warp / Tile::kDepthWarps % kRowWarps * kWarpRows;
  int32_t const warp_column = warp / (Tile::kDepthWarps * kRowWarps) * kWarpColumns;

  for (int32_t i = thread; i < Tile::kRows; i += kThreads) {
    int32_t const number = block * Tile::kRows + i;
    int32_t const clip = number / plan.patches;
    int32_t const patch = number % plan.patches;
    Origin origin{};
    origin.frame = -1;
    if (clip < plan.shape.batch) {
      origin.frame =
          plan.shape.ring_offset + patch % plan.grid_frames * plan.shape.stride_frames;
      origin.pixel = static_cast<int64_t>(clip) * plan.shape.ring_frames * plan.shape.bins +
                     patch / plan.grid_frames * plan.shape.stride_bins;
      origin.row = plan.shape.prefix + patch;
      origin.token = static_cast<int64_t>(clip) * plan.rows + origin.row;
    }
    origins[i] = origin;
  }

  int32_t const first_channel = first_column + warp_column + lane / 4;
  Sums sums;
  auto const extra = [&](int32_t place) {
    Origin const& origin = origins[place / Tile::kColumns];
    int32_t const column = first_column + place % Tile::kColumns;
    return origin.frame >= 0 && column < dim
               ? to_float(addend[static_cast<int64_t>(origin.row) * dim + column])
               : 0.0F;
  };
  // Few outputs of a thread: their addends are asked for before the sums.
  constexpr int32_t kEarly = Tile::kDepthWarps > 1 ? Tile::kOutputs : 0;
  float extras[kEarly > 0 ? Tile::kOutputs : 1];
  for (int32_t first = 0; first < plan.pixels;) {
    // Pieces are whole bins where a bin's frames fit, else frames of one bin.
    Piece piece;
    piece.start = first;
    piece.bin = first / plan.shape.patch_frames;
    piece.frame = first % plan.shape.patch_frames;
    piece.bins = min(plan.piece_bins, plan.shape.patch_bins - piece.bin);
    piece.frames = min(plan.piece_frames, plan.shape.patch_frames - piece.frame);
    piece.length = piece.bins * piece.frames;

    Pack<T, kGroup> weights[Tile::kAhead][kWarpColumns / 8];
    auto const load = [&](int32_t start) {
#pragma unroll
      for (int32_t part = 0; part < kWarpColumns / 8; ++part) {
        int32_t const channel = first_channel + 8 * part;
        T const* const source =
            weight + static_cast<int64_t>(channel) * plan.pixels + piece.start + start;
        int32_t const left = channel < dim ? piece.length - start : 0;
#pragma unroll
        for (int32_t step = 0; step < Tile::kAhead; ++step) {
          constexpr int32_t kFurther = Tile::kDepthWarps * Tile::kStep;
          weights[step][part] =
              weights_of<T, kIsVector>(source + step * kFurther, left - step * kFurther);
        }
      }
    };
    load(depth_warp * Tile::kStep + Sums::depth(lane));
    __syncthreads();  // origins are there; nobody reads the patches of the piece before
    if (first == 0) {
#pragma unroll
      for (int32_t i = 0; i < kEarly; ++i) {
        extras[i] = extra(thread + i * kThreads);
      }
    }
    if (piece.frames % 8 == 0 && Tile::kIsHalf) {
      cut<Tile, T, Tile::kIsHalf ? 8 : 4>(plan, piece, origins, window, patches);
    } else if (piece.frames % 4 == 0 && !Tile::kIsHalf) {
      cut<Tile, T, 4>(plan, piece, origins, window, patches);
    } else if (piece.frames % 2 == 0) {
      cut<Tile, T, 2>(plan, piece, origins, window, patches);
    } else {
      cut<Tile, T, 1>(plan, piece, origins, window, patches);
    }
    __syncthreads();
    for (int32_t start = depth_warp * Tile::kStep; start < piece.length;) {
#pragma unroll
      for (int32_t step = 0; step < Tile::kAhead; ++step) {
        int32_t const depth = start + step * Tile::kDepthWarps * Tile::kStep;
        if (depth < piece.length) {  // the same for all of a warp
          sums.add(patches + warp_row * Tile::kPitch + depth, Tile::kPitch, lane,
                   depth + Sums::depth(lane) < piece.length, weights[step]);
        }
      }
      start += Tile::kAhead * Tile::kDepthWarps * Tile::kStep;
      if (start < piece.length) {
        load(start + Sums::depth(lane));
      }
    }
    first += piece.length;
  }
  __syncthreads();  // the patches make room for the sums
  sums.store(tiles + warp * kWarpRows * kSumPitch, lane);
  __syncthreads();
#pragma unroll
  for (int32_t i = 0; i < Tile::kOutputs; ++i) {
    int32_t const place = thread + i * kThreads;
    int32_t const row = place / Tile::kColumns;
    int32_t const column = place % Tile::kColumns;
    int32_t const owner =
        (column / kWarpColumns * kRowWarps + row / kWarpRows) * Tile::kDepthWarps;
    float sum = kEarly > 0 ? extras[i % (kEarly + 1)] : extra(place);
#pragma unroll
    for (int32_t part = 0; part < Tile::kDepthWarps; ++part) {
      sum += tiles[((owner + part) * kWarpRows + row % kWarpRows) * kSumPitch +
                   column % kWarpColumns];
    }
    if (origins[row].frame >= 0 && first_column + column < dim) {
      tokens[origins[row].token * dim + first_column + column] = from_float<T>(sum);
    }
  }
}

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T, int32_t kRowWarps, int32_t kColumnWarps>
cudaError_t launch(Plan plan, float const* window, void const* weight, void const* addend,
                   void* tokens, cudaStream_t stream) {
  using Tile = Tile<T, kRowWarps, kColumnWarps, true>;
  int32_t const patch_frames = plan.shape.patch_frames;
  plan.tiles = static_cast<int32_t>(
      divide_up(static_cast<int64_t>(plan.shape.batch) * plan.patches, Tile::kRows));
  plan.piece_frames = std::min(patch_frames, Tile::kDepth);
  plan.piece_bins = std::min(plan.shape.patch_bins, Tile::kDepth / plan.piece_frames);
  if (plan.piece_bins < plan.shape.patch_bins && plan.piece_bins >= kGroup) {
    plan.piece_bins -= plan.piece_bins % kGroup;  // pieces begin at whole groups
  }
  bool const is_one = plan.piece_bins * plan.piece_frames == plan.pixels;
  bool const is_grouped = patch_frames > Tile::kDepth
                              ? patch_frames % kGroup == 0
                              : is_one || plan.piece_bins * plan.piece_frames % kGroup == 0;
  plan.is_vector = plan.pixels % kGroup == 0 && is_grouped &&
                   reinterpret_cast<uintptr_t>(weight) % sizeof(uint4) == 0;
  plan.lane_bits = 0;
  while (plan.lane_bits < 5 && 1 << plan.lane_bits < plan.piece_bins) {
    ++plan.lane_bits;
  }
  int64_t const copies = static_cast<int64_t>(plan.shape.batch) * plan.shape.prefix;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<uint32_t>(plan.tiles + divide_up(copies, Tile::kRows)),
                        static_cast<uint32_t>(divide_up(plan.shape.dim, Tile::kColumns)), 1);
  config.blockDim = dim3(kThreads, 1, 1);
  config.dynamicSmemBytes = Tile::kBytes + sizeof(Origin) * Tile::kRows;
  config.stream = stream;
  auto const kernel = plan.is_vector ? &embed<T, kRowWarps, kColumnWarps, true>
                                     : &embed<T, kRowWarps, kColumnWarps, false>;
  return cudaLaunchKernelEx(&config, kernel, plan, window, static_cast<T const*>(weight),
                            static_cast<T const*>(addend), static_cast<T*>(tokens));
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
  // Counts of rows and pixels are int32 in the kernel, offsets into buffers int64.
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  if (static_cast<int64_t>(shape.ring_frames) * shape.bins > kMost || shape.prefix > kMost / 2 ||
      (static_cast<int64_t>(shape.rows()) + 64) * shape.batch > kMost || shape.dim > 1 << 20) {
    return "the window, the batch or the number of channels is too large";
  }
  return nullptr;
}

cudaError_t fused_patch_embed(PatchEmbedShape const& shape, float const* window, void const* weight,
                              void const* addend, void* tokens, TokenType type, float mean,
                              float std, cudaStream_t stream) {
  if (shape_error(shape) != nullptr || !(std > 0.0F)) {
    return cudaErrorInvalidValue;
  }
  int device = 0;
  int processors = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (status != cudaSuccess) {
    return status;
  }
  Plan plan{};
  plan.shape = shape;
  plan.rows = shape.rows();
  plan.patches = plan.rows - shape.prefix;
  plan.grid_frames = shape.grid_frames();
  plan.pixels = shape.pixels();
  plan.mean = mean;
  plan.scale = 1.0F / (2.0F * std);
  bool const is_half = type == TokenType::kHalf;
  // A large tile reads windows and weights less often, but only pays where it keeps the GPU busy.
  int64_t const large_tiles =
      divide_up(static_cast<int64_t>(shape.batch) * plan.patches, 64) * divide_up(shape.dim, 64);
  if (large_tiles >= 2 * static_cast<int64_t>(processors)) {
    return is_half ? launch<__half, 4, 2>(plan, window, weight, addend, tokens, stream)
                   : launch<float, 4, 2>(plan, window, weight, addend, tokens, stream);
  }
  return is_half ? launch<__half, 1, 1>(plan, window, weight, addend, tokens, stream)
                 : launch<float, 1, 1>(plan, window, weight, addend, tokens, stream);
}

}  // namespace ssast_edge
