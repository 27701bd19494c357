//! Element types: the boundary's and MLX's.

use mdt_plugin_api::{Dtype, Error, Result};
use mlx_rs::Dtype as MlxDtype;

/// MLX's name for an element type.
///
/// # Errors
/// A type that this version does not know.
pub fn to_mlx(dtype: Dtype) -> Result<MlxDtype> {
    Ok(match dtype {
        Dtype::BOOL => MlxDtype::Bool,
        Dtype::U8 => MlxDtype::Uint8,
        Dtype::I8 => MlxDtype::Int8,
        Dtype::U16 => MlxDtype::Uint16,
        Dtype::I16 => MlxDtype::Int16,
        Dtype::U64 => MlxDtype::Uint64,
        Dtype::I32 => MlxDtype::Int32,
        Dtype::U32 => MlxDtype::Uint32,
        Dtype::I64 => MlxDtype::Int64,
        Dtype::F16 => MlxDtype::Float16,
        Dtype::BF16 => MlxDtype::Bfloat16,
        Dtype::F32 => MlxDtype::Float32,
        Dtype::F64 => MlxDtype::Float64,
        Dtype(number) => return Err(Error::plugin(format!("element type number {number} is unknown to this plugin"))),
    })
}

/// The boundary's name for an element type of MLX.
///
/// # Errors
/// A type that cannot cross (complex numbers): no operation here makes one.
pub fn from_mlx(dtype: MlxDtype) -> Result<Dtype> {
    Ok(match dtype {
        MlxDtype::Bool => Dtype::BOOL,
        MlxDtype::Uint8 => Dtype::U8,
        MlxDtype::Int8 => Dtype::I8,
        MlxDtype::Uint16 => Dtype::U16,
        MlxDtype::Int16 => Dtype::I16,
        MlxDtype::Uint64 => Dtype::U64,
        MlxDtype::Int32 => Dtype::I32,
        MlxDtype::Uint32 => Dtype::U32,
        MlxDtype::Int64 => Dtype::I64,
        MlxDtype::Float16 => Dtype::F16,
        MlxDtype::Bfloat16 => Dtype::BF16,
        MlxDtype::Float32 => Dtype::F32,
        MlxDtype::Float64 => Dtype::F64,
        other => return Err(Error::plugin(format!("a tensor of MLX's type {other:?} cannot leave this plugin"))),
    })
}
