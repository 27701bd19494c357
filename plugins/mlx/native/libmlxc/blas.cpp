// MLX's matrix products, sent to OpenBLAS.
//
// libmlx.so comes linked to the reference BLAS, some thirty times slower. It imports three functions from it, by
// name, and this library stands before the reference BLAS in every link, so it is enough to define the three here.
//
// Products of f32 are made by whoever lends a function for them; its threads are its own. Without one, and for other types,
// OpenBLAS makes them on the calling thread: its own workers spin while they wait, which costs more time than they save.
#include <atomic>
#include <cstddef>
#include <utility>

// The constants are those of every cblas.h.
enum CBLAS_ORDER { CblasRowMajor = 101, CblasColMajor = 102 };
enum CBLAS_TRANSPOSE { CblasNoTrans = 111, CblasTrans = 112, CblasConjTrans = 113 };

#define GEMM_ARGUMENTS(Scalar, Number)                                                                       \
  CBLAS_ORDER order, CBLAS_TRANSPOSE trans_a, CBLAS_TRANSPOSE trans_b, int m, int n, int k, Scalar alpha,    \
      const Number *a, int lda, const Number *b, int ldb, Scalar beta, Number *c, int ldc

extern "C" {
void scipy_cblas_sgemm(GEMM_ARGUMENTS(float, float));
void scipy_cblas_dgemm(GEMM_ARGUMENTS(double, double));
void scipy_cblas_cgemm(GEMM_ARGUMENTS(const void*, void));
void scipy_openblas_set_num_threads(int);
}

namespace {

// `c = alpha * op(a) * op(b) + beta * c`, all row-major, from MLX's own threads. None of m and n is 0.
using Product = void (*)(
    bool transpose_a, bool transpose_b, std::size_t m, std::size_t n, std::size_t k, float alpha, const float* a,
    std::size_t lda, const float* b, std::size_t ldb, float beta, float* c, std::size_t ldc);

std::atomic<Product> product{nullptr};

} // namespace

extern "C" {

// Lends a function for the products of f32 of this process; null takes it back.
void mdt_lend_product(Product lent) {
  product.store(lent, std::memory_order_release);
}

void cblas_sgemm(GEMM_ARGUMENTS(float, float)) {
  const Product lent = product.load(std::memory_order_acquire);
  if (lent == nullptr) {
    scipy_cblas_sgemm(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    return;
  }
  // A column-major product is the row-major product of the transposes: the operands change places.
  if (order == CblasColMajor) {
    std::swap(trans_a, trans_b);
    std::swap(m, n);
    std::swap(a, b);
    std::swap(lda, ldb);
  }
  if (m > 0 && n > 0 && k >= 0) {
    lent(trans_a != CblasNoTrans, trans_b != CblasNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }
}

void cblas_dgemm(GEMM_ARGUMENTS(double, double)) {
  scipy_cblas_dgemm(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void cblas_cgemm(GEMM_ARGUMENTS(const void*, void)) {
  scipy_cblas_cgemm(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

} // extern "C"

namespace {
// OpenBLAS has read the number of cores by now, since its library is initialised before this one.
const bool single_threaded = (scipy_openblas_set_num_threads(1), true);
} // namespace
