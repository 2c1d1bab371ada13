//! `spillway capacity`: how much does a state of a given size hold, and how long must a model be trained to learn to forget?
//!
//! Models of several state sizes are trained at several lengths, several times each. T_forget is the shortest training length at which
//! a model does not collapse beyond it, T_recall the longest context in which it finds a passkey; laws are fitted to both, beside the
//! published ones. Source: Chen et al., *Stuffed Mamba: Oversized States Lead to the Inability to Forget* (2410.07145), section 5.
//!
//! | room | what is in it |
//! |---|---|
//! | [`result`], [`threshold`] | what one training gives; T_forget and T_recall from many |
//! | [`fit`] | laws fitted to intervals: likelihood, AIC, bootstrap, profile; the published points |
//! | [`analysis`], [`findings`], [`report`] | the laws of our thresholds; what the numbers support; everything as data |
//! | [`figures`], [`maps`], [`chart`], [`grid`], [`page`] | pictures and pages |

pub mod analysis;
pub mod chart;
pub mod figures;
pub mod findings;
pub mod fit;
pub mod grid;
pub mod maps;
pub mod page;
pub mod report;
pub mod result;
pub mod threshold;

#[cfg(test)]
mod tests;
