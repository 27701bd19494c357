//! single-process communication plugin.
