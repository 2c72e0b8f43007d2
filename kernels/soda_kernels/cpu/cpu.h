/* What a CPU does to every pixel of every batch, in C: Python's threads wait for one another between short operations,
   and NumPy and PyTorch take their arrays through the cache once for each.

   In the same types and step by step as they do it, without contraction, so that the numbers are the same to the last
   bit. Nothing is kept between calls: any number of threads may call. */

#ifndef SODA_KERNELS_CPU_H
#define SODA_KERNELS_CPU_H

#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

/* Into the function for each processor, so that it is compiled for that processor too. */
#if defined(__GNUC__)
#define PART static inline __attribute__((always_inline))
#else
#define PART static inline
#endif

#endif
