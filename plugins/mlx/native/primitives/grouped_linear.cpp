// Products of rows with one of several matrices, such as those of experts. The rows of one matrix lie one after another.
#include <algorithm>

#include "primitive.h"

// As MLX calls it; the constants are those of every cblas.h.
extern "C" void cblas_sgemm(
    int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda, const float* b,
    int ldb, float beta, float* c, int ldc);

namespace mdt {

namespace {

constexpr int ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112;

// Calls `multiply(group, first row, number of rows)` for every group that has rows.
template <class Multiply>
void for_each_group(const int32_t* groups, int rows, Multiply&& multiply) {
  for (int start = 0, end; start < rows; start = end) {
    end = static_cast<int>(std::upper_bound(groups + start, groups + rows, groups[start]) - groups);
    multiply(static_cast<size_t>(groups[start]), start, end - start);
  }
}

class GroupedLinearBackward : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // rows [R, in], weight [E, out, in], groups [R], cotangent [R, out] -> gradients of rows and weight
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    allocate(outputs[1]);
    dispatch([rows = inputs[0].data<float>(), count = inputs[0].shape(0), weight = inputs[1].data<float>(),
              out = inputs[1].shape(1), in = inputs[1].shape(2), groups = inputs[2].data<int32_t>(),
              cotangent = inputs[3].data<float>(), grad_rows = outputs[0].data<float>(),
              grad_weight = outputs[1].data<float>(), size = outputs[1].size()]() {
      std::fill_n(grad_weight, size, 0.0f);
      for_each_group(groups, count, [&](size_t group, size_t start, int n) {
        const size_t matrix = group * out * in;
        cblas_sgemm(ROW_MAJOR, PLAIN, PLAIN, n, in, out, 1.0f, cotangent + start * out, out, weight + matrix, in, 0.0f,
                    grad_rows + start * in, in);
        cblas_sgemm(ROW_MAJOR, TRANSPOSED, PLAIN, out, in, n, 1.0f, cotangent + start * out, out, rows + start * in, in,
                    0.0f, grad_weight + matrix, in);
      });
    });
  }

  DEFINE_NAME(GroupedLinearBackward)
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
    const std::vector<array> gradients = several<GroupedLinearBackward>(
        {primals[0].shape(), primals[1].shape()}, stream(),
        {primals[0], primals[1], primals[2], dense(cotangents[0], stream())});
    return select(gradients, primals, argnums, stream());
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
