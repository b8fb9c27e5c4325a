// Half precision for a host compiler: conversions alone, rounding to nearest even.
#pragma once

#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half half) {
  uint32_t const sign = static_cast<uint32_t>(half.bits & 0x8000U) << 16;
  uint32_t const exponent = half.bits >> 10 & 0x1FU;
  uint32_t const fraction = half.bits & 0x3FFU;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24
    float const value = static_cast<float>(fraction) * 5.9604644775390625e-8F;
    return sign != 0 ? -value : value;
  }
  uint32_t const bits =
      sign | (exponent == 31 ? 0x7F800000U : (exponent + 112) << 23) | fraction << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline __half __float2half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  uint16_t const sign = static_cast<uint16_t>(bits >> 16 & 0x8000U);
  uint32_t const magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {
    return {static_cast<uint16_t>(sign | 0x7E00U)};
  }
  if (magnitude >= 0x477FF000U) {  // rounds to 65536 or more
    return {static_cast<uint16_t>(sign | 0x7C00U)};
  }
  if (magnitude < 0x33000001U) {  // rounds to zero
    return {sign};
  }
  uint32_t const exponent = magnitude >> 23;
  uint32_t const fraction = (magnitude & 0x7FFFFFU) | 0x800000U;
  uint32_t const shift = exponent < 113 ? 126 - exponent : 13;  // subnormal, normal
  uint32_t const rounded = (fraction + (1U << (shift - 1)) - 1 + (fraction >> shift & 1U)) >> shift;
  uint32_t const base = exponent < 113 ? 0 : (exponent - 113) << 10;
  return {static_cast<uint16_t>(sign | (base + rounded))};
}
