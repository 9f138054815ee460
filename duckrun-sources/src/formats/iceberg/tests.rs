//! Metadata without data files: what is chosen and what is refused. Whole tables are read in the integration tests.
