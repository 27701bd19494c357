// The matrix product of the library beside: row-major, `c = alpha * op(a) * op(b) + beta * c`, on all compute threads.
#pragma once

// As MLX calls it; the constants are those of every cblas.h.
extern "C" void cblas_sgemm(
    int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda, const float* b,
    int ldb, float beta, float* c, int ldc);

namespace mdt {

constexpr int ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112;

} // namespace mdt
