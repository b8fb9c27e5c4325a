#include "plugin.h"

#include <NvInferVersion.h>
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>

namespace ssast_edge {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr char const* kName = "FusedPatchEmbed";
constexpr char const* kVersion = "1";
constexpr char const* kNamespace = "ssast_edge";

// The logger belongs to whoever loads this library (setLoggerFinder below).
nvinfer1::ILoggerFinder* logger_finder = nullptr;
std::mutex logger_mutex;

// TensorRT 11 put a base class under ILogger and ILoggerFinder: to call those of another major
// version than that of these headers would be to call another of their functions.
bool is_logger_ours() noexcept {
  using Version = int32_t (*)();
  auto const version = reinterpret_cast<Version>(dlsym(RTLD_DEFAULT, "getInferLibVersion"));
  return version != nullptr && version() / 10000 == NV_TENSORRT_MAJOR;
}

// Nothing here throws into TensorRT: no allocation but by nothrow new, and a lock that fails is
// caught. Without a logger that it can trust it speaks on stderr.
void complain(char const* format, ...) noexcept {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  try {
    std::lock_guard<std::mutex> const lock(logger_mutex);
    nvinfer1::ILogger* const logger =
        logger_finder == nullptr || !is_logger_ours() ? nullptr : logger_finder->findLogger();
    if (logger != nullptr) {
      logger->log(nvinfer1::ILogger::Severity::kERROR, line);
      return;
    }
  } catch (...) {  // said on stderr instead
  }
  std::fprintf(stderr, "%s\n", line);
}

// Reads one field of the wanted type and length 1; false, with a line that says why, otherwise.
template <typename T>
bool read(PluginField const& field, PluginFieldType type, T& value) noexcept {
  if (field.type != type || field.length != 1 || field.data == nullptr) {
    complain("%s: attribute %s has type %d and length %d, wanted type %d and length 1", kName,
             field.name, static_cast<int>(field.type), field.length, static_cast<int>(type));
    return false;
  }
  std::memcpy(&value, field.data, sizeof value);
  return true;
}

}  // namespace

FusedPatchEmbedPlugin::FusedPatchEmbedPlugin(PluginAttributes const& attributes) noexcept
    : attributes_(attributes),
      fields_{
          PluginField("mean", &attributes_.mean, PluginFieldType::kFLOAT32, 1),
          PluginField("std", &attributes_.std, PluginFieldType::kFLOAT32, 1),
          PluginField("stride_bins", &attributes_.stride_bins, PluginFieldType::kINT32, 1),
          PluginField("stride_frames", &attributes_.stride_frames, PluginFieldType::kINT32, 1),
      } {
  collection_.nbFields = static_cast<int32_t>(fields_.size());
  collection_.fields = fields_.data();
}

nvinfer1::IPluginCapability* FusedPatchEmbedPlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* FusedPatchEmbedPlugin::clone() noexcept {
  return new (std::nothrow) FusedPatchEmbedPlugin(attributes_);
}

char const* FusedPatchEmbedPlugin::getPluginName() const noexcept { return kName; }

char const* FusedPatchEmbedPlugin::getPluginVersion() const noexcept { return kVersion; }

char const* FusedPatchEmbedPlugin::getPluginNamespace() const noexcept { return kNamespace; }

int32_t FusedPatchEmbedPlugin::configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in,
                                               int32_t nbInputs,
                                               nvinfer1::DynamicPluginTensorDesc const* /*out*/,
                                               int32_t nbOutputs) noexcept {
  if (nbInputs != 3 || nbOutputs != 1) {
    complain("%s: %d inputs and %d outputs, wanted 3 and 1", kName, nbInputs, nbOutputs);
    return 1;
  }
  PatchEmbedShape shape{};
  nvinfer1::Dims const& weight = in[1].desc.dims;
  nvinfer1::Dims const& addend = in[2].desc.dims;
  return shape_of(in[0].min, weight, addend, shape) && shape_of(in[0].max, weight, addend, shape)
             ? 0
             : 1;
}

bool FusedPatchEmbedPlugin::shape_of(nvinfer1::Dims const& window, nvinfer1::Dims const& weight,
                                     nvinfer1::Dims const& addend,
                                     PatchEmbedShape& shape) const noexcept {
  if (window.nbDims != 3 || weight.nbDims != 4 || weight.d[1] != 1 || addend.nbDims != 3 ||
      addend.d[0] != 1) {
    complain(
        "%s: wanted a window (B, T, F), a weight (D, 1, bins, frames) and an addend (1, rows, D)",
        kName);
    return false;
  }
  for (nvinfer1::Dims const* dims : {&window, &weight, &addend}) {
    for (int32_t i = 0; i < dims->nbDims; ++i) {  // int64 since TensorRT 10
      if (dims->d[i] > std::numeric_limits<int32_t>::max()) {
        complain("%s: a dimension of %lld is too large", kName,
                 static_cast<long long>(dims->d[i]));
        return false;
      }
    }
  }
  shape = PatchEmbedShape{};
  // Open or empty while a network is checked; an empty one never reaches the kernel.
  shape.batch = std::max<int32_t>(static_cast<int32_t>(window.d[0]), 1);
  shape.frames = shape.ring_frames = static_cast<int32_t>(window.d[1]);
  shape.bins = static_cast<int32_t>(window.d[2]);
  shape.patch_bins = static_cast<int32_t>(weight.d[2]);
  shape.patch_frames = static_cast<int32_t>(weight.d[3]);
  shape.stride_bins = attributes_.stride_bins;
  shape.stride_frames = attributes_.stride_frames;
  shape.dim = static_cast<int32_t>(weight.d[0]);
  if (char const* const error = shape_error(shape)) {
    complain("%s: %s: window %dx%d (frames x bins), patch %dx%d, stride %dx%d (bins x frames)",
             kName, error, shape.frames, shape.bins, shape.patch_bins, shape.patch_frames,
             shape.stride_bins, shape.stride_frames);
    return false;
  }
  int32_t const patches = shape.rows();
  if (addend.d[1] < patches || addend.d[2] != weight.d[0]) {
    complain("%s: the window has %d patches of %d channels, the addend is %dx%d", kName, patches,
             shape.dim, static_cast<int>(addend.d[1]), static_cast<int>(addend.d[2]));
    return false;
  }
  shape.prefix = static_cast<int32_t>(addend.d[1]) - patches;
  return true;
}

int32_t FusedPatchEmbedPlugin::getOutputDataTypes(DataType* outputTypes, int32_t nbOutputs,
                                                  DataType const* inputTypes,
                                                  int32_t nbInputs) const noexcept {
  if (nbOutputs != 1 || nbInputs != 3) {
    return 1;
  }
  outputTypes[0] = inputTypes[2];
  return 0;
}

int32_t FusedPatchEmbedPlugin::getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
                                               nvinfer1::DimsExprs const* /*shapeInputs*/,
                                               int32_t /*nbShapeInputs*/,
                                               nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
                                               nvinfer1::IExprBuilder& /*exprBuilder*/) noexcept {
  if (nbInputs != 3 || nbOutputs != 1 || inputs[0].nbDims != 3 || inputs[2].nbDims != 3) {
    complain("%s: wanted a window (B, T, F) and an addend (1, rows, D)", kName);
    return 1;
  }
  outputs[0].nbDims = 3;
  outputs[0].d[0] = inputs[0].d[0];
  outputs[0].d[1] = inputs[2].d[1];
  outputs[0].d[2] = inputs[2].d[2];
  return 0;
}

bool FusedPatchEmbedPlugin::supportsFormatCombination(
    int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut, int32_t nbInputs,
    int32_t nbOutputs) noexcept {
  if (nbInputs != 3 || nbOutputs != 1 ||
      inOut[pos].desc.format != nvinfer1::TensorFormat::kLINEAR) {
    return false;
  }
  DataType const type = inOut[pos].desc.type;
  if (pos == 0) {
    return type == DataType::kFLOAT;
  }
  bool const known = type == DataType::kFLOAT || type == DataType::kHALF;
  return known && (pos == 1 || type == inOut[1].desc.type);
}

int32_t FusedPatchEmbedPlugin::getNbOutputs() const noexcept { return 1; }

int32_t FusedPatchEmbedPlugin::onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs,
                                             nvinfer1::PluginTensorDesc const* /*out*/,
                                             int32_t nbOutputs) noexcept {
  PatchEmbedShape shape{};
  return nbInputs == 3 && nbOutputs == 1 &&
                 shape_of(in[0].dims, in[1].dims, in[2].dims, shape)
             ? 0
             : 1;
}

int32_t FusedPatchEmbedPlugin::enqueue(nvinfer1::PluginTensorDesc const* inputDesc,
                                       nvinfer1::PluginTensorDesc const* /*outputDesc*/,
                                       void const* const* inputs, void* const* outputs,
                                       void* /*workspace*/, cudaStream_t stream) noexcept {
  if (inputDesc[0].dims.nbDims == 3 && inputDesc[0].dims.d[0] == 0) {
    return 0;
  }
  PatchEmbedShape shape{};
  if (!shape_of(inputDesc[0].dims, inputDesc[1].dims, inputDesc[2].dims, shape)) {
    return 1;
  }
  TokenType const type =
      inputDesc[1].type == DataType::kHALF ? TokenType::kHalf : TokenType::kFloat;
  cudaError_t const status =
      fused_patch_embed(shape, static_cast<float const*>(inputs[0]), inputs[1], inputs[2],
                        outputs[0], type, attributes_.mean, attributes_.std, stream);
  if (status != cudaSuccess) {
    complain("%s: the kernel does not start: %s", kName, cudaGetErrorString(status));
    return 1;
  }
  return 0;
}

nvinfer1::IPluginV3* FusedPatchEmbedPlugin::attachToContext(
    nvinfer1::IPluginResourceContext* /*context*/) noexcept {
  return clone();
}

nvinfer1::PluginFieldCollection const* FusedPatchEmbedPlugin::getFieldsToSerialize() noexcept {
  return &collection_;
}

FusedPatchEmbedCreator::FusedPatchEmbedCreator() noexcept
    : fields_{
          PluginField("mean", nullptr, PluginFieldType::kFLOAT32, 1),
          PluginField("std", nullptr, PluginFieldType::kFLOAT32, 1),
          PluginField("stride_bins", nullptr, PluginFieldType::kINT32, 1),
          PluginField("stride_frames", nullptr, PluginFieldType::kINT32, 1),
      } {
  collection_.nbFields = static_cast<int32_t>(fields_.size());
  collection_.fields = fields_.data();
}

nvinfer1::IPluginV3* FusedPatchEmbedCreator::createPlugin(
    char const* /*name*/, nvinfer1::PluginFieldCollection const* fields,
    nvinfer1::TensorRTPhase /*phase*/) noexcept {
  PluginAttributes attributes;
  if (fields == nullptr) {
    complain("%s: no attributes", kName);
    return nullptr;
  }
  int32_t found = 0;
  for (int32_t i = 0; i < fields->nbFields; ++i) {
    PluginField const& field = fields->fields[i];
    auto const is_named = [&](char const* name) {
      return field.name != nullptr && std::strcmp(field.name, name) == 0;
    };
    bool is_read = true;
    if (is_named("mean")) {
      is_read = read(field, PluginFieldType::kFLOAT32, attributes.mean);
    } else if (is_named("std")) {
      is_read = read(field, PluginFieldType::kFLOAT32, attributes.std);
    } else if (is_named("stride_bins")) {
      is_read = read(field, PluginFieldType::kINT32, attributes.stride_bins);
    } else if (is_named("stride_frames")) {
      is_read = read(field, PluginFieldType::kINT32, attributes.stride_frames);
    } else {
      continue;  // plugin_version and plugin_namespace come along
    }
    if (!is_read) {
      return nullptr;
    }
    ++found;
  }
  if (found != 4) {
    complain("%s: wanted the attributes mean, std, stride_bins and stride_frames, got %d of them",
             kName, found);
    return nullptr;
  }
  if (!std::isfinite(attributes.mean) || !std::isfinite(attributes.std) ||
      !(attributes.std > 0.0F)) {
    complain("%s: mean %g and std %g: wanted finite ones, std above 0", kName,
             static_cast<double>(attributes.mean), static_cast<double>(attributes.std));
    return nullptr;
  }
  return new (std::nothrow) FusedPatchEmbedPlugin(attributes);
}

nvinfer1::PluginFieldCollection const* FusedPatchEmbedCreator::getFieldNames() noexcept {
  return &collection_;
}

char const* FusedPatchEmbedCreator::getPluginName() const noexcept { return kName; }

char const* FusedPatchEmbedCreator::getPluginVersion() const noexcept { return kVersion; }

char const* FusedPatchEmbedCreator::getPluginNamespace() const noexcept { return kNamespace; }

}  // namespace ssast_edge

// What `registry.load_library` asks for. No registration at load time and no link to nvinfer: the
// registry's ABI differs between TensorRT versions, these two functions do not.
extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const*
getCreators(int32_t& count) {
  static ssast_edge::FusedPatchEmbedCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(
    nvinfer1::ILoggerFinder* finder) {
  try {
    std::lock_guard<std::mutex> const lock(ssast_edge::logger_mutex);
    ssast_edge::logger_finder = finder;
  } catch (...) {  // complaints go to stderr then
  }
}
