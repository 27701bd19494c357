// Products whose operands are rounded to half precision, with sums in f32.
//
// `multiply` is the one place that knows how: on the tiles of a processor where it has them, else as a product of f32.
#include <algorithm>

#include "blas.h"
#include "mlx/ops.h"
#include "product.h"
#include "tiles.h"

namespace mdt {

namespace mx = mlx::core;

void round(const Operand& operand, Dtype operands, float* to) {
  if (is_half(operand.type)) {
    widen(operand.type, operand.data, operand.size, to);
  } else {
    (operands == mx::bfloat16 ? mdt_round_bf16 : mdt_round_f16)(
        static_cast<const float*>(operand.data), operand.size, to);
  }
}

void multiply(const Operand& a, const Operand& b, Dtype operands, int m, int n, int k, void* c, Dtype type) {
  if (operands == mx::bfloat16 && type != mx::float16 && tiles::available()) {
    const auto matrix = [](const Operand& operand) {
      return tiles::Matrix{operand.data, is_half(operand.type), operand.transposed};
    };
    Scratch scratch(tiles::scratch_bytes(m, n, k));
    tiles::multiply(matrix(a), matrix(b), m, n, k, c, type == mx::bfloat16, scratch.data());
    return;
  }
  Scratch left(a.size * sizeof(float)), right(b.size * sizeof(float));
  Scratch wide(is_half(type) ? size_t(m) * n * sizeof(float) : 0);
  round(a, operands, left.data());
  round(b, operands, right.data());
  float* const product = is_half(type) ? wide.data() : static_cast<float*>(c);
  cblas_sgemm(
      ROW_MAJOR, a.transposed ? TRANSPOSED : PLAIN, b.transposed ? TRANSPOSED : PLAIN, m, n, k, 1.0f, left.data(),
      a.transposed ? m : k, right.data(), b.transposed ? k : n, 0.0f, product, n);
  if (is_half(type)) {
    narrow(type, product, size_t(m) * n, c);
  }
}

size_t scratch_bytes(size_t m, size_t n, size_t k, Dtype operands, Dtype type) {
  if (operands == mx::bfloat16 && type != mx::float16 && tiles::available()) {
    return tiles::scratch_bytes(m, n, k);
  }
  return ((m + n) * k + (is_half(type) ? m * n : 0)) * sizeof(float);
}

namespace {

class Product : public CpuPrimitive {
 public:
  Product(Stream stream, Dtype operands, bool transpose_a, bool transpose_b)
      : CpuPrimitive(stream), operands_(operands), transpose_a_(transpose_a), transpose_b_(transpose_b) {}

  // a [m, k] or [k, m], b [k, n] or [n, k] -> [m, n]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array &a = inputs[0], &b = inputs[1];
    array& c = outputs[0];
    allocate(c);
    const int m = c.shape(0), n = c.shape(1), k = a.shape(transpose_a_ ? 0 : 1);
    dispatch([a = Operand{a.data<void>(), a.dtype(), a.size(), transpose_a_},
              b = Operand{b.data<void>(), b.dtype(), b.size(), transpose_b_}, operands = operands_, m, n, k,
              to = c.data<void>(), type = c.dtype(), bytes = c.nbytes()]() {
      if (m > 0 && n > 0 && k > 0) {
        multiply(a, b, operands, m, n, k, to, type);
      } else {
        std::fill_n(static_cast<char*>(to), bytes, 0);
      }
    });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>&) override {
    const array cotangent = dense(cotangents[0], stream());
    std::vector<array> gradients;
    for (int argnum : argnums) {
      const array &a = primals[0], &b = primals[1];
      const Dtype type = primals[argnum].dtype();
      if (argnum == 0) {
        gradients.push_back(
            transpose_a_ ? product(b, cotangent, transpose_b_, true, operands_, type, stream())
                         : product(cotangent, b, false, !transpose_b_, operands_, type, stream()));
      } else {
        gradients.push_back(
            transpose_b_ ? product(cotangent, a, true, transpose_a_, operands_, type, stream())
                         : product(a, cotangent, !transpose_a_, false, operands_, type, stream()));
      }
    }
    return gradients;
  }

  size_t scratch_bytes(const std::vector<array>& inputs, const std::vector<array>& outputs) const override {
    const array& c = outputs[0];
    return mdt::scratch_bytes(
        c.shape(0), c.shape(1), inputs[0].shape(transpose_a_ ? 0 : 1), operands_, c.dtype());
  }

  DEFINE_NAME(Product)
  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const Product&>(other);
    return operands_ == its.operands_ && transpose_a_ == its.transpose_a_ && transpose_b_ == its.transpose_b_;
  }

 private:
  Dtype operands_;
  bool transpose_a_, transpose_b_;
};

} // namespace

array as_operand(const array& a, Dtype operands, Stream stream) {
  return dense(is_half(a.dtype()) && a.dtype() != operands ? convert(a, float32, stream) : a, stream);
}

array product(
    const array& a, const array& b, bool transpose_a, bool transpose_b, Dtype operands, Dtype type, Stream stream) {
  const Shape shape{a.shape(transpose_a ? 1 : 0), b.shape(transpose_b ? 0 : 1)};
  return array(
      shape, type, std::make_shared<Product>(stream, operands, transpose_a, transpose_b),
      {as_operand(a, operands, stream), as_operand(b, operands, stream)});
}

array product_of_rows(
    const array& x, const array& matrix, bool transpose, Dtype operands, Dtype type, Stream stream) {
  const array rows = mx::reshape(x, {-1, x.shape(-1)}, stream);
  Shape shape = x.shape();
  shape.back() = matrix.shape(transpose ? 0 : 1);
  return mx::reshape(product(rows, matrix, false, transpose, operands, type, stream), shape, stream);
}

} // namespace mdt
