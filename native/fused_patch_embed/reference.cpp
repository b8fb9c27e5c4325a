#include "reference.h"

namespace ssast_edge {

std::vector<double> reference_patch_embed(PatchEmbedShape const& shape,
                                          std::vector<float> const& window,
                                          std::vector<float> const& weight,
                                          std::vector<float> const& addend, double mean,
                                          double std) {
  int32_t const rows = shape.rows();
  std::vector<double> tokens(static_cast<size_t>(shape.batch) * rows * shape.dim);
  std::vector<double> pixels(static_cast<size_t>(shape.pixels()));
  size_t place = 0;
  for (int32_t clip = 0; clip < shape.batch; ++clip) {
    for (int32_t row = 0; row < rows; ++row) {
      int32_t const patch = row - shape.prefix;
      for (int32_t k = 0; patch >= 0 && k < shape.pixels(); ++k) {
        int32_t const frame =
            patch % shape.grid_frames() * shape.stride_frames + k % shape.patch_frames;
        int32_t const bin =
            patch / shape.grid_frames() * shape.stride_bins + k / shape.patch_frames;
        size_t const slot = static_cast<size_t>(clip) * shape.ring_frames +
                            (shape.ring_offset + frame) % shape.ring_frames;
        pixels[k] = (window[slot * shape.bins + bin] - mean) / (2.0 * std);
      }
      for (int32_t channel = 0; channel < shape.dim; ++channel) {
        double sum = addend[static_cast<size_t>(row) * shape.dim + channel];
        float const* const weights = &weight[static_cast<size_t>(channel) * shape.pixels()];
        for (int32_t k = 0; patch >= 0 && k < shape.pixels(); ++k) {
          sum += weights[k] * pixels[k];
        }
        tokens[place++] = sum;
      }
    }
  }
  return tokens;
}

}  // namespace ssast_edge
