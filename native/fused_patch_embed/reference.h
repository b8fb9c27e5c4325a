// What the kernel computes, on the host and in double: what tests compare with.
#pragma once

#include <vector>

#include "kernel.h"

namespace ssast_edge {

// Arguments as of `fused_patch_embed`; returns (B, rows, D).
std::vector<double> reference_patch_embed(PatchEmbedShape const& shape,
                                          std::vector<float> const& window,
                                          std::vector<float> const& weight,
                                          std::vector<float> const& addend, double mean,
                                          double std);

}  // namespace ssast_edge
