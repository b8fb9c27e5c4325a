// The kernel's own source on a CPU (cuda_on_cpu), against the double reference.
//
// kernel_on_cpu: a line a shape; ends with status 1 at the first that differs. kernel_on_cpu --shapes: the
// table of the recipes' shapes, a line each, in the order of PatchEmbedShape's members.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>

#include "kernel.cu"
#include "recipe_shapes.h"
#include "reference.h"

namespace {

using ssast_edge::PatchEmbedShape;
using ssast_edge::TokenType;

constexpr float kMean = -4.3F;
constexpr float kStd = 4.1F;
constexpr int32_t kSmallTiles = 1 << 20;  // processors that no grid fills
constexpr int32_t kLargeTiles = 0;        // and that any does

std::mt19937 random_source(0);

int32_t draw(int32_t low, int32_t high) {
  return std::uniform_int_distribution<int32_t>(low, high)(random_source);
}

std::vector<float> noise(size_t count, float mean, float spread) {
  std::normal_distribution<float> normal(mean, spread);
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return normal(random_source); });
  return values;
}

// Exactly as large as the values, so that AddressSanitizer sees what is read beyond them; `shift`
// elements off a 16-byte address.
template <typename T>
struct Values {
  explicit Values(std::vector<float> const& values, size_t shift = 0)
      : memory(new T[values.size() + shift]), data(memory.get() + shift) {
    std::transform(values.begin(), values.end(), data,
                   [](float x) { return ssast_edge::from_float<T>(x); });
  }
  std::unique_ptr<T[]> memory;
  T* data;
};

template <typename T>
void check(PatchEmbedShape const& shape, int32_t processors, cuda_on_cpu::Order order,
           size_t shift) {
  constexpr bool kIsHalf = sizeof(T) == 2;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  size_t const pixels = static_cast<size_t>(shape.batch) * shape.ring_frames * shape.bins;
  auto window = noise(pixels, kMean, kStd);
  for (int32_t clip = 0; clip < shape.batch; ++clip) {  // frames that are not of the window
    for (int32_t frame = shape.frames; frame < shape.ring_frames; ++frame) {
      int32_t const slot = (shape.ring_offset + frame) % shape.ring_frames;
      std::fill_n(window.begin() +
                      (static_cast<int64_t>(clip) * shape.ring_frames + slot) * shape.bins,
                  shape.bins, kNan);
    }
  }
  auto weight = noise(static_cast<size_t>(shape.dim) * shape.pixels(), 0.0F, 0.05F);
  auto addend = noise(static_cast<size_t>(shape.rows()) * shape.dim, 0.0F, 0.5F);
  Values<float> const window_values(window);
  Values<T> const weight_values(weight, shift);
  Values<T> const addend_values(addend);
  size_t const count = static_cast<size_t>(shape.batch) * shape.rows() * shape.dim;
  Values<T> const tokens(std::vector<float>(count, kNan));
  for (size_t i = 0; i < weight.size(); ++i) {  // the reference gets what the kernel gets
    weight[i] = ssast_edge::to_float(weight_values.data[i]);
  }
  for (size_t i = 0; i < addend.size(); ++i) {
    addend[i] = ssast_edge::to_float(addend_values.data[i]);
  }
  cuda_on_cpu::processors = processors;
  cuda_on_cpu::order = order;
  cudaError_t const status = ssast_edge::fused_patch_embed(
      shape, window_values.data, weight_values.data, addend_values.data, tokens.data,
      kIsHalf ? TokenType::kHalf : TokenType::kFloat, kMean, kStd, nullptr);
  auto const wanted = ssast_edge::reference_patch_embed(shape, window, weight, addend, kMean, kStd);
  double worst = 0.0;
  for (size_t i = 0; i < count; ++i) {
    double const value = ssast_edge::to_float(tokens.data[i]);
    double const difference = std::fabs(value - wanted[i]) / (1.0 + std::fabs(wanted[i]));
    worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
  }
  bool const is_right = status == cudaSuccess && worst <= (kIsHalf ? 4e-3 : 1e-5);
  std::printf("%s %s %s B%d T%d F%d patch %dx%d stride %dx%d D%d prefix %d ring %d+%d shift %zu: "
              "error %.2g\n",
              is_right ? "ok  " : "FAIL", kIsHalf ? "half " : "float",
              processors == kLargeTiles ? "large" : "small", shape.batch, shape.frames, shape.bins,
              shape.patch_bins, shape.patch_frames, shape.stride_bins, shape.stride_frames,
              shape.dim, shape.prefix, shape.ring_frames, shape.ring_offset, shift, worst);
  if (!is_right) {
    std::exit(1);
  }
}

void check_all(PatchEmbedShape const& shape, size_t shift = 0) {
  static int32_t turn = 0;
  for (int32_t const processors : {kSmallTiles, kLargeTiles}) {
    auto const order = static_cast<cuda_on_cpu::Order>(turn++ % 3);
    check<float>(shape, processors, order, shift);
    check<__half>(shape, processors, order, shift);
  }
}

void check_refused(PatchEmbedShape const& shape) {
  bool const is_right =
      ssast_edge::shape_error(shape) != nullptr &&
      ssast_edge::fused_patch_embed(shape, nullptr, nullptr, nullptr, nullptr, TokenType::kFloat,
                                    kMean, kStd, nullptr) == cudaErrorInvalidValue;
  std::printf("%s refused: %s\n", is_right ? "ok  " : "FAIL", ssast_edge::shape_error(shape));
  if (!is_right) {
    std::exit(1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  auto recipes = ssast_edge::recipe_shapes();
  if (argc > 1 && std::string(argv[1]) == "--shapes") {
    for (PatchEmbedShape const& s : recipes) {
      std::printf("%d %d %d %d %d %d %d %d %d %d %d\n", s.batch, s.frames, s.bins, s.patch_bins,
                  s.patch_frames, s.stride_bins, s.stride_frames, s.dim, s.prefix, s.ring_frames,
                  s.ring_offset);
    }
    return 0;
  }
  // Columns of blocks are alike: fewer of them, one incomplete one where windows are long.
  std::set<std::tuple<int32_t, int32_t, int32_t, int32_t>> seen;
  for (PatchEmbedShape shape : recipes) {
    shape.dim = std::min<int32_t>(shape.dim, shape.rows() > 100 ? 24 : 96);
    if (seen.insert({shape.frames, shape.patch_bins, shape.stride_frames, shape.dim}).second) {
      check_all(shape);
    }
  }
  std::vector<PatchEmbedShape> const special = {
      {3, 100, 128, 128, 8, 128, 4, 160, 2, 164, 163},  // a ring that wraps, several clips
      {2, 40, 20, 4, 12, 3, 5, 24, 3, 41, 40},
      {1, 17, 5, 3, 7, 2, 3, 33, 0, 40, 31},  // nothing a multiple of anything
      {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0},
      {1, 1100, 3, 2, 1032, 1, 9, 17, 1, 1100, 0},  // a bin deeper than a piece, grouped
      {1, 1100, 2, 2, 1033, 1, 20, 9, 1, 1101, 1},  // and not
      {70, 4, 4, 4, 4, 4, 4, 40, 1, 4, 0},          // more prefix rows than a tile has
  };
  for (PatchEmbedShape const& shape : special) {
    check_all(shape);
  }
  check_all(special[1], 1);  // weights off a 16-byte address
  for (int32_t i = 0; i < 16; ++i) {
    PatchEmbedShape shape{};
    shape.batch = draw(1, 4);
    shape.frames = draw(1, 80);
    shape.bins = draw(1, 64);
    shape.patch_bins = draw(1, shape.bins);
    shape.patch_frames = draw(1, std::min(shape.frames, 24));
    shape.stride_bins = draw(1, 16);
    shape.stride_frames = draw(1, 16);
    shape.dim = draw(1, 100);
    shape.prefix = draw(0, 3);
    shape.ring_frames = shape.frames + draw(0, 50);
    shape.ring_offset = draw(0, shape.ring_frames - 1);
    check_all(shape, draw(0, 3) == 0 ? 1 : 0);
  }
  for (int32_t PatchEmbedShape::*member :
       {&PatchEmbedShape::batch, &PatchEmbedShape::frames, &PatchEmbedShape::bins,
        &PatchEmbedShape::patch_bins, &PatchEmbedShape::patch_frames, &PatchEmbedShape::stride_bins,
        &PatchEmbedShape::stride_frames, &PatchEmbedShape::dim, &PatchEmbedShape::ring_frames}) {
    PatchEmbedShape shape = recipes[0];
    shape.*member = 0;
    check_refused(shape);
  }
  PatchEmbedShape shape = recipes[0];
  shape.ring_offset = shape.ring_frames;
  check_refused(shape);
  shape = recipes[0];
  shape.batch = 1 << 30;
  check_refused(shape);
  shape = recipes[0];
  shape.frames = shape.ring_frames = 1 << 30;
  check_refused(shape);
  std::puts("all right");
  return 0;
}
