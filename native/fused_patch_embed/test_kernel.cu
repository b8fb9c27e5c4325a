// Checks the kernel against a double reference on a GPU and times it beside the unfused sequence.
//
// Exit status: 0 all right, 1 something differs, 77 no GPU here (ctest: skipped). Prints a line a
// shape; --json FILE also writes the times; --quick: small shapes once, without times, which is what
// compute-sanitizer has patience for. A time is of one launch among many in a row. Floors:
// that of a kernel that does nothing, and that of moving once what must be read and written at the
// speed of a large copy on the same device.

#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "recipe_shapes.h"
#include "reference.h"

namespace {

using ssast_edge::PatchEmbedShape;
using ssast_edge::TokenType;

#define CHECK(call)                                                     \
  do {                                                                  \
    cudaError_t const status_ = (call);                                 \
    if (status_ != cudaSuccess) {                                       \
      std::fprintf(stderr, "%s:%d %s: %s\n", __FILE__, __LINE__, #call, \
                   cudaGetErrorString(status_));                        \
      std::exit(1);                                                     \
    }                                                                   \
  } while (false)

// Memory on the device that is filled with NaNs first, so that what is not written shows.
class Buffer {
 public:
  explicit Buffer(size_t bytes) {
    CHECK(cudaMalloc(&data_, bytes));
    CHECK(cudaMemset(data_, 0xFF, bytes));
  }
  Buffer(void const* host, size_t bytes) : Buffer(bytes) {
    CHECK(cudaMemcpy(data_, host, bytes, cudaMemcpyHostToDevice));
  }
  Buffer(Buffer const&) = delete;
  Buffer& operator=(Buffer const&) = delete;
  ~Buffer() { cudaFree(data_); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

std::vector<float> noise(std::mt19937& random, size_t count, float mean, float spread) {
  std::normal_distribution<float> draw(mean, spread);
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return draw(random); });
  return values;
}

std::vector<__half> halves(std::vector<float> const& values) {
  std::vector<__half> out(values.size());
  std::transform(values.begin(), values.end(), out.begin(),
                 [](float x) { return __float2half(x); });
  return out;
}

__global__ void nothing() {}

// The unfused sequence, as a framework launches it: normalise, gather patches, multiply, add.
__global__ void normalise(float const* in, float* out, int64_t count, float mean, float scale) {
  int64_t const i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i < count) {
    out[i] = (in[i] - mean) * scale;
  }
}

__global__ void gather(PatchEmbedShape shape, float const* in, float* out) {
  int64_t const count =
      static_cast<int64_t>(shape.batch) * (shape.rows() - shape.prefix) * shape.pixels();
  int64_t const i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i < count) {
    int32_t const k = static_cast<int32_t>(i % shape.pixels());
    int64_t const patch = i / shape.pixels() % (shape.rows() - shape.prefix);
    int64_t const clip = i / shape.pixels() / (shape.rows() - shape.prefix);
    int64_t const frame =
        patch % shape.grid_frames() * shape.stride_frames + k % shape.patch_frames;
    int64_t const bin = patch / shape.grid_frames() * shape.stride_bins + k / shape.patch_frames;
    out[i] = in[(clip * shape.frames + frame) * shape.bins + bin];
  }
}

__global__ void multiply(float const* patches, float const* weight, float* out, int64_t rows,
                         int32_t dim, int32_t depth) {
  __shared__ float left[16][17];
  __shared__ float right[16][17];
  int64_t const row = blockIdx.x * 16LL + threadIdx.y;
  int32_t const column = blockIdx.y * 16 + threadIdx.x;
  float sum = 0.0F;
  for (int32_t start = 0; start < depth; start += 16) {
    int32_t const k = start + threadIdx.x;
    int32_t const other = blockIdx.y * 16 + threadIdx.y;
    left[threadIdx.y][threadIdx.x] = row < rows && k < depth ? patches[row * depth + k] : 0.0F;
    right[threadIdx.y][threadIdx.x] =
        other < dim && k < depth ? weight[static_cast<int64_t>(other) * depth + k] : 0.0F;
    __syncthreads();
    for (int32_t i = 0; i < 16; ++i) {
      sum = fmaf(left[threadIdx.y][i], right[threadIdx.x][i], sum);
    }
    __syncthreads();
  }
  if (row < rows && column < dim) {
    out[row * dim + column] = sum;
  }
}

__global__ void add_rows(PatchEmbedShape shape, float const* projected, float const* addend,
                         float* tokens) {
  int64_t const count = static_cast<int64_t>(shape.batch) * shape.rows() * shape.dim;
  int64_t const i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i < count) {
    int32_t const channel = static_cast<int32_t>(i % shape.dim);
    int64_t const row = i / shape.dim % shape.rows();
    int64_t const clip = i / shape.dim / shape.rows();
    int64_t const patch = row - shape.prefix;
    float const value =
        patch < 0 ? 0.0F
                  : projected[(clip * (shape.rows() - shape.prefix) + patch) * shape.dim + channel];
    tokens[i] = value + addend[row * shape.dim + channel];
  }
}

template <typename Launch>
float microseconds(Launch const& launch) {
  cudaEvent_t start;
  cudaEvent_t stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  for (int32_t i = 0; i < 20; ++i) {
    launch();
  }
  std::vector<float> times;
  for (int32_t round = 0; round < 21; ++round) {
    CHECK(cudaEventRecord(start));
    for (int32_t i = 0; i < 50; ++i) {
      launch();
    }
    CHECK(cudaEventRecord(stop));
    CHECK(cudaEventSynchronize(stop));
    float ms = 0.0F;
    CHECK(cudaEventElapsedTime(&ms, start, stop));
    times.push_back(ms * 1000.0F / 50.0F);
  }
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(stop));
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

struct Floors {
  float launch_us;
  float bytes_per_us;
};

Floors floors_of_device() {
  constexpr size_t kBytes = 64 << 20;
  Buffer const from(kBytes);
  Buffer const to(kBytes);
  float const launch_us = microseconds([] {
    nothing<<<1, 32>>>();
    CHECK(cudaGetLastError());
  });
  float const copy_us = microseconds([&] {
    CHECK(cudaMemcpyAsync(to.as<void>(), from.as<void>(), kBytes, cudaMemcpyDeviceToDevice));
  });
  return {launch_us, 2.0F * kBytes / copy_us};
}

struct Outcome {
  bool is_right;
  double worst;
  float fused_us;
  float unfused_us;  // NaN where it is not timed
  float copy_us;     // floor of memory
};

Outcome check(PatchEmbedShape const& shape, TokenType type, Floors const& floors, bool is_timed,
              std::mt19937& random) {
  float const mean = -4.3F;
  float const std = 4.1F;
  auto const window =
      noise(random, static_cast<size_t>(shape.batch) * shape.ring_frames * shape.bins, mean, std);
  auto weight = noise(random, static_cast<size_t>(shape.dim) * shape.pixels(), 0.0F, 0.05F);
  auto addend = noise(random, static_cast<size_t>(shape.rows()) * shape.dim, 0.0F, 0.5F);
  bool const is_half = type == TokenType::kHalf;
  auto const weight_half = halves(weight);
  auto const addend_half = halves(addend);
  if (is_half)  // the reference computes with what the kernel is given
  {
    std::transform(weight_half.begin(), weight_half.end(), weight.begin(),
                   [](__half x) { return __half2float(x); });
    std::transform(addend_half.begin(), addend_half.end(), addend.begin(),
                   [](__half x) { return __half2float(x); });
  }
  size_t const size = is_half ? sizeof(__half) : sizeof(float);
  size_t const count = static_cast<size_t>(shape.batch) * shape.rows() * shape.dim;
  Buffer const window_gpu(window.data(), window.size() * sizeof(float));
  Buffer const weight_gpu(is_half ? static_cast<void const*>(weight_half.data()) : weight.data(),
                          weight.size() * size);
  Buffer const addend_gpu(is_half ? static_cast<void const*>(addend_half.data()) : addend.data(),
                          addend.size() * size);
  Buffer const tokens_gpu(count * size + 256);  // 256 bytes that must stay as they are
  auto const launch = [&] {
    CHECK(ssast_edge::fused_patch_embed(shape, window_gpu.as<float>(), weight_gpu.as<void>(),
                                        addend_gpu.as<void>(), tokens_gpu.as<void>(), type, mean,
                                        std, nullptr));
  };
  launch();
  CHECK(cudaDeviceSynchronize());
  std::vector<unsigned char> raw(count * size + 256);
  CHECK(cudaMemcpy(raw.data(), tokens_gpu.as<void>(), raw.size(), cudaMemcpyDeviceToHost));
  auto const wanted = ssast_edge::reference_patch_embed(shape, window, weight, addend, mean, std);
  double worst = 0.0;
  for (size_t i = 0; i < count; ++i) {
    float value = 0.0F;
    if (is_half) {
      __half half;
      std::memcpy(&half, &raw[i * size], size);
      value = __half2float(half);
    } else {
      std::memcpy(&value, &raw[i * size], size);
    }
    double const difference = std::fabs(value - wanted[i]) / (1.0 + std::fabs(wanted[i]));
    worst = std::isnan(value) ? INFINITY : std::max(worst, difference);
  }
  bool const is_kept =
      std::all_of(raw.end() - 256, raw.end(), [](unsigned char x) { return x == 0xFF; });
  double const allowed = is_half ? 4e-3 : 1e-5;
  bool const is_right = worst <= allowed && is_kept;

  float const fused = is_timed ? microseconds(launch) : NAN;
  float unfused = NAN;
  if (is_timed && !is_half && shape.ring_frames == shape.frames) {
    int32_t const patches = shape.batch * (shape.rows() - shape.prefix);
    int64_t const values = static_cast<int64_t>(window.size());
    int64_t const gathered = static_cast<int64_t>(patches) * shape.pixels();
    Buffer const normal(values * sizeof(float));
    Buffer const rows(gathered * sizeof(float));
    Buffer const projected(static_cast<size_t>(patches) * shape.dim * sizeof(float));
    dim3 const grid((patches + 15) / 16, (shape.dim + 15) / 16);
    unfused = microseconds([&] {
      normalise<<<(values + 255) / 256, 256>>>(window_gpu.as<float>(), normal.as<float>(), values,
                                               mean, 0.5F / std);
      gather<<<(gathered + 255) / 256, 256>>>(shape, normal.as<float>(), rows.as<float>());
      multiply<<<grid, dim3(16, 16)>>>(rows.as<float>(), weight_gpu.as<float>(),
                                       projected.as<float>(), patches, shape.dim, shape.pixels());
      add_rows<<<(count + 255) / 256, 256>>>(shape, projected.as<float>(), addend_gpu.as<float>(),
                                             tokens_gpu.as<float>());
      CHECK(cudaGetLastError());
    });
  }
  size_t const moved = window.size() * sizeof(float) +
                       (weight.size() + addend.size() + count) * size;
  float const copy_us = static_cast<float>(moved) / floors.bytes_per_us;
  std::printf(
      "%s %s B%d T%d F%d patch %dx%d stride %dx%d D%d prefix %d ring %d+%d: error %.2g (allowed "
      "%.0g)%s, %.2f us, unfused %.2f us, floors %.2f and %.2f us\n",
      is_right ? "ok  " : "FAIL", is_half ? "half " : "float", shape.batch, shape.frames,
      shape.bins, shape.patch_bins, shape.patch_frames, shape.stride_bins, shape.stride_frames,
      shape.dim, shape.prefix, shape.ring_frames, shape.ring_offset, worst, allowed,
      is_kept ? "" : ", wrote beyond the end", fused, unfused, floors.launch_us, copy_us);
  return {is_right, worst, fused, unfused, copy_us};
}

// One object of the JSON file; numbers that are not there are null.
void write(std::FILE* file, PatchEmbedShape const& shape, TokenType type, Outcome const& outcome) {
  std::fprintf(file,
               "{\"batch\": %d, \"frames\": %d, \"bins\": %d, \"patch_bins\": %d, "
               "\"patch_frames\": %d, \"stride_bins\": %d, \"stride_frames\": %d, \"dim\": %d, "
               "\"prefix\": %d, \"half\": %s, \"right\": %s, \"fused_us\": %.3f, "
               "\"copy_us\": %.3f, \"unfused_us\": ",
               shape.batch, shape.frames, shape.bins, shape.patch_bins, shape.patch_frames,
               shape.stride_bins, shape.stride_frames, shape.dim, shape.prefix,
               type == TokenType::kHalf ? "true" : "false", outcome.is_right ? "true" : "false",
               outcome.fused_us, outcome.copy_us);
  if (std::isnan(outcome.unfused_us)) {
    std::fputs("null}", file);
  } else {
    std::fprintf(file, "%.3f}", outcome.unfused_us);
  }
}

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "no CUDA device: not run\n");
    return 77;
  }
  std::FILE* json = nullptr;
  if (argc == 3 && std::strcmp(argv[1], "--json") == 0) {
    json = std::fopen(argv[2], "w");
  }
  bool const is_quick = argc == 2 && std::strcmp(argv[1], "--quick") == 0;
  if (argc != 1 && !is_quick && json == nullptr) {
    std::fprintf(stderr, "usage: %s [--quick | --json FILE], FILE in a folder that is there\n",
                 argv[0]);
    return 1;
  }
  cudaDeviceProp properties{};
  CHECK(cudaGetDeviceProperties(&properties, 0));
  Floors const floors = is_quick ? Floors{NAN, NAN} : floors_of_device();
  std::printf("%s, compute capability %d.%d, a launch %.2f us, a copy %.1f GB/s\n", properties.name,
              properties.major, properties.minor, floors.launch_us, floors.bytes_per_us / 1e3F);
  auto shapes = ssast_edge::recipe_shapes();
  size_t const recipes = shapes.size();
  PatchEmbedShape several = shapes[0];  // clips at a time, on a grid that fills the GPU
  several.batch = 64;
  shapes.push_back(several);
  std::vector<PatchEmbedShape> const special = {
      {3, 100, 128, 128, 8, 128, 4, 160, 2, 164, 163},
      {1, 17, 5, 3, 7, 2, 3, 33, 0, 40, 31},
      {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0},
      {1, 1100, 3, 2, 1032, 1, 9, 17, 1, 1100, 0},
      {1, 1100, 2, 2, 1033, 1, 20, 9, 1, 1101, 1},
      {70, 4, 4, 4, 4, 4, 4, 40, 1, 4, 0},
  };
  shapes.insert(shapes.end(), special.begin(), special.end());
  std::mt19937 random(0);
  auto const draw = [&](int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random);
  };
  for (int32_t i = 0; i < 40; ++i) {
    PatchEmbedShape shape{};
    shape.batch = draw(1, 4);
    shape.frames = draw(1, 200);
    shape.bins = draw(1, 128);
    shape.patch_bins = draw(1, shape.bins);
    shape.patch_frames = draw(1, std::min(shape.frames, 16));
    shape.stride_bins = draw(1, 16);
    shape.stride_frames = draw(1, 16);
    shape.dim = draw(1, 300);
    shape.prefix = draw(0, 3);
    shape.ring_frames = shape.frames + draw(0, 50);
    shape.ring_offset = draw(0, shape.ring_frames - 1);
    shapes.push_back(shape);
  }
  bool is_right = true;
  if (json != nullptr) {
    std::fprintf(json,
                 "{\"device\": \"%s\", \"launch_us\": %.3f, \"copy_gb_per_s\": %.1f, "
                 "\"shapes\": [",
                 properties.name, floors.launch_us, floors.bytes_per_us / 1e3F);
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (is_quick && static_cast<int64_t>(shapes[i].rows()) * shapes[i].batch > 300) {
      continue;
    }
    for (TokenType const type : {TokenType::kFloat, TokenType::kHalf}) {
      Outcome const outcome = check(shapes[i], type, floors, !is_quick, random);
      is_right = outcome.is_right && is_right;
      if (json != nullptr && i <= recipes) {
        std::fputs(i == 0 && type == TokenType::kFloat ? "\n" : ",\n", json);
        write(json, shapes[i], type, outcome);
      }
    }
  }
  if (json != nullptr) {
    std::fputs("\n]}\n", json);
    if (std::fclose(json) != 0) {
      std::fprintf(stderr, "cannot write %s\n", argv[2]);
      is_right = false;
    }
  }
  PatchEmbedShape wrong = shapes[0];
  wrong.ring_offset = wrong.ring_frames;
  is_right =
      ssast_edge::fused_patch_embed(wrong, nullptr, nullptr, nullptr, nullptr, TokenType::kFloat,
                                    0.0F, 1.0F, nullptr) == cudaErrorInvalidValue &&
      is_right;
  std::puts(is_right ? "all right" : "SOMETHING DIFFERS");
  return is_right ? 0 : 1;
}
