// Checked indices: MLX's gathers read, and their gradients write, wherever an index points.
#include <cstdint>
#include <utility>

#include "primitive.h"

namespace mdt {

namespace {

class CheckedIndices : public CpuPrimitive {
 public:
  CheckedIndices(Stream stream, std::string operation, int length, bool from_end)
      : CpuPrimitive(stream), operation_(std::move(operation)), length_(length), from_end_(from_end) {}

  // indices of any integer type -> int32 from 0 to length - 1
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    switch (inputs[0].dtype()) {
      case mlx::core::uint8: return check<uint8_t>(inputs[0], outputs[0]);
      case mlx::core::uint16: return check<uint16_t>(inputs[0], outputs[0]);
      case mlx::core::int8: return check<int8_t>(inputs[0], outputs[0]);
      case mlx::core::int16: return check<int16_t>(inputs[0], outputs[0]);
      case mlx::core::int32: return check<int32_t>(inputs[0], outputs[0]);
      case mlx::core::uint32: return check<uint32_t>(inputs[0], outputs[0]);
      case mlx::core::int64: return check<int64_t>(inputs[0], outputs[0]);
      case mlx::core::uint64: return check<uint64_t>(inputs[0], outputs[0]);
      default: throw std::invalid_argument(operation_ + ": the indices are no integers");
    }
  }

  // Integers have no gradient.
  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>&, const std::vector<int>& argnums,
      const std::vector<array>&) override {
    return select({}, primals, argnums, stream());
  }

  DEFINE_NAME(CheckedIndices)
  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const CheckedIndices&>(other);
    return operation_ == its.operation_ && length_ == its.length_ && from_end_ == its.from_end_;
  }

 private:
  template <typename Index>
  void check(const array& indices, array& checked) {
    dispatch([from = indices.data<Index>(), to = checked.data<int32_t>(), count = indices.size(), length = length_,
              from_end = from_end_, operation = operation_]() {
      size_t first = count;
      for (size_t i = 0; i < count; ++i) {
        // A number beyond int64 is beyond every axis, so it may become any other such.
        const int64_t given = std::in_range<int64_t>(from[i]) ? static_cast<int64_t>(from[i]) : INT64_MAX;
        const int64_t index = from_end && given < 0 ? given + length : given;
        const bool inside = 0 <= index && index < length;
        // What is computed after a bad index, until MLX reports it, stays inside as well.
        to[i] = inside ? static_cast<int32_t>(index) : 0;
        first = inside || first < i ? first : i;
      }
      if (first < count) {
        throw std::out_of_range(
            operation + ": index " + std::to_string(from[first]) + " (the one at place " + std::to_string(first) +
            ") is out of range for an axis of length " + std::to_string(length));
      }
    });
  }

  std::string operation_;
  int length_;
  bool from_end_;
};

} // namespace

array checked_indices(const array& indices, std::string operation, int length, bool from_end, Stream stream) {
  return array(
      indices.shape(), mlx::core::int32,
      std::make_shared<CheckedIndices>(stream, std::move(operation), length, from_end), {dense(indices, stream)});
}

} // namespace mdt
