//! What the reader promises, for files of our own and of other writers.
