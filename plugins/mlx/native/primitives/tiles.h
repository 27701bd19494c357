// Products of bfloat16 on the matrix tiles of a processor (Intel AMX), where it has them.
#pragma once

#include <cstddef>
#include <vector>

namespace mdt::tiles {

// A dense matrix of f32 or bfloat16, or its transpose.
struct Matrix {
  const void* data;
  bool is_bf16;
  bool transposed;
};

// a [m, k] · b [k, n], none of which is 0.
struct Term {
  Matrix a, b;
  size_t k;
};
using Terms = std::vector<Term>;

// Where a product [m, n] goes, in f32 or bfloat16. Numbers of f32 may be added to what is there.
struct Result {
  void* data;
  bool is_bf16;
  bool adds;
};

// Whether this processor has tiles, and the system lets this process use them. MLX_PLUGIN_ISA=avx2 or baseline says no.
bool available();

// Bytes of memory that `multiply` needs beside 1.5 MiB of each thread, which stays.
size_t scratch_bytes(const Terms& terms, size_t m, size_t n);

// The sum of the terms, with operands rounded to bfloat16 and sums in f32.
// Each number of it is added up in the order of the terms and of k, whatever the other sizes and the number of threads are.
void multiply(const Terms& terms, size_t m, size_t n, const Result& result, void* scratch);

} // namespace mdt::tiles
