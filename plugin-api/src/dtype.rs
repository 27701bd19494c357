//! Element types of tensors and buffers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The element type of a tensor. Open: a number that a plugin does not know is an error there, not undefined.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Dtype(pub u32);

macro_rules! dtypes {
    ($($(#[$doc:meta])* $constant:ident = $number:literal, $name:literal, $size:literal;)*) => {
        impl Dtype {
            $($(#[$doc])* pub const $constant: Self = Self($number);)*

            /// Its name as safetensors and configurations spell it in lower case: `float32`, `bfloat16`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$constant => $name,)* _ => "unknown" }
            }

            /// Bytes of one element; 0 for an unknown type.
            pub fn size(self) -> usize {
                match self { $(Self::$constant => $size,)* _ => 0 }
            }

            /// The type of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$constant),)* _ => None }
            }
        }
    };
}

dtypes! {
    /// One byte, 0 or 1.
    BOOL = 1, "bool", 1;
    /// Unsigned byte.
    U8 = 2, "uint8", 1;
    /// Signed 32-bit integer: token ids, positions, targets.
    I32 = 3, "int32", 4;
    /// Unsigned 32-bit integer.
    U32 = 4, "uint32", 4;
    /// Signed 64-bit integer.
    I64 = 5, "int64", 8;
    /// IEEE half precision.
    F16 = 6, "float16", 2;
    /// The upper half of an f32.
    BF16 = 7, "bfloat16", 2;
    /// IEEE single precision.
    F32 = 8, "float32", 4;
    /// IEEE double precision.
    F64 = 9, "float64", 8;
    /// Signed byte.
    I8 = 10, "int8", 1;
    /// Signed 16-bit integer.
    I16 = 11, "int16", 2;
    /// Unsigned 16-bit integer.
    U16 = 12, "uint16", 2;
    /// Unsigned 64-bit integer.
    U64 = 13, "uint64", 8;
}

impl Dtype {
    /// Whether its elements are real numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }

    /// Whether its elements can be negative.
    pub fn is_signed(self) -> bool {
        self.is_float() || matches!(self, Self::I8 | Self::I16 | Self::I32 | Self::I64)
    }
}

impl fmt::Debug for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
