//! The recurrence on Burn tensors, interventions, and the mixers of the SSM line
