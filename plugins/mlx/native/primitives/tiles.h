// Products of bfloat16 on the matrix tiles of a processor (Intel AMX), where it has them.
#pragma once

#include <cstddef>

namespace mdt::tiles {

// A dense matrix of f32 or bfloat16, or its transpose.
struct Matrix {
  const void* data;
  bool is_bf16;
  bool transposed;
};

// Whether this processor has tiles, and the system lets this process use them. MLX_PLUGIN_ISA=avx2 or baseline says no.
bool available();

// Bytes of memory that `multiply` needs.
size_t scratch_bytes(size_t m, size_t n, size_t k);

// c [m, n] = a [m, k] · b [k, n], with operands rounded to bfloat16 and sums in f32; c is f32 or bfloat16. None of the three is 0.
// Each number of c is added up in the order of k, whatever the other sizes and the number of threads are.
void multiply(const Matrix& a, const Matrix& b, size_t m, size_t n, size_t k, void* c, bool c_is_bf16, void* scratch);

} // namespace mdt::tiles
