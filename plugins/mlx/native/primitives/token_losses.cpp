// A head and the loss of its logits, of which a tile is there at a time: the forward pass keeps the log-sum-exp of each row, the
// backward pass computes the tiles again and turns each into its gradient.
//
// Operands may be rounded to bfloat16; logits and sums are f32, and each gradient is added up in f32 and rounded at most once.
#include <algorithm>
#include <optional>

#include "blas.h"
#include "mlx/ops.h"
#include "product.h"

namespace mdt {

namespace mx = mlx::core;

namespace {

// Memory while a kernel runs. (That of an array would be there from when the kernel is scheduled, for both passes at a time.)
class Memory : public Scratch {
 public:
  explicit Memory(size_t count) : Scratch(count * sizeof(float)) {}
};

// A matrix with rows of `width`.
struct Matrix {
  const void* data;
  Dtype type;
  size_t width;

  Matrix(const array& a, size_t width) : data(a.data<void>()), type(a.dtype()), width(width) {}

  Operand rows(size_t first, size_t count, bool transposed) const {
    const size_t size = type == float32 ? sizeof(float) : sizeof(uint16_t);
    return {static_cast<const char*>(data) + first * width * size, type, count * width, transposed};
  }
};

// A gradient with rows of `width`: in its own memory, or in memory from which its rows are rounded.
struct Gradient {
  float* wide;
  uint16_t* narrow;
  size_t width;

  Gradient(array& a, size_t width)
      : wide(a.dtype() == float32 ? a.data<float>() : nullptr),
        narrow(wide == nullptr ? a.data<uint16_t>() : nullptr),
        width(width) {}

  // Where rows from `first` on are added up; `memory` has place for them, where they have to be rounded.
  float* rows(size_t first, Memory& memory) const {
    return wide != nullptr ? wide + first * width : memory.data();
  }

  // After the last addition to rows from `first` on.
  void finish(size_t first, size_t count, Memory& memory) const {
    if (narrow != nullptr) {
      mdt_narrow_bf16(memory.data(), count * width, narrow + first * width);
    }
  }
};

// What both passes read: the first inputs of both primitives are hidden, weight, targets and, if any, bias.
struct Head {
  Matrix hidden, weight;
  const int32_t* targets;
  std::optional<Matrix> bias;
  int count, vocabulary, width;
  TokenLosses options;

  Head(const std::vector<array>& inputs, bool has_bias, const TokenLosses& options)
      : hidden(inputs[0], inputs[0].shape(1)),
        weight(inputs[1], inputs[1].shape(1)),
        targets(inputs[2].data<int32_t>()),
        bias(has_bias ? std::optional<Matrix>(std::in_place, inputs[3], 1) : std::nullopt),
        count(inputs[0].shape(0)),
        vocabulary(inputs[1].shape(0)),
        width(inputs[0].shape(1)),
        options(options) {
    this->options.rows = std::min(options.rows, count);
    this->options.columns = std::min(options.columns, vocabulary);
  }

  int rows_from(int row) const {
    return std::min(options.rows, count - row);
  }

  int columns_from(int column) const {
    return std::min(options.columns, vocabulary - column);
  }

  // c [m, n] = a [m, k] · b [k, n], or that added to it.
  void multiply(const Operand& a, const Operand& b, int m, int n, int k, float* c, bool adds) const {
    if (options.rounds) {
      mdt::multiply({{a, b, k}}, mx::bfloat16, m, n, {c, float32, adds});
      return;
    }
    cblas_sgemm(
        ROW_MAJOR, a.transposed ? TRANSPOSED : PLAIN, b.transposed ? TRANSPOSED : PLAIN, m, n, k, 1.0f,
        static_cast<const float*>(a.data), a.transposed ? m : k, static_cast<const float*>(b.data), b.transposed ? k : n,
        adds ? 1.0f : 0.0f, c, n);
  }
};

// The tile that is there at a time.
class Tiles {
 public:
  explicit Tiles(const Head& head)
      : head_(head),
        products_(static_cast<size_t>(head.options.rows) * head.options.columns),
        bias_(head.bias && head.bias->type != float32 ? head.options.columns : 0) {}

  // The tile from this row and column on; its products are there then.
  MdtTile multiply(int row, int column) {
    const int rows = head_.rows_from(row), columns = head_.columns_from(column);
    const Operand hidden = head_.hidden.rows(row, rows, false), weight = head_.weight.rows(column, columns, true);
    head_.multiply(hidden, weight, rows, columns, head_.width, products(), false);
    return {static_cast<size_t>(rows), static_cast<size_t>(column), static_cast<size_t>(columns), bias(column, columns),
            head_.options.scale, head_.options.soft_cap};
  }

  float* products() {
    return products_.data();
  }

 private:
  const float* bias(int column, int columns) {
    if (!head_.bias) {
      return nullptr;
    }
    const Operand bias = head_.bias->rows(column, columns, false);
    if (bias.type == float32) {
      return static_cast<const float*>(bias.data);
    }
    widen(bias.type, bias.data, columns, bias_.data());
    return bias_.data();
  }

  const Head& head_;
  Memory products_, bias_;
};

// The rows and columns of a tile, and the width.
struct Sizes {
  size_t rows, columns, width;

  Sizes(const std::vector<array>& inputs, const TokenLosses& options)
      : rows(std::min(options.rows, inputs[0].shape(0))),
        columns(std::min(options.columns, inputs[1].shape(0))),
        width(inputs[0].shape(1)) {}

  // The bytes of `Tiles`.
  size_t tile_bytes() const {
    return rows * columns * sizeof(float);
  }
};

// What a product of operands that are rounded takes beside them.
size_t product_bytes(const Operand& a, const Operand& b, size_t m, size_t n, size_t k) {
  return scratch_bytes({{a, b, static_cast<int>(k)}}, mx::bfloat16, static_cast<int>(m), static_cast<int>(n), float32);
}

// Which gradients are asked for.
struct Wanted {
  bool hidden, weight, bias;

  bool operator==(const Wanted&) const = default;
};

class TokenLossesBackward : public CpuPrimitive {
 public:
  TokenLossesBackward(Stream stream, TokenLosses options, bool has_bias, Wanted wanted)
      : CpuPrimitive(stream), options_(options), has_bias_(has_bias), wanted_(wanted) {}

  // hidden, weight, targets, [bias], lse, cotangent -> those gradients that are wanted
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const Head head(inputs, has_bias_, options_);
    std::optional<Gradient> of_hidden, of_weight, of_bias;
    size_t next = 0;
    const auto add = [&](bool is_wanted, std::optional<Gradient>& gradient, size_t width) {
      if (is_wanted) {
        array& output = outputs[next++];
        allocate(output);
        gradient.emplace(output, width);
      }
    };
    add(wanted_.hidden, of_hidden, head.width);
    add(wanted_.weight, of_weight, head.width);
    add(wanted_.bias, of_bias, 1);
    const size_t rest = has_bias_ ? 4 : 3;
    dispatch([head, of_hidden, of_weight, of_bias, lse = inputs[rest].data<float>(),
              cotangent = inputs[rest + 1].data<float>()]() {
      run(head, of_hidden, of_weight, of_bias, lse, cotangent);
    });
  }

  size_t scratch_bytes(const std::vector<array>& inputs, const std::vector<array>&) const override {
    const Sizes sizes(inputs, options_);
    const auto [rows, columns, width] = sizes;
    const size_t sums = (wanted_.hidden && inputs[0].dtype() != float32 ? inputs[0].size() : 0) +
        (wanted_.weight && inputs[1].dtype() != float32 ? columns * width : 0);
    const size_t bytes = sizes.tile_bytes() + sums * sizeof(float);
    if (!options_.rounds) {
      return bytes;
    }
    const auto operand = [](Dtype type, size_t size, bool transposed) { return Operand{nullptr, type, size, transposed}; };
    const Dtype hidden = inputs[0].dtype(), weight = inputs[1].dtype();
    const size_t of_products = std::max(
        {product_bytes(operand(hidden, rows * width, false), operand(weight, columns * width, true), rows, columns, width),
         product_bytes(
             operand(mx::bfloat16, rows * columns, false), operand(weight, columns * width, false), rows, width, columns),
         product_bytes(
             operand(mx::bfloat16, rows * columns, true), operand(hidden, rows * width, false), columns, width, rows)});
    return bytes + rows * columns * sizeof(uint16_t) + of_products;
  }

  DEFINE_NAME(TokenLossesBackward)
  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const TokenLossesBackward&>(other);
    return options_ == its.options_ && has_bias_ == its.has_bias_ && wanted_ == its.wanted_;
  }

 private:
  // All rows of some columns at a time, so that the gradient of the weight is written once.
  static void run(
      const Head& head, const std::optional<Gradient>& of_hidden, const std::optional<Gradient>& of_weight,
      const std::optional<Gradient>& of_bias, const float* lse, const float* cotangent) {
    const int width = head.width, columns_at_a_time = head.options.columns;
    const auto sums_of = [](const std::optional<Gradient>& gradient, size_t count) {
      return gradient && gradient->narrow != nullptr ? count : 0;
    };
    Tiles tiles(head);
    Memory hidden_sums(sums_of(of_hidden, static_cast<size_t>(head.count) * width));
    Memory weight_sums(sums_of(of_weight, static_cast<size_t>(columns_at_a_time) * width));
    Memory bias_sums(sums_of(of_bias, columns_at_a_time)), column_sums(of_bias ? columns_at_a_time : 0);
    Scratch rounded(head.options.rounds ? size_t(head.options.rows) * columns_at_a_time * sizeof(uint16_t) : 0);
    auto* const narrow = head.options.rounds ? reinterpret_cast<uint16_t*>(rounded.data()) : nullptr;
    for (int column = 0; column < head.vocabulary; column += columns_at_a_time) {
      const int columns = head.columns_from(column);
      for (int row = 0; row < head.count; row += head.options.rows) {
        const int rows = head.rows_from(row);
        const MdtTile tile = tiles.multiply(row, column);
        float* gradient = tiles.products();
        mdt_token_losses_gradient(
            &tile, gradient, head.targets + row, lse + row, cotangent + row, head.vocabulary, narrow);
        const auto of_tile = [&](bool transposed) {
          const size_t size = size_t(rows) * columns;
          return narrow != nullptr ? Operand{narrow, mx::bfloat16, size, transposed} : Operand{gradient, float32, size, transposed};
        };
        if (of_hidden) {
          // All rows are added up side by side.
          float* sums = of_hidden->rows(0, hidden_sums) + static_cast<size_t>(row) * width;
          head.multiply(of_tile(false), head.weight.rows(column, columns, false), rows, width, columns, sums, column > 0);
        }
        if (of_weight) {
          float* sums = of_weight->rows(column, weight_sums);
          head.multiply(of_tile(true), head.hidden.rows(row, rows, false), columns, width, rows, sums, row > 0);
        }
        if (of_bias) {
          mdt_sum(gradient, 1, rows, columns, column_sums.data());
          float* sums = of_bias->rows(column, bias_sums);
          const auto add = [&](float more, float sum) { return row == 0 ? more : sum + more; };
          std::transform(column_sums.data(), column_sums.data() + columns, sums, sums, add);
        }
      }
      if (of_weight) {
        of_weight->finish(column, columns, weight_sums);
      }
      if (of_bias) {
        of_bias->finish(column, columns, bias_sums);
      }
    }
    if (of_hidden) {
      of_hidden->finish(0, head.count, hidden_sums);
    }
  }

  TokenLosses options_;
  bool has_bias_;
  Wanted wanted_;
};

class TokenLossesForward : public CpuPrimitive {
 public:
  TokenLossesForward(Stream stream, TokenLosses options, bool has_bias)
      : CpuPrimitive(stream), options_(options), has_bias_(has_bias) {}

  // hidden, weight, targets, [bias] -> losses, lse
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    allocate(outputs[1]);
    dispatch([head = Head(inputs, has_bias_, options_), losses = outputs[0].data<float>(),
              lse = outputs[1].data<float>()]() {
      Tiles tiles(head);
      Memory sums(head.options.rows);
      for (int row = 0; row < head.count; row += head.options.rows) {
        for (int column = 0; column < head.vocabulary; column += head.options.columns) {
          const MdtTile tile = tiles.multiply(row, column);
          mdt_token_losses_fold(&tile, tiles.products(), head.targets + row, lse + row, sums.data(), losses + row);
        }
        mdt_token_losses_finish(head.targets + row, head.rows_from(row), lse + row, sums.data(), losses + row);
      }
    });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>& outputs) override {
    Wanted wanted{};
    std::vector<Shape> shapes;
    std::vector<mx::Dtype> types;
    const auto asked = [&](int argnum) {
      const bool is_asked = std::find(argnums.begin(), argnums.end(), argnum) != argnums.end();
      if (is_asked) {
        shapes.push_back(primals[argnum].shape());
        types.push_back(primals[argnum].dtype());
      }
      return is_asked;
    };
    wanted = {asked(0), asked(1), asked(3)};
    std::vector<array> inputs = primals;
    inputs.insert(inputs.end(), {outputs[1], dense(cotangents[0], stream())});
    const auto gradients = array::make_arrays(
        shapes, types, std::make_shared<TokenLossesBackward>(stream(), options_, has_bias_, wanted), inputs);
    // In their order those that are wanted; there is none of the targets.
    std::vector<array> chosen;
    for (const int argnum : argnums) {
      const size_t before = (argnum > 0 && wanted.hidden) + (argnum > 1 && wanted.weight);
      chosen.push_back(argnum == 2 ? mx::zeros_like(primals[2], stream()) : gradients[before]);
    }
    return chosen;
  }

  size_t scratch_bytes(const std::vector<array>& inputs, const std::vector<array>&) const override {
    const Sizes sizes(inputs, options_);
    const auto [rows, columns, width] = sizes;
    if (!options_.rounds) {
      return sizes.tile_bytes();
    }
    const Operand hidden{nullptr, inputs[0].dtype(), rows * width, false};
    const Operand weight{nullptr, inputs[1].dtype(), columns * width, true};
    return sizes.tile_bytes() + product_bytes(hidden, weight, rows, columns, width);
  }

  DEFINE_NAME(TokenLosses)
  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const TokenLossesForward&>(other);
    return options_ == its.options_ && has_bias_ == its.has_bias_;
  }

 private:
  TokenLosses options_;
  bool has_bias_;
};

} // namespace

array token_losses(
    const array& hidden, const array& weight, const array& targets, const std::optional<array>& bias,
    const TokenLosses& options, Stream stream) {
  const auto operand = [&](const array& a) {
    return options.rounds ? as_operand(a, mx::bfloat16, stream) : dense(a, stream);
  };
  std::vector<array> inputs{operand(hidden), operand(weight), dense(targets, stream)};
  if (bias) {
    inputs.push_back(dense(*bias, stream));
  }
  const Shape rows{hidden.shape(0)};
  return several<TokenLossesForward>({rows, rows}, stream, inputs, options, bias.has_value())[0];
}

} // namespace mdt
