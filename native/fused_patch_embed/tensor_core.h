// A product of 16x16 by 16x8 halves on tensor cores, summed in float, by the 32 threads of a warp.
//
// Thread t holds, with g = t / 4 and q = t % 4 (PTX ISA, mma.m16n8k16): left[0..3] the depths 2q
// and 2q + 1 of rows g and g + 8, then 2q + 8 and 2q + 9 of the same; right[0..1] the same depths
// of column g; sums[0..3] columns 2q and 2q + 1 of row g, then of row g + 8.
#pragma once

#include <cstdint>

namespace ssast_edge {

#ifdef __CUDACC__

__device__ inline void multiply_16x16x8(float (&sums)[4], uint32_t const (&left)[4],
                                        uint32_t const (&right)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800  // Turing has half the depth
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(right[0]));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[2]), "r"(left[3]), "r"(right[1]));
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
#endif
}

#else  // a host compiler: the tests run the kernel on a CPU and define it (cuda_on_cpu)

void multiply_16x16x8(float (&sums)[4], uint32_t const (&left)[4], uint32_t const (&right)[2]);

#endif

}  // namespace ssast_edge
