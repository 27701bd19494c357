// A head and the loss of its logits, of which a tile is there at a time: the forward pass keeps the log-sum-exp of each row, the
// backward pass computes the tiles again and turns each into its gradient in place.
//
// Tiles of bfloat16 operands are widened as they are multiplied, and each gradient is added up in float32 and rounded once.
#include <algorithm>
#include <optional>

#include "blas.h"
#include "mlx/allocator.h"
#include "mlx/ops.h"
#include "primitive.h"

namespace mdt {

namespace mx = mlx::core;

namespace {

// Memory while a kernel runs. (That of an array would be there from when the kernel is scheduled, for both passes at a time.)
class Memory {
 public:
  explicit Memory(size_t count) : buffer_(mx::allocator::malloc(std::max<size_t>(count, 1) * sizeof(float))) {}
  ~Memory() {
    mx::allocator::free(buffer_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  float* data() {
    return static_cast<float*>(buffer_.raw_ptr());
  }

 private:
  mx::allocator::Buffer buffer_;
};

// The numbers of a matrix with rows of `width`, as float32.
class Operand {
 public:
  Operand(const array& a, size_t width)
      : wide_(a.dtype() == float32 ? a.data<float>() : nullptr),
        narrow_(wide_ == nullptr ? a.data<uint16_t>() : nullptr),
        width_(width) {}

  // Rows from `first` on; `memory` has place for them, where they have to be widened.
  const float* rows(size_t first, size_t count, Memory& memory) const {
    if (wide_ != nullptr) {
      return wide_ + first * width_;
    }
    mdt_widen_bf16(narrow_ + first * width_, count * width_, memory.data());
    return memory.data();
  }

 private:
  const float* wide_;
  const uint16_t* narrow_;
  size_t width_;
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
  Operand hidden, weight;
  const int32_t* targets;
  bool has_bias;
  Operand bias;
  int count, vocabulary, width;
  bool widens;
  TokenLosses options;

  Head(const std::vector<array>& inputs, bool has_bias, const TokenLosses& options)
      : hidden(inputs[0], inputs[0].shape(1)),
        weight(inputs[1], inputs[1].shape(1)),
        targets(inputs[2].data<int32_t>()),
        has_bias(has_bias),
        bias(has_bias ? Operand(inputs[3], 1) : weight),
        count(inputs[0].shape(0)),
        vocabulary(inputs[1].shape(0)),
        width(inputs[0].shape(1)),
        widens(inputs[0].dtype() != float32),
        options{options.scale, options.soft_cap, std::min(options.rows, count), std::min(options.columns, vocabulary)} {}

  int rows_from(int row) const {
    return std::min(options.rows, count - row);
  }

  int columns_from(int column) const {
    return std::min(options.columns, vocabulary - column);
  }
};

// The tile that is there at a time, and the widened operands.
class Tiles {
 public:
  explicit Tiles(const Head& head)
      : head_(head),
        products_(static_cast<size_t>(head.options.rows) * head.options.columns),
        hidden_(head.widens ? static_cast<size_t>(head.options.rows) * head.width : 0),
        weight_(head.widens ? static_cast<size_t>(head.options.columns) * head.width : 0),
        bias_(head.widens ? head.options.columns : 0) {}

  const float* hidden(int row) {
    return head_.hidden.rows(row, head_.rows_from(row), hidden_);
  }

  const float* weight(int column) {
    return head_.weight.rows(column, head_.columns_from(column), weight_);
  }

  // The tile from this row and column on, with these operands; its products are there then.
  MdtTile multiply(int row, int column, const float* hidden, const float* weight) {
    const int rows = head_.rows_from(row), columns = head_.columns_from(column), width = head_.width;
    cblas_sgemm(
        ROW_MAJOR, PLAIN, TRANSPOSED, rows, columns, width, 1.0f, hidden, width, weight, width, 0.0f, products(), columns);
    const float* bias = head_.has_bias ? head_.bias.rows(column, columns, bias_) : nullptr;
    return {static_cast<size_t>(rows), static_cast<size_t>(column), static_cast<size_t>(columns), bias,
            head_.options.scale, head_.options.soft_cap};
  }

  float* products() {
    return products_.data();
  }

 private:
  const Head& head_;
  Memory products_, hidden_, weight_, bias_;
};

// The bytes of `Tiles`.
size_t tile_bytes(const std::vector<array>& inputs, const TokenLosses& options) {
  const size_t rows = std::min(options.rows, inputs[0].shape(0)), columns = std::min(options.columns, inputs[1].shape(0));
  const size_t widened = inputs[0].dtype() == float32 ? 0 : (rows + columns) * inputs[0].shape(1);
  return (rows * columns + widened) * sizeof(float);
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
    const size_t sums = inputs[0].dtype() == float32
        ? 0
        : (inputs[0].size() + std::min<size_t>(options_.columns, inputs[1].shape(0)) * inputs[0].shape(1)) * sizeof(float);
    return tile_bytes(inputs, options_) + sums;
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
    const auto if_widened = [&](size_t count) { return head.widens ? count : 0; };
    Tiles tiles(head);
    Memory hidden_sums(if_widened(static_cast<size_t>(head.count) * width));
    Memory weight_sums(if_widened(static_cast<size_t>(columns_at_a_time) * width));
    Memory bias_sums(if_widened(columns_at_a_time)), column_sums(of_bias ? columns_at_a_time : 0);
    for (int column = 0; column < head.vocabulary; column += columns_at_a_time) {
      const int columns = head.columns_from(column);
      const float* weight = tiles.weight(column);
      for (int row = 0; row < head.count; row += head.options.rows) {
        const int rows = head.rows_from(row);
        const float* hidden = tiles.hidden(row);
        const MdtTile tile = tiles.multiply(row, column, hidden, weight);
        float* gradient = tiles.products();
        mdt_token_losses_gradient(&tile, gradient, head.targets + row, lse + row, cotangent + row, head.vocabulary);
        if (of_hidden) {
          // All rows are added up side by side.
          float* sums = of_hidden->rows(0, hidden_sums) + static_cast<size_t>(row) * width;
          cblas_sgemm(
              ROW_MAJOR, PLAIN, PLAIN, rows, width, columns, 1.0f, gradient, columns, weight, width,
              column == 0 ? 0.0f : 1.0f, sums, width);
        }
        if (of_weight) {
          cblas_sgemm(
              ROW_MAJOR, TRANSPOSED, PLAIN, columns, width, rows, 1.0f, gradient, columns, hidden, width,
              row == 0 ? 0.0f : 1.0f, of_weight->rows(column, weight_sums), width);
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
        const float* hidden = tiles.hidden(row);
        for (int column = 0; column < head.vocabulary; column += head.options.columns) {
          const MdtTile tile = tiles.multiply(row, column, hidden, tiles.weight(column));
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
    const auto asked = [&](int argnum) {
      const bool is_asked = std::find(argnums.begin(), argnums.end(), argnum) != argnums.end();
      if (is_asked) {
        shapes.push_back(primals[argnum].shape());
      }
      return is_asked;
    };
    wanted = {asked(0), asked(1), asked(3)};
    std::vector<array> inputs = primals;
    inputs.insert(inputs.end(), {outputs[1], dense(cotangents[0], stream())});
    const std::vector<mx::Dtype> types(shapes.size(), primals[0].dtype());
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
    return tile_bytes(inputs, options_);
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
  std::vector<array> inputs{dense(hidden, stream), dense(weight, stream), dense(targets, stream)};
  if (bias) {
    inputs.push_back(dense(*bias, stream));
  }
  const Shape rows{hidden.shape(0)};
  return several<TokenLossesForward>({rows, rows}, stream, inputs, options, bias.has_value())[0];
}

} // namespace mdt
