// The half-precision accessors of mlx-c's array.h. mlx-c itself defines them only where the C compiler has half
// types; mlx-rs calls them everywhere.
#include "mlx/c/half.h"

#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/array.h"

namespace {

// The value of a one-element array; 1 after reporting an error through mlx-c's error handler.
template <typename T>
int item(T* result, mlx_array array) {
  try {
    *result = mlx_array_get_(array).item<T>();
    return 0;
  } catch (std::exception& error) {
    mlx_error(error.what());
    return 1;
  }
}

// The data of an evaluated array; null after reporting an error through mlx-c's error handler.
template <typename T>
const T* data(mlx_array array) {
  try {
    return mlx_array_get_(array).data<T>();
  } catch (std::exception& error) {
    mlx_error(error.what());
    return nullptr;
  }
}

} // namespace

#ifndef HAS_FLOAT16
using mlx::core::float16_t;

extern "C" int mlx_array_item_float16(float16_t* result, mlx_array array) {
  return item(result, array);
}
extern "C" const float16_t* mlx_array_data_float16(mlx_array array) {
  return data<float16_t>(array);
}
#endif

#ifndef HAS_BFLOAT16
using mlx::core::bfloat16_t;

extern "C" int mlx_array_item_bfloat16(bfloat16_t* result, mlx_array array) {
  return item(result, array);
}
extern "C" const bfloat16_t* mlx_array_data_bfloat16(mlx_array array) {
  return data<bfloat16_t>(array);
}
#endif
