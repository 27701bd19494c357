// Quantised weights: made whole, and multiplied. A product with many rows makes a panel of the weight whole at a time, and so does
// its gradient: the whole weight never exists.
#include <algorithm>

#include "blas.h"
#include "mlx/ops.h"
#include "primitive.h"

namespace mdt {

namespace mx = mlx::core;

namespace {

// Up to so many rows of x, each row of the weight is multiplied as it is read.
constexpr int FEW_ROWS = 16;
// Elements of a panel: large enough that a product's own packing of x costs little beside the product.
constexpr int PANEL = 1 << 21;

// Rows of the weight in a panel.
int panel_rows(int rows, int width) {
  return std::min(rows, std::max(64, PANEL / std::max(width, 1) / 64 * 64));
}

class OfQuantized : public CpuPrimitive {
 public:
  OfQuantized(Stream stream, int group_size, int bits) : CpuPrimitive(stream), group_size_(group_size), bits_(bits) {}

  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const OfQuantized&>(other);
    return group_size_ == its.group_size_ && bits_ == its.bits_;
  }

 protected:
  // The weight of words, scales and biases from `first` on among the inputs.
  MdtQuantized weight(const std::vector<array>& inputs, size_t first) const {
    const array& scales = inputs[first + 1];
    const size_t groups = scales.ndim() == 0 ? 0 : scales.shape(-1);
    const int dtype = scales.dtype() == mx::float16 ? 1 : scales.dtype() == mx::bfloat16 ? 2 : 0;
    return MdtQuantized{
        inputs[first].data<uint32_t>(), scales.data<void>(), inputs[first + 2].data<void>(), dtype,
        groups == 0 ? 0 : scales.size() / groups, groups * group_size_, static_cast<size_t>(group_size_),
        static_cast<size_t>(bits_)};
  }

  // The bytes of a panel of a weight with these scales.
  std::vector<size_t> panel_bytes(const array& scales) const {
    const size_t groups = scales.ndim() == 0 ? 0 : scales.shape(-1);
    if (groups == 0) {
      return {};
    }
    const int width = static_cast<int>(groups) * group_size_;
    return {static_cast<size_t>(panel_rows(static_cast<int>(scales.size() / groups), width)) * width * sizeof(float)};
  }

  // Memory for a panel, until the kernels dispatched so far have run.
  float* panel(const MdtQuantized& weight) {
    const int width = static_cast<int>(weight.width);
    array memory({panel_rows(static_cast<int>(weight.rows), width), width}, float32, nullptr, {});
    allocate(memory);
    keep(memory);
    return memory.data<float>();
  }

  int group_size_;
  int bits_;
};

class QuantizedLinearBackward : public OfQuantized {
 public:
  using OfQuantized::OfQuantized;

  // cotangent [N, out], words, scales, biases of [out, in] -> gradient of x [N, in]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const MdtQuantized weight = this->weight(inputs, 1);
    dispatch([weight, panel = panel(weight), cotangent = inputs[0].data<float>(), n = inputs[0].shape(0),
              grad = outputs[0].data<float>()]() {
      const int out = static_cast<int>(weight.rows), in = static_cast<int>(weight.width), most = panel_rows(out, in);
      for (int first = 0; first < out; first += most) {
        const int count = std::min(most, out - first);
        mdt_dequantize(&weight, first, count, panel);
        cblas_sgemm(
            ROW_MAJOR, PLAIN, PLAIN, n, in, count, 1.0f, cotangent + first, out, panel, in, first == 0 ? 0.0f : 1.0f,
            grad, in);
      }
    });
  }

  std::vector<size_t> held_bytes(const std::vector<array>& inputs, const std::vector<array>&) const override {
    return panel_bytes(inputs[2]);
  }

  DEFINE_NAME(QuantizedLinearBackward)
};

class QuantizedLinear : public OfQuantized {
 public:
  using OfQuantized::OfQuantized;

  // x [N, in], words, scales, biases of [out, in] -> [N, out]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const MdtQuantized weight = this->weight(inputs, 1);
    const float* x = inputs[0].data<float>();
    const int n = inputs[0].shape(0);
    float* result = outputs[0].data<float>();
    if (n <= FEW_ROWS) {
      dispatch([weight, x, n, result]() { mdt_quantized_multiply(&weight, x, n, result); });
      return;
    }
    dispatch([weight, panel = panel(weight), x, n, result]() {
      const int out = static_cast<int>(weight.rows), in = static_cast<int>(weight.width), most = panel_rows(out, in);
      for (int first = 0; first < out; first += most) {
        const int count = std::min(most, out - first);
        mdt_dequantize(&weight, first, count, panel);
        cblas_sgemm(
            ROW_MAJOR, PLAIN, TRANSPOSED, n, count, in, 1.0f, x, in, panel, in, 0.0f, result + first, out);
      }
    });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>&) override {
    const array grad = one<QuantizedLinearBackward>(
        primals[0].shape(), stream(), {dense(cotangents[0], stream()), primals[1], primals[2], primals[3]},
        group_size_, bits_);
    return select({grad}, primals, argnums, stream());
  }

  std::vector<size_t> held_bytes(const std::vector<array>& inputs, const std::vector<array>&) const override {
    return inputs[0].shape(0) <= FEW_ROWS ? std::vector<size_t>{} : panel_bytes(inputs[2]);
  }

  DEFINE_NAME(QuantizedLinear)
};

class Dequantize : public OfQuantized {
 public:
  using OfQuantized::OfQuantized;

  // words, scales, biases of [.., in] -> [.., in]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    dispatch([weight = weight(inputs, 0), out = outputs[0].data<float>()]() {
      mdt_dequantize(&weight, 0, weight.rows, out);
    });
  }

  // A number's derivative by its scale is itself before that is applied, by its bias 1.
  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>&) override {
    const Stream s = stream();
    Shape grouped = primals[1].shape();
    grouped.push_back(group_size_);
    std::vector<array> gradients;
    for (int argnum : argnums) {
      if (argnum == 0) {
        gradients.push_back(mx::zeros_like(primals[0], s));
        continue;
      }
      array terms = cotangents[0];
      if (argnum == 1) {
        const array ones = mx::ones(primals[1].shape(), float32, s), zeros = mx::zeros(primals[1].shape(), float32, s);
        terms = mx::multiply(terms, dequantize({primals[0], ones, zeros, group_size_, bits_}, s), s);
      }
      const array sums = mx::sum(mx::reshape(terms, grouped, s), -1, false, s);
      gradients.push_back(mx::astype(sums, primals[argnum].dtype(), s));
    }
    return gradients;
  }

  DEFINE_NAME(Dequantize)
};

std::vector<array> parts(const Quantized& weight, Stream stream) {
  return {dense(weight.words, stream), dense(weight.scales, stream), dense(weight.biases, stream)};
}

} // namespace

array dequantize(const Quantized& weight, Stream stream) {
  Shape shape = weight.scales.shape();
  shape.back() *= weight.group_size;
  return one<Dequantize>(shape, stream, parts(weight, stream), weight.group_size, weight.bits);
}

array quantized_linear(const array& x, const Quantized& weight, Stream stream) {
  const int out = weight.words.shape(0);
  std::vector<array> inputs = parts(weight, stream);
  inputs.insert(inputs.begin(), dense(mx::reshape(x, {-1, x.shape(-1)}, stream), stream));
  const array product =
      one<QuantizedLinear>(Shape{inputs[0].shape(0), out}, stream, inputs, weight.group_size, weight.bits);
  Shape shape = x.shape();
  shape.back() = out;
  return mx::reshape(product, shape, stream);
}

} // namespace mdt
