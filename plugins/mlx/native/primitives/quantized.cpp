// Quantised weights: made whole, and multiplied. A product with many rows makes a panel of the weight whole at a time, and so does
// its gradient: the whole weight never exists.
#include <algorithm>
#include <functional>
#include <optional>

#include "blas.h"
#include "mlx/ops.h"
#include "product.h"

namespace mdt {

namespace mx = mlx::core;

namespace {

// Up to so many rows of x, each row of the weight is multiplied as it is read.
constexpr int FEW_ROWS = 16;
// Elements of a panel: large enough that a product's own packing of x costs little beside the product.
constexpr int PANEL = 1 << 21;

// The same of products on tiles, which need columns of a panel in memory of their own where there are several.
constexpr int ROUNDED_PANEL = 1 << 23;

// Rows of the weight in a panel.
int panel_rows(int rows, int width, int panel = PANEL) {
  return std::min(rows, std::max(64, panel / std::max(width, 1) / 64 * 64));
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
      dispatch([weight, x, n, result]() { mdt_quantized_multiply(&weight, x, n, false, result); });
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

// to [n, columns] = from [n, ..], of which rows are `stride` apart, or the other way round.
template <class From, class To>
void copy_columns(const From* from, int from_stride, To* to, int to_stride, int n, int columns) {
  for (int row = 0; row < n; ++row) {
    std::copy_n(from + size_t(row) * from_stride, columns, to + size_t(row) * to_stride);
  }
}

// What a product with operands that are rounded is made of: x or a cotangent of f32 or half precision, and the type of a result.
struct Rounded {
  const void* rows;
  Dtype type;
  int n;
  Dtype operands;
};

// x [N, in] -> [N, out] of type `to`.
void multiply_rounded(const MdtQuantized& weight, const Rounded& x, void* result, Dtype to) {
  const int out = static_cast<int>(weight.rows), in = static_cast<int>(weight.width), n = x.n;
  const int most = panel_rows(out, in, ROUNDED_PANEL);
  const Operand left{x.rows, x.type, size_t(n) * in, false};
  const auto whole = [](float* data, int rows, int width) {
    return Operand{data, float32, size_t(rows) * width, true};
  };
  if (n > FEW_ROWS && most == out) {
    Scratch panel(size_t(out) * in * sizeof(float));
    mdt_dequantize(&weight, 0, out, panel.data());
    multiply(left, whole(panel.data(), out, in), x.operands, n, out, in, result, to);
    return;
  }
  Scratch wide(is_half(to) ? size_t(n) * out * sizeof(float) : 0);
  float* const product = is_half(to) ? wide.data() : static_cast<float*>(result);
  if (n <= FEW_ROWS && x.operands == mx::bfloat16) {
    Scratch rounded(left.size * sizeof(float));
    round(left, x.operands, rounded.data());
    mdt_quantized_multiply(&weight, rounded.data(), n, true, product);
  } else {
    Scratch panel(size_t(most) * in * sizeof(float)), columns(size_t(n) * most * sizeof(float));
    for (int first = 0; first < out; first += most) {
      const int count = std::min(most, out - first);
      mdt_dequantize(&weight, first, count, panel.data());
      multiply(left, whole(panel.data(), count, in), x.operands, n, count, in, columns.data(), float32);
      copy_columns(columns.data(), count, product + first, out, n, count);
    }
  }
  if (is_half(to)) {
    narrow(to, product, size_t(n) * out, result);
  }
}

// cotangent [N, out] -> gradient of x [N, in] of type `to`.
void multiply_rounded_back(const MdtQuantized& weight, const Rounded& cotangent, void* grad, Dtype to) {
  const int out = static_cast<int>(weight.rows), in = static_cast<int>(weight.width), n = cotangent.n;
  const int most = panel_rows(out, in, ROUNDED_PANEL);
  Scratch panel(size_t(most) * in * sizeof(float));
  const auto right = [&](int count) { return Operand{panel.data(), float32, size_t(count) * in, false}; };
  const Operand left{cotangent.rows, cotangent.type, size_t(n) * out, false};
  if (most == out) {
    mdt_dequantize(&weight, 0, out, panel.data());
    multiply(left, right(out), cotangent.operands, n, in, out, grad, to);
    return;
  }
  const size_t size = size_t(n) * in;
  Scratch rounded(left.size * sizeof(float)), columns(size_t(n) * most * sizeof(float));
  Scratch part(size * sizeof(float)), sum(size * sizeof(float));
  round(left, cotangent.operands, rounded.data());
  std::fill_n(sum.data(), size, 0.0f);
  for (int first = 0; first < out; first += most) {
    const int count = std::min(most, out - first);
    mdt_dequantize(&weight, first, count, panel.data());
    copy_columns(rounded.data() + first, out, columns.data(), count, n, count);
    const Operand these{columns.data(), float32, size_t(n) * count, false};
    multiply(these, right(count), cotangent.operands, n, in, count, part.data(), float32);
    std::transform(sum.data(), sum.data() + size, part.data(), sum.data(), std::plus<float>());
  }
  if (is_half(to)) {
    narrow(to, sum.data(), size, grad);
  } else {
    std::copy_n(sum.data(), size, static_cast<float*>(grad));
  }
}

// The product with operands that are rounded, or its gradient by x.
class RoundedQuantizedLinear : public OfQuantized {
 public:
  RoundedQuantizedLinear(Stream stream, int group_size, int bits, Dtype operands, bool backward)
      : OfQuantized(stream, group_size, bits), operands_(operands), backward_(backward) {}

  // x [N, in] or its cotangent [N, out], words, scales, biases of [out, in] -> [N, out] or [N, in]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const Rounded rows{inputs[0].data<void>(), inputs[0].dtype(), inputs[0].shape(0), operands_};
    dispatch([weight = weight(inputs, 1), rows, backward = backward_, to = outputs[0].data<void>(),
              type = outputs[0].dtype()]() {
      (backward ? multiply_rounded_back : multiply_rounded)(weight, rows, to, type);
    });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>& outputs) override {
    if (backward_) {
      return CpuPrimitive::vjp(primals, cotangents, argnums, outputs); // which says that there is none
    }
    const array& x = primals[0];
    const array grad(
        x.shape(), x.dtype(),
        std::make_shared<RoundedQuantizedLinear>(stream(), group_size_, bits_, operands_, true),
        {as_operand(cotangents[0], operands_, stream()), primals[1], primals[2], primals[3]});
    return select({grad}, primals, argnums, stream());
  }

  size_t scratch_bytes(const std::vector<array>& inputs, const std::vector<array>& outputs) const override {
    const size_t n = inputs[0].shape(0), groups = inputs[2].shape(-1), in = groups * group_size_;
    const size_t out = inputs[2].size() / std::max<size_t>(groups, 1);
    const Dtype to = outputs[0].dtype();
    const size_t most = panel_rows(static_cast<int>(out), static_cast<int>(in), ROUNDED_PANEL);
    const size_t panel = most * in, wide = is_half(to) ? outputs[0].size() : 0;
    if (backward_) {
      const size_t parts = most == out ? 0 : n * (out + most + 2 * in);
      return (panel + parts) * sizeof(float) + mdt::scratch_bytes(n, in, most, operands_, most == out ? to : Dtype(float32));
    }
    if (n <= FEW_ROWS && operands_ == mx::bfloat16) {
      return (wide + n * in) * sizeof(float);
    }
    if (n > FEW_ROWS && most == out) {
      return panel * sizeof(float) + mdt::scratch_bytes(n, out, in, operands_, to);
    }
    return (wide + panel + n * most) * sizeof(float) + mdt::scratch_bytes(n, most, in, operands_, float32);
  }

  DEFINE_NAME(RoundedQuantizedLinear)
  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const RoundedQuantizedLinear&>(other);
    return OfQuantized::is_equivalent(other) && operands_ == its.operands_ && backward_ == its.backward_;
  }

 private:
  Dtype operands_;
  bool backward_;
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

array quantized_linear(
    const array& x, const Quantized& weight, const std::optional<Dtype>& operands, Stream stream) {
  const array rows = mx::reshape(x, {-1, x.shape(-1)}, stream);
  std::vector<array> inputs = parts(weight, stream);
  inputs.insert(inputs.begin(), operands ? as_operand(rows, *operands, stream) : dense(rows, stream));
  const Shape product{rows.shape(0), weight.words.shape(0)};
  Shape shape = x.shape();
  shape.back() = product[1];
  if (!operands) {
    return mx::reshape(
        one<QuantizedLinear>(product, stream, inputs, weight.group_size, weight.bits), shape, stream);
  }
  const auto primitive =
      std::make_shared<RoundedQuantizedLinear>(stream, weight.group_size, weight.bits, *operands, false);
  return mx::reshape(array(product, x.dtype(), primitive, inputs), shape, stream);
}

} // namespace mdt
