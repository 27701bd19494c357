// Products of rows with one of several matrices, such as those of experts. The rows of one matrix lie one after another.
#include <algorithm>

#include "blas.h"
#include "primitive.h"

namespace mdt {

namespace {

// Calls `multiply(group, first row, number of rows)` for every group that has rows.
template <class Multiply>
void for_each_group(const int32_t* groups, int rows, Multiply&& multiply) {
  for (int start = 0, end; start < rows; start = end) {
    end = static_cast<int>(std::upper_bound(groups + start, groups + rows, groups[start]) - groups);
    multiply(static_cast<size_t>(groups[start]), start, end - start);
  }
}

// The gradients are two primitives: a frozen weight has none.
class GradientOfRows : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // weight [E, out, in], groups [R], cotangent [R, out] -> gradient of rows [R, in]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    dispatch([weight = inputs[0].data<float>(), out = inputs[0].shape(1), in = inputs[0].shape(2),
              groups = inputs[1].data<int32_t>(), count = inputs[1].shape(0), cotangent = inputs[2].data<float>(),
              gradient = outputs[0].data<float>()]() {
      for_each_group(groups, count, [&](size_t group, size_t start, int n) {
        cblas_sgemm(ROW_MAJOR, PLAIN, PLAIN, n, in, out, 1.0f, cotangent + start * out, out, weight + group * out * in,
                    in, 0.0f, gradient + start * in, in);
      });
    });
  }

  DEFINE_NAME(GradientOfRows)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

class GradientOfMatrices : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // rows [R, in], groups [R], cotangent [R, out] -> gradient of weight [E, out, in]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    dispatch([rows = inputs[0].data<float>(), count = inputs[0].shape(0), groups = inputs[1].data<int32_t>(),
              cotangent = inputs[2].data<float>(), out = outputs[0].shape(1), in = outputs[0].shape(2),
              gradient = outputs[0].data<float>(), size = outputs[0].size()]() {
      std::fill_n(gradient, size, 0.0f);
      for_each_group(groups, count, [&](size_t group, size_t start, int n) {
        cblas_sgemm(ROW_MAJOR, TRANSPOSED, PLAIN, out, in, n, 1.0f, cotangent + start * out, out, rows + start * in, in,
                    0.0f, gradient + group * out * in, in);
      });
    });
  }

  DEFINE_NAME(GradientOfMatrices)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

class GroupedLinear : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // rows [R, in], weight [E, out, in], groups [R] -> [R, out]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    dispatch([rows = inputs[0].data<float>(), count = inputs[0].shape(0), weight = inputs[1].data<float>(),
              out = inputs[1].shape(1), in = inputs[1].shape(2), groups = inputs[2].data<int32_t>(),
              result = outputs[0].data<float>()]() {
      for_each_group(groups, count, [&](size_t group, size_t start, int n) {
        cblas_sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, n, out, in, 1.0f, rows + start * in, in, weight + group * out * in, in,
                    0.0f, result + start * out, out);
      });
    });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>&) override {
    const array cotangent = dense(cotangents[0], stream());
    const array of_rows = one<GradientOfRows>(primals[0].shape(), stream(), {primals[1], primals[2], cotangent});
    const array of_matrices = one<GradientOfMatrices>(primals[1].shape(), stream(), {primals[0], primals[2], cotangent});
    return select({of_rows, of_matrices}, primals, argnums, stream());
  }

  DEFINE_NAME(GroupedLinear)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

} // namespace

array grouped_linear(const array& rows, const array& weight, const array& groups, Stream stream) {
  return one<GroupedLinear>(
      Shape{rows.shape(0), weight.shape(1)}, stream,
      {dense(rows, stream), dense(weight, stream), dense(groups, stream)});
}

} // namespace mdt
