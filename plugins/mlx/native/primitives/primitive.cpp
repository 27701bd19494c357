// What the primitives share.
#include "primitive.h"

#include <algorithm>

#include "mlx/allocator.h"
#include "mlx/ops.h"

namespace mdt {

namespace mx = mlx::core;

array dense(const array& a, Stream stream) {
  return mx::contiguous(a, false, stream);
}

namespace {

// MLX's allocator on a CPU gives null where the system has no memory, which its own operations would write to.
mx::allocator::Buffer memory_for(const array& out) {
  bound_buffers();
  const auto buffer = mx::allocator::malloc(out.nbytes());
  if (buffer.ptr() == nullptr && out.nbytes() > 0) {
    throw std::runtime_error("out of memory: " + std::to_string(out.nbytes()) + " bytes are not available");
  }
  return buffer;
}

} // namespace

void allocate(array& out) {
  out.set_data(memory_for(out));
}

void allocate_heads_inside(array& out) {
  const int64_t heads = out.shape(1), positions = out.shape(2), width = out.shape(3);
  // Claiming less contiguity than there is costs a copy at worst; claiming more would be wrong.
  const array::Flags flags{true, heads == 1 || positions == 1, false};
  out.set_data(
      memory_for(out), out.size(),
      mx::Strides{positions * heads * width, width, heads * width, 1}, flags);
}

array CpuPrimitive::forwards(const array& a) {
  const auto& strides = a.strides();
  if (std::none_of(strides.begin(), strides.end(), [](int64_t stride) { return stride < 0; })) {
    return a;
  }
  array copy(a.shape(), a.dtype(), nullptr, {});
  allocate(copy);
  dispatch([from = a.data<float>(), to = copy.data<float>(), shape = a.shape(), strides]() {
    float* next = to;
    for (int b = 0; b < shape[0]; ++b)
      for (int h = 0; h < shape[1]; ++h)
        for (int t = 0; t < shape[2]; ++t)
          for (int d = 0; d < shape[3]; ++d)
            *next++ = from[b * strides[0] + h * strides[1] + t * strides[2] + d * strides[3]];
  });
  keep(copy);
  return copy;
}

std::vector<array> select(
    const std::vector<array>& gradients, const std::vector<array>& primals, const std::vector<int>& argnums,
    Stream stream) {
  std::vector<array> chosen;
  for (int argnum : argnums) {
    const size_t i = static_cast<size_t>(argnum);
    chosen.push_back(i < gradients.size() ? gradients[i] : mx::zeros_like(primals[i], stream));
  }
  return chosen;
}

bool is_exclusive(const array& a) {
  return a.status() != array::Status::unscheduled && a.is_available() && !a.has_primitive() &&
      a.flags().row_contiguous && a.offset() == 0 && a.data_size() == a.size() && a.is_donatable();
}

} // namespace mdt
