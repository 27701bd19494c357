// Sums.
#include "mlx/ops.h"
#include "primitive.h"

namespace mdt {

namespace mx = mlx::core;

namespace {

class Sum : public CpuPrimitive {
 public:
  Sum(Stream stream, int first, int axes) : CpuPrimitive(stream), first_(first), axes_(axes) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    size_t parts[3] = {1, 1, 1};
    for (int axis = 0; axis < static_cast<int>(inputs[0].ndim()); ++axis) {
      parts[axis < first_ ? 0 : axis < first_ + axes_ ? 1 : 2] *= inputs[0].shape(axis);
    }
    dispatch([x = inputs[0].data<float>(), outer = parts[0], count = parts[1], inner = parts[2],
              out = outputs[0].data<float>()]() { mdt_sum(x, outer, count, inner, out); });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>&,
      const std::vector<array>&) override {
    std::vector<int> axes(axes_);
    for (int i = 0; i < axes_; ++i) {
      axes[i] = first_ + i;
    }
    return {mx::broadcast_to(mx::expand_dims(cotangents[0], axes, stream()), primals[0].shape(), stream())};
  }

  DEFINE_NAME(Sum)
  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const Sum&>(other);
    return first_ == its.first_ && axes_ == its.axes_;
  }

 private:
  int first_;
  int axes_;
};

} // namespace

array sum(const array& x, int first, int axes, Stream stream) {
  Shape shape = x.shape();
  shape.erase(shape.begin() + first, shape.begin() + first + axes);
  return one<Sum>(shape, stream, {dense(x, stream)}, first, axes);
}

} // namespace mdt
