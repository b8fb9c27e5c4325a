// TensorRT's view of the kernel: ssast_edge::FusedPatchEmbed, version 1.
//
// Inputs: window (B, T, F) float; weight (D, 1, patch bins, patch frames) and addend (1, rows, D),
// both float or both half. Output: tokens (B, rows, D), of the type of the addend.
#pragma once

#include <NvInferRuntime.h>

#include <array>

#include "kernel.h"

namespace ssast_edge {

struct PluginAttributes {
  float mean = 0.0F;  // of the raw log-mel
  float std = 0.0F;   // above 0 in a plugin
  int32_t stride_bins = 0;
  int32_t stride_frames = 0;
};

class FusedPatchEmbedPlugin : public nvinfer1::IPluginV3,
                              public nvinfer1::IPluginV3OneCore,
                              public nvinfer1::IPluginV3OneBuild,
                              public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit FusedPatchEmbedPlugin(PluginAttributes const& attributes) noexcept;
  FusedPatchEmbedPlugin(FusedPatchEmbedPlugin const&) = delete;  // fields_ point into attributes_
  FusedPatchEmbedPlugin& operator=(FusedPatchEmbedPlugin const&) = delete;

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  char const* getPluginName() const noexcept override;
  char const* getPluginVersion() const noexcept override;
  char const* getPluginNamespace() const noexcept override;

  int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs,
                          nvinfer1::DynamicPluginTensorDesc const* out,
                          int32_t nbOutputs) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs,
                             nvinfer1::DataType const* inputTypes,
                             int32_t nbInputs) const noexcept override;
  int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
                          nvinfer1::DimsExprs const* shapeInputs, int32_t nbShapeInputs,
                          nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
                          nvinfer1::IExprBuilder& exprBuilder) noexcept override;
  bool supportsFormatCombination(int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut,
                                 int32_t nbInputs, int32_t nbOutputs) noexcept override;
  int32_t getNbOutputs() const noexcept override;

  int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs,
                        nvinfer1::PluginTensorDesc const* out, int32_t nbOutputs) noexcept override;
  int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc,
                  nvinfer1::PluginTensorDesc const* outputDesc, void const* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

 private:
  // The kernel's shape; false, with a line in the log that says why, when they do not fit.
  bool shape_of(nvinfer1::Dims const& window, nvinfer1::Dims const& weight,
                nvinfer1::Dims const& addend, PatchEmbedShape& shape) const noexcept;

  PluginAttributes attributes_;
  std::array<nvinfer1::PluginField, 4> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

class FusedPatchEmbedCreator : public nvinfer1::IPluginCreatorV3One {
 public:
  FusedPatchEmbedCreator() noexcept;

  nvinfer1::IPluginV3* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
  char const* getPluginName() const noexcept override;
  char const* getPluginVersion() const noexcept override;
  char const* getPluginNamespace() const noexcept override;

 private:
  std::array<nvinfer1::PluginField, 4> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace ssast_edge
