//! Mitigations of state collapse, composable over every weighted-sum RNN
