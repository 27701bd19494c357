//! JSON Lines data plugin.
