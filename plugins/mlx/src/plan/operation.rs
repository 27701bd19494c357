//! What each of MLX's operations does with memory. The one table of this planner: an operation that is not in it takes new
//! memory for each of its results.

use super::layout::Layout;

/// An operation of the graph.
#[derive(Debug)]
pub struct Step {
    /// MLX's name of the primitive.
    pub name: String,
    pub inputs: Vec<Value>,
    pub outputs: Vec<Value>,
    /// Those of a transposition.
    pub axes: Vec<usize>,
    /// Bytes of further buffers, which are kept until it has run.
    pub held: Vec<u64>,
    /// Bytes that it takes while it runs.
    pub scratch: u64,
    /// How many kernels it dispatches where it fills memory.
    pub kernels: usize,
    /// Whether it is one of this plugin, which bound the buffers that are kept before they take memory.
    pub is_own: bool,
}

/// An array of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// The same number for the same array.
    pub id: usize,
    pub item_size: usize,
    pub shape: Vec<usize>,
    /// Whether it has memory before the evaluation.
    pub is_leaf: bool,
}

/// Where the results of an operation lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// In the memory of the input of the same place, with this layout.
    Shared(View),
    /// The same if the layout allows it, else in new memory.
    SharedOrNew(View),
    /// In the memory of the first input of this kind that nothing else needs, else in new memory.
    OfAnInput,
    /// In new memory, which attention and rotary positions lay out with the heads inside.
    NewWithHeadsInside,
    /// In new memory.
    New,
}

/// How a view looks at its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Same,
    Transposed,
    Broadcast,
    Sliced,
    Reshaped,
    RowMajor,
}

/// What the primitive of this name does.
pub fn memory_of(name: &str) -> Memory {
    match name {
        "Copy" | "StopGradient" | "CustomTransforms" | "Depends" => Memory::Shared(View::Same),
        "Transpose" => Memory::Shared(View::Transposed),
        "Broadcast" | "BroadcastAxes" => Memory::Shared(View::Broadcast),
        "Slice" | "Split" => Memory::Shared(View::Sliced),
        "ExpandDims" | "Squeeze" => Memory::Shared(View::Reshaped),
        "Reshape" | "Flatten" | "Unflatten" => Memory::SharedOrNew(View::Reshaped),
        "Contiguous" => Memory::SharedOrNew(View::RowMajor),
        "Abs"
        | "AsType"
        | "Ceil"
        | "Conjugate"
        | "Cos"
        | "Erf"
        | "Exp"
        | "Expm1"
        | "Floor"
        | "Log"
        | "Log1p"
        | "LogicalNot"
        | "Negative"
        | "Round"
        | "Rsqrt"
        | "Sigmoid"
        | "Sign"
        | "Sin"
        | "Sqrt"
        | "Square"
        | "Tanh"
        | "Add"
        | "Divide"
        | "Equal"
        | "Greater"
        | "GreaterEqual"
        | "Less"
        | "LessEqual"
        | "LogicalAnd"
        | "LogicalOr"
        | "Maximum"
        | "Minimum"
        | "Multiply"
        | "NotEqual"
        | "Power"
        | "Remainder"
        | "Select"
        | "Subtract"
        | "SliceUpdate"
        | "Scatter"
        | "CrossEntropyBackward"
        | "EmbeddingBackwardOnto" => Memory::OfAnInput,
        "Attention" | "AttentionBackward" | "Rope" => Memory::NewWithHeadsInside,
        _ => Memory::New,
    }
}

/// Whether the operation makes a copy of an input of this layout for as long as it runs: a matrix product of neither a matrix
/// nor a transposed one.
pub fn copies_input(name: &str, layout: &Layout) -> bool {
    let (&[.., rows, columns], &[.., outer, inner]) = (layout.shape.as_slice(), layout.strides.as_slice()) else {
        return false;
    };
    name == "Matmul" && !(outer == columns && inner == 1) && !(outer == 1 && inner == rows)
}
