/* vector_math.h - exp, expm1, log1p, tanh ... on vectors, with error bounds. (stub) */
