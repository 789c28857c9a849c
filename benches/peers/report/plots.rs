//! Plots, as SVG.
use super::Row;
use crate::Result;
pub fn draw(_rows: &[Row]) -> Result<Vec<(&'static str, String)>> { Ok(Vec::new()) }
