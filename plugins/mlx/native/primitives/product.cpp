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

namespace {

bool runs_on_tiles(Dtype operands, Dtype type) {
  return operands == mx::bfloat16 && type != mx::float16 && tiles::available();
}

tiles::Terms on_tiles(const std::vector<Term>& terms) {
  const auto matrix = [](const Operand& operand) {
    return tiles::Matrix{operand.data, is_half(operand.type), operand.transposed};
  };
  tiles::Terms all;
  for (const Term& term : terms) {
    all.push_back({matrix(term.a), matrix(term.b), static_cast<size_t>(term.k)});
  }
  return all;
}

// A term as a product of f32, added to what is there if `adds`.
void multiply_wide(const Term& term, Dtype operands, int m, int n, bool adds, float* product) {
  const auto& [a, b, k] = term;
  Scratch left(a.size * sizeof(float)), right(b.size * sizeof(float));
  round(a, operands, left.data());
  round(b, operands, right.data());
  cblas_sgemm(
      ROW_MAJOR, a.transposed ? TRANSPOSED : PLAIN, b.transposed ? TRANSPOSED : PLAIN, m, n, k, 1.0f, left.data(),
      a.transposed ? m : k, right.data(), b.transposed ? k : n, adds ? 1.0f : 0.0f, product, n);
}

} // namespace

void multiply(const std::vector<Term>& terms, Dtype operands, int m, int n, const Result& result) {
  if (runs_on_tiles(operands, result.type)) {
    const tiles::Terms all = on_tiles(terms);
    Scratch scratch(tiles::scratch_bytes(all, m, n));
    tiles::multiply(all, m, n, {result.data, result.type == mx::bfloat16, result.adds}, scratch.data());
    return;
  }
  const size_t size = size_t(m) * n;
  Scratch wide(is_half(result.type) ? size * sizeof(float) : 0);
  float* const product = is_half(result.type) ? wide.data() : static_cast<float*>(result.data);
  for (const Term& term : terms) {
    multiply_wide(term, operands, m, n, result.adds || &term != &terms.front(), product);
  }
  if (is_half(result.type)) {
    narrow(result.type, product, size, result.data);
  }
}

size_t scratch_bytes(const std::vector<Term>& terms, Dtype operands, int m, int n, Dtype type) {
  if (runs_on_tiles(operands, type)) {
    return tiles::scratch_bytes(on_tiles(terms), m, n);
  }
  size_t most = 0;
  for (const Term& term : terms) {
    most = std::max(most, term.a.size + term.b.size);
  }
  return (most + (is_half(type) ? size_t(m) * n : 0)) * sizeof(float);
}

namespace {

// Which operands of a term are transposed.
struct Transposed {
  bool a, b;

  bool operator==(const Transposed&) const = default;
};

class Product : public CpuPrimitive {
 public:
  Product(Stream stream, Dtype operands, std::vector<Transposed> terms)
      : CpuPrimitive(stream), operands_(operands), terms_(std::move(terms)) {}

  // of each term a [m, k] or [k, m] and b [k, n] or [n, k] -> the sum of the terms [m, n]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    array& c = outputs[0];
    allocate(c);
    std::vector<Term> terms = terms_of(inputs);
    for (size_t i = 0; i < terms.size(); ++i) {
      terms[i].a.data = inputs[2 * i].data<void>();
      terms[i].b.data = inputs[2 * i + 1].data<void>();
    }
    std::erase_if(terms, [](const Term& term) { return term.k == 0; });
    dispatch([terms = std::move(terms), operands = operands_, m = c.shape(0), n = c.shape(1), to = c.data<void>(),
              type = c.dtype(), bytes = c.nbytes()]() {
      if (m > 0 && n > 0 && !terms.empty()) {
        multiply(terms, operands, m, n, {to, type, false});
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
      const auto [transpose_a, transpose_b] = terms_[argnum / 2];
      const array &a = primals[argnum / 2 * 2], &b = primals[argnum / 2 * 2 + 1];
      const Dtype type = primals[argnum].dtype();
      if (argnum % 2 == 0) {
        gradients.push_back(
            transpose_a ? product(b, cotangent, transpose_b, true, operands_, type, stream())
                        : product(cotangent, b, false, !transpose_b, operands_, type, stream()));
      } else {
        gradients.push_back(
            transpose_b ? product(cotangent, a, true, transpose_a, operands_, type, stream())
                        : product(a, cotangent, !transpose_a, false, operands_, type, stream()));
      }
    }
    return gradients;
  }

  size_t scratch_bytes(const std::vector<array>& inputs, const std::vector<array>& outputs) const override {
    const array& c = outputs[0];
    return mdt::scratch_bytes(terms_of(inputs), operands_, c.shape(0), c.shape(1), c.dtype());
  }

  DEFINE_NAME(Product)
  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const Product&>(other);
    return operands_ == its.operands_ && terms_ == its.terms_;
  }

  // The sum of two such products of one type, as one product.
  static array sum(const array& left, const array& right, Stream stream) {
    const auto &first = static_cast<const Product&>(left.primitive()), &second = static_cast<const Product&>(right.primitive());
    std::vector<Transposed> terms = first.terms_;
    terms.insert(terms.end(), second.terms_.begin(), second.terms_.end());
    std::vector<array> inputs = left.inputs();
    inputs.insert(inputs.end(), right.inputs().begin(), right.inputs().end());
    return array(
        left.shape(), left.dtype(), std::make_shared<Product>(stream, first.operands_, std::move(terms)), inputs);
  }

  Dtype operands() const {
    return operands_;
  }

 private:
  // Without their data.
  std::vector<Term> terms_of(const std::vector<array>& inputs) const {
    std::vector<Term> terms;
    for (size_t i = 0; i < terms_.size(); ++i) {
      const array &a = inputs[2 * i], &b = inputs[2 * i + 1];
      const auto [transpose_a, transpose_b] = terms_[i];
      terms.push_back(
          {{nullptr, a.dtype(), a.size(), transpose_a}, {nullptr, b.dtype(), b.size(), transpose_b},
           a.shape(transpose_a ? 0 : 1)});
    }
    return terms;
  }

  Dtype operands_;
  std::vector<Transposed> terms_;
};

} // namespace

array as_operand(const array& a, Dtype operands, Stream stream) {
  const array whole = a.dtype() == operands ? before_rounding(a) : a;
  return dense(is_half(whole.dtype()) && whole.dtype() != operands ? convert(whole, float32, stream) : whole, stream);
}

std::optional<array> sum_of_products(const array& left, const array& right, Stream stream) {
  const auto of = [](const array& a) {
    return a.has_primitive() ? dynamic_cast<const Product*>(&a.primitive()) : nullptr;
  };
  const Product *first = of(left), *second = of(right);
  if (first == nullptr || second == nullptr || first->operands() != second->operands() ||
      left.shape() != right.shape() || left.dtype() != right.dtype()) {
    return std::nullopt;
  }
  return Product::sum(left, right, stream);
}

array product(
    const array& a, const array& b, bool transpose_a, bool transpose_b, Dtype operands, Dtype type, Stream stream) {
  const Shape shape{a.shape(transpose_a ? 1 : 0), b.shape(transpose_b ? 0 : 1)};
  return array(
      shape, type, std::make_shared<Product>(stream, operands, std::vector<Transposed>{{transpose_a, transpose_b}}),
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
