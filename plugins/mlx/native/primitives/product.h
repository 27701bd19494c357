// Products of dense matrices whose operands are rounded to half precision, with sums in f32.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "mlx/allocator.h"
#include "primitive.h"

namespace mdt {

// Memory of MLX's, for as long as a kernel runs: it is kept for the next one.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : buffer_(mlx::core::allocator::malloc(std::max<size_t>(bytes, 1))) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    mlx::core::allocator::free(buffer_);
  }
  float* data() {
    return static_cast<float*>(buffer_.raw_ptr());
  }

 private:
  mlx::core::allocator::Buffer buffer_;
};

// A dense matrix, or its transpose.
struct Operand {
  const void* data;
  Dtype type;
  size_t size;
  bool transposed;
};

// Its elements, which are f32 or `operands`, rounded to `operands`, as f32.
void round(const Operand& operand, Dtype operands, float* to);

// a [m, k] · b [k, n], none of which is 0.
struct Term {
  Operand a, b;
  int k;
};

// Where a product goes. Numbers of f32 may be added to what is there.
struct Result {
  void* data;
  Dtype type;
  bool adds;
};

// The sum of the terms [m, n].
void multiply(const std::vector<Term>& terms, Dtype operands, int m, int n, const Result& result);

// c [m, n] = a [m, k] · b [k, n], of this type.
inline void multiply(const Operand& a, const Operand& b, Dtype operands, int m, int n, int k, void* c, Dtype type) {
  multiply({{a, b, k}}, operands, m, n, {c, type, false});
}

// The memory that it takes for so long; the data of the operands is not looked at.
size_t scratch_bytes(const std::vector<Term>& terms, Dtype operands, int m, int n, Dtype type);

inline size_t scratch_bytes(size_t m, size_t n, size_t k, Dtype operands, Dtype type) {
  const Term term{{nullptr, operands, m * k, false}, {nullptr, operands, k * n, false}, static_cast<int>(k)};
  return scratch_bytes({term}, operands, static_cast<int>(m), static_cast<int>(n), type);
}

// f32, or the type of the operands; dense. What has been rounded to the operands' type is taken as it was before: it is rounded again
// when it is multiplied, and its gradient is not rounded.
array as_operand(const array& a, Dtype operands, Stream stream);

// The sum of two products as one product, if it is one.
std::optional<array> sum_of_products(const array& left, const array& right, Stream stream);

} // namespace mdt
