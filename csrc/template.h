/* template.h - what every isa_*.c includes before it switches the compiler to its instruction set.
 *
 * System headers come first: a header read after NNF_TARGET_BEGIN would compile its inline functions for
 * the wrong processor. After this file:
 *     #define NNF_ISA avx2
 *     #define NNF_VECTOR_BYTES 32
 *     NNF_TARGET_BEGIN("avx2,fma")
 *     #include "kernels.inc.h"
 *     NNF_TARGET_END
 */
#ifndef NNFRAME_TEMPLATE_H
#define NNFRAME_TEMPLATE_H

#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "nnframe.h"
#include "shapes.h"
#include "tuning.h"

/* A switch over an enum, without a default, must have a case for each enumerator. */
#if defined(__GNUC__)
#pragma GCC diagnostic error "-Wswitch"
#endif

#define NNF_STRING(text) #text
#define NNF_PRAGMA(text) _Pragma(NNF_STRING(text))

/* clang calls itself GCC too, and reads none of GCC's target pragmas. */
#if defined(__clang__)
#define NNF_TARGET_BEGIN(features)                                                                                     \
    NNF_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define NNF_TARGET_END NNF_PRAGMA(clang attribute pop)
#define NNF_UNROLL     NNF_PRAGMA(clang loop unroll(full))
#elif defined(__GNUC__)
#define NNF_TARGET_BEGIN(features) NNF_PRAGMA(GCC push_options) NNF_PRAGMA(GCC target(features))
#define NNF_TARGET_END             NNF_PRAGMA(GCC pop_options)
#define NNF_UNROLL                 NNF_PRAGMA(GCC unroll 64)
#endif

#if defined(__GNUC__)
#define NNF_INLINE   static inline __attribute__((always_inline, unused))
#define NNF_NOINLINE static __attribute__((noinline, unused))
#else
#define NNF_INLINE   static inline
#define NNF_NOINLINE static
#define NNF_UNROLL
#endif

#endif
