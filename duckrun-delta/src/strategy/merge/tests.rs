//! Plans of merges, as values.
