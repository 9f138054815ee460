//! Single promises: what is copied, what is refused, what a dropped rewrite leaves behind.

use super::*;
