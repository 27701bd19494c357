// Products with a weight, whose gradients come out row-major: the host reads them as they lie in memory.
#include <algorithm>

#include "mlx/ops.h"
#include "blas.h"
#include "primitive.h"

namespace mdt {

namespace mx = mlx::core;

namespace {

// x of any rank as rows.
array rows(const array& x, Stream stream) {
  return mx::reshape(x, {-1, x.shape(-1)}, stream);
}

class Linear : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // x [N, in], weight [out, in] -> [N, out]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    dispatch([x = inputs[0].data<float>(), weight = inputs[1].data<float>(), n = inputs[0].shape(0),
              in = inputs[1].shape(1), out = inputs[1].shape(0), result = outputs[0].data<float>()]() {
      if (n > 0 && n <= MDT_FEW_ROWS && in > 0 && out > 0) {
        mdt_few_rows(x, n, weight, out, in, result);
      } else if (n > 0 && in > 0 && out > 0) {
        cblas_sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, n, out, in, 1.0f, x, in, weight, in, 0.0f, result, out);
      } else {
        std::fill_n(result, static_cast<size_t>(n) * out, 0.0f);
      }
    });
  }

  // MLX's own product would give the gradient of a transposed weight, and so a transposed gradient.
  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>&) override {
    const Stream s = stream();
    std::vector<array> gradients;
    for (int argnum : argnums) {
      gradients.push_back(
          argnum == 0 ? mx::matmul(cotangents[0], primals[1], s)
                      : mx::matmul(mx::transpose(cotangents[0], s), primals[0], s));
    }
    return gradients;
  }

  DEFINE_NAME(Linear)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

Shape with_last(const array& like, int last) {
  Shape shape = like.shape();
  shape.back() = last;
  return shape;
}

} // namespace

array linear(const array& x, const array& weight, Stream stream) {
  const array flat = dense(rows(x, stream), stream);
  const array product = one<Linear>(
      Shape{flat.shape(0), weight.shape(0)}, stream, {flat, dense(weight, stream)});
  return mx::reshape(product, with_last(x, weight.shape(0)), stream);
}

} // namespace mdt
