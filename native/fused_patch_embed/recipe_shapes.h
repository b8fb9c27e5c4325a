// The shapes of train/recipes at batch 1, each once. tests/native compares the table with the
// recipes themselves.
#pragma once

#include <vector>

#include "kernel.h"

namespace ssast_edge {

// Frames, patches and prefix tokens as in a recipe; 128 bins, no ring.
inline std::vector<PatchEmbedShape> recipe_shapes() {
  struct Recipe {
    int32_t frames, patch_bins, patch_frames, stride_bins, stride_frames, dim;
    int32_t prefix = 2;
  };
  constexpr Recipe kRecipes[] = {
      {152, 128, 8, 128, 4, 160},   // wake_words, joint
      {152, 128, 8, 128, 4, 192},   // wake_words_5, phones_packs_edge
      {104, 128, 8, 128, 4, 192},   // commands
      {156, 128, 8, 128, 4, 192, 0},  // wake_words_stream: a causal encoder has none
      {304, 128, 8, 128, 8, 192},   // sounds
      {256, 128, 8, 128, 8, 192},   // pretrain_packs_edge
      {98, 128, 2, 128, 2, 192},    // speech_commands_packs
      {128, 128, 2, 128, 2, 192},   // pretrain_packs_frame
      {128, 16, 16, 16, 16, 192},   // esc10_packs, pretrain_packs_patch
      {256, 16, 32, 16, 32, 128},   // esc50_packs, pretrain_esc50_packs
      {1024, 128, 2, 128, 2, 192},  // pretrain_tiny_frame
      {1024, 16, 16, 16, 16, 192},  // pretrain_tiny_patch
      {1024, 128, 2, 128, 2, 384},  // pretrain_small_frame
      {1024, 16, 16, 16, 16, 384},  // pretrain_small_patch
      {1024, 128, 2, 128, 2, 768},  // pretrain_base_frame
      {1024, 16, 16, 16, 16, 768},  // pretrain_base_patch
      {100, 128, 2, 128, 1, 768},   // speech_commands_v1_12_frame
      {128, 128, 2, 128, 1, 768},   // speech_commands_v2_35_frame
      {512, 128, 2, 128, 1, 768},   // esc50_frame
      {512, 16, 16, 10, 10, 768},   // esc50_patch
      {600, 128, 2, 128, 1, 768},   // iemocap_frame
      {1000, 128, 2, 128, 1, 768},  // voxceleb1_frame
      {1024, 16, 16, 10, 10, 768},  // audioset_patch, audioset20k_patch
  };
  std::vector<PatchEmbedShape> shapes;
  for (Recipe const& recipe : kRecipes) {
    shapes.push_back({1, recipe.frames, 128, recipe.patch_bins, recipe.patch_frames,
                      recipe.stride_bins, recipe.stride_frames, recipe.dim, recipe.prefix,
                      recipe.frames, 0});
  }
  return shapes;
}

}  // namespace ssast_edge
