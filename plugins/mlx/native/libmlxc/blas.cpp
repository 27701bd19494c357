// MLX's matrix products, sent to OpenBLAS.
//
// libmlx.so comes linked to the reference BLAS, some thirty times slower. It imports three functions from it, by
// name, and this library stands before the reference BLAS in every link, so it is enough to define the three here.
//
// OpenBLAS runs on the calling thread only: its own workers spin while they wait, which costs more time than they save.
// A program with a thread pool of its own passes it to `mdt_set_parallel_for`; a large product is then split into
// one slice of C per thread. The split depends on the shape and the thread count only, and so do the bits of a
// product.
#include <algorithm>
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

using Body = void (*)(void* context, int index);
using ParallelFor = void (*)(void* context, int count, Body body);

struct Pool {
  ParallelFor parallel_for;
  int threads;
};

std::atomic<const Pool*> pool{nullptr};

// Below this many floating-point operations (some 80 µs on one core) waking a thread costs more time than it saves.
constexpr double SMALLEST_SPLIT = 8e6;
// Slices start at multiples of this, a multiple of every OpenBLAS kernel's tile: a slice has no ragged inner edge.
constexpr int TILE = 64;

// One product in row-major order, and how its C is cut.
template <typename Number>
struct Product {
  void (*gemm)(GEMM_ARGUMENTS(Number, Number));
  CBLAS_TRANSPOSE trans_a, trans_b;
  int m, n, k;
  Number alpha;
  const Number* a;
  int lda;
  const Number* b;
  int ldb;
  Number beta;
  Number* c;
  int ldc;
  int slice;

  bool by_rows() const {
    return m >= n;
  }

  void rows(int start, int count) const {
    const auto offset = std::ptrdiff_t(start) * (trans_a == CblasNoTrans ? lda : 1);
    gemm(CblasRowMajor, trans_a, trans_b, count, n, k, alpha, a + offset, lda, b, ldb, beta,
         c + std::ptrdiff_t(start) * ldc, ldc);
  }

  void columns(int start, int count) const {
    const auto offset = std::ptrdiff_t(start) * (trans_b == CblasNoTrans ? 1 : ldb);
    gemm(CblasRowMajor, trans_a, trans_b, m, count, k, alpha, a, lda, b + offset, ldb, beta, c + start, ldc);
  }

  static void run_slice(void* context, int index) {
    const auto& product = *static_cast<const Product*>(context);
    const int start = index * product.slice;
    if (product.by_rows()) {
      product.rows(start, std::min(product.slice, product.m - start));
    } else {
      product.columns(start, std::min(product.slice, product.n - start));
    }
  }
};

template <typename Number>
void multiply(void (*gemm)(GEMM_ARGUMENTS(Number, Number)), GEMM_ARGUMENTS(Number, Number)) {
  // A column-major product is the row-major product of the transposes: the operands change places.
  if (order == CblasColMajor) {
    std::swap(trans_a, trans_b);
    std::swap(m, n);
    std::swap(a, b);
    std::swap(lda, ldb);
  }
  Product<Number> product{gemm, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, 0};
  const Pool* const current = pool.load(std::memory_order_acquire);
  const int longer = std::max(m, n);
  if (current == nullptr || 2.0 * m * n * k < SMALLEST_SPLIT || longer < 2 * TILE) {
    product.rows(0, m);
    return;
  }
  const int share = (longer + current->threads - 1) / current->threads;
  product.slice = (share + TILE - 1) / TILE * TILE;
  current->parallel_for(&product, (longer + product.slice - 1) / product.slice, Product<Number>::run_slice);
}

} // namespace

extern "C" {

// Lends a thread pool to the matrix products of this process. `parallel_for(context, count, body)` calls
// `body(context, i)` once for every i below `count`, from any threads and at the same time, and returns when all
// calls have returned; it is called from MLX's own threads. `threads` is how many of them run at a time. With a
// null function or `threads` below 2, products stay on the calling thread, as they do before the first call.
void mdt_set_parallel_for(ParallelFor parallel_for, int threads) {
  // A product that runs on another thread may still hold the previous pool, so it is never freed; there are one or
  // two of them in the life of a process.
  pool.store(parallel_for != nullptr && threads > 1 ? new Pool{parallel_for, threads} : nullptr,
             std::memory_order_release);
}

void cblas_sgemm(GEMM_ARGUMENTS(float, float)) {
  multiply(scipy_cblas_sgemm, order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void cblas_dgemm(GEMM_ARGUMENTS(double, double)) {
  multiply(scipy_cblas_dgemm, order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void cblas_cgemm(GEMM_ARGUMENTS(const void*, void)) {
  scipy_cblas_cgemm(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

} // extern "C"

namespace {
// OpenBLAS has read the number of cores by now, since its library is initialised before this one.
const bool single_threaded = (scipy_openblas_set_num_threads(1), true);
} // namespace
