// What the primitives share: a base class for the CPU, dense inputs, outputs and views.
#pragma once

#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "ops.h"

namespace mdt {

using mlx::core::Dtype;
using mlx::core::float32;
using mlx::core::Shape;

// A primitive that has no GPU form. Its vjp is written by each class; the backward primitives have none themselves.
class CpuPrimitive : public mlx::core::Primitive {
 public:
  using mlx::core::Primitive::Primitive;

  // For plans, which compute nothing: the buffers beside inputs and outputs that are kept from when the kernels are dispatched until
  // they have run, and the bytes that a kernel takes while it runs.
  virtual std::vector<size_t> held_bytes(const std::vector<array>&, const std::vector<array>&) const {
    return {};
  }
  virtual size_t scratch_bytes(const std::vector<array>&, const std::vector<array>&) const {
    return 0;
  }

  // The same: how many kernels it dispatches, and the name of the primitive whose results lie in memory as its own do.
  virtual size_t kernels(const std::vector<array>&, const std::vector<array>&) const {
    return 1;
  }
  virtual const char* planned_as() const {
    return name();
  }

  // Whether it has kernels for these inputs and outputs, some of which are of half precision.
  virtual bool takes_half(const std::vector<array>&, const std::vector<Dtype>&) const {
    return false;
  }

  void eval_gpu(const std::vector<array>&, std::vector<array>&) override {
    throw std::runtime_error(std::string(name()) + " has no GPU form");
  }

 protected:
  // Runs `kernel` in the order of the stream. MLX keeps the memory of inputs and outputs alive until it has run.
  template <class Kernel>
  void dispatch(Kernel&& kernel) {
    mlx::core::cpu::get_command_encoder(stream()).dispatch(std::forward<Kernel>(kernel));
  }

  // The array itself, or a copy where an axis runs backwards through the memory. Ready when the next dispatched kernel runs.
  array forwards(const array& a);

  // The same of bfloat16, and a copy where the features of a row do not lie one after another, too.
  array in_rows(const array& a);

  // Keeps an array that is neither input nor output alive until the kernels dispatched so far have run.
  void keep(array a) {
    mlx::core::cpu::get_command_encoder(stream()).add_temporary(std::move(a));
  }

 private:
  // A row-major copy of an array of four axes, with elements of this type.
  template <class T>
  array copied(const array& a);
};

// The array itself if its elements lie one after another, else a copy: inputs and cotangents may be strided or broadcast.
array dense(const array& a, Stream stream);

// Freed buffers are kept for the next step; those that are not go back to the system. Once per process, before anything is computed.
void keep_buffers();

// Buffers in use and those that are kept for others of their size are at most half more than what was ever in use at a time: beyond
// that, the oldest that are kept are freed, until it is a quarter more. They are of shapes that no longer come, as with batches of
// many lengths; with steady shapes it is between a tenth and two fifths more, since a buffer is taken again for nearly its own size
// alone, and nothing is freed. To be called by the thread that evaluates.
void bound_buffers();

// Gives an output its memory, row-major.
void allocate(array& out);

// Gives an output [B, H, T, D] its memory in the order [B, T, H, D], which is what a projection [B, T, H * D] reads and writes.
void allocate_heads_inside(array& out);

// The memory of an evaluated four-dimensional array whose strides are not negative.
template <class T = float>
MdtView<T> view(const array& a) {
  MdtView<T> view{a.data<T>(), a.size() == 0 ? size_t(0) : size_t(1), {}, {}};
  for (int axis = 0; axis < 4; ++axis) {
    if (a.strides(axis) < 0) {
      throw std::runtime_error("an axis runs backwards through the memory");
    }
    view.shape[axis] = static_cast<size_t>(a.shape(axis));
    view.strides[axis] = static_cast<size_t>(a.strides(axis));
    if (a.size() != 0) {
      view.len += (view.shape[axis] - 1) * view.strides[axis];
    }
  }
  return view;
}

// One f32 output.
template <class P, class... Args>
array one(const Shape& shape, Stream stream, std::vector<array> inputs, Args&&... args) {
  return array(shape, float32, std::make_shared<P>(stream, std::forward<Args>(args)...), std::move(inputs));
}

// Several f32 outputs.
template <class P, class... Args>
std::vector<array> several(
    std::vector<Shape> shapes, Stream stream, const std::vector<array>& inputs, Args&&... args) {
  const std::vector<Dtype> types(shapes.size(), float32);
  return array::make_arrays(
      std::move(shapes), types, std::make_shared<P>(stream, std::forward<Args>(args)...), inputs);
}

// Outputs of these types of a primitive that takes and fills f32. Where it has no kernels of their type, inputs of half precision are
// widened when it runs, and outputs of half precision rounded, so that what is kept for gradients is half as large.
std::vector<array> widened(
    std::vector<Shape> shapes, std::vector<Dtype> types, std::shared_ptr<CpuPrimitive> primitive,
    const std::vector<array>& inputs);

// The same of a primitive that is made here, with one output.
template <class P, class... Args>
array widened_one(Dtype type, const Shape& shape, Stream stream, const std::vector<array>& inputs, Args&&... args) {
  return widened({shape}, {type}, std::make_shared<P>(stream, std::forward<Args>(args)...), inputs)[0];
}

// Whether elements are of half precision.
bool is_half(Dtype type);

// The elements in f32 that were rounded to half precision; the array itself where it is nothing of the kind.
array before_rounding(const array& a);

// Whether all are bfloat16.
bool are_bf16(const std::vector<array>& inputs, const std::vector<Dtype>& outputs);

// The kernels between f32 and a type of half precision.
void widen(Dtype type, const void* from, size_t count, float* to);
void narrow(Dtype type, const float* from, size_t count, void* to);

// The gradients in the order that MLX asked for; one that was not computed (of integers) is zero.
std::vector<array> select(
    const std::vector<array>& gradients, const std::vector<array>& primals, const std::vector<int>& argnums, Stream stream);

} // namespace mdt
