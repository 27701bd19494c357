// Products of dense matrices whose operands are rounded to half precision, with sums in f32.
#pragma once

#include <algorithm>

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

// c [m, n] = a [m, k] · b [k, n], of this type. None of the three is 0.
void multiply(const Operand& a, const Operand& b, Dtype operands, int m, int n, int k, void* c, Dtype type);

// The memory that it takes for so long.
size_t scratch_bytes(size_t m, size_t n, size_t k, Dtype operands, Dtype type);

// f32, or the type of the operands; dense.
array as_operand(const array& a, Dtype operands, Stream stream);

} // namespace mdt
