//! Traits.
