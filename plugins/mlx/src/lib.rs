//! MLX compute plugin.
