//! Temporary.
#![allow(dead_code, missing_docs)]
use duckrun::{Append, Strategy};
pub(crate) struct Merge;
impl Merge { pub(crate) fn on<const N: usize>(_: [&str; N]) -> Append { Append::default() } }
pub(crate) trait U { fn update_columns<const N: usize>(self, _: [&str; N]) -> Append; }
impl U for Append { fn update_columns<const N: usize>(self, _: [&str; N]) -> Append { self } }
pub(crate) use Merge as FullSync; pub(crate) use Merge as Insert;
pub(crate) struct MicrobatchWindow;
impl MicrobatchWindow { pub(crate) fn new(_: &str, _: &str, _: &str) -> Append { Append::default() } }
pub(crate) struct ReplaceWhere;
impl ReplaceWhere { pub(crate) fn new(_: &str) -> Append { Append::default() } }
pub(crate) trait D { async fn delete(&self, _: &str) -> duckrun::Result<duckrun::Report>; async fn update(&self, _: [(&str,&str);2], _: Option<&str>) -> duckrun::Result<duckrun::Report>; }
impl D for duckrun::DeltaStore { async fn delete(&self, _: &str) -> duckrun::Result<duckrun::Report> { unimplemented!() } async fn update(&self, _: [(&str,&str);2], _: Option<&str>) -> duckrun::Result<duckrun::Report>{ unimplemented!() } }
