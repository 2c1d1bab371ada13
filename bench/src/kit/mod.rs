//! Everything made for eyes, in one look: pages, tables, charts, maps, and numbers as people read them.
//!
//! | module | what is in it |
//! |---|---|
//! | [`mod@format`] | numbers, units, days, lists, singular and plural; the printed tables use them too |
//! | [`axis`], [`ticks`] | axes and their ranges; labels that differ |
//! | [`ink`] | colours for light and dark, dashes, marks |
//! | [`chart`], [`layer`], [`grid`] | two axes, and the curves, bands and points on them; tables of coloured cells |
//! | [`picture`] | a drawing with its legend, in a page or as an SVG file of its own |
//! | [`page`] | the frame of a page, tables, columns of figures |
//! | [`provenance`] | version, day, command, machine and model; the mitigations' glossary |
//!
//! A page is one file without a script or any address outside its folder. Pictures scale with it; their colours are classes that a style
//! sheet gives for light and for dark surroundings ([`ink::css`]), which a picture in a file of its own carries along. Values appear under
//! the pointer (`<title>`). Texts are escaped by `maud`; control characters become visible ([`picture::visible`]).

pub mod axis;
pub mod chart;
pub mod format;
pub mod grid;
pub mod ink;
pub mod layer;
pub mod page;
pub mod picture;
mod plot;
pub mod provenance;
pub mod ticks;

#[cfg(test)]
mod tests;
