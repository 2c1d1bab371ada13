//! The mixers of the linear-attention line
