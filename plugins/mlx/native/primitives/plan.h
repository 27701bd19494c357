// What memory planning asks of MLX's graphs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mlx/array.h"
#include "mlx/stream.h"

// An array of a graph. The same as `Planned` in src/plan/native.rs.
struct MdtPlanned {
  uintptr_t id;
  size_t item_size;
  size_t rank;
  const int* shape;
  // It has memory already.
  bool is_leaf;
};

// Called for each operation in the order of evaluation; `axes` are a transposition's, `held` the bytes of buffers that are kept until
// the operation has run, `scratch` those that it takes while it runs, `kernels` how many kernels it dispatches, and `is_own` whether it bounds the buffers that
// are kept.
typedef void (*MdtVisit)(
    void* context, const char* name, const MdtPlanned* inputs, size_t inputs_count, const MdtPlanned* outputs,
    size_t outputs_count, const int* axes, size_t axes_count, const size_t* held, size_t held_count,
    size_t scratch, size_t kernels, bool is_own);

namespace mdt {

// An array without memory, whose elements must never be needed.
mlx::core::array placeholder(const mlx::core::Shape& shape, mlx::core::Dtype dtype, mlx::core::Stream stream);

// Visits what evaluating these tensors would compute. From then on all that is taken for evaluated, though it has no memory.
void plan(std::vector<mlx::core::array> tensors, mlx::core::Stream stream, void* context, MdtVisit visit);

} // namespace mdt
