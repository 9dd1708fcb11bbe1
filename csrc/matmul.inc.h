static void FN(matmul)(const nnf_matmul *p) { (void)p; }
