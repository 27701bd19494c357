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

namespace {

bool runs_forwards(const array& a) {
  const auto& strides = a.strides();
  return std::none_of(strides.begin(), strides.end(), [](int64_t stride) { return stride < 0; });
}

// Copies an array of four axes row by row.
template <class T>
void copy(const T* from, const Shape& shape, const mx::Strides& strides, T* to) {
  for (int b = 0; b < shape[0]; ++b)
    for (int h = 0; h < shape[1]; ++h)
      for (int t = 0; t < shape[2]; ++t)
        for (int d = 0; d < shape[3]; ++d)
          *to++ = from[b * strides[0] + h * strides[1] + t * strides[2] + d * strides[3]];
}

} // namespace

template <class T>
array CpuPrimitive::copied(const array& a) {
  array whole(a.shape(), a.dtype(), nullptr, {});
  allocate(whole);
  dispatch([from = a.data<T>(), to = whole.data<T>(), shape = a.shape(), strides = a.strides()]() {
    copy(from, shape, strides, to);
  });
  keep(whole);
  return whole;
}

array CpuPrimitive::forwards(const array& a) {
  return runs_forwards(a) ? a : copied<float>(a);
}

array CpuPrimitive::in_rows(const array& a) {
  return runs_forwards(a) && (a.strides(3) == 1 || a.shape(3) == 1) ? a : copied<uint16_t>(a);
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
